"""Compare-and-swap on one object of a store, with every outcome resolved.

The loop: read, let a `Transition` propose a new body, write it on the condition that nothing changed since, and
again. After an unclear outcome (a timeout, a lost response) the object is read again: the transition finds its own id
in the ring there, or proposes anew. SDK retries would make this impossible: the store must not retry conditional
writes itself.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from stowfs.errors import ObjectNotFound, PreconditionFailed, StoreUnavailable, WriteConflict
from stowfs.store.base import IF_ABSENT, Found, IfMatch, ObjectStore
from stowfs.store.retry import Backoff
from stowfs.vault.untrusted import read_bounded


class Transition(Protocol):
    """A change of one object. It may be asked several times, each time with what is there now."""

    def propose(self, current: Found | None) -> bytes | None:
        """The body to write over `current` (`None`: there is no object), or `None` where nothing is left to do."""

    def in_doubt(self) -> None:
        """The body proposed last was sent, and whether it took effect is unknown."""


Prepare = Callable[[Found], Awaitable[object]]
"""Fetches what a transition needs to understand an object (see `Dictionaries`)."""


@dataclass(frozen=True, slots=True)
class Unread:
    """The caller does not know what is under the key: it is read first."""


UNREAD = Unread()


@dataclass(frozen=True, slots=True)
class Swapped:
    """What is under the key after a swap: `written` is false where nothing was left to do."""

    current: Found | None
    written: bool


async def read_or_none(store: ObjectStore, key: str) -> Found | None:
    """The object under `key`, or `None` where there is none. Raises `CorruptObject` where it is absurdly large."""
    try:
        return await read_bounded(store, key)
    except ObjectNotFound:
        return None


async def compare_and_swap(
    store: ObjectStore,
    key: str,
    transition: Transition,
    *,
    first: Found | Unread | None = UNREAD,
    prepare: Prepare | None = None,
    deadline: float,
) -> Swapped:
    """Brings the object under `key` to the state `transition` wants; idempotent if the transition is.

    `first`: what the caller believes is there, to spare the first read (a wrong belief costs one refused write).
    `prepare` is called with what is there before `transition` is asked.
    Raises `RetriesExhausted` after `deadline` seconds, and whatever else the store answers.
    """
    backoff = Backoff(deadline)
    current = first
    believed = not isinstance(first, Unread)
    while True:
        try:
            if isinstance(current, Unread):
                current = await read_or_none(store, key)
            if prepare is not None and current is not None:
                await prepare(current)
            body = transition.propose(current)
            if body is None:
                return Swapped(current, written=False)
            try:
                etag = await store.put(key, body, IF_ABSENT if current is None else IfMatch(current.etag))
            except StoreUnavailable:
                transition.in_doubt()
                raise
            return Swapped(Found(body, etag), written=True)
        except (PreconditionFailed, WriteConflict, StoreUnavailable) as error:
            current = UNREAD
            if believed and isinstance(error, PreconditionFailed):
                # A stale belief of the caller's: reading is what mends it, not waiting.
                believed = False
            else:
                await backoff.wait(error)
