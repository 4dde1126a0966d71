"""Which bytes of a conversation were written, and where they lie in its spool file.

The spool file is a log: where a byte lies says nothing about its offset in the conversation. Pure bookkeeping, no I/O.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Extent(NamedTuple):
    """The offsets from `start` up to but not including `end`, which lie in the log from `position` on."""

    start: int
    end: int
    position: int


class Piece(NamedTuple):
    """A part of a range that was asked for. `position`: where it lies in the log; None: it was not written."""

    start: int
    end: int
    position: int | None


class ExtentMap:
    """From offsets to positions, kept as sorted, disjoint extents; those that follow each other in both are one.

    Adding to the end costs the logarithm of the number of extents, adding elsewhere at most a move of the later ones.
    """

    __slots__ = ("_extents", "_starts")

    def __init__(self, extents: Iterable[tuple[int, int, int]] = ()) -> None:
        self._extents: list[Extent] = []
        # Their starts alone, to search in.
        self._starts: list[int] = []
        for start, end, position in extents:
            self.add(start, end, position)

    def __iter__(self) -> Iterator[Extent]:
        return iter(self._extents)

    def __bool__(self) -> bool:
        return bool(self._extents)

    @property
    def total(self) -> int:
        """How many offsets were written."""
        return sum(end - start for start, end, _ in self._extents)

    @property
    def start(self) -> int | None:
        """The first offset that was written."""
        return self._extents[0].start if self._extents else None

    @property
    def end(self) -> int:
        """The offset after the last one that was written; 0 where there is none."""
        return self._extents[-1].end if self._extents else 0

    def add(self, start: int, end: int, position: int) -> None:
        """The offsets from `start` up to `end` lie at `position` from now on, wherever they lay before."""
        if not (0 <= start <= end and position >= 0):
            raise ValueError(f"not an extent: {start} to {end} at {position}")
        if start == end:
            return
        first, last = self._overlapping(start, end)
        replaced = self._extents[first:last]
        new = Extent(start, end, position)
        parts = [new]
        if replaced and replaced[0].start < start:
            left = replaced[0]
            parts.insert(0, Extent(left.start, start, left.position))
        if replaced and replaced[-1].end > end:
            right = replaced[-1]
            parts.append(Extent(end, right.end, right.position + end - right.start))
        if first > 0 and parts[0] is new:
            first -= 1
            parts.insert(0, self._extents[first])
        if last < len(self._extents) and parts[-1] is new:
            parts.append(self._extents[last])
            last += 1
        joined = _joined(parts)
        self._extents[first:last] = joined
        self._starts[first:last] = [extent.start for extent in joined]

    def copy(self) -> "ExtentMap":
        """The same, independent of it."""
        copied = ExtentMap()
        copied._extents, copied._starts = self._extents.copy(), self._starts.copy()
        return copied

    def truncate(self, size: int) -> None:
        """Forgets the offsets from `size` on."""
        if size < 0:
            raise ValueError(f"not a size: {size}")
        keep = bisect_left(self._starts, size)
        del self._starts[keep:], self._extents[keep:]
        if self._extents and self._extents[-1].end > size:
            self._extents[-1] = self._extents[-1]._replace(end=size)

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        """Non-empty pieces that tile the range in order."""
        if not 0 <= start <= end:
            raise ValueError(f"not a range: {start} to {end}")
        if start == end:
            return
        offset = start
        first, last = self._overlapping(start, end)
        for extent in self._extents[first:last]:
            if offset < extent.start:
                yield Piece(offset, extent.start, None)
                offset = extent.start
            piece_end = min(extent.end, end)
            yield Piece(offset, piece_end, extent.position + offset - extent.start)
            offset = piece_end
        if offset < end:
            yield Piece(offset, end, None)

    def since(self, position: int) -> "ExtentMap":
        """What lies in the log at `position` or later. No extent may lie across it."""
        return ExtentMap(extent for extent in self._extents if extent.position >= position)

    def moved(self, distance: int) -> "ExtentMap":
        """The same bytes at offsets that are `distance` greater."""
        return ExtentMap((start + distance, end + distance, position) for start, end, position in self._extents)

    def _overlapping(self, start: int, end: int) -> tuple[int, int]:
        """The slice of the extents that have an offset in the range."""
        first = bisect_right(self._starts, start)
        if first > 0 and self._extents[first - 1].end > start:
            first -= 1
        return first, max(first, bisect_left(self._starts, end))


def _joined(extents: list[Extent]) -> list[Extent]:
    joined = extents[:1]
    for extent in extents[1:]:
        before = joined[-1]
        if before.end == extent.start and before.position + before.end - before.start == extent.position:
            joined[-1] = before._replace(end=extent.end)
        else:
            joined.append(extent)
    return joined
