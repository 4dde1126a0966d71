"""Opens that were too late: the path showed another version than the inode the kernel had looked up.

Such an open is answered ESTALE. The kernel then looks the name up again and opens what it finds; a second ESTALE
goes to the program. Where hosts write to a file again and again, that would happen. So what the lookup of such a thread
finds is *held* for its second open: it counts as open, by which it keeps what it shows, or what this host makes of
that, whatever becomes of its path meanwhile. The second open gets it without asking the store another time: it was
asked after the program had called open(2), which is all that close-to-open promises.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import trio

from stowfs.mount.inode import Inode
from stowfs.vault.manifest import Snapshot

REMEMBERED = 1024
"""Threads between two opens at most: more than a daemon handles requests at once. A forgotten one asks the store."""

AT_ONCE = 5.0
"""Seconds within which the kernel opens again what it was told to look up again, however busy the machine is. What a
thread looked up for another reason long after must not be taken for that."""


@dataclass(slots=True)
class _Awaited:
    """A second open that is to come: since when (trio's clock), and what is held for it."""

    since: float
    held: Inode | None = None


class Reopening:
    """The second opens that are to come, by thread and path."""

    def __init__(self, closed: Callable[[Inode], None]) -> None:
        """`closed`: counts one handle on an inode less, which was none of a writer."""
        self._closed = closed
        self._awaited: OrderedDict[tuple[int, str], _Awaited] = OrderedDict()

    def too_late(self, thread: int, path: str) -> None:
        """The thread's open of `path` is answered ESTALE."""
        self._end(thread, path)
        self._awaited[thread, path] = _Awaited(trio.current_time())
        self._forget_old()

    def looked_up(self, thread: int, path: str, inode: Inode, snapshot: Snapshot | None) -> None:
        """The thread looked up what is under `path` now: in the store, or None where this host has changes of its
        own."""
        self._forget_old()
        awaited = self._awaited.get((thread, path))
        if awaited is None:
            return
        # The kernel does so twice: to see that the inode it knows is not there any more, and to get the other one.
        before, awaited.held = awaited.held, inode
        inode.handles += 1
        inode.held += 1
        inode.snapshot = snapshot or inode.snapshot
        self._let_go(before)

    def take(self, thread: int, inode: Inode) -> bool:
        """Whether the inode was held for an open of the thread that has come now: a handle is counted already."""
        self._forget_old()
        awaited = self._awaited.get((thread, inode.path))
        if awaited is None or awaited.held is not inode:
            return False
        del self._awaited[thread, inode.path]
        inode.held -= 1
        return True

    def _forget_old(self) -> None:
        now = trio.current_time()
        while self._awaited:
            thread, path = oldest = next(iter(self._awaited))
            if len(self._awaited) <= REMEMBERED and now - self._awaited[oldest].since < AT_ONCE:
                return
            self._end(thread, path)

    def _end(self, thread: int, path: str) -> None:
        awaited = self._awaited.pop((thread, path), None)
        if awaited is not None:
            self._let_go(awaited.held)

    def _let_go(self, inode: Inode | None) -> None:
        if inode is not None:
            inode.held -= 1
            self._closed(inode)
