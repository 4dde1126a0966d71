"""Counting the requests to a store, each attempt of a repeated one: how many, how they ended, how long they took."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from stowfs.metrics import Outcomes
from stowfs.store.base import Found, ObjectStore
from stowfs.store.observed import ObservedStore, Operation

T = TypeVar("T")


@dataclass(slots=True)
class RequestCounts:
    """All requests to a store. The answers "not found" and "the condition does not hold" count as errors. `sent` and
    `received`: bytes of bodies."""

    by_operation: dict[str, Outcomes] = field(default_factory=dict)
    sent: int = 0
    received: int = 0


class CountingStore(ObservedStore):
    """`ObjectStore` that counts what it passes on to `inner`."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.counts = RequestCounts()

    async def _pass(
        self, operation: Operation, key: str, send: Callable[[], Awaitable[T]], *, sent: int = 0, more: bool = False
    ) -> T:
        outcomes = self.counts.by_operation.get(operation)
        if outcomes is None:
            outcomes = self.counts.by_operation[operation] = Outcomes()
        started = time.perf_counter()
        try:
            result = await send()
        except BaseException as error:
            outcomes.note(time.perf_counter() - started, type(error).__name__)
            self.counts.sent += sent
            raise
        if result is not None or not more:
            outcomes.note(time.perf_counter() - started, None)
        self.counts.sent += sent
        if isinstance(result, Found):
            self.counts.received += len(result.body)
        return result
