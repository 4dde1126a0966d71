"""Uncommitted bytes on the local disk: one log file a draft.

What was written once is never written over after a `seal`: the owner journals where the bytes lie (`extents`), and a
crash in the middle of later writes leaves what the journal says intact. Between two seals the same place may be used
again. All calls are short (the local page cache) except `sync`, and safe from any thread.
"""

import ctypes
import os
import re
import threading
from pathlib import Path

from stowfs.errors import HotTierFailed, HotTierFull
from stowfs.hot.directories import private_directory, sync_directory
from stowfs.hot.failures import state_errors

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
"""Ids of commits and drafts: file names that need no escaping and cannot leave the directory."""

BLOCK = 4096
"""Bytes at whose multiples a log goes on after a seal: what is written then shares no page with what must stay."""

DISK_BLOCK = 512
"""Bytes in which `stat` counts the space of a file, whatever the file system (stat(2))."""

PUNCH_HOLE = 0x02 | 0x01
"""FALLOC_FL_PUNCH_HOLE with FALLOC_FL_KEEP_SIZE (linux/falloc.h)."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


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
        """Bytes in the logs of all open files. What an earlier process left counts once it is restored."""
        return self._used

    def create(self, name: str, start: int = 0) -> "SpoolFile":
        """A new, empty file whose log begins at the position `start`.

        Raises `HotTierFull` (also where the limit is reached already) or `HotTierFailed`.
        """
        if self._used >= self._limit:
            raise self._over_limit()
        return self._attach(name, os.O_CREAT | os.O_EXCL, start)

    def open(self, name: str) -> "SpoolFile":
        """A file an earlier process left, empty until `restore`. Raises `HotTierFailed` where it is gone."""
        return self._attach(name, 0)

    def names(self) -> list[str]:
        """The names of all files, open or left by an earlier process, in order."""
        with state_errors(f"listing the spool {self._directory}"):
            return sorted(entry for entry in os.listdir(self._directory) if NAME.fullmatch(entry))

    def remove(self, name: str) -> None:
        """Removes a file that an earlier process left, if there is one. Raises `HotTierFailed`."""
        path = self._path(name)
        with state_errors(f"removing the spool file {path}"):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Closes every open file; they stay on disk."""
        for file in list(self._open.values()):
            file.close()

    def _attach(self, name: str, flags: int, start: int = 0) -> "SpoolFile":
        with self._lock:
            path = self._path(name)
            with state_errors(f"opening the spool file {path}"):
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
            file = self._open[name] = SpoolFile(self, path, fd, start)
        return file

    def _path(self, name: str) -> Path:
        """Where the file of that name is, which must not be open."""
        if not NAME.fullmatch(name):
            raise ValueError(f"not a name of a spool file: {name!r}")
        if name in self._open:
            raise ValueError(f"the spool file {name} is open already")
        return self._directory / name

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
    """A log in a local file; positions in it are bytes from its start."""

    def __init__(self, spool: Spool, path: Path, fd: int, start: int) -> None:
        self._spool = spool
        self._path = path
        self._fd: int | None = fd
        self._end = start
        # Before this position nothing may change any more; before that one nothing is needed any more.
        self._sealed = start
        self._released = start
        # Bytes counted in the spool: what was written less what was given back.
        self._charged = 0
        # Held while the descriptor is in use, so that it is not closed (and its number given away) meanwhile.
        self._lock = threading.Lock()
        # Held during a sync: the kernel tells only one of two at once that it lost something.
        self._syncing = threading.Lock()
        self._name_durable = False
        # How often it was changed, and up to which change the disk has it.
        self._changes = 1
        self._synced = 0
        self._sync_failed = False
        self._closed = False
        self._removed = False

    @property
    def name(self) -> str:
        """The name it was created under."""
        return self._path.name

    @property
    def end(self) -> int:
        """The position at which the next append will write."""
        return self._end

    @property
    def sealed(self) -> int:
        """The position given by the last `seal`: nothing before it changes any more; 0 before the first one."""
        return self._sealed

    @property
    def charged(self) -> int:
        """Bytes of the spool's limit that this file takes."""
        return self._charged

    def append(self, data: bytes | bytearray | memoryview) -> int:
        """Writes `data` to the end; its position. Raises `HotTierFull`, `FileTooLarge` or `HotTierFailed`, and then
        nothing has changed."""
        view = memoryview(data).cast("B")
        with self._lock, state_errors(f"writing the spool file {self._path}"):
            fd = self._descriptor()
            self._spool._charge(len(view))
            try:
                _write(fd, view, self._end)
            except OSError:
                self._spool._charge(-len(view))
                raise
            position = self._end
            self._end += len(view)
            self._charged += len(view)
            self._changes += 1
        return position

    def overwrite(self, position: int, data: bytes | bytearray | memoryview) -> None:
        """Writes `data` over bytes that were appended since the last seal. Raises `HotTierFailed`; then each byte of
        the range may have either value."""
        view = memoryview(data).cast("B")
        with self._lock, state_errors(f"writing the spool file {self._path}"):
            if not self._sealed <= position <= position + len(view) <= self._end:
                raise ValueError(f"bytes {position} on of the spool file {self.name} may not be changed")
            _write(self._descriptor(), view, position)
            self._changes += 1

    def read(self, position: int, size: int) -> bytes:
        """`size` bytes from `position` on, all of them written. Raises `HotTierFailed`."""
        with self._lock, state_errors(f"reading the spool file {self._path}"):
            if not self._released <= position <= position + size <= self._end:
                raise ValueError(f"{size} bytes from {position} of the spool file {self.name} are not there")
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

    def seal(self) -> int:
        """What was written so far stays as it is. Returns a position after all of it, and not after anything to
        come."""
        with self._lock:
            self._sealed = self._end = (self._end // BLOCK + 1) * BLOCK
            return self._sealed

    def cut(self, position: int) -> None:
        """Drops what lies at `position` and later, and gives its disk space back; not what is sealed. Raises
        `HotTierFailed`."""
        with self._lock, state_errors(f"truncating the spool file {self._path}"):
            position = max(position, self._sealed)
            if position < self._end:
                os.ftruncate(self._descriptor(), position)
                self._give_back(self._end - position)
                self._end = position
                self._changes += 1

    def release(self, position: int) -> None:
        """What lies before `position` is not needed any more, as far as it is sealed; gives its disk space back where
        the file system can."""
        with self._lock, state_errors(f"releasing space of the spool file {self._path}"):
            # What is not sealed may be cut, and then written again.
            position = min(position, self._sealed)
            if position <= self._released:
                return
            start, length = self._released, position - self._released
            self._released = position
            if _libc.fallocate(self._descriptor(), PUNCH_HOLE, start, length) == 0:
                self._give_back(self._charged - min(self._charged, self._end - position))

    def restore(self, end: int, sealed: int) -> None:
        """Says up to where an earlier process wrote and synced, and what its last seal was. Raises `HotTierFailed`
        where that is not there."""
        with self._lock, state_errors(f"reopening the spool file {self._path}"):
            status = os.fstat(self._descriptor())
            if status.st_size < end:
                raise HotTierFailed(
                    f"the spool file {self._path} has {status.st_size} bytes, and its last extent ends at {end}"
                )
            # What was written after that is nobody's.
            os.ftruncate(self._descriptor(), end)
            self._end = self._sealed = max(end, sealed)
            charged = min(end, status.st_blocks * DISK_BLOCK)
            self._spool._restored(charged - self._charged)
            self._charged = charged

    def sync(self) -> None:
        """Makes what was written durable; blocks until the disk has it. Raises `HotTierFull` or `HotTierFailed`.

        Once it failed it always fails: the kernel forgets pages it could not write, so a later success means nothing.
        """
        with self._syncing, state_errors(f"syncing the spool file {self._path}"):
            with self._lock:
                if self._sync_failed:
                    raise HotTierFailed(f"the spool file {self._path} could not be made durable earlier")
                changes = self._changes
                if self._synced == changes:
                    return
                # A second descriptor: writers need not wait for the disk, and it cannot be closed under us.
                fd = os.dup(self._descriptor())
            try:
                os.fdatasync(fd)
                if not self._name_durable:
                    sync_directory(self._path.parent)
                    self._name_durable = True
                self._synced = changes
            except OSError:
                self._sync_failed = True
                raise
            finally:
                os.close(fd)

    def park(self) -> None:
        """Closes the descriptor until it is needed again: many drafts may wait to be committed. Raises
        `HotTierFailed`."""
        with self._lock, state_errors(f"closing the spool file {self._path}"):
            if self._fd is not None:
                fd, self._fd = self._fd, None
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
        self.park()
        with self._lock:
            if not self._closed:
                self._closed = True
                self._spool._detach(self, self._charged)

    def _give_back(self, size: int) -> None:
        self._charged -= size
        self._spool._charge(-size)

    def _descriptor(self) -> int:
        if self._closed:
            raise ValueError(f"the spool file {self.name} is closed")
        if self._fd is None:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        return self._fd


def _write(fd: int, view: memoryview, position: int) -> None:
    while view:
        written = os.pwrite(fd, view, position)
        view = view[written:]
        position += written
