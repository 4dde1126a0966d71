"""A store around a store that fails, stalls, lies or counts on request.

    store = FaultyStore(MemoryStore())
    store.add(Rule(FailAfter(), "put", "manifests/*", nth=2))  # the second one takes effect, but its answer is lost
    store.add(Rule(Late(), "put", "manifests/*"))              # all are answered "unavailable", and carried out by
    await store.carry_out_late()                               # this
    store.down = True                                          # nothing answers any more

Rules are tried in the order they were added; the first that matches decides.
"""

import fnmatch
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from stowfs.errors import StoreUnavailable
from stowfs.store.base import (
    ALWAYS,
    Condition,
    Found,
    IfAbsent,
    IfMatch,
    ObjectStore,
)
from stowfs.store.observed import ObservedStore, Operation

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FailBefore:
    """The request never reaches the store."""

    error: Exception = field(default_factory=lambda: StoreUnavailable("injected: the request was lost"))


@dataclass(frozen=True, slots=True)
class FailAfter:
    """The request takes effect and its response is lost."""

    error: Exception = field(default_factory=lambda: StoreUnavailable("injected: the response was lost"))


@dataclass(frozen=True, slots=True)
class Late:
    """The response is lost at once; the request is carried out by `carry_out_late`, whatever became of its sender."""


@dataclass(frozen=True, slots=True)
class Delay:
    """The request is sent after this many seconds."""

    seconds: float


@dataclass(slots=True)
class Stall:
    """The request waits before the store until `go` is set; `reached` tells a test that one does."""

    reached: trio.Event = field(default_factory=trio.Event)
    go: trio.Event = field(default_factory=trio.Event)


@dataclass(slots=True)
class StallAfter:
    """As `Stall`, but the request has taken effect, and only its response is held back."""

    reached: trio.Event = field(default_factory=trio.Event)
    go: trio.Event = field(default_factory=trio.Event)


Action = FailBefore | FailAfter | Late | Delay | Stall | StallAfter

TROUBLE: dict[str, Callable[[], Action]] = {
    "crash before": Stall,
    "crash after": StallAfter,
    "response lost": FailAfter,
    "request lost": FailBefore,
    "late, after a crash": Late,
}
"""What can become of a request, by name: a test ends the host that one stalls of, or that is to come late."""


@dataclass(slots=True)
class Rule:
    """Does `action` to matching requests: all, or the `nth` only (from 1), or those from the `nth` on for `times`."""

    action: Action
    operation: Operation | None = None
    key: str = "*"
    nth: int | None = None
    times: int | None = 1
    seen: int = 0

    def applies(self, operation: Operation, key: str) -> bool:
        """Counts the request if it matches, and says whether this is one that is meant."""
        if self.operation not in (None, operation) or not fnmatch.fnmatchcase(key, self.key):
            return False
        self.seen += 1
        if self.nth is None:
            return True
        return self.seen >= self.nth and (self.times is None or self.seen < self.nth + self.times)


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it was made. `sent` and `received` are bytes of bodies."""

    operation: Operation
    key: str
    sent: int = 0
    received: int = 0
    failed: bool = False

    @property
    def key_class(self) -> str:
        """The first component of the key: 'manifests', 'segments' …"""
        return self.key.split("/", 1)[0]


class FaultyStore(ObservedStore):
    """`ObjectStore` that passes requests on to `inner` unless a rule says otherwise, and logs each one."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.rules: list[Rule] = []
        self.log: list[Request] = []
        self.down = False
        self._late: list[Callable[[], Awaitable[object]]] = []

    def add(self, rule: Rule) -> Rule:
        self.rules.append(rule)
        return rule

    @asynccontextmanager
    async def held(
        self, operation: Operation, key: str, work: Callable[..., Awaitable[object]], *arguments: object
    ) -> AsyncIterator[None]:
        """The block runs while `work` is under way: its first such request waits before the store. It goes on, and has
        ended, after the block."""
        stall = Stall()
        self.add(Rule(stall, operation, key, nth=1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, *arguments)
            await stall.reached.wait()
            yield
            stall.go.set()

    def reset_log(self) -> None:
        self.log.clear()

    def count(self, operation: Operation | None = None, key_class: str | None = None) -> int:
        """Requests so far, failed ones included. A listing counts one for each page, and one where it has none."""
        return sum(1 for _ in self._select(operation, key_class))

    def counts(self) -> Counter[tuple[Operation, str]]:
        """Requests by operation and key class."""
        return Counter((request.operation, request.key_class) for request in self.log)

    def bytes_sent(self, operation: Operation | None = None, key_class: str | None = None) -> int:
        return sum(request.sent for request in self._select(operation, key_class))

    def bytes_received(self, operation: Operation | None = None, key_class: str | None = None) -> int:
        return sum(request.received for request in self._select(operation, key_class))

    def _select(self, operation: Operation | None, key_class: str | None) -> list[Request]:
        return [
            request
            for request in self.log
            if operation in (None, request.operation) and key_class in (None, request.key_class)
        ]

    async def carry_out_late(self) -> list[Exception | None]:
        """Carries out what `Late` held back, in order; how the store answered each (None: it took effect)."""
        outcomes: list[Exception | None] = []
        while self._late:
            request = self._late.pop(0)
            try:
                await request()
                outcomes.append(None)
            except Exception as error:  # noqa: BLE001 - the outcome is what the caller asks for
                outcomes.append(error)
        return outcomes

    async def _pass(
        self, operation: Operation, key: str, send: Callable[[], Awaitable[T]], *, sent: int = 0, more: bool = False
    ) -> T:
        try:
            result = await self._decide(operation, key, send)
        except BaseException:
            self.log.append(Request(operation, key, sent=sent, failed=True))
            raise
        if result is None and more:
            return result
        received = len(result.body) if isinstance(result, Found) else 0
        self.log.append(Request(operation, key, sent=sent, received=received))
        return result

    async def _decide(self, operation: Operation, key: str, send: Callable[[], Awaitable[T]]) -> T:
        if self.down:
            await trio.lowlevel.checkpoint()
            raise StoreUnavailable("injected: the store is down")
        # Every rule sees every request, so that counting one does not depend on another.
        rule = next((rule for rule in [r for r in self.rules if r.applies(operation, key)]), None)
        match rule.action if rule is not None else None:
            case None:
                return await send()
            case FailBefore(error):
                await trio.lowlevel.checkpoint()
                raise error
            case FailAfter(error):
                await send()
                raise error
            case Late():
                await trio.lowlevel.checkpoint()
                self._late.append(send)
                raise StoreUnavailable("injected: the response was lost, the request is on its way")
            case Delay(seconds):
                await trio.sleep(seconds)
                return await send()
            case Stall(reached, go):
                reached.set()
                await go.wait()
                return await send()
            case StallAfter(reached, go):
                result = await send()
                reached.set()
                await go.wait()
                return result


class IgnoringStore(FaultyStore):
    """A store that answers as if conditions of the given kinds were met, as several S3 imitations do."""

    def __init__(
        self, inner: ObjectStore, *, on_put: tuple[type[Condition], ...] = (), on_delete: bool = False
    ) -> None:
        super().__init__(inner)
        self._on_put = on_put
        self._on_delete = on_delete

    async def put(self, key: str, body: bytes, condition: Condition = ALWAYS) -> str:
        return await super().put(key, body, ALWAYS if isinstance(condition, self._on_put) else condition)

    async def delete(self, key: str, condition: Condition = ALWAYS) -> None:
        await super().delete(key, ALWAYS if self._on_delete else condition)


def ignores_if_match(inner: ObjectStore) -> IgnoringStore:
    """Every If-Match on a PUT holds."""
    return IgnoringStore(inner, on_put=(IfMatch,))


def ignores_if_absent(inner: ObjectStore) -> IgnoringStore:
    """Every If-None-Match on a PUT holds."""
    return IgnoringStore(inner, on_put=(IfAbsent,))


def ignores_if_match_on_delete(inner: ObjectStore) -> IgnoringStore:
    """DELETE removes whatever is there, as Ceph RGW does."""
    return IgnoringStore(inner, on_delete=True)
