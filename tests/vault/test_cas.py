"""Compare-and-swap: every outcome is resolved, each kind of trouble once."""

from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from stowfs.errors import AccessDenied, RetriesExhausted, StoreFull, StoreUnavailable, WriteConflict
from stowfs.store.base import Found
from stowfs.store.memory import MemoryStore
from stowfs.vault.cas import UNREAD, Swapped, Unread, compare_and_swap, read_or_none
from tests.support.faults import FailAfter, FailBefore, FaultyStore, Late, Rule

KEY = "counter"


@dataclass
class Append:
    """Adds an id to a list of ids, once."""

    id: str
    looked: list[bytes | None] = field(default_factory=list)
    doubts: int = 0

    def propose(self, current: Found | None) -> bytes | None:
        self.looked.append(current.body if current else None)
        ids = current.body.decode().split() if current else []
        return None if self.id in ids else " ".join([*ids, self.id]).encode()

    def in_doubt(self) -> None:
        self.doubts += 1


async def swap(
    store: FaultyStore, transition: Append, first: Found | Unread | None = UNREAD, deadline: float = 5
) -> Swapped:
    return await compare_and_swap(store, KEY, transition, first=first, deadline=deadline)


async def body(store: FaultyStore) -> bytes:
    found = await read_or_none(store.inner, KEY)
    assert found is not None
    return found.body


async def test_read_then_write() -> None:
    store = FaultyStore(MemoryStore())
    swapped = await swap(store, Append("a"))
    assert swapped.written
    assert swapped.current == await read_or_none(store, KEY)
    assert (await swap(store, Append("b"))).written
    assert await body(store) == b"a b"


async def test_what_is_done_already_is_not_written() -> None:
    store = FaultyStore(MemoryStore())
    first = await swap(store, Append("a"))
    store.reset_log()
    again = await swap(store, Append("a"))
    assert again == Swapped(first.current, written=False)
    assert store.count("put") == 0


async def test_a_right_belief_spares_the_read() -> None:
    store = FaultyStore(MemoryStore())
    swapped = await swap(store, Append("a"), first=None)
    swapped = await swap(store, Append("b"), first=swapped.current)
    assert swapped.written
    assert [request.operation for request in store.log] == ["put", "put"]


async def test_a_wrong_belief_costs_one_refused_write_and_no_wait(autojump_clock: trio.testing.MockClock) -> None:
    store = FaultyStore(MemoryStore())
    await swap(store, Append("a"))
    store.reset_log()
    started = trio.current_time()
    assert (await swap(store, Append("b"), first=None)).written
    assert [request.operation for request in store.log] == ["put", "get", "put"]
    assert trio.current_time() == started
    assert await body(store) == b"a b"


async def test_a_lost_response_is_recognised(autojump_clock: trio.testing.MockClock) -> None:
    store = FaultyStore(MemoryStore())
    store.add(Rule(FailAfter(), "put", nth=1))
    transition = Append("a")
    assert not (await swap(store, transition)).written
    assert transition.doubts == 1
    assert await body(store) == b"a"


@pytest.mark.parametrize("error", [StoreUnavailable("503"), WriteConflict("409")])
async def test_a_request_that_was_lost_is_sent_again(error: Exception, autojump_clock: trio.testing.MockClock) -> None:
    store = FaultyStore(MemoryStore())
    store.add(Rule(FailBefore(error), "put", nth=1, times=3))
    transition = Append("a")
    assert (await swap(store, transition)).written
    assert transition.doubts == (3 if isinstance(error, StoreUnavailable) else 0)
    assert await body(store) == b"a"


async def test_a_failed_read_is_no_doubt(autojump_clock: trio.testing.MockClock) -> None:
    store = FaultyStore(MemoryStore())
    store.add(Rule(FailBefore(), "get", nth=1, times=4))
    transition = Append("a")
    assert (await swap(store, transition)).written
    assert transition.doubts == 0


async def test_a_late_write_is_refused_after_the_next_one(autojump_clock: trio.testing.MockClock) -> None:
    store = FaultyStore(MemoryStore())
    store.add(Rule(Late(), "put", nth=1))
    assert (await swap(store, Append("a"))).written
    assert [type(outcome).__name__ for outcome in await store.carry_out_late()] == ["PreconditionFailed"]
    assert await body(store) == b"a"


@pytest.mark.parametrize("error", [AccessDenied("403"), StoreFull("507")])
async def test_what_will_not_pass_is_raised_at_once(error: Exception) -> None:
    store = FaultyStore(MemoryStore())
    store.add(Rule(FailBefore(error), "put"))
    with pytest.raises(type(error)):
        await swap(store, Append("a"))
    assert store.count("put") == 1


async def test_the_deadline_ends_it(autojump_clock: trio.testing.MockClock) -> None:
    store = FaultyStore(MemoryStore())
    store.down = True
    started = trio.current_time()
    with pytest.raises(RetriesExhausted):
        await swap(store, Append("a"), deadline=7)
    assert trio.current_time() - started <= 7


async def test_somebody_in_between_costs_another_round(autojump_clock: trio.testing.MockClock) -> None:
    store = FaultyStore(MemoryStore())
    transition = Append("a")
    async with store.held("put", "*", swap, store, transition):
        await swap(store, Append("b"))
    assert transition.looked == [None, b"b"]
    assert await body(store) == b"b a"


async def test_many_at_once_lose_nothing(autojump_clock: trio.testing.MockClock) -> None:
    store = FaultyStore(MemoryStore())
    store.add(Rule(FailAfter(), "put", nth=3, times=5))
    store.add(Rule(FailBefore(), "get", nth=20, times=9))
    ids = [f"{number}" for number in range(50)]
    async with trio.open_nursery() as nursery:
        for id in ids:
            nursery.start_soon(swap, store, Append(id), UNREAD, 600)
    assert sorted((await body(store)).decode().split()) == sorted(ids)
