"""What is sent again, what is not, and for how long."""

import math

import pytest
import trio
import trio.testing

from stowfs.errors import (
    AccessDenied,
    ObjectNotFound,
    PreconditionFailed,
    RetriesExhausted,
    StoreUnavailable,
    StoreUnreachable,
    WriteConflict,
)
from stowfs.store.base import IF_ABSENT, Found, IfMatch
from stowfs.store.memory import MemoryStore
from stowfs.store.retry import FIRST_DELAY, LONGEST_DELAY, Backoff, RetryingStore
from tests.support.faults import Delay, FailAfter, FailBefore, FaultyStore, Operation, Rule, Stall

DEADLINE = 30.0


def stores(**memory: int) -> tuple[FaultyStore, RetryingStore]:
    faulty = FaultyStore(MemoryStore(**memory))
    return faulty, RetryingStore(faulty, DEADLINE)


async def test_a_get_is_repeated(autojump_clock: trio.testing.MockClock) -> None:
    faulty, store = stores()
    await store.put("k", b"x")
    faulty.add(Rule(FailBefore(), "get", nth=1, times=3))
    found = await store.get("k")
    assert isinstance(found, Found)
    assert found.body == b"x"
    assert faulty.count("get") == 4


@pytest.mark.parametrize("error", [StoreUnavailable("503"), WriteConflict("409")])
async def test_an_unconditional_put_is_repeated(autojump_clock: trio.testing.MockClock, error: Exception) -> None:
    faulty, store = stores()
    faulty.add(Rule(FailAfter(error), "put", nth=1, times=2))
    await store.put("k", b"x")
    assert faulty.count("put") == 3


@pytest.mark.parametrize("error", [StoreUnavailable("503"), WriteConflict("409")])
@pytest.mark.parametrize("operation", ["put", "delete"])
async def test_a_conditional_write_is_sent_once(operation: Operation, error: Exception) -> None:
    faulty, store = stores()
    etag = await store.put("k", b"x")
    faulty.reset_log()
    faulty.add(Rule(FailAfter(error), operation, nth=1))
    with pytest.raises(type(error)) as caught:
        await (store.put("k", b"y", IfMatch(etag)) if operation == "put" else store.delete("k", IfMatch(etag)))
    assert caught.value is error
    assert faulty.count() == 1


async def test_a_delete_is_repeated(autojump_clock: trio.testing.MockClock) -> None:
    faulty, store = stores()
    await store.put("k", b"x")
    faulty.add(Rule(FailAfter(), "delete", nth=1))
    await store.delete("k")
    assert faulty.count("delete") == 2


@pytest.mark.parametrize("error", [AccessDenied("no"), ObjectNotFound("none"), PreconditionFailed("412")])
async def test_an_answer_is_not_repeated(error: Exception) -> None:
    faulty, store = stores()
    faulty.add(Rule(FailBefore(error)))
    with pytest.raises(type(error)):
        await store.get("k")
    assert faulty.count() == 1


@pytest.mark.parametrize("delimiter", [None, "/"])
async def test_a_listing_goes_on_where_it_broke(autojump_clock: trio.testing.MockClock, delimiter: str | None) -> None:
    faulty, store = stores(page_size=3)
    for number in range(20):
        await store.put(f"{number:02}{'/x' if number % 2 else ''}", b"")
    expected = [f"{number:02}{'/x' if number % 2 else ''}" for number in range(20)]
    if delimiter:
        expected = [key.removesuffix("x") for key in expected]
    faulty.add(Rule(FailAfter(), "list", nth=2, times=2))
    faulty.add(Rule(FailBefore(), "list", nth=6))
    seen: list[str] = []
    async for page in store.list("", delimiter=delimiter):
        seen += sorted([entry.key for entry in page.objects] + list(page.prefixes))
    assert seen == expected


async def test_parts_are_repeated_and_completion_is_not(autojump_clock: trio.testing.MockClock) -> None:
    faulty, store = stores()
    faulty.add(Rule(FailBefore(), "multipart", nth=1))
    faulty.add(Rule(FailAfter(), "part", nth=1, times=2))
    upload = await store.multipart("k")
    await upload.part(1, b"x")
    faulty.add(Rule(FailAfter(), "complete", nth=1))
    with pytest.raises(StoreUnavailable):
        await upload.complete(IF_ABSENT)
    assert (faulty.count("part"), faulty.count("complete")) == (3, 1)


async def test_a_store_that_stays_away_is_given_up_on(autojump_clock: trio.testing.MockClock) -> None:
    faulty, store = stores()
    faulty.down = True
    started = trio.current_time()
    with pytest.raises(RetriesExhausted, match=r"injected: the store is down \(given up after \d+ attempts in \d+ s\)"):
        await store.get("k")
    assert DEADLINE - LONGEST_DELAY <= trio.current_time() - started <= DEADLINE
    # Not a storm: the delays double until they are capped.
    assert 5 <= faulty.count() <= 60


async def test_nothing_waits_longer_than_the_deadline(autojump_clock: trio.testing.MockClock) -> None:
    faulty, store = stores()
    faulty.add(Rule(Stall()))
    for send in (store.get("k"), store.put("k", b"", IF_ABSENT), store.delete("k"), anext(aiter(store.list("")))):
        started = trio.current_time()
        with pytest.raises(StoreUnavailable):
            await send
        assert trio.current_time() - started == pytest.approx(DEADLINE)


async def test_a_slow_answer_in_time_is_an_answer(autojump_clock: trio.testing.MockClock) -> None:
    faulty, store = stores()
    faulty.add(Rule(Delay(DEADLINE - 1), "put"))
    await store.put("k", b"x", IF_ABSENT)
    assert faulty.count("put") == 1


async def test_the_waits_grow_to_a_limit_with_jitter(autojump_clock: trio.testing.MockClock) -> None:
    waits: list[list[float]] = []
    for _ in range(50):
        backoff = Backoff(1000.0)
        waits.append([])
        for _ in range(12):
            before = trio.current_time()
            await backoff.wait(StoreUnavailable("x"))
            waits[-1].append(trio.current_time() - before)
    for attempt, column in enumerate(zip(*waits, strict=True)):
        ceiling = min(FIRST_DELAY * 2**attempt, LONGEST_DELAY)
        # Uniform below the ceiling: of 50, the greatest is under half of it once in 10^15 runs.
        assert ceiling / 2 < max(column) <= ceiling * 1.001
        assert min(column) < ceiling / 2


async def test_waiting_for_an_unreachable_store_ends_unless_there_is_no_deadline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    error = StoreUnreachable("no answer")
    with pytest.raises(StoreUnreachable) as caught:
        await Backoff(DEADLINE).wait(error)
    assert caught.value is error
    assert trio.current_time() == 0
    backoff = Backoff(math.inf)
    for _ in range(10):
        await backoff.wait(error)
    assert backoff.attempts == 11
