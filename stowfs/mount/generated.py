"""The files in `/.stowfs`: read-only, and made when they are opened.

A handle keeps what the file was at its opening, and is read past the page cache, so that no two readers are mixed up.
While a file is open, its size is that of the version opened last; else that of what it would be now.
"""

import errno
import os
import stat
import time
from collections.abc import Awaitable, Callable, Mapping

import pyfuse3

from stowfs.mount.attributes import BLOCK_SIZE, SECTOR, Shown
from stowfs.mount.inodes import NUMBERS

NAME = b".stowfs"
"""The name of the directory, in the root of the mount."""

DIRECTORY = pyfuse3.InodeT(NUMBERS + 1)
"""The number of the directory; its files have those after it. Nothing that is stored has so high a number."""

Render = Callable[[], Awaitable[bytes]]
"""What a file holds at the moment."""


class Generated:
    """The directory and its files, by inode number and by handle."""

    def __init__(self, files: Mapping[bytes, tuple[int, Render]], owner: tuple[int, int], shown: Shown) -> None:
        """`files`: permissions and content by name."""
        self._numbers = {name: DIRECTORY + 1 + index for index, name in enumerate(sorted(files))}
        self._files = {self._numbers[name]: file for name, file in files.items()}
        self._owner = owner
        self._shown = Shown(shown.uid, shown.gid)
        self._mounted_ns = time.time_ns()
        self._open: dict[int, tuple[int, bytes]] = {}

    def __contains__(self, number: int) -> bool:
        return number == DIRECTORY or number in self._files

    def path(self, number: int) -> str:
        """The path in the mount, for the log."""
        name = next((name for name, own in self._numbers.items() if own == number), b"")
        return f"/{NAME.decode()}/{name.decode()}".rstrip("/")

    def entries(self) -> list[tuple[bytes, int]]:
        """Names and numbers of the files."""
        return sorted(self._numbers.items())

    def lookup(self, name: bytes) -> int:
        """The number of a file. Raises ENOENT."""
        try:
            return self._numbers[name]
        except KeyError:
            raise pyfuse3.FUSEError(errno.ENOENT) from None

    async def entry(self, number: int) -> pyfuse3.EntryAttributes:
        """The attributes of the directory or a file."""
        answer = pyfuse3.EntryAttributes()
        answer.st_ino = pyfuse3.InodeT(number)
        answer.st_nlink = 1
        answer.st_uid, answer.st_gid = self._owner
        answer.st_blksize = BLOCK_SIZE
        answer.attr_timeout = 0
        if number == DIRECTORY:
            answer.st_mode = pyfuse3.ModeT(stat.S_IFDIR | 0o555)
            changed = self._mounted_ns
        else:
            mode, render = self._files[number]
            answer.st_mode = pyfuse3.ModeT(stat.S_IFREG | mode)
            opened = [content for own, content in self._open.values() if own == number]
            answer.st_size = len(opened[-1] if opened else await render())
            answer.st_blocks = -(-answer.st_size // SECTOR)
            changed = time.time_ns()
        answer.st_atime_ns = answer.st_mtime_ns = answer.st_ctime_ns = changed
        self._shown.disguise(answer)
        return answer

    async def open(self, number: int, flags: int, fh: int) -> pyfuse3.FileInfo:
        """Opens a file under the handle `fh`. Raises EISDIR, and EROFS for writing."""
        if number == DIRECTORY:
            raise pyfuse3.FUSEError(errno.EISDIR)
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise pyfuse3.FUSEError(errno.EROFS)
        self._open[fh] = number, await self._files[number][1]()
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(fh), direct_io=True)

    def number_of(self, fh: int) -> int | None:
        """The file of a handle; None for a handle of another kind."""
        opened = self._open.get(fh)
        return opened[0] if opened else None

    def read(self, fh: int, start: int, end: int) -> bytes:
        """The bytes `start` to `end` of an open file, clipped at its size."""
        return self._open[fh][1][start:end]

    def close(self, fh: int) -> None:
        """The handle is given back."""
        del self._open[fh]
