"""Where the bytes of a run go: into the manifest, or into a segment of their own. Pure decisions.

Inline costs no request and compresses together with its neighbours, but is stored once per conversation and written
again with every commit. A segment costs a request when it is stored, counted and read, and is stored once for all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from stowfs.config import KIB, MIB

SEGMENT_FROM = 8 * KIB
"""Compressed bytes from which a sealed run is worth a segment: writing it again with each append would cost more than
the request that stores it once. With a dictionary, most runs of 64 to 256 KiB have more. With twice as much, histories
that share runs take 6 % more, since what is inline first is stored again when it is shared; with a quarter of it,
request logs take a third more."""

SMALL_CONVERSATION = 64 * KIB
"""Raw bytes up to which a conversation that shares nothing is one object, however badly it compresses."""

SHARED_FROM = 1 * KIB
"""Raw bytes from which a run that was seen before is shared: a reference and its share of a record cost about 60
bytes and a request now and then, which smaller runs do not repay."""

INLINE_TOTAL = 64 * KIB
"""Compressed bytes of sealed runs that a manifest may hold, since every append writes them again."""

INLINE_RAW_TOTAL = 2 * MIB
"""Raw bytes of sealed runs that a manifest may hold, however well they compress: every append compresses them again."""

TYPICAL_RATIO = 4
"""Raw to compressed bytes of conversations, for runs whose compressed size nobody has asked for yet."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A run for which a place is sought. `seen`: it also occurs elsewhere, as far as this host knows."""

    raw_size: int
    sealed: bool
    seen: bool
    stays_inline: bool = False
    """The version before has it inline already."""
    stays_segment: bool = False
    """The version before has it as a segment already."""


def needs_compressed_size(candidate: Candidate, conversation_size: int) -> bool:
    """Whether `is_segment` depends on the compressed size."""
    return (
        candidate.sealed
        and not candidate.seen
        and not candidate.stays_segment
        and conversation_size > SMALL_CONVERSATION
        and candidate.raw_size >= SEGMENT_FROM
    )


def is_segment(candidate: Candidate, conversation_size: int, compressed_size: int | None) -> bool:
    """Whether a run becomes a segment. `compressed_size` is looked at only where `needs_compressed_size`."""
    if candidate.stays_segment:
        return True
    if candidate.seen and not candidate.stays_inline and candidate.raw_size >= SHARED_FROM:
        return True
    if not needs_compressed_size(candidate, conversation_size):
        return False
    assert compressed_size is not None
    return compressed_size >= SEGMENT_FROM


@dataclass(frozen=True, slots=True)
class InlineRun:
    """A sealed run that is inline so far."""

    raw_size: int
    compressed_size: int | None

    @property
    def cost(self) -> int:
        """Its compressed size, or a guess."""
        return self.compressed_size if self.compressed_size is not None else self.raw_size // TYPICAL_RATIO


def spilled(runs: Sequence[InlineRun]) -> int:
    """How many of the inline runs, the oldest first, become segments because they are too much together."""
    cost = sum(run.cost for run in runs)
    raw = sum(run.raw_size for run in runs)
    count = 0
    while cost > INLINE_TOTAL or raw > INLINE_RAW_TOTAL:
        cost -= runs[count].cost
        raw -= runs[count].raw_size
        count += 1
    return count
