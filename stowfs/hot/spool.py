"""Uncommitted bytes on the local disk: one sparse file a draft, each written range at its own offset.

The file costs what was written, whatever its size. Which ranges those are is kept in memory only: after `sync`, the
owner journals `extents`, and gives them back through `restore` after a crash. All calls are short (the local page
cache) except `sync`, and safe from any thread.
"""

import os
import re
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from stowfs.errors import HotTierFailed, HotTierFull
from stowfs.hot.directories import private_directory, sync_directory
from stowfs.hot.extents import Extents
from stowfs.hot.failures import state_errors

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
"""Ids of commits and drafts: file names that need no escaping and cannot leave the directory."""


class Spool:
    """The spool directory of one slot, and the bound on what it holds (`limit`, bytes)."""

    def __init__(self, directory: Path, limit: int) -> None:
        self._directory = directory
        self._limit = limit
        self._lock = threading.Lock()
        self._open: dict[str, SpoolFile] = {}
        self._used = 0

    @classmethod
    def prepare(cls, directory: Path, limit: int) -> "Spool":
        """The spool in `directory`, made where it is missing; blocks. Raises `HotTierFailed` or `HotTierFull`."""
        with state_errors(f"making the spool {directory}"):
            private_directory(directory)
        return cls(directory, limit)

    @property
    def used(self) -> int:
        """Bytes in the extents of all open files. What an earlier process left counts once it is restored."""
        return self._used

    def create(self, name: str) -> "SpoolFile":
        """A new, empty file. Raises `HotTierFull` (also where the limit is reached already) or `HotTierFailed`."""
        if self._used >= self._limit:
            raise self._over_limit()
        return self._attach(name, os.O_CREAT | os.O_EXCL)

    def open(self, name: str) -> "SpoolFile":
        """A file an earlier process left, without extents until `restore`. Raises `HotTierFailed` where it is gone."""
        return self._attach(name, 0)

    def names(self) -> list[str]:
        """The names of all files, open or left by an earlier process, in order."""
        with state_errors(f"listing the spool {self._directory}"):
            return sorted(entry for entry in os.listdir(self._directory) if NAME.fullmatch(entry))

    def close(self) -> None:
        """Closes every open file; they stay on disk."""
        for file in list(self._open.values()):
            file.close()

    def _attach(self, name: str, flags: int) -> "SpoolFile":
        if not NAME.fullmatch(name):
            raise ValueError(f"not a name of a spool file: {name!r}")
        path = self._directory / name
        with self._lock:
            if name in self._open:
                raise ValueError(f"the spool file {name} is open already")
            with state_errors(f"opening the spool file {path}"):
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
            file = self._open[name] = SpoolFile(self, path, fd)
        return file

    def _charge(self, size: int) -> None:
        """Counts `size` more bytes (fewer where negative). Raises `HotTierFull`, and counts nothing, past the limit."""
        with self._lock:
            if size > 0 and self._used + size > self._limit:
                raise self._over_limit()
            self._used += size

    def _restored(self, size: int) -> None:
        """Counts bytes that are on the disk already, and so cannot be refused."""
        with self._lock:
            self._used += size

    def _detach(self, file: "SpoolFile", size: int) -> None:
        with self._lock:
            del self._open[file.name]
            self._used -= size

    def _over_limit(self) -> HotTierFull:
        return HotTierFull(
            f"the spool holds {self._used} bytes that are not in the store yet, of {self._limit} allowed"
        )


class SpoolFile:
    """A sparse local file that holds the written ranges of one conversation, each at its own offset."""

    def __init__(self, spool: Spool, path: Path, fd: int) -> None:
        self._spool = spool
        self._path = path
        self._fd: int | None = fd
        self._extents = Extents()
        # Held while the descriptor is in use, so that it is not closed (and its number given away) meanwhile.
        self._lock = threading.Lock()
        self._name_durable = False
        self._sync_failed = False
        self._removed = False

    @property
    def name(self) -> str:
        """The name it was created under."""
        return self._path.name

    @property
    def extents(self) -> tuple[tuple[int, int], ...]:
        """The written ranges (start, end): sorted, disjoint, not adjacent."""
        with self._lock:
            return self._extents.ranges

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Writes `data` at `offset`. Raises `HotTierFull`, `FileTooLarge` or `HotTierFailed`.

        After an error the extents are what they were, but bytes of the range that were written before may have
        either value, as after a write(2) that failed half-way.
        """
        view = memoryview(data).cast("B")
        end = offset + len(view)
        with self._lock, state_errors(f"writing the spool file {self._path}"):
            fd = self._descriptor()
            growth = self._extents.missing(offset, end)
            self._spool._charge(growth)
            try:
                position = offset
                while position < end:
                    position += os.pwrite(fd, view[position - offset :], position)
            except OSError:
                self._spool._charge(-growth)
                raise
            self._extents.add(offset, end)

    def read(self, start: int, end: int) -> bytes:
        """The bytes `start` to `end`, all of them in one extent. Raises `HotTierFailed`."""
        with self._lock, state_errors(f"reading the spool file {self._path}"):
            if not self._extents.contains(start, end):
                raise ValueError(f"bytes {start} to {end} of the spool file {self.name} were not all written")
            fd = self._descriptor()
            parts = []
            while start < end:
                part = os.pread(fd, end - start, start)
                if not part:
                    raise HotTierFailed(f"the spool file {self._path} ends at byte {start}, before its last extent")
                parts.append(part)
                start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def covers(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """Pieces (start, end, written) that tile the range in order, as they are at the call."""
        with self._lock:
            return iter(list(self._extents.pieces(start, end)))

    def truncate(self, size: int) -> None:
        """Drops what was written from `size` on, and its disk space. Raises `HotTierFailed`."""
        with self._lock, state_errors(f"truncating the spool file {self._path}"):
            fd = self._descriptor()
            if self._extents.end > size:
                os.ftruncate(fd, size)
                before = self._extents.total
                self._extents.truncate(size)
                self._spool._charge(self._extents.total - before)

    def restore(self, extents: Iterable[tuple[int, int]]) -> None:
        """Says which ranges an earlier process wrote and synced. Raises `HotTierFailed` where they are not there."""
        restored = Extents(extents)
        with self._lock, state_errors(f"reopening the spool file {self._path}"):
            size = os.fstat(self._descriptor()).st_size
            if size < restored.end:
                raise HotTierFailed(
                    f"the spool file {self._path} has {size} bytes, and its last extent ends at {restored.end}"
                )
            self._spool._restored(restored.total - self._extents.total)
            self._extents = restored

    def sync(self) -> None:
        """Makes what was written durable; blocks until the disk has it. Raises `HotTierFull` or `HotTierFailed`.

        Once it failed it always fails: the kernel forgets pages it could not write, so a later success means nothing.
        """
        with state_errors(f"syncing the spool file {self._path}"):
            with self._lock:
                if self._sync_failed:
                    raise HotTierFailed(f"the spool file {self._path} could not be made durable earlier")
                # A second descriptor: writers need not wait for the disk, and it cannot be closed under us.
                fd = os.dup(self._descriptor())
            try:
                os.fdatasync(fd)
                if not self._name_durable:
                    sync_directory(self._path.parent)
                    self._name_durable = True
            except OSError:
                self._sync_failed = True
                raise
            finally:
                os.close(fd)

    def remove(self) -> None:
        """Closes and unlinks the file. Idempotent. Raises `HotTierFailed`."""
        self.close()
        # Once only: the name may be somebody else's by now.
        if not self._removed:
            with state_errors(f"removing the spool file {self._path}"):
                self._path.unlink(missing_ok=True)
            self._removed = True

    def close(self) -> None:
        """Closes the file, which stays on disk. Idempotent. Raises `HotTierFailed`."""
        with self._lock, state_errors(f"closing the spool file {self._path}"):
            if self._fd is None:
                return
            fd, self._fd = self._fd, None
            self._spool._detach(self, self._extents.total)
            os.close(fd)

    def _descriptor(self) -> int:
        if self._fd is None:
            raise ValueError(f"the spool file {self.name} is closed")
        return self._fd
