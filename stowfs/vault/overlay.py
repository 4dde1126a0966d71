"""What was done to a conversation since its base, as pure bookkeeping: sizes, written extents, truncations.

Time is counted in *seals* of the spool file: a seal is a position in the log that lies after everything written before
it. So a state of the past (`Mark`) tells itself apart from what was done since: the extents that lie at its seal or
later, and the truncations noted with its seal or a later one.
"""

from copy import copy
from dataclasses import dataclass, field
from enum import Enum

import msgspec

from stowfs.hot.extents import ExtentMap
from stowfs.vault.manifest import Attributes

UNCUT = 1 << 63
"""More bytes than any file has."""


class Intent(Enum):
    """What a writer meant, as far as its writes tell."""

    REPLACE = "replace"
    """The whole content is new: the last close wins."""
    APPEND = "append"
    """Everything was written at or past the old end: it goes to the new end, wherever that is."""
    EDIT = "edit"
    """Something inside was changed: it makes sense only on the version it was made on."""


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """A draft as it was when it was sealed: `changes` is the number of that state of its bytes, `size` how many there
    were, not counting by how much they had been moved (`Overlay.shift`): so marks stay true while copies move.

    Of an attempt to commit that state: `moved` if what was to be committed has other bytes than the draft had, or has
    them at other offsets; `over` is the ETag of what it was to replace.
    """

    seal: int
    changes: int
    size: int
    attributes: Attributes
    moved: bool = False
    over: str | None = None

    def same_state(self, other: "Mark") -> bool:
        """Whether nothing was done between the two."""
        return (self.changes, self.attributes) == (other.changes, other.attributes)


class Truncation(msgspec.Struct, frozen=True, array_like=True):
    """The file was cut to `size` bytes, after the seal `seal`."""

    seal: int
    size: int


@dataclass(slots=True)
class Overlay:
    """Changes over a base of `base_size` bytes; None: there is none."""

    base_size: int | None
    size: int
    extents: ExtentMap = field(default_factory=ExtentMap)
    # By sizes that grow: an earlier truncation to more than a later one tells nothing.
    truncations: list[Truncation] = field(default_factory=list)
    # The number of this state, and the greatest that any state had: they differ when one came back.
    changes: int = 0
    last_changes: int = 0
    # By how many bytes what was appended has been moved, in all.
    shift: int = 0

    def copy(self) -> "Overlay":
        """The same, independent of it."""
        copied = copy(self)
        copied.extents, copied.truncations = self.extents.copy(), self.truncations.copy()
        return copied

    @property
    def base_limit(self) -> int:
        """Bytes of the base that are still to be seen, where nothing was written over them."""
        return min(self.base_size or 0, self._least_size(0))

    @property
    def emptied(self) -> bool:
        """Whether the file had no bytes at some time since."""
        return self._least_size(0) == 0

    def intent(self, *, appending: bool) -> Intent:
        """What the changes mean for a base that moves. `appending`: all writes came through O_APPEND."""
        if self.base_size is None:
            return Intent.APPEND if appending and not self.emptied else Intent.REPLACE
        if self.emptied:
            return Intent.REPLACE
        start = self.extents.start
        grew = self._least_size(0) >= self.base_size and (start is None or start >= self.base_size)
        return Intent.APPEND if grew else Intent.EDIT

    @property
    def first_change(self) -> int:
        """The first byte that may differ from the base."""
        written = self.extents.start
        return min(self.size if written is None else written, self.base_limit)

    @property
    def last_change(self) -> int:
        """The end of the last byte that may differ from the base; what follows is the base's, at the same offsets."""
        if self.base_size is None or self.size != self.base_size or self.base_limit < self.size:
            return self.size
        return self.extents.end if self.extents else self.first_change

    @property
    def log_end(self) -> int:
        """The end of the last byte in the log that is still to be seen."""
        return max((extent.position + extent.end - extent.start for extent in self.extents), default=0)

    def written(self, end: int) -> None:
        """Something was written, up to `end`; `extents` has it already."""
        self.size = max(self.size, end)
        self._changed()

    def truncated(self, size: int, seal: int) -> None:
        """The file was cut, or extended with zeros, to `size` bytes; `seal` is the last one."""
        if size < self.size or size == 0:
            while self.truncations and self.truncations[-1].size >= size:
                self.truncations.pop()
            self.truncations.append(Truncation(seal, size))
        self.extents.truncate(size)
        self.size = size
        self._changed()

    def rebased_append(self, base_size: int) -> None:
        """What was appended follows a base of `base_size` bytes now."""
        self._move(base_size - (self.base_size or 0))
        self.base_size = base_size

    def replaced(self, base_size: int) -> None:
        """The base has `base_size` bytes now, of which nothing is to be seen: what was written is the whole content."""
        if not self.emptied:
            self.truncations.insert(0, Truncation(0, 0))
        self.base_size = base_size

    def follow(self, mark: Mark, base_size: int, *, same: bool) -> bool:
        """Reduces the changes to what was done since `mark`, over a version of `base_size` bytes that has in it what
        there was then. `same`: it has exactly those bytes. False, and nothing done, where that makes no sense."""
        emptied = self.emptied_since(mark)
        grew = not emptied and self.keeps(mark)
        if not (same or grew or emptied):
            return False
        size = mark.size + self.shift
        self.extents = self.extents.since(mark.seal)
        self.truncations = [t for t in self.truncations if t.seal >= mark.seal]
        if grew:
            self._move(base_size - size)
        self.base_size = base_size
        return True

    def emptied_since(self, mark: Mark) -> bool:
        """Whether it had no bytes at some time since `mark`: who empties a file replaces it, even if it was empty
        then."""
        return self._least_size(mark.seal) == 0

    def keeps(self, mark: Mark) -> bool:
        """Whether all bytes that there were at `mark` are as they were."""
        size = mark.size + self.shift
        start = self.extents.since(mark.seal).start
        return self._least_size(mark.seal) >= size and (start is None or start >= size)

    def _changed(self) -> None:
        self.last_changes += 1
        self.changes = self.last_changes

    def _least_size(self, seal: int) -> int:
        """The smallest size it was cut to since `seal`; `UNCUT` where it was not."""
        return next((t.size for t in self.truncations if t.seal >= seal), UNCUT)

    def _move(self, distance: int) -> None:
        if distance:
            self.extents = self.extents.moved(distance)
            self.truncations = [Truncation(t.seal, t.size + distance) for t in self.truncations]
            self.size += distance
            self.shift += distance
