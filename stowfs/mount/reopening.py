"""Opens that were too late: the path showed another version than the inode the kernel had looked up.

Such an open is answered ESTALE. The kernel then looks the name up again and opens what it finds; a second ESTALE
goes to the program. Where hosts write to a file again and again, that would happen. So the second open of a thread gets
what its second lookup found, or what this host has made of that since, without asking the store another time: it was
asked after the program had called open(2), which is all that close-to-open promises.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass

import trio

from stowfs.mount.inodes import Inode
from stowfs.vault.manifest import Snapshot

REMEMBERED = 1024
"""Threads between two opens at most: more than a daemon handles requests at once. A forgotten one asks the store."""

AT_ONCE = 5.0
"""Seconds within which the kernel opens again what it was told to look up again, however busy the machine is. What a
thread looked up for another reason long after must not be taken for that."""


class Reopening:
    """What threads that were answered ESTALE have looked up since."""

    def __init__(self) -> None:
        # Which path each tries to open, and since when; and what it found last (trio's clock).
        self._waiting: OrderedDict[int, tuple[str, float]] = OrderedDict()
        self._found: dict[int, tuple[Inode, Snapshot | None]] = {}

    def too_late(self, thread: int, path: str) -> None:
        """The thread's open of `path` is answered ESTALE."""
        self._waiting[thread] = path, trio.current_time()
        if len(self._waiting) > REMEMBERED:
            forgotten, _ = self._waiting.popitem(last=False)
            self._found.pop(forgotten, None)

    def looked_up(self, thread: int, path: str, inode: Inode, snapshot: Snapshot | None) -> None:
        """The thread looked up what is under `path` now: in the store, or None where this host has changes of its
        own."""
        # The kernel does so twice: to see that the inode it knows is not there any more, and to get the other one.
        if thread in self._waiting and self._waiting[thread][0] == path:
            self._found[thread] = inode, snapshot

    def take(self, thread: int, inode: Inode) -> "Reopened | None":
        """What an open of the thread may rely on, where it has just looked up this inode."""
        _, since = self._waiting.pop(thread, ("", -math.inf))
        found, snapshot = self._found.pop(thread, (None, None))
        return Reopened(inode, snapshot) if found is inode and trio.current_time() - since < AT_ONCE else None


@dataclass(frozen=True, slots=True)
class Reopened:
    """The second open of an inode, and what its lookup found."""

    inode: Inode
    found: Snapshot | None

    @property
    def version(self) -> Snapshot | None:
        """A version to be opened now, without asking the store."""
        inode = self.inode
        if not inode.linked or inode.expired:
            return None
        if inode.snapshot is not None:
            # Somebody else has it open. It never shows less than it did, whatever its path shows by now.
            return inode.snapshot
        if inode.draft is not None or self.found is None:
            return None
        return self.found if inode.content == self.found.manifest.commit else None
