"""Has the kernel forget what it was shown long ago, so that the memory of a mount does not grow with its store.

The kernel remembers each file that it was ever shown until it is short of memory itself, and for as long the mount must
know it by its number: a walk through millions of conversations would take gigabytes here. Where there are too many
(`Inodes.crowded`), those that were shown first and that nobody uses are taken back. Programs do not notice: a file is
looked up again where its name is used, and has the same number then.

The kernel waits for what is under way in a directory before it forgets a name there. So this must end before requests
are answered no longer (`stop`), and few names are asked for at a time.
"""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import pyfuse3
import trio

from stowfs.mount.inode import Inode
from stowfs.mount.inodes import Inodes
from stowfs.vault.naming import split

log = logging.getLogger(__name__)

AT_ONCE = 128
"""Names for which the kernel is asked in one go: a millisecond of work for a thread."""

ARRIVAL = 0.1
"""Seconds in which the kernel says what it has forgotten."""

PAUSE = 10.0
"""Seconds until it is asked again, where it keeps most of what it should forget: something watches these files."""


@dataclass(frozen=True, slots=True)
class Name:
    """A name that the kernel knows: `number` is that of the inode, `directory` that of the one it is in."""

    number: int
    directory: int
    name: bytes


Forget = Callable[[Sequence[Name]], None]


class Forgetting:
    """The task of one mount. `forget`: asks the kernel; blocks."""

    def __init__(self, inodes: Inodes, forget: Forget) -> None:
        self._inodes = inodes
        self._forget = forget
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

    async def run(self) -> None:
        """Until it is stopped. What the kernel is asked for just then is waited for, unless this task is cancelled."""
        try:
            async with trio.open_nursery() as threads:
                with self._scope:
                    while True:
                        surplus = await self._inodes.crowded()
                        if not await self._shrink(surplus, threads):
                            await trio.sleep(PAUSE)
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """Ends `run`, which has begun; then the kernel is not asked for anything any more."""
        self._scope.cancel()
        await self._ended.wait()

    async def _shrink(self, surplus: int, threads: trio.Nursery) -> bool:
        """Whether the kernel has forgotten most of what it was asked to."""
        names = (self._name(inode) for inode in self._inodes.unused())
        wanted = islice((name for name in names if name is not None), surplus)
        asked: list[int] = []
        while batch := list(islice(wanted, AT_ONCE)):
            done = trio.Event()
            threads.start_soon(self._ask, batch, done)
            await done.wait()
            asked += [name.number for name in batch]
        await trio.sleep(ARRIVAL)
        return sum(map(self._inodes.knows, asked)) * 2 < len(asked)

    async def _ask(self, batch: Sequence[Name], done: trio.Event) -> None:
        try:
            await trio.to_thread.run_sync(self._forget, batch, abandon_on_cancel=True)
        finally:
            done.set()

    def _name(self, inode: Inode) -> Name | None:
        directory, name = split(inode.path)
        parent = self._inodes.at(directory)
        return None if parent is None else Name(inode.number, parent.number, os.fsencode(name))


def forget_names(names: Sequence[Name]) -> None:
    """Has the kernel forget names. Blocks while something is under way in their directories."""
    for name in names:
        try:
            pyfuse3.invalidate_entry(pyfuse3.InodeT(name.directory), pyfuse3.FileNameT(name.name))
        except FileNotFoundError:
            continue  # it has already
        except OSError as error:
            log.debug("the kernel does not forget %r in %d: %s", name.name, name.directory, error)
            return
