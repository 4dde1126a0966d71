"""The ring of recent operation ids that every mutable object carries: how one finds out whether one's own write
happened.

Ids begin with a uuid7, so later ones are greater. The ring keeps the last `CAPACITY` ids in order of arrival, `floor`
is the greatest id that ever fell out of it, and `generation` counts all that ever entered. Hence the verdict on an id
that is not in the ring is certain in two cases: it is greater than `floor` (it cannot have fallen out), or the caller
knows a generation before its first attempt from which the ring cannot have turned over since. Every other doubt is
`UNKNOWN`, and whoever counts references resolves it to "too high".

An object that is not there may have been there, with a ring that was removed with it. Only what nobody wrote to for
`FORGOTTEN_AFTER` is ever removed, so an id younger than that (the horizon) was in no ring that is gone, and for an
older one the answer is `UNKNOWN`: a new object begins with the horizon as its floor.
"""

import time
from enum import Enum
from typing import Annotated

import msgspec
from uuid_utils import uuid7

from stowfs.vault.untrusted import Count, Word

CAPACITY = 16
"""Ids a ring keeps. An id costs 17 bytes compressed; this many concurrent writers of one object can lose their
responses at once before a doubt can arise."""

RECENT_LIMIT = 256
"""Ids that a ring which is read may have: room for another capacity, and a bound for what is made up."""

FORGOTTEN_AFTER = 30 * 86400.0
"""Seconds without a write after which a dead record or an empty tombstone may be removed together with its ring. Far
longer than any request is on its way, and a host that was down for less still settles its commits exactly."""


def new_id() -> str:
    """A fresh id: a uuid7 as 32 hexadecimal digits, greater than every earlier one of this process.

    However many are made at once, they do not run ahead of the clock: ids are compared with times (`id_of_time`).
    """
    return uuid7().hex


class Verdict(Enum):
    """Whether an operation took effect on an object."""

    HAPPENED = "happened"
    DID_NOT_HAPPEN = "did not happen"
    UNKNOWN = "unknown"


class Ring(msgspec.Struct, frozen=True, array_like=True):
    """The ids of the last writes of one object (newest last), the greatest one dropped, and how many there were."""

    recent: Annotated[tuple[Word, ...], msgspec.Meta(max_length=RECENT_LIMIT)] = ()
    floor: Word = ""
    generation: Count = 0

    def add(self, *ids: str) -> "Ring":
        """The ring after writes with these ids."""
        entries = self.recent + ids
        dropped = entries[:-CAPACITY]
        return Ring(entries[-CAPACITY:], max((self.floor, *dropped)), self.generation + len(ids))

    def verdict(self, op: str, *, since: int | None = None) -> Verdict:
        """Whether `op` took effect. `since`: a generation the object had before `op` was first attempted, if known."""
        if op in self.recent:
            return Verdict.HAPPENED
        if op > self.floor or (since is not None and 0 <= self.generation - since <= CAPACITY):
            return Verdict.DID_NOT_HAPPEN
        return Verdict.UNKNOWN

    def closed(self, op: str, before: float) -> "Ring":
        """The ring after the write `op`, which settles for good what was done before it: the verdict on any other id
        made before the time `before` is `UNKNOWN`."""
        floor = max((self.floor, *self.recent, id_of_time(before)))
        return Ring((op,), floor, self.generation + CAPACITY + 1)


def first_ring() -> Ring:
    """The ring of an object that is not there (yet): see `FORGOTTEN_AFTER`."""
    return Ring(floor=id_of_time(time.time() - FORGOTTEN_AFTER))


def id_of_time(moment: float) -> str:
    """What is greater than every id made before `moment` (seconds since the epoch), and less than those made later."""
    return f"{int(moment * 1000):012x}"
