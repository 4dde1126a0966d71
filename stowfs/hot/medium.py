"""Where the bytes of one log of the spool lie: in memory, while they are few, or in a file.

Both keep bytes by position, and hold nothing between what was written, or zeros. Not safe for use from two threads.
"""

import ctypes
import os
from pathlib import Path
from typing import Protocol

from stowfs.errors import HotTierFailed

PUNCH_HOLE = 0x02 | 0x01
"""FALLOC_FL_PUNCH_HOLE with FALLOC_FL_KEEP_SIZE (linux/falloc.h)."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class Medium(Protocol):
    """What a log needs of where it lies. Raises `OSError`."""

    def write(self, position: int, data: memoryview) -> None:
        """Writes within what is there, or from its end on."""

    def read(self, position: int, size: int) -> bytes:
        """`size` bytes that were written. Raises `HotTierFailed` where they are gone."""

    def truncate(self, position: int) -> None:
        """Drops what lies at `position` and later."""

    def punch(self, start: int, length: int) -> bool:
        """Gives up `length` bytes from `start` on, all that is left there; whether that gave their space back."""

    def park(self) -> None:
        """Holds no file descriptor until it is used again."""

    def remove(self) -> None:
        """Leaves nothing behind."""


class MemoryMedium(Medium):
    """Bytes in memory: gone with the process."""

    def __init__(self) -> None:
        # By position; a part begins where the one before does not go on.
        self._parts: list[tuple[int, bytearray]] = []

    @property
    def parts(self) -> list[tuple[int, bytearray]]:
        """Positions, and what lies there."""
        return self._parts

    @property
    def size(self) -> int:
        """Bytes held."""
        return sum(len(data) for _, data in self._parts)

    def write(self, position: int, data: memoryview) -> None:
        if self._parts:
            start, part = self._parts[-1]
            if start <= position <= start + len(part):
                part[position - start : position - start + len(data)] = data
                return
        self._parts.append((position, bytearray(data)))

    def read(self, position: int, size: int) -> bytes:
        for start, part in self._parts:
            if start <= position and position + size <= start + len(part):
                return bytes(memoryview(part)[position - start : position - start + size])
        # Written in several pieces, between seals.
        found = bytearray(size)
        for start, part in self._parts:
            first, last = max(start, position), min(start + len(part), position + size)
            if first < last:
                found[first - position : last - position] = memoryview(part)[first - start : last - start]
        return bytes(found)

    def truncate(self, position: int) -> None:
        while self._parts and self._parts[-1][0] >= position:
            self._parts.pop()
        if self._parts:
            start, part = self._parts[-1]
            del part[position - start :]

    def punch(self, start: int, length: int) -> bool:
        end = start + length
        # What is given up is sealed, and no part goes on after a seal.
        self._parts = [(at, part) for at, part in self._parts if at + len(part) > end]
        return True

    def park(self) -> None:
        """There is no descriptor."""

    def remove(self) -> None:
        self._parts = []


class FileMedium(Medium):
    """A local file of its own."""

    def __init__(self, path: Path, flags: int = 0) -> None:
        self._path = path
        self._fd: int | None = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)

    def write(self, position: int, data: memoryview) -> None:
        fd = self._descriptor()
        while data:
            written = os.pwrite(fd, data, position)
            data = data[written:]
            position += written

    def read(self, position: int, size: int) -> bytes:
        fd = self._descriptor()
        parts = []
        while size:
            part = os.pread(fd, size, position)
            if not part:
                raise HotTierFailed(f"the spool file {self._path} ends at byte {position}, before its last extent")
            parts.append(part)
            position += len(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def truncate(self, position: int) -> None:
        os.ftruncate(self._descriptor(), position)

    def punch(self, start: int, length: int) -> bool:
        return bool(_libc.fallocate(self._descriptor(), PUNCH_HOLE, start, length) == 0)

    def status(self) -> os.stat_result:
        """What the file system says of the file."""
        return os.fstat(self._descriptor())

    def duplicate(self) -> int:
        """Another descriptor, which is the caller's."""
        return os.dup(self._descriptor())

    def park(self) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def remove(self) -> None:
        self.park()
        self._path.unlink(missing_ok=True)

    def _descriptor(self) -> int:
        if self._fd is None:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        return self._fd
