"""Opens that were too late: the path showed another version than the inode the kernel had looked up.

Such an open is answered ESTALE. The kernel then looks the name up once more and opens what it finds; a second ESTALE
goes to the program. Where hosts write to a file again and again, that would happen. So the second open of a thread gets
what its second lookup found, or what this host has made of that since, without asking the store another time: it was
asked after the program had called open(2), which is all that close-to-open promises.
"""

from collections import OrderedDict

from stowfs.mount.inodes import Inode
from stowfs.vault.manifest import Snapshot

REMEMBERED = 1024
"""Threads between two opens at most: more than a daemon handles requests at once. A forgotten one asks the store."""


class Reopening:
    """What threads that were answered ESTALE have looked up since."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[int, str] = OrderedDict()
        self._found: OrderedDict[int, tuple[Inode, Snapshot]] = OrderedDict()

    def too_late(self, thread: int, path: str) -> None:
        """The thread's open of `path` is answered ESTALE."""
        self._waiting[thread] = path
        if len(self._waiting) > REMEMBERED:
            self._waiting.popitem(last=False)

    def looked_up(self, thread: int, path: str, inode: Inode, snapshot: Snapshot | None) -> None:
        """The store was asked what is under `path` now, for the thread."""
        if self._waiting.pop(thread, None) == path and snapshot is not None:
            self._found[thread] = inode, snapshot
            if len(self._found) > REMEMBERED:
                self._found.popitem(last=False)

    def take(self, thread: int, inode: Inode) -> Snapshot | None:
        """A version to open for the thread, where it has just looked up this inode."""
        found, snapshot = self._found.pop(thread, (None, None))
        if found is not inode or snapshot is None or not inode.linked or inode.expired:
            return None
        if inode.snapshot is not None:
            # Somebody else opened it meanwhile. It never shows less than it did, whatever its path shows by now.
            return inode.snapshot
        if inode.draft is not None:
            return None
        return snapshot if inode.content == snapshot.manifest.commit else None
