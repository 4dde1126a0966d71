"""How large the runs of a conversation are cut: larger ones where it is long and hardly changes any more.

A large segment costs fewer requests than the small ones in its place, to store it, to count it and to read it, and
takes less room. But what is appended goes into small ones, and so does the end of what is stored in one go: a commit
stores again what it changes of a run, and programs change the ends of conversations.

Invariant: the sizes of a run depend on nothing but where it begins and how long the conversation is then. A longer
version of a conversation is therefore cut like a shorter one up to where the large runs of that one end.
"""

from dataclasses import dataclass, replace

from stowfs.conversation.segmenter import SegmenterParameters
from stowfs.vault.record import RAW_LIMIT

LARGER = 8
"""By how much large runs are larger: 1.1 MB on the average with the default sizes. Sessions of 30 to 100 MB take 15 to
30 % less than with the small ones. Twice as much would take another 5 to 20 % less, but a program that jumps about
would wait twice as long for each block."""

END = 4
"""Large runs, of the largest size, that the end of a conversation must have room for: 8 MiB with the default sizes,
more than programs go back when they change a session."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a conversation in which runs of some sizes begin, those before the offset `end`. Where the last of them
    ends can be told from the bytes up to `needed`."""

    parameters: SegmenterParameters
    end: int
    needed: int


@dataclass(frozen=True, slots=True)
class RunSizes:
    """The sizes of the runs of one conversation: `large` for those that begin before `large_until`, then `small`, on
    which all hosts of a store agree. `size`: of the conversation."""

    small: SegmenterParameters
    large: SegmenterParameters
    large_until: int
    size: int

    @classmethod
    def of(cls, small: SegmenterParameters, size: int) -> "RunSizes":
        """Those of a conversation of `size` bytes."""
        factor = min(LARGER, RAW_LIMIT // small.maximum)
        large = SegmenterParameters(small.minimum * factor, small.target * factor, small.maximum * factor)
        return cls(small, large, max(0, size - END * large.maximum), size)

    def only_small(self) -> "RunSizes":
        """The same without large runs."""
        return replace(self, large_until=0)

    def at(self, start: int) -> Stretch:
        """The stretch of the run that begins at `start`."""
        if start < self.large_until:
            return Stretch(self.large, self.large_until, self.large_until + self.large.maximum)
        return Stretch(self.small, self.size, self.size)
