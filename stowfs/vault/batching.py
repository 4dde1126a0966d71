"""Blocking calls that take less than the way to a worker thread and back: those that come while the threads are busy
go there together.

No call is kept waiting for others to come, one that fails fails alone, and what was begun is carried out whatever
becomes of the caller.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import outcome
import trio
from outcome import Outcome

R = TypeVar("R")


class _Call(Generic[R]):
    """A call, and the event for whoever waits for it."""

    def __init__(self, function: Callable[[], R]) -> None:
        self._function = function
        self._outcome: Outcome[R] | None = None
        self.ended = trio.Event()

    def carry_out(self) -> None:
        self._outcome = outcome.capture(self._function)

    def result(self) -> R:
        assert self._outcome is not None
        return self._outcome.unwrap()


class Batcher:
    """Worker threads, `threads` at once, each with at most `most` calls."""

    def __init__(self, nursery: trio.Nursery, limiter: trio.CapacityLimiter, *, threads: int, most: int) -> None:
        self._nursery = nursery
        self._limiter = limiter
        self._free = threads
        self._most = most
        self._waiting: deque[_Call[Any]] = deque()

    async def run(self, function: Callable[[], R]) -> R:
        """What `function` gives, or raises."""
        call = _Call(function)
        self._waiting.append(call)
        if self._free:
            self._free -= 1
            self._nursery.start_soon(self._work)
        await call.ended.wait()
        return call.result()

    async def _work(self) -> None:
        with trio.CancelScope(shield=True):
            while self._waiting:
                calls = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._most))]
                await trio.to_thread.run_sync(_carry_out, calls, limiter=self._limiter)
                for call in calls:
                    call.ended.set()
        self._free += 1


def _carry_out(calls: list[_Call[Any]]) -> None:
    for call in calls:
        call.carry_out()
