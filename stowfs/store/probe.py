"""Whether a store keeps the promises that commits are built on: asked of the store itself, at mkfs and at every mount.

Under a key of its own: create where nothing is (accepted), create again (refused), replace by the right ETag
(accepted), replace by the ETag from before (refused), list (shows it), delete by the ETag from before (refused, or the
store ignores the condition). Seven requests where all is well.
"""

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import trio
import uuid_utils

from stowfs.errors import (
    ConditionsIgnored,
    PreconditionFailed,
    StoreError,
    StoreUnavailable,
    WriteConflict,
)
from stowfs.store.base import IF_ABSENT, Condition, IfMatch, ObjectStore
from stowfs.store.retry import Backoff

T = TypeVar("T")

_CLEANUP_SECONDS = 5.0  # For removing what a failed probe left: a courtesy, not worth more waiting.
_ADVICE = "Use a store that heeds conditional writes, or mount it read-only (-o ro)."


@runtime_checkable
class AdaptsIfMatch(Protocol):
    """A store that can write If-Match in two ways, because servers differ in which one they compare rightly."""

    @property
    def quoted_etags(self) -> bool:
        """Whether If-Match carries the ETag in quotes."""

    def use_quoted_etags(self, quoted: bool) -> None:
        """Sets how If-Match is written from now on."""


@runtime_checkable
class WrapsStore(Protocol):
    """A store that passes requests on to another one."""

    @property
    def inner(self) -> ObjectStore:
        """The store it wraps."""


@dataclass(frozen=True, slots=True)
class ProbeStep:
    """One request of the probe: what it was, and how long it took in seconds."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What a store does that may be written to.

    `quoted_etags`: how If-Match is written to it (None: no such choice). `conditional_delete`: whether it heeds
    If-Match on DELETE. `lists_at_once`: whether a listing shows what was just written.
    """

    url: str
    quoted_etags: bool | None
    conditional_delete: bool
    lists_at_once: bool
    steps: tuple[ProbeStep, ...]


async def probe(store: ObjectStore, *, deadline: float) -> ProbeReport:
    """Probes the store and sets it to the server's way of writing If-Match; within `deadline` seconds, with retries.

    Raises `ConditionsIgnored` where the store does not do with a condition on PUT what it must; else what it raises.
    """
    backoff = Backoff(deadline)
    while True:
        attempt = _Probe(store)
        try:
            return await attempt.run()
        except (StoreUnavailable, WriteConflict) as error:
            await backoff.wait(error)
        finally:
            await attempt.clean_up()


class _Probe:
    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        # Never the same twice: the remains of a probe that was cut off mislead no other.
        self._key = f"probe/{uuid_utils.uuid7().hex}"
        self._left = False
        self._steps: list[ProbeStep] = []

    async def run(self) -> ProbeReport:
        adaptable = _adaptable(self._store)
        first = await self._put("create", IF_ABSENT)
        if first is None:
            raise ConditionsIgnored(f"{self._store.url} refuses to create an object with If-None-Match. {_ADVICE}")
        self._left = True
        if await self._put("create again", IF_ABSENT) is not None:
            raise self._ignored("If-None-Match")
        second = await self._replace(first, adaptable)
        if await self._put("replace by an old ETag", IfMatch(first)) is not None:
            raise self._ignored("If-Match")
        listed = await self._timed("list", self._listed)
        conditional_delete = await self._timed("delete by an old ETag", lambda: self._heeds_on_delete(first))
        if self._left:
            await self._timed("delete", lambda: self._store.delete(self._key))
            self._left = False
        return ProbeReport(
            url=self._store.url,
            quoted_etags=None if adaptable is None else adaptable.quoted_etags,
            conditional_delete=conditional_delete,
            lists_at_once=listed == second,
            steps=tuple(self._steps),
        )

    async def clean_up(self) -> None:
        if self._left:
            # What this cannot remove is one small object under probe/, and the error on its way matters more.
            with trio.move_on_after(_CLEANUP_SECONDS, shield=True), contextlib.suppress(StoreError):
                await self._store.delete(self._key)

    async def _timed(self, name: str, send: Callable[[], Awaitable[T]]) -> T:
        started = trio.current_time()
        try:
            return await send()
        finally:
            self._steps.append(ProbeStep(name, trio.current_time() - started))

    async def _put(self, name: str, condition: Condition) -> str | None:
        """The new ETag; None where the condition was refused."""
        body = uuid_utils.uuid7().bytes  # Another one each time, so that each ETag is another.
        try:
            return await self._timed(name, lambda: self._store.put(self._key, body, condition))
        except PreconditionFailed:
            return None

    async def _replace(self, etag: str, adaptable: AdaptsIfMatch | None) -> str:
        replaced = await self._put("replace", IfMatch(etag))
        if replaced is None and adaptable is not None:
            adaptable.use_quoted_etags(not adaptable.quoted_etags)
            replaced = await self._put("replace, ETag written otherwise", IfMatch(etag))
        if replaced is None:
            raise ConditionsIgnored(f"{self._store.url} refuses If-Match with the object's own ETag. {_ADVICE}")
        return replaced

    async def _listed(self) -> str | None:
        """The ETag that a listing shows."""
        async for page in self._store.list(self._key):
            for entry in page.objects:
                return entry.etag
        return None

    async def _heeds_on_delete(self, stale: str) -> bool:
        try:
            await self._store.delete(self._key, IfMatch(stale))
        except PreconditionFailed:
            return True
        except (StoreUnavailable, WriteConflict):
            raise
        except StoreError:
            return False  # Not supported, and says so.
        self._left = False
        return False

    def _ignored(self, condition: str) -> ConditionsIgnored:
        return ConditionsIgnored(
            f"{self._store.url} ignores {condition} on PUT, so that writers would overwrite each other. {_ADVICE}"
        )


def _adaptable(store: ObjectStore) -> AdaptsIfMatch | None:
    """The store itself or the one inside its wrappers whose way of writing If-Match can be set."""
    while not isinstance(store, AdaptsIfMatch):
        if not isinstance(store, WrapsStore):
            return None
        store = store.inner
    return store
