"""Arithmetic of byte ranges: which parts of a sparse file were written."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Extents:
    """A set of offsets, kept as sorted, disjoint, non-adjacent half-open ranges.

    Adding to the end costs the logarithm of the number of ranges, adding elsewhere at most a move of the later ones.
    """

    __slots__ = ("_ends", "_starts", "_total")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        # Range i is _starts[i] up to but not including _ends[i].
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._total = 0
        for start, end in ranges:
            self.add(start, end)

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """The ranges, in order."""
        return tuple(zip(self._starts, self._ends, strict=True))

    @property
    def total(self) -> int:
        """How many offsets are in the set."""
        return self._total

    @property
    def end(self) -> int:
        """The offset after the last one in the set; 0 where it is empty."""
        return self._ends[-1] if self._ends else 0

    def add(self, start: int, end: int) -> None:
        """Adds the offsets from `start` up to `end`."""
        _check(start, end)
        if start == end:
            return
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        replaced = sum(self._ends[i] - self._starts[i] for i in range(first, last))
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]
        self._total += end - start - replaced

    def truncate(self, size: int) -> None:
        """Drops the offsets from `size` on."""
        _check(0, size)
        keep = bisect_left(self._starts, size)
        self._total -= sum(self._ends[i] - self._starts[i] for i in range(keep, len(self._starts)))
        del self._starts[keep:], self._ends[keep:]
        if self._ends and self._ends[-1] > size:
            self._total -= self._ends[-1] - size
            self._ends[-1] = size

    def pieces(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """Non-empty pieces (start, end, whether in the set) that tile the range in order, alternately in and out."""
        _check(start, end)
        position = start
        for i in range(bisect_right(self._ends, start), len(self._starts)):
            if position >= end or self._starts[i] >= end:
                break
            if position < self._starts[i]:
                yield position, self._starts[i], False
                position = self._starts[i]
            piece_end = min(self._ends[i], end)
            yield position, piece_end, True
            position = piece_end
        if position < end:
            yield position, end, False

    def contains(self, start: int, end: int) -> bool:
        """Whether every offset of the range is in the set."""
        return all(inside for _, _, inside in self.pieces(start, end))

    def missing(self, start: int, end: int) -> int:
        """How many offsets of the range are not in the set."""
        return sum(stop - begin for begin, stop, inside in self.pieces(start, end) if not inside)


def _check(start: int, end: int) -> None:
    if not 0 <= start <= end:
        raise ValueError(f"not a range: {start} to {end}")
