"""Blocking work that takes less than the way to a worker thread and back: what comes while the threads are busy goes
there together.

Nothing is kept waiting for others to come, and what was begun is carried out whatever becomes of the caller.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import outcome
import trio
from outcome import Outcome

T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True, eq=False)
class _Job(Generic[T, R]):
    """An item, what came of it, and the event for whoever waits for that."""

    item: T
    outcome: Outcome[R] | None = None
    ended: trio.Event = field(default_factory=trio.Event)


class Batcher(Generic[T, R]):
    """Worker threads, `threads` at once, each with at most `most` items. `work` gives an outcome for each of several,
    and raises nothing."""

    def __init__(
        self,
        nursery: trio.Nursery,
        limiter: trio.CapacityLimiter,
        work: Callable[[Sequence[T]], Sequence[Outcome[R]]],
        *,
        threads: int,
        most: int,
    ) -> None:
        self._nursery = nursery
        self._limiter = limiter
        self._carry_out = work
        self._free = threads
        self._most = most
        self._waiting: deque[_Job[T, R]] = deque()

    async def run(self, item: T) -> R:
        """What the work gives of `item`, or raises."""
        job = _Job[T, R](item)
        self._waiting.append(job)
        if self._free:
            self._free -= 1
            self._nursery.start_soon(self._work)
        await job.ended.wait()
        assert job.outcome is not None
        return job.outcome.unwrap()

    async def _work(self) -> None:
        with trio.CancelScope(shield=True):
            while self._waiting:
                jobs = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._most))]
                items = [job.item for job in jobs]
                outcomes = await trio.to_thread.run_sync(self._carry_out, items, limiter=self._limiter)
                for job, made in zip(jobs, outcomes, strict=True):
                    job.outcome = made
                    job.ended.set()
        self._free += 1


def carry_out(calls: Sequence[Callable[[], R]]) -> list[Outcome[R]]:
    """Work that is calls: one that fails fails alone."""
    return [outcome.capture(call) for call in calls]
