"""The lock: one at a time, in order, and nobody waits for who gave up."""

import tracemalloc

import trio
import trio.lowlevel
from trio.testing import wait_all_tasks_blocked

from stowfs.locks import Lock


async def test_waiters_get_it_in_their_order_one_at_a_time() -> None:
    lock, got = Lock(), []

    async def take(number: int) -> None:
        async with lock:
            got.append(number)
            await trio.lowlevel.checkpoint()
            assert got[-1] == number, "nobody else meanwhile"

    async with trio.open_nursery() as nursery, lock:
        for number in range(5):
            nursery.start_soon(take, number)
            await wait_all_tasks_blocked()
        assert got == []
    assert got == [0, 1, 2, 3, 4]


async def test_a_waiter_that_is_cancelled_is_passed_over() -> None:
    lock, got = Lock(), []

    async def take(name: str, scope: trio.CancelScope) -> None:
        with scope:
            async with lock:
                got.append(name)

    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery, lock:
        nursery.start_soon(take, "impatient", scope)
        await wait_all_tasks_blocked()
        nursery.start_soon(take, "patient", trio.CancelScope())
        await wait_all_tasks_blocked()
        scope.cancel()
        await wait_all_tasks_blocked()
    assert got == ["patient"]
    with trio.fail_after(5):
        async with lock:
            pass


async def test_a_lock_that_nobody_waits_for_takes_little() -> None:
    """A mount may have three for each of a hundred thousand files."""
    tracemalloc.start()
    try:
        locks = [Lock() for _ in range(1000)]
        for lock in locks:
            async with lock:
                pass
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 100 * len(locks)
