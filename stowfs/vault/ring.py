"""The ring of recent operation ids that every mutable object carries: how one finds out whether one's own write
happened.

Ids begin with a uuid7, so later ones are greater. The ring keeps the last `CAPACITY` ids in order of arrival, `floor`
is the greatest id that ever fell out of it, and `generation` counts all that ever entered. Hence the verdict on an id
that is not in the ring is certain in two cases: it is greater than `floor` (it cannot have fallen out), or the caller
knows a generation before its first attempt from which the ring cannot have turned over since. Every other doubt is
`UNKNOWN`, and whoever counts references resolves it to "too high".
"""

from enum import Enum

import msgspec
from uuid6 import uuid7

CAPACITY = 16
"""Ids a ring keeps. An id costs 17 bytes compressed; this many concurrent writers of one object can lose their
responses at once before a doubt can arise."""


def new_id() -> str:
    """A fresh id: a uuid7 as 32 hexadecimal digits. Greater than every earlier one of this process."""
    return uuid7().hex


class Verdict(Enum):
    """Whether an operation took effect on an object."""

    HAPPENED = "happened"
    DID_NOT_HAPPEN = "did not happen"
    UNKNOWN = "unknown"


class Ring(msgspec.Struct, frozen=True, array_like=True):
    """The ids of the last writes of one object (newest last), the greatest one dropped, and how many there were."""

    recent: tuple[str, ...] = ()
    floor: str = ""
    generation: int = 0

    def add(self, *ids: str) -> "Ring":
        """The ring after writes with these ids."""
        entries = self.recent + ids
        dropped = entries[:-CAPACITY]
        return Ring(entries[-CAPACITY:], max((self.floor, *dropped)), self.generation + len(ids))

    def verdict(self, op: str, *, since: int | None = None) -> Verdict:
        """Whether `op` took effect. `since`: a generation the object had before `op` was first attempted, if known."""
        if op in self.recent:
            return Verdict.HAPPENED
        if op > self.floor or (since is not None and self.generation - since <= CAPACITY):
            return Verdict.DID_NOT_HAPPEN
        return Verdict.UNKNOWN
