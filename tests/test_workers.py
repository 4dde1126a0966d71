"""Blocking calls in threads: bounded, and abandoned when nobody waits for them any more."""

import threading
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from stowfs.workers import Workers

TIMEOUT = 10.0


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers(3)
    yield workers
    workers.close()


class Gate:
    """A call that ends when the gate is opened."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.begun = threading.Semaphore(0)

    def __call__(self) -> None:
        self.begun.release()
        self.opened.wait(TIMEOUT)

    async def taken(self, threads: int) -> None:
        """Waits until so many threads are held up."""
        for _ in range(threads):
            await trio.to_thread.run_sync(self.begun.acquire)


async def test_results_and_errors_come_back_to_who_asked(workers: Workers) -> None:
    answers: dict[int, object] = {}

    async def ask(number: int) -> None:
        try:
            answers[number] = await workers.run(lambda: 100 // (number % 10))
        except ZeroDivisionError as error:
            answers[number] = str(error)

    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            for number in range(500):
                nursery.start_soon(ask, number)
    expected = {n: 100 // (n % 10) if n % 10 else "integer division or modulo by zero" for n in range(500)}
    assert answers == expected


async def test_no_more_at_once_than_threads(workers: Workers) -> None:
    gate = Gate()
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(workers.run, gate)
            await gate.taken(3)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert not gate.begun.acquire(blocking=False)
            gate.opened.set()


async def test_an_abandoned_call_that_has_not_begun_never_does(workers: Workers) -> None:
    gate = Gate()
    called: list[int] = []

    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(workers.run, gate)
            await gate.taken(3)
            with trio.move_on_after(0.05) as scope:
                await workers.run(lambda: called.append(1))
            assert scope.cancelled_caught
            gate.opened.set()
        with trio.CancelScope() as cancelled:
            cancelled.cancel()
            await workers.run(lambda: called.append(2))
        # Every thread is done with whatever came before this.
        await workers.run(lambda: called.append(3))
    assert called == [3]


async def test_an_abandoned_call_holds_its_thread_and_nothing_else(workers: Workers) -> None:
    gate, ended = threading.Event(), threading.Event()

    def blocked() -> None:
        gate.wait(TIMEOUT)
        ended.set()

    with trio.fail_after(TIMEOUT):
        with trio.move_on_after(0.05):
            await workers.run(blocked)
        assert await workers.run(lambda: "answer") == "answer"
        gate.set()
        assert await trio.to_thread.run_sync(ended.wait)
        assert await workers.run(lambda: "answer") == "answer"


async def test_threads_end_with_their_owner() -> None:
    workers = Workers(3)
    thread = await workers.run(threading.current_thread)
    workers.close()
    await trio.to_thread.run_sync(thread.join, TIMEOUT)
    assert not thread.is_alive()
