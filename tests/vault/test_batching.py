"""Short blocking calls that share their way to a worker thread."""

import threading
from collections.abc import Callable, Sequence
from functools import partial

import trio
import trio.testing
from outcome import Outcome

from stowfs.vault.batching import Batcher, carry_out


async def test_calls_that_come_while_the_threads_are_busy_go_together() -> None:
    release = threading.Event()
    together: list[int] = []

    def counted(calls: Sequence[Callable[[], int]]) -> list[Outcome[int]]:
        together.append(len(calls))
        return carry_out(calls)

    results: dict[int, int] = {}

    def square(number: int) -> int:
        if number < 2:
            release.wait(30)
        return number * number

    async def call(number: int) -> None:
        results[number] = await batcher.run(partial(square, number))

    async with trio.open_nursery() as nursery:
        batcher = Batcher(nursery, trio.CapacityLimiter(2), counted, threads=2, most=8)
        for number in range(2):
            nursery.start_soon(call, number)
            await trio.testing.wait_all_tasks_blocked(0.01)
        for number in range(2, 34):
            nursery.start_soon(call, number)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert together == [1, 1]
        release.set()
    assert results == {number: number * number for number in range(34)}
    assert together == [1, 1, 8, 8, 8, 8]


async def test_a_call_that_fails_fails_alone() -> None:
    failed: list[str] = []
    results: list[int] = []

    async def call(number: int) -> None:
        try:
            results.append(await batcher.run(lambda: 10 // number))
        except ZeroDivisionError as error:
            failed.append(str(error))

    async with trio.open_nursery() as nursery:
        batcher = Batcher[Callable[[], int], int](nursery, trio.CapacityLimiter(1), carry_out, threads=1, most=8)
        for number in (1, 0, 2, 5):
            nursery.start_soon(call, number)
    assert sorted(results) == [2, 5, 10]
    assert len(failed) == 1


async def test_what_was_begun_is_carried_out_though_the_callers_are_cancelled() -> None:
    done: list[int] = []
    async with trio.open_nursery() as nursery:
        batcher = Batcher[Callable[[], None], None](nursery, trio.CapacityLimiter(1), carry_out, threads=1, most=2)
        for number in range(5):
            nursery.start_soon(batcher.run, partial(done.append, number))
        nursery.cancel_scope.cancel()
    assert sorted(done) == list(range(5))
