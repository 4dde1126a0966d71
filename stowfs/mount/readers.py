"""What a program sees of a file to which several hosts append while it reads.

What is appended here is seen here at once, after the end of the version that this host knows. When it is committed,
others may have appended, too: then their bytes come before it, and it moves. Whoever is reading just then must not get
the beginning of a line from its old place, and go on in the middle of another one.

Invariant: what a `Reader` has seen at an offset stays there for as long as it is open. What others have put before it
meanwhile, this handle does not see, as it sees no other version than the one that it has opened; what is appended here,
it does.

The kernel has one page cache and one size for all who have a file open: where bytes move under these, programs see
zeros, or an end that is none. So a file of which that is to be expected (`Contention`) is read past both (`direct_io`):
while hosts append to it at about the same time; and while something that was appended here is not committed, unless
nobody else seems to use the store, and what it was appended to is of this mount, too. Who had it open before may see a
line cut, once.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import trio

from stowfs.vault.lru import Lru

CONTENDED = 60.0
"""Seconds within which hosts append to one file that may do so at the same time. For so long it is read past the page
cache, which costs time where it is read again, and cannot be mapped shared."""

OTHERS = 3600.0
"""Seconds for which it is expected that another host which has changed something changes more."""

PATHS = 1000
"""Paths of which it is known when something was appended, and who made what is there. More files than this are hardly
appended to in a minute."""

MOST = 1000
"""Places at which a reader notes that something was put, some 100 KB. Only who has a file open for hours while others
append to it all the time comes to so many, and it reads at the end."""


@dataclass(frozen=True, slots=True)
class _Hole:
    """Bytes that a reader does not see: so many, from this offset in the file."""

    offset: int
    length: int


class Reader:
    """One handle that can only read, past the page cache."""

    __slots__ = ("_holes",)

    def __init__(self) -> None:
        # By offset, since what is put comes after all that was in the version before.
        self._holes: list[_Hole] = []

    def put_before(self, offset: int, length: int) -> None:
        """What was in the file from `offset` on has moved by `length` bytes.

        After `MOST` times a reader that goes back may see the bytes between the first two places moved.
        """
        self._holes.append(_Hole(offset, length))
        if len(self._holes) > MOST:
            first, second, *rest = self._holes
            self._holes = [_Hole(first.offset, first.length + second.length), *rest]

    def ranges(self, start: int, end: int) -> list[tuple[int, int]]:
        """Where the bytes `start` to `end` of what it sees are in the file: ranges, in order."""
        found = []
        for hole in self._holes:
            if end <= hole.offset:
                break
            if start < hole.offset:
                found.append((start, hole.offset))
                start = hole.offset
            start += hole.length
            end += hole.length
        found.append((start, end))
        return found


class Contention:
    """Which files this host and others append to at about the same time, by path. Times are of trio's clock."""

    def __init__(self, unseen: float = math.inf, seen: Callable[[], None] = lambda: None) -> None:
        """`unseen`: seconds since another host was last seen to change something, by an earlier mount. `seen` is called
        whenever one is."""
        self._seen = seen
        self._appended = Lru[float](PATHS, _one)
        self._contended = Lru[float](PATHS, _one)
        # Whose newest version is of this mount, as far as it knows, and since when.
        self._own = Lru[float](PATHS, _one)
        # When another host was last seen to have changed something.
        self._others = trio.current_time() - unseen

    def moves(self, path: str, *, appending: bool) -> bool:
        """Whether bytes of this file may move while somebody reads them. `appending`: something has been appended here,
        and is not committed yet."""
        if _is_recent(self._contended, path):
            return True
        return appending and (self._own.get(path) is None or trio.current_time() - self._others < OTHERS)

    def committed(self, path: str, *, appended: bool) -> None:
        """This host has made a version of it, or `appended` to it what has become one."""
        now = trio.current_time()
        self._own.put(path, now)
        if appended:
            self._appended.put(path, now)

    def changed_elsewhere(self, path: str) -> None:
        """Another host has made a version of it."""
        self._others = trio.current_time()
        self._seen()
        self._own.drop(path)
        if _is_recent(self._appended, path):
            self.merged(path)

    def merged(self, path: str) -> None:
        """Both have changed the same version."""
        self._contended.put(path, trio.current_time())


def _one(time: float) -> int:
    """What a path costs of `PATHS`."""
    return 1


def _is_recent(times: Lru[float], path: str) -> bool:
    time = times.get(path)
    return time is not None and trio.current_time() - time < CONTENDED
