"""Inodes: what the kernel knows by number, and which path each number stands for. No I/O.

Invariants:

* Each path has at most one *current* inode, found by `at`. An inode shows one version of its conversation, and with it
  the writes of this host that are not committed yet (`draft`).
* An inode that is open never changes its bytes under its readers. When the path gets a version with others elsewhere,
  the inode is *superseded*: it keeps version and path (what is written to it is still committed there), and the path
  gets a new inode. Where that was refused, and kept under another name, it has that path from then on.
* An unlinked inode (removed, or replaced by a rename) lives on for those who have it open; nothing of it is committed
  any more.
* An inode is dropped when the kernel has forgotten it, nobody has it open, and the store has all of it. Its number is
  not given to another one before.

Programs tell files apart by their numbers, and whether a directory has changed by its time. The kernel forgets whenever
it is short of memory: so a number is a function of the path, and where that does not tell (after a rename, and for the
times of directories, which are not stored) it is remembered for some thousands of paths.
"""

import hashlib
import math
import os
from collections import OrderedDict
from collections.abc import Iterator

import pyfuse3
import trio

from stowfs.mount.inode import Inode, turn_of
from stowfs.mount.moves import is_within
from stowfs.mount.readers import Contention
from stowfs.vault.naming import join
from stowfs.vault.version import Version

CONVERSATIONS = pyfuse3.InodeT(pyfuse3.ROOT_INODE + 1)
"""The number of the directory that shows the vault."""

NUMBERS = 1 << 52
"""How many numbers there are to choose from. Some languages keep them as floating point, which is exact up to 2^53."""

REMEMBERED = 10_000
"""Paths of which something is remembered that the kernel has forgotten: about two megabytes."""

KNOWN = 1 << 18
"""Inodes from which on the kernel is asked to forget some (see `forgetting`): more than a program goes through again
and again in most stores, for some 220 MB."""

ENOUGH = 7 / 8
"""The part of `KNOWN` that may stay: some thousands go at a time, since choosing takes a look at all."""


class Inodes:
    """All inodes of a mount below `/conversations`, which itself is the path ''."""

    def __init__(self, root: Version, contention: Contention) -> None:
        self.contention = contention
        self.conversations = Inode(CONVERSATIONS, "", root)
        self._by_number: dict[int, Inode] = {CONVERSATIONS: self.conversations}
        self._current: dict[str, Inode] = {"": self.conversations}
        self._superseded: set[Inode] = set()
        self._uncommitted: set[Inode] = set()
        # Number, and time of the last change of its entries, by path: of inodes that were dropped.
        self._remembered: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._crowded = trio.Event()

    def __len__(self) -> int:
        return len(self._by_number)

    def knows(self, number: int) -> bool:
        """Whether there is an inode of that number."""
        return number in self._by_number

    def __getitem__(self, number: int) -> Inode:
        """Raises `KeyError` for a number the kernel has forgotten."""
        return self._by_number[number]

    def __iter__(self) -> Iterator[Inode]:
        return iter(list(self._by_number.values()))

    def at(self, path: str) -> Inode | None:
        """The current inode of `path`, if the kernel knows one."""
        return self._current.get(path)

    def linked_at(self, path: str) -> list[Inode]:
        """All inodes of `path`: those that were superseded, and then the current one."""
        current = self.at(path)
        superseded = [inode for inode in self._superseded if inode.path == path]
        return [*superseded, current] if current else superseded

    def acknowledged_before(self, inode: Inode) -> set[Inode]:
        """Other inodes of the same path, of which something waits for the store that was acknowledged before."""
        if not self._superseded:
            return set()
        return {other for other in self.linked_at(inode.path) if turn_of(other) < turn_of(inode) < math.inf}

    def is_current(self, inode: Inode) -> bool:
        """Whether the inode is what its path shows."""
        return inode.linked and self._current.get(inode.path) is inode

    def uncommitted_in(self, directory: str) -> list[Inode]:
        """The files in `directory` that were created here and never committed, nor have expired, and the directories
        that have such below them: others may have removed these."""
        found: dict[Inode, None] = {}
        prefix = join(directory, "")
        for inode in self._uncommitted:
            if not inode.path.startswith(prefix) or inode.expired:
                continue
            child = prefix + inode.path[len(prefix) :].partition("/")[0]
            shown = inode if child == inode.path else self.at(child)
            if shown is not None:
                found[shown] = None
        return list(found)

    def add(self, path: str, version: Version | None, as_of: float | None = None) -> Inode:
        """A new inode, current at `path`; one that was there is superseded.

        `version` None: a file that was created here, not committed yet. `as_of`: see `Inode.show`.
        """
        previous = self.at(path)
        if previous is not None:
            self.supersede(previous)
        number, changed_ns = self._remembered.pop(path, (_usual_number(path), 0))
        while number in self._by_number:
            number = _next_number(number)
        inode = Inode(number, path, version, as_of)
        inode.entries_changed_ns = changed_ns if inode.is_directory else 0
        self._by_number[inode.number] = self._current[path] = inode
        if len(self._by_number) > KNOWN:
            self._crowded.set()
        if version is None:
            self._uncommitted.add(inode)
        return inode

    def committed(self, inode: Inode) -> None:
        """The file is in the store now."""
        self._uncommitted.discard(inode)

    def supersede(self, inode: Inode) -> None:
        """The path of this current inode shows something else from now on."""
        del self._current[inode.path]
        self._superseded.add(inode)
        self.drop_if_unused(inode)

    def show_again(self, inode: Inode) -> None:
        """The path of this superseded inode shows it again."""
        if (current := self.at(inode.path)) is not None:
            self.supersede(current)
        self._superseded.discard(inode)
        self._current[inode.path] = inode

    def stand_for(self, inode: Inode, path: str) -> None:
        """What a linked inode shows is under another path, as which nobody has looked it up."""
        if self._current.get(inode.path) is inode:
            del self._current[inode.path]
        self._superseded.add(inode)
        inode.path = path

    def lose(self, inode: Inode) -> None:
        """What a linked inode shows is gone, and with it what was written to it: it has no name any more."""
        if self._current.get(inode.path) is inode:
            del self._current[inode.path]
        self._superseded.discard(inode)
        self._uncommitted.discard(inode)
        inode.linked = False
        self.drop_if_unused(inode)

    def unlink(self, path: str) -> None:
        """The name is gone, for every inode that has it."""
        self._remembered.pop(path, None)
        gone = self.linked_at(path)
        self._current.pop(path, None)
        self._superseded.difference_update(gone)
        for inode in gone:
            inode.linked = False
            self._uncommitted.discard(inode)
            self.drop_if_unused(inode)

    def below(self, directory: str) -> list[Inode]:
        """The linked inodes of everything below `directory`, in the order of their numbers; not of the directory
        itself."""
        within = [inode for inode in self if inode.linked and is_within(inode.path, directory)]
        return [inode for inode in within if inode.path != directory]

    def move(self, old: str, new: str) -> None:
        """The file or directory `old`, and with a directory all that is below it, has the name `new` now."""
        self.unlink(new)
        source = self.at(old)
        moved = {inode for inode in self._superseded if is_within(inode.path, old)}
        if source is not None:
            moved.add(source)
            if source.is_directory:
                moved.update(self.below(old))
                for path in [path for path in self._remembered if is_within(path, old)]:
                    self._remembered[new + path[len(old) :]] = self._remembered.pop(path)
        for inode in moved:
            current = self._current.get(inode.path) is inode
            if current:
                del self._current[inode.path]
            inode.path = new + inode.path[len(old) :]
            if inode.draft is not None:
                inode.draft.rename(inode.path)
            if current:
                if (other := self._current.get(inode.path)) is not None:
                    # Looked up while the directory was on its way.
                    self.supersede(other)
                self._current[inode.path] = inode

    def forget(self, number: int, lookups: int) -> None:
        """The kernel gives back references."""
        inode = self._by_number.get(number)
        if inode is not None:
            inode.lookups -= lookups
            self.drop_if_unused(inode)

    async def crowded(self) -> int:
        """Returns when there are more than `KNOWN`: how many should go."""
        while len(self._by_number) <= KNOWN:
            self._crowded = trio.Event()
            await self._crowded.wait()
        return len(self._by_number) - int(KNOWN * ENOUGH)

    def unused(self) -> Iterator[Inode]:
        """Files that nothing but the kernel refers to, the one that was shown first first."""
        for inode in self:
            shown = inode.lookups > 0 and not inode.is_directory and self.is_current(inode)
            if shown and not inode.handles and not inode.mappers and inode.draft is None:
                yield inode

    def drop_if_unused(self, inode: Inode) -> None:
        """Drops an inode that neither the kernel nor a handle refers to, and that has nothing to commit."""
        if inode.lookups > 0 or inode.handles > 0 or inode.draft is not None or inode is self.conversations:
            return
        self._by_number.pop(inode.number, None)
        self._superseded.discard(inode)
        self._uncommitted.discard(inode)
        if self._current.get(inode.path) is inode:
            del self._current[inode.path]
            self._remember(inode)

    def _remember(self, inode: Inode) -> None:
        if inode.entries_changed_ns or inode.number != _usual_number(inode.path):
            self._remembered[inode.path] = inode.number, inode.entries_changed_ns
            if len(self._remembered) > REMEMBERED:
                self._remembered.popitem(last=False)


def _usual_number(path: str) -> int:
    """The number an inode has if no other one has it already, on every host and in every mount."""
    digest = hashlib.blake2b(os.fsencode(path), digest_size=8).digest()
    return _next_number(int.from_bytes(digest) % NUMBERS)


def _next_number(number: int) -> int:
    """The number to be tried after this one; never that of one of the fixed directories."""
    return max((number + 1) % NUMBERS, CONVERSATIONS + 1)
