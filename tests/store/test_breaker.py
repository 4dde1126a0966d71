"""When a store is taken to be unreachable, what that spares its users, and how it ends."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from stowfs.errors import (
    AccessDenied,
    ObjectNotFound,
    PreconditionFailed,
    RetriesExhausted,
    StoreError,
    StoreFull,
    StoreUnavailable,
    StoreUnreachable,
    WriteConflict,
)
from stowfs.store.base import IF_ABSENT, Found
from stowfs.store.breaker import LONGEST_PAUSE, Breaker
from stowfs.store.memory import MemoryStore
from stowfs.store.retry import PATIENCE, RetryingStore, guarded
from stowfs.tasks import background
from stowfs.vault.cas import compare_and_swap, read_or_none
from tests.support.faults import Delay, FailBefore, FaultyStore, Rule, Stall

DEADLINE = 40.0
PATIENT = PATIENCE * DEADLINE
TRIAL = "trial"


class Replace:
    """The transition to some body."""

    def propose(self, current: Found | None) -> bytes:
        return b"y"

    def in_doubt(self) -> None:
        pass


@asynccontextmanager
async def opened(faulty: FaultyStore) -> AsyncIterator[tuple[RetryingStore, Breaker]]:
    """A guarded store and its breaker."""
    async with guarded(faulty, DEADLINE, trial=TRIAL) as store:
        assert store.breaker is not None
        yield store, store.breaker


def trials(faulty: FaultyStore) -> int:
    return sum(request.key == TRIAL for request in faulty.log)


async def test_a_dead_store_costs_its_users_time_once(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    faulty = FaultyStore(MemoryStore())
    async with opened(faulty) as (store, breaker):
        await store.put("k", b"x")
        faulty.down = True
        assert not breaker.is_open
        started = trio.current_time()
        with pytest.raises(StoreUnreachable, match="injected: the store is down"):
            await store.get("k")
        assert PATIENT <= trio.current_time() - started < DEADLINE
        assert breaker.is_open
        # From here on nothing is sent, and nobody waits.
        started = trio.current_time()
        faulty.reset_log()
        for _ in range(100):
            with pytest.raises(StoreUnreachable):
                await store.get("k")
            with pytest.raises(StoreUnreachable):
                await store.put("k", b"y", IF_ABSENT)
            with pytest.raises(StoreUnreachable):
                await anext(store.list(""))
            with pytest.raises(StoreUnreachable):
                await compare_and_swap(store, "k", Replace(), deadline=DEADLINE)
        assert trio.current_time() == started
        assert faulty.log == []
    lines = [record for record in caplog.records if "unreachable" in record.getMessage()]
    assert [record.levelno for record in lines] == [logging.ERROR]


async def test_it_closes_by_itself_when_the_store_returns(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    faulty = FaultyStore(MemoryStore())
    async with opened(faulty) as (store, breaker):
        await store.put("k", b"x")
        faulty.down = True
        with pytest.raises(StoreUnreachable):
            await store.get("k")
        await trio.sleep(1000)
        assert breaker.is_open
        # One at a time: a trial here takes no time.
        assert 1000 / LONGEST_PAUSE - 1 <= trials(faulty) <= 1000 / LONGEST_PAUSE + 4
        faulty.down = False
        await trio.sleep(LONGEST_PAUSE)
        assert not breaker.is_open
        assert breaker.unreachable_since is None
        asked = trials(faulty)
        found = await store.get("k")
        assert isinstance(found, Found)
        assert found.body == b"x"
        await trio.sleep(1000)
        assert trials(faulty) == asked
    assert sum("store answers again after 10" in record.getMessage() for record in caplog.records) == 1


async def test_it_opens_and_closes_again(autojump_clock: trio.testing.MockClock) -> None:
    faulty = FaultyStore(MemoryStore())
    async with opened(faulty) as (store, breaker):
        for _ in range(3):
            faulty.down = True
            with pytest.raises(StoreUnreachable):
                await store.put("k", b"x")
            faulty.down = False
            await trio.sleep(LONGEST_PAUSE)
            assert not breaker.is_open
            await store.put("k", b"x")


@pytest.mark.parametrize(
    "error", [ObjectNotFound("404"), PreconditionFailed("412"), AccessDenied("403"), StoreFull("507"), StoreError("?")]
)
async def test_a_refusal_is_an_answer(autojump_clock: trio.testing.MockClock, error: StoreError) -> None:
    faulty = FaultyStore(MemoryStore())
    faulty.add(Rule(FailBefore(error)))
    async with opened(faulty) as (store, breaker):
        for _ in range(50):
            with pytest.raises(type(error)):
                await store.get("k")
            await trio.sleep(PATIENT)
        assert not breaker.is_open
        assert faulty.count() == 50


async def test_a_conflict_that_does_not_end_is_no_outage(autojump_clock: trio.testing.MockClock) -> None:
    faulty = FaultyStore(MemoryStore())
    faulty.add(Rule(FailBefore(WriteConflict("409"))))
    async with opened(faulty) as (store, breaker):
        with pytest.raises(RetriesExhausted):
            await store.put("k", b"x")
        assert not breaker.is_open


async def test_a_part_of_the_store_that_fails_is_no_outage(autojump_clock: trio.testing.MockClock) -> None:
    """Where writes fail and reads are answered, a write is tried for as long as its user wants."""
    faulty = FaultyStore(MemoryStore())
    faulty.add(Rule(FailBefore(), "put"))
    async with opened(faulty) as (store, breaker), trio.open_nursery() as nursery:

        async def read() -> None:
            while True:
                await read_or_none(store, "k")
                await trio.sleep(PATIENT / 4)

        nursery.start_soon(read)
        with pytest.raises(RetriesExhausted):
            await store.put("k", b"x")
        assert not breaker.is_open
        nursery.cancel_scope.cancel()


async def test_requests_that_fail_together_are_one_piece_of_evidence(autojump_clock: trio.testing.MockClock) -> None:
    """Connections that went stale: all hang, and whoever asks again is answered."""
    faulty = FaultyStore(MemoryStore())
    await faulty.put("k", b"x")
    stale = 30

    async def hang_and_fail() -> None:
        await trio.sleep(2 * PATIENT)
        raise StoreUnavailable("timed out")

    async with background() as nursery:
        breaker = Breaker("memory:", PATIENT)
        nursery.start_soon(breaker.watch, lambda: faulty.get(TRIAL))
        async with trio.open_nursery() as users:

            async def use() -> None:
                with pytest.raises(StoreUnavailable) as caught:
                    await breaker.attempt(hang_and_fail)
                assert not isinstance(caught.value, StoreUnreachable)
                await breaker.attempt(lambda: faulty.get("k"))

            for _ in range(stale):
                users.start_soon(use)
        assert faulty.count("get") == stale


async def test_no_answer_in_time_is_a_failure(autojump_clock: trio.testing.MockClock) -> None:
    faulty = FaultyStore(MemoryStore())
    stall = Stall()
    faulty.add(Rule(stall))
    async with opened(faulty) as (store, breaker):
        for error in (RetriesExhausted, StoreUnreachable):
            with pytest.raises(error):
                await store.get("k")
        assert breaker.is_open
        stall.go.set()
        await trio.sleep(DEADLINE + LONGEST_PAUSE)
        assert not breaker.is_open


async def test_an_answer_that_was_long_under_way_closes_it(autojump_clock: trio.testing.MockClock) -> None:
    faulty = FaultyStore(MemoryStore())
    faulty.add(Rule(Delay(2 * PATIENT), "put", "slow"))
    async with opened(faulty) as (store, breaker), trio.open_nursery() as nursery:
        nursery.start_soon(store.put, "slow", b"x")
        await trio.sleep(0.1)
        faulty.add(Rule(FailBefore(), "get"))
        with pytest.raises(StoreUnreachable):
            await store.get("k")
        assert breaker.is_open
        await trio.sleep(2 * PATIENT)
        assert not breaker.is_open


async def test_what_was_given_up_by_its_user_is_no_evidence(autojump_clock: trio.testing.MockClock) -> None:
    faulty = FaultyStore(MemoryStore())
    faulty.add(Rule(Stall()))
    async with opened(faulty) as (store, breaker):
        for _ in range(10):
            with trio.move_on_after(PATIENT):
                await store.get("k")
        assert not breaker.is_open


async def test_a_defect_does_not_end_the_trials(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    faulty = FaultyStore(MemoryStore())
    async with opened(faulty) as (store, breaker):
        faulty.down = True
        with pytest.raises(StoreUnreachable):
            await store.get("k")
        faulty.down = False
        faulty.add(Rule(FailBefore(RuntimeError("injected: a defect")), "get", TRIAL, nth=1, times=2))
        await trio.sleep(3 * LONGEST_PAUSE)
        assert not breaker.is_open
    assert sum("failed unexpectedly" in record.getMessage() for record in caplog.records) == 2


async def test_the_error_of_the_user_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with guarded(MemoryStore(), DEADLINE, trial=TRIAL):
            raise KeyError("mine")
