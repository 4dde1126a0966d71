"""What a state of the commit protocol consists of: objects, writers, requests on their way, and what a run is given.

Two abstractions keep states few without hiding anything:

* ETags never recur, so all that matters of a remembered ETag is whether it is still the current one. A state therefore
  holds no ETags: a planned write whose base was overwritten becomes None ("will be answered 412"). Only the condition
  "is absent" can come true again, after a physical removal, and is kept as such.
* Operation ids are fixed per writer while all interleavings are explored, so every relation between the order of ids
  (clocks of different hosts) and the order of events occurs.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple


class Kind(IntEnum):
    """What is stored under a key. A dead segment record and the tombstone of a manifest are the same thing here."""

    ABSENT = 0
    LIVE = 1
    DEAD = 2


class Pc(IntEnum):
    """The next step of a writer. `*_GET` reads and decides, `*_PUT` sends the write that was planned."""

    OPEN = 0
    ACQUIRE_GET = 1
    ACQUIRE_PUT = 2
    COMMIT_PUT = 3
    COMMIT_GET = 4
    FENCE_PUT = 5
    RELEASE_GET = 6
    RELEASE_PUT = 7
    DONE = 8


class Phase(IntEnum):
    """The journalled phase of a commit: what is left of a writer after a crash."""

    NONE = 0
    RECORDED = 1
    WRITTEN = 2
    UPDATED = 3
    LOST = 4


class When(IntEnum):
    """What a writer demands of the manifest it replaces; otherwise its operation ends without effect."""

    ANY = 0
    LIVE = 1
    NOT_LIVE = 2
    TRASHED = 3


class Obj(NamedTuple):
    """A mutable object: the segment record (number 0) or a manifest.

    `refs` is the record's reference count, or how many references to the segment a manifest holds (0 or 1). `floor` is
    the greatest id that ever left the ring. `mark` is the record's redirect (0: inline), or whose content a manifest
    holds (the commit id; never looked at by the protocol).
    """

    kind: Kind
    refs: int = 0
    ring: tuple[int, ...] = ()
    floor: int = 0
    mark: int = 0


class Plan(NamedTuple):
    """A conditional PUT that was decided on: If-None-Match (`on_absent`) or If-Match, and the new body."""

    on_absent: bool
    new: Obj


class Writer(NamedTuple):
    """A process in the middle of its program, and its journal row.

    `held`: this commit acquires a reference of its own. `sure`: the acquire is known to have happened. `surplus`:
    references to release once committed. `doubt`: an attempt of the present step may have taken effect unseen.
    `base`: the manifest PUT on the base that was read. `plan`: the other PUT in preparation. `applied`: the commit
    took effect (seen by the checker only). `uploads`: revision keys used so far.
    """

    pc: Pc = Pc.OPEN
    phase: Phase = Phase.NONE
    step: int = 0
    held: int = 0
    sure: bool = False
    surplus: int = 0
    doubt: bool = False
    base: Plan | None = None
    plan: Plan | None = None
    applied: bool = False
    uploads: int = 0


class Flight(NamedTuple):
    """A PUT that its sender gave up waiting for; it may still land. `step` is that of a commit, -1 otherwise."""

    target: int
    plan: Plan
    writer: int
    step: int = -1


class Collector(NamedTuple):
    """The collector: a planned live(0) → dead, a blob to delete, an object whose unconditional removal is under way."""

    plan: Plan | None = None
    planned: bool = False
    blob: int = 0
    purging: int = -1


class State(NamedTuple):
    """One state of everything. `fault` is set once a transition did what it never may."""

    objs: tuple[Obj, ...]
    writers: tuple[Writer, ...]
    flights: tuple[Flight, ...] = ()
    collector: Collector = Collector()
    crashes: int = 0
    losses: int = 0
    blobs: frozenset[int] = frozenset()
    fault: str = ""


# In place of a number of references: as many as the manifest had.
KEEP = -1


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit: manifest number `key` becomes `kind` with `refs` references to the segment (`KEEP`: as before)."""

    key: int
    kind: Kind = Kind.LIVE
    refs: int = 1
    when: When = When.ANY


@dataclass(frozen=True, slots=True)
class Guards:
    """The rules that make the protocol safe; each can be taken out to show that it is needed.

    * `acquire_before_commit`: else the manifest is put first, and acquires follow
    * `op_ids`: else whoever retries an acquire or a release does not look for its own id
    * `fence`: else a commit is rolled back while its PUT may still land
    * `fence_keeps_content`: else a fence is always a tombstone
    * `ring_in_tombstones`, `ring_in_dead_records`: else these are written without ring and floor
    * `floor_rule`: else "not in the ring" always counts as "it did not happen"
    * `unknown_is_fenced`: else a commit whose id may have left the ring is given up although its PUT may still land
    * `cancel_rewrites`: else rolling back an acquire that is not there writes nothing, and it may still land
    * `revision_keys`: else all writers put the payload under one key
    * `conditional_delete`: else a dead object is removed by an unconditional DELETE after a look at it
    * `purge_waits`: else objects are removed physically while a create of them may still land
    * `horizon`: else whoever finds an object absent takes it for one that never existed
    """

    acquire_before_commit: bool = True
    op_ids: bool = True
    fence: bool = True
    fence_keeps_content: bool = True
    ring_in_tombstones: bool = True
    ring_in_dead_records: bool = True
    floor_rule: bool = True
    unknown_is_fenced: bool = True
    cancel_rewrites: bool = True
    revision_keys: bool = True
    conditional_delete: bool = True
    purge_waits: bool = True
    horizon: bool = True


@dataclass(frozen=True, slots=True)
class Scenario:
    """Who takes part, what the store holds at first, and how much may go wrong.

    `crashes` and `losses` bound how often any writer crashes and how many requests end unclear. `purge` lets dead
    objects be removed physically, `redirect` puts payloads into blobs. Ring capacities count ids.
    """

    name: str
    writers: tuple[tuple[Commit, ...], ...]
    manifests: tuple[Obj, ...]
    crashes: int = 1
    losses: int = 1
    record_ring: int = 64
    manifest_ring: int = 64
    collect: bool = True
    purge: bool = False
    redirect: bool = False
