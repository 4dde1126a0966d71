"""A directory seen through pyfuse3, and nothing else, … programs.passthrough DIRECTORY MOUNTPOINT: what the kernel and
pyfuse3 take by themselves. It does what the workloads need, and is no file system to work with.

What was seen is believed for as long as stowfs believes it, and stays in the page cache.
"""

import os
import sys
from collections.abc import Sequence
from functools import partial

import pyfuse3
import trio
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    FUSEError,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
)

from stowfs.mount.kernel import set_read_ahead

BELIEVED = 300
"""Seconds for which the kernel need not ask again."""


class Passthrough(pyfuse3.Operations):
    """Files and directories below `root`."""

    def __init__(self, root: bytes) -> None:
        super().__init__()
        # By inode number, less one. None is forgotten: it is as many as a workload has.
        self._paths = [root]
        self._numbers = {root: pyfuse3.ROOT_INODE}
        self._listings: dict[int, list[bytes]] = {}

    async def lookup(self, parent: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        return self._entry(self._below(parent, name))

    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        return self._entry(self._paths[inode - 1])

    async def setattr(
        self, inode: InodeT, attr: EntryAttributes, fields: SetattrFields, fh: FileHandleT | None, ctx: RequestContext
    ) -> EntryAttributes:
        path = self._paths[inode - 1]
        if fields.update_size:
            os.truncate(path, attr.st_size)
        if fields.update_mode:
            os.chmod(path, attr.st_mode & 0o7777)
        return self._entry(path)

    async def mkdir(self, parent: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext) -> EntryAttributes:
        path = self._below(parent, name)
        os.mkdir(path, mode & ~ctx.umask)
        return self._entry(path)

    async def create(
        self, parent: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        path = self._below(parent, name)
        file = FileHandleT(os.open(path, flags | os.O_CREAT, mode & ~ctx.umask))
        return FileInfo(fh=file, keep_cache=True), self._entry(path)

    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        # The kernel has appended to the end as it knows it: the place that it gives must count.
        file = FileHandleT(os.open(self._paths[inode - 1], flags & ~os.O_APPEND))
        return FileInfo(fh=file, keep_cache=True)

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        return os.pread(fh, size, off)

    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        return os.pwrite(fh, buf, off)

    async def flush(self, fh: FileHandleT) -> None:
        """There is nothing to write."""

    async def release(self, fh: FileHandleT) -> None:
        os.close(fh)

    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        self._listings[inode] = os.listdir(self._paths[inode - 1])
        return FileHandleT(inode)

    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        names = self._listings[fh]
        for position in range(start_id, len(names)):
            name = FileNameT(names[position])
            entry = self._entry(self._below(InodeT(fh), name))
            if not pyfuse3.readdir_reply(token, name, entry, position + 1):
                break

    async def releasedir(self, fh: FileHandleT) -> None:
        """The listing stays for whoever else reads it."""

    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        return StatvfsData()

    def _below(self, parent: InodeT, name: bytes) -> bytes:
        return self._paths[parent - 1] + b"/" + name

    def _entry(self, path: bytes) -> EntryAttributes:
        try:
            status = os.lstat(path)
        except OSError as error:
            raise FUSEError(error.errno or 0) from error
        entry = EntryAttributes()
        entry.st_ino = self._numbers.setdefault(path, InodeT(len(self._paths) + 1))
        if entry.st_ino > len(self._paths):
            self._paths.append(path)
        entry.st_mode, entry.st_nlink = ModeT(status.st_mode), status.st_nlink
        entry.st_uid, entry.st_gid = status.st_uid, status.st_gid
        entry.st_size, entry.st_blksize, entry.st_blocks = status.st_size, status.st_blksize, status.st_blocks
        entry.st_atime_ns, entry.st_mtime_ns = status.st_atime_ns, status.st_mtime_ns
        entry.st_ctime_ns = status.st_ctime_ns
        entry.entry_timeout = entry.attr_timeout = BELIEVED
        return entry


async def serve(mountpoint: str) -> None:
    """Until it is unmounted."""
    async with trio.open_nursery() as nursery:
        # What stowfs does, too. In a thread: it asks the mount for its number.
        nursery.start_soon(partial(trio.to_thread.run_sync, set_read_ahead, mountpoint))
        await pyfuse3.main()


def main(arguments: Sequence[str]) -> None:
    match arguments:
        case [root, mountpoint]:
            pyfuse3.init(Passthrough(os.fsencode(root)), mountpoint, {"fsname=passthrough", "default_permissions"})
        case _:
            sys.exit(__doc__)
    try:
        trio.run(serve, mountpoint)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    main(sys.argv[1:])
