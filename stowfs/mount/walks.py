"""Programs that open the files of a directory one after the other (cp -r, grep -r, tar): what they open next is fetched
ahead of them, in windows that double.

Programs list a directory, then go through it in the order of the listing or, as cp(1) does, in that of the inode
numbers. A walk is recognised when it has opened a few files in a row in one of the two. What is opened in any other
order, or only looked at, fetches nothing.
"""

from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Sequence

from stowfs.config import KIB, MIB
from stowfs.vault.naming import join, split

DIRECTORIES = 16
"""Directories of which the order is remembered: a walk is in as many at once as it is deep."""

NAMES = 100_000
"""Names that are remembered in all, some twelve megabytes; what was listed last in any case."""

STEADY = 3
"""Files in a row from which on a program is taken to walk: two happen to follow each other here and there."""

GAP = 8
"""How far a walk steps at most from one file to the next: some are passed over, and threads overtake each other."""

WINDOW = 64
"""Files fetched ahead at most: twice as many as there are requests at once, so that these never run dry."""

BYTES = 8 * MIB
"""Raw bytes of the files fetched ahead at most, as far as they may lie in manifests."""

INLINE = 256 * KIB
"""Raw bytes of a file that lie in its manifest, at most, but for rare ones."""


class Order:
    """Files of one directory in the order in which a program may open them, and how far one has got."""

    def __init__(self) -> None:
        # Of the files in the listing, in this order.
        self.positions: Sequence[int] = ()
        self._last = -1
        self._row = 0
        self._window = 1
        self._fetched = 0

    def step(self, place: int) -> int:
        """The file at `place` of this order was opened; how many were opened in a row by now."""
        if -GAP <= place - self._last <= GAP:
            self._row += 1
            self._last = max(place, self._last)
        else:
            self._row, self._window, self._fetched, self._last = 1, 1, 0, place
        return self._row

    def ahead(self, place: int, sizes: Sequence[int]) -> list[int]:
        """The positions of the files to be fetched now, of those after `place`. `sizes`: raw bytes of the files, by
        position."""
        start = max(place + 1, self._fetched)
        # Half a window at a time: the requests of many files go together.
        if self._row < STEADY or start - place > self._window // 2 + 1:
            return []
        self._window = min(2 * self._window, WINDOW)
        end, left = start, BYTES
        while end < min(place + 1 + self._window, len(self.positions)) and left > 0:
            left -= min(sizes[self.positions[end]], INLINE)
            end += 1
        self._fetched = end
        return list(self.positions[start:end])


class Walk:
    """One directory as it was listed: its files, and the walks through it."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._numbers = array("Q")
        self._sizes = array("Q")
        self.names: list[str] = []
        self._next = 0
        self._listed, self._numbered = Order(), Order()
        # The numbers in the second order.
        self._ordered = array("Q")

    def add(self, place: int, name: str, number: int, size: int) -> None:
        """The entry at a place of the listing, its inode number and its size. One that was added is passed over."""
        if place < self._next:
            return
        self._next = place + 1
        self.names.append(name)
        self._numbers.append(number)
        self._sizes.append(size)

    def opened(self, name: str, number: int) -> list[str]:
        """A file was opened; the paths to be fetched ahead of whoever goes on."""
        place = self._place(number)
        if place is None and len(self._listed.positions) < len(self.names):
            # It was read on since.
            self._sort()
            place = self._place(number)
        if place is None or self.names[position := self._numbered.positions[place]] != name:
            return []
        if self._listed.step(position) >= self._numbered.step(place):
            ahead = self._listed.ahead(position, self._sizes)
        else:
            ahead = self._numbered.ahead(place, self._sizes)
        return [join(self._directory, self.names[position]) for position in ahead]

    def _place(self, number: int) -> int | None:
        """Where the file with an inode number is in the order of these numbers."""
        place = bisect_left(self._ordered, number)
        return place if place < len(self._ordered) and self._ordered[place] == number else None

    def _sort(self) -> None:
        known = self._numbered.positions
        self._listed.positions = range(len(self.names))
        self._numbered = Order()
        # Sorted for the most part, which takes less.
        new = range(len(known), len(self.names))
        self._numbered.positions = sorted([*known, *new], key=self._numbers.__getitem__)
        self._ordered = array("Q", map(self._numbers.__getitem__, self._numbered.positions))


class Walks:
    """The directories that were listed last. `fetch` is called with the paths that will be opened soon."""

    def __init__(self, fetch: Callable[[Sequence[str]], None]) -> None:
        self._fetch = fetch
        self._walks: OrderedDict[str, Walk] = OrderedDict()

    def begin(self, directory: str) -> Walk:
        """A directory is listed, from its beginning."""
        self._walks.pop(directory, None)
        walk = self._walks[directory] = Walk(directory)
        while len(self._walks) > DIRECTORIES or (len(self._walks) > 1 and self._names > NAMES):
            self._walks.popitem(last=False)
        return walk

    @property
    def _names(self) -> int:
        return sum(len(walk.names) for walk in self._walks.values())

    def opened(self, path: str, number: int) -> None:
        """A file was opened for reading."""
        directory, name = split(path)
        walk = self._walks.get(directory)
        if walk is not None and (ahead := walk.opened(name, number)):
            self._walks.move_to_end(directory)
            self._fetch(ahead)
