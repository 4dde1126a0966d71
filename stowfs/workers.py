"""Worker threads for blocking requests: what `trio.to_thread` does, at less of its cost, for what is done a
thousand times a second.

The threads take calls from one queue, so that one that is busy anyway takes the next without being woken, and answers
that come together wake the event loop once.
"""

import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

import outcome
import trio
from outcome import Outcome

T = TypeVar("T")


class Workers:
    """At most `limit` threads, begun when they are needed. For one run of trio; `close` must be called in it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._threads = 0
        # Calls that no thread is done with, abandoned ones among them.
        self._open = 0
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._done: deque[_Call] = deque()
        # Whether the event loop is going to look at what is done.
        self._told = False

    async def run(self, function: Callable[[], T]) -> T:
        """What `function` returns or raises, in a thread.

        A cancelled call is abandoned: if no thread has begun with it, none will; else nobody hears how it ended.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        call = _Call(function, trio.lowlevel.current_task(), trio.lowlevel.current_trio_token())
        self._open += 1
        if self._threads < min(self._open, self._limit):
            self._threads += 1
            threading.Thread(target=self._work, name="stowfs worker", daemon=True).start()
        self._calls.put(call)
        result: T = await trio.lowlevel.wait_task_rescheduled(call.abandon)
        return result

    def close(self) -> None:
        """Ends the threads, each when it is done with its call."""
        for _ in range(self._threads):
            self._calls.put(None)
        self._threads = 0

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call.carry_out()
            self._done.append(call)
            # Whoever was told has not looked yet, and will see this one, too.
            if not self._told:
                self._told = True
                try:
                    call.token.run_sync_soon(self._deliver)
                except trio.RunFinishedError:
                    return  # abandoned, and nobody is left to hear of it

    def _deliver(self) -> None:
        self._told = False
        while self._done:
            call = self._done.popleft()
            self._open -= 1
            call.deliver()


class _Call:
    """A function that a thread is to call for a task."""

    def __init__(
        self, function: Callable[[], object], task: trio.lowlevel.Task, token: trio.lowlevel.TrioToken
    ) -> None:
        self.token = token
        self._outcome: Outcome[object] | None = None
        self._function = function
        self._task = task
        self._abandoned = False

    def abandon(self, _raise_cancel: Callable[[], None]) -> trio.lowlevel.Abort:
        self._abandoned = True
        return trio.lowlevel.Abort.SUCCEEDED

    def carry_out(self) -> None:
        """In a thread."""
        if not self._abandoned:
            self._outcome = outcome.capture(self._function)

    def deliver(self) -> None:
        """In the event loop."""
        if not self._abandoned:
            assert self._outcome is not None
            trio.lowlevel.reschedule(self._task, self._outcome)
