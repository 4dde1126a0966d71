"""Uncommitted bytes on this host: one log a draft, in memory while it is short, else in a local file.

What was written once is never written over after a `seal`: the owner journals where the bytes lie (`extents`), and a
crash in the middle of later writes leaves what the journal says intact. Between two seals the same place may be used
again. What is in memory is durable only as far as the owner puts it into the journal itself; `sync` moves it into the
file. All calls are short (memory, or the local page cache) except `sync`, and safe from any thread.
"""

import os
import re
import threading
from collections.abc import Iterable
from pathlib import Path

from stowfs.durable import sync_directory
from stowfs.errors import HotTierFailed, HotTierFull
from stowfs.hot.directories import private_directory
from stowfs.hot.failures import state_errors
from stowfs.hot.medium import FileMedium, MemoryMedium

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
"""Ids of commits and drafts: file names that need no escaping and cannot leave the directory."""

BLOCK = 4096
"""Bytes at whose multiples a log goes on after a seal: what is written then shares no page with what must stay."""

DISK_BLOCK = 512
"""Bytes in which `stat` counts the space of a file, whatever the file system (stat(2))."""


class Spool:
    """The spool directory of one slot, and the bounds on what it holds: `limit` bytes, `memory` of them in memory, in
    logs of at most `short` bytes each."""

    def __init__(self, directory: Path, limit: int, short: int, memory: int) -> None:
        self.short = short
        self._directory = directory
        self._limit = limit
        self._memory = memory
        self._lock = threading.Lock()
        self._open: dict[str, SpoolFile] = {}
        self._used = 0
        self._memory_used = 0

    @classmethod
    def prepare(cls, directory: Path, limit: int, *, short: int = 0, memory: int = 0) -> "Spool":
        """The spool in `directory`, made where it is missing; blocks. Raises `HotTierFailed` or `HotTierFull`."""
        with state_errors(f"making the spool {directory}"):
            private_directory(directory)
        return cls(directory, limit, short, memory)

    @property
    def used(self) -> int:
        """Bytes in all logs. What an earlier process left counts once it is restored."""
        return self._used

    @property
    def memory_used(self) -> int:
        """Bytes of them in memory."""
        return self._memory_used

    def create(self, name: str, start: int = 0) -> "SpoolFile":
        """A new, empty log that begins at the position `start`.

        Raises `HotTierFull` (also where the limit is reached already) or `HotTierFailed`.
        """
        if self._used >= self._limit:
            raise self._over_limit()
        return self._attach(name, MemoryMedium() if self.short else os.O_CREAT | os.O_EXCL, start)

    def open(self, name: str) -> "SpoolFile":
        """A file an earlier process left, empty until `restore`. Raises `HotTierFailed` where it is gone."""
        return self._attach(name, 0)

    def recreate(self, name: str, parts: Iterable[tuple[int, bytes]], sealed: int) -> "SpoolFile":
        """A log with these bytes at these positions, in order, which are before `sealed`; whatever an earlier process
        left under that name is removed. Raises `HotTierFailed` or `HotTierFull`."""
        self.remove(name)
        file = self._attach(name, MemoryMedium() if self.short else os.O_CREAT | os.O_EXCL)
        file.refill(parts, sealed)
        return file

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
        """Closes every log; files stay on disk."""
        for file in list(self._open.values()):
            file.close()

    def _attach(self, name: str, medium: MemoryMedium | int, start: int = 0) -> "SpoolFile":
        """`medium`: or the flags with which the file is opened."""
        with self._lock:
            path = self._path(name)
            with state_errors(f"opening the spool file {path}"):
                opened = FileMedium(path, medium) if isinstance(medium, int) else medium
            file = self._open[name] = SpoolFile(self, path, opened, start)
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
        """Counts bytes that are promised already, and so cannot be refused."""
        with self._lock:
            self._used += size

    def _reserve_memory(self, size: int) -> bool:
        """Counts `size` more bytes in memory (fewer where negative), if there is room for them."""
        with self._lock:
            if size > 0 and self._memory_used + size > self._memory:
                return False
            self._memory_used += size
            return True

    def _detach(self, file: "SpoolFile", size: int) -> None:
        with self._lock:
            del self._open[file.name]
            self._used -= size

    def _over_limit(self) -> HotTierFull:
        return HotTierFull(
            f"the spool holds {self._used} bytes that are not in the store yet, of {self._limit} allowed"
        )


class SpoolFile:
    """A log; positions in it are bytes from its start."""

    def __init__(self, spool: Spool, path: Path, medium: FileMedium | MemoryMedium, start: int) -> None:
        self._spool = spool
        self._path = path
        self._medium = medium
        # Bytes of the spool's memory that this log was given.
        self._reserved = 0
        self._end = start
        # Before this position nothing may change any more; before that one nothing is needed any more.
        self._sealed = start
        self._released = start
        # Bytes counted in the spool: what was written less what was given back.
        self._charged = 0
        # Held while the medium is in use, so that a descriptor is not closed (and its number given away) meanwhile.
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
        """Bytes of the spool's limit that this log takes."""
        return self._charged

    def append(self, data: bytes | bytearray | memoryview) -> int:
        """Writes `data` to the end; its position. Raises `HotTierFull`, `FileTooLarge` or `HotTierFailed`, and then
        nothing has changed."""
        view = memoryview(data).cast("B")
        with self._lock, state_errors(f"writing the spool file {self._path}"):
            self._check_open()
            self._spool._charge(len(view))
            try:
                self._medium_for(len(view)).write(self._end, view)
            except BaseException:
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
            self._check_open()
            if not self._sealed <= position <= position + len(view) <= self._end:
                raise ValueError(f"bytes {position} on of the spool file {self.name} may not be changed")
            self._medium.write(position, view)
            self._changes += 1

    def read(self, position: int, size: int) -> bytes:
        """`size` bytes from `position` on, all of them written. Raises `HotTierFailed`."""
        with self._lock, state_errors(f"reading the spool file {self._path}"):
            self._check_open()
            if not self._released <= position <= position + size <= self._end:
                raise ValueError(f"{size} bytes from {position} of the spool file {self.name} are not there")
            return self._medium.read(position, size)

    def seal(self) -> int:
        """What was written so far stays as it is. Returns a position after all of it, and not after anything to
        come."""
        with self._lock:
            self._sealed = self._end = (self._end // BLOCK + 1) * BLOCK
            return self._sealed

    def cut(self, position: int) -> None:
        """Drops what lies at `position` and later, and gives its space back; not what is sealed. Raises
        `HotTierFailed`."""
        with self._lock, state_errors(f"truncating the spool file {self._path}"):
            self._check_open()
            position = max(position, self._sealed)
            if position < self._end:
                self._medium.truncate(position)
                self._give_back(self._end - position)
                self._end = position
                self._changes += 1

    def release(self, position: int) -> None:
        """What lies before `position` is not needed any more, as far as it is sealed; gives its space back where the
        file system can."""
        with self._lock, state_errors(f"releasing space of the spool file {self._path}"):
            self._check_open()
            # What is not sealed may be cut, and then written again.
            position = min(position, self._sealed)
            if position <= self._released:
                return
            start, length = self._released, position - self._released
            self._released = position
            if self._medium.punch(start, length):
                self._give_back(self._charged - min(self._charged, self._end - position))

    def restore(self, end: int, sealed: int) -> None:
        """Says up to where an earlier process wrote and synced, and what its last seal was. Raises `HotTierFailed`
        where that is not there."""
        with self._lock, state_errors(f"reopening the spool file {self._path}"):
            self._check_open()
            assert isinstance(self._medium, FileMedium)
            status = self._medium.status()
            if status.st_size < end:
                raise HotTierFailed(
                    f"the spool file {self._path} has {status.st_size} bytes, and its last extent ends at {end}"
                )
            # What was written after that is nobody's.
            self._medium.truncate(end)
            self._end = self._sealed = max(end, sealed)
            charged = min(end, status.st_blocks * DISK_BLOCK)
            self._spool._restored(charged - self._charged)
            self._charged = charged

    def refill(self, parts: Iterable[tuple[int, bytes]], sealed: int) -> None:
        """As `restore`, for bytes that the journal held; the log is new. Raises `HotTierFailed`, `HotTierFull`."""
        with self._lock, state_errors(f"writing the spool file {self._path}"):
            for position, data in parts:
                self._spool._restored(len(data))
                self._charged += len(data)
                self._medium_for(len(data)).write(position, memoryview(data))
            self._end = self._sealed = sealed

    def sync(self) -> None:
        """Makes what was written durable; blocks until the disk has it. Raises `HotTierFull` or `HotTierFailed`.

        Once it failed it always fails: the kernel forgets pages it could not write, so a later success means nothing.
        """
        with self._syncing, state_errors(f"syncing the spool file {self._path}"):
            with self._lock:
                self._check_open()
                if self._sync_failed:
                    raise HotTierFailed(f"the spool file {self._path} could not be made durable earlier")
                changes = self._changes
                if self._synced == changes:
                    return
                # A second descriptor: writers need not wait for the disk, and it cannot be closed under us.
                fd = self._into_file().duplicate()
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
            self._medium.park()

    def remove(self) -> None:
        """Closes the log, and unlinks the file if there is one. Idempotent. Raises `HotTierFailed`."""
        self.close()
        # Once only: the name may be somebody else's by now.
        if not self._removed:
            with state_errors(f"removing the spool file {self._path}"):
                self._medium.remove()
            self._removed = True

    def close(self) -> None:
        """Closes the log; a file stays on disk. Idempotent. Raises `HotTierFailed`."""
        self.park()
        with self._lock:
            if not self._closed:
                self._closed = True
                self._spool._detach(self, self._charged)
                self._leave_memory()

    def _medium_for(self, size: int) -> FileMedium | MemoryMedium:
        """Where `size` more bytes go: into memory, if there is room."""
        if isinstance(self._medium, FileMedium):
            return self._medium
        if self._medium.size + size > self._spool.short or not self._spool._reserve_memory(size):
            return self._into_file()
        self._reserved += size
        return self._medium

    def _into_file(self) -> FileMedium:
        """The file, made from what is in memory where there is none yet. Raises `OSError`; then it is there still."""
        if isinstance(self._medium, FileMedium):
            return self._medium
        file = FileMedium(self._path, os.O_CREAT | os.O_EXCL)
        try:
            for position, data in self._medium.parts:
                file.write(position, memoryview(data))
        except BaseException:
            file.remove()
            raise
        self._medium = file
        self._leave_memory()
        return file

    def _leave_memory(self) -> None:
        self._spool._reserve_memory(-self._reserved)
        self._reserved = 0

    def _give_back(self, size: int) -> None:
        self._charged -= size
        self._spool._charge(-size)
        if isinstance(self._medium, MemoryMedium):
            left = self._medium.size
            self._spool._reserve_memory(left - self._reserved)
            self._reserved = left

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"the spool file {self.name} is closed")
