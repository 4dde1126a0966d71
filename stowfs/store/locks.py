"""Who changes keys of a store in a directory: locks between threads and processes, by flock on a fixed set of files.

Lock files are never deleted: a lock on a deleted file would exclude nobody.
"""

import contextlib
import errno
import fcntl
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")

_LOCKS = 64
"""Lock files. Two keys that share one wait for each other without need: with at most 32 requests at once, rarely."""


class Locks:
    """The lock files in `directory`, which a writer must have made. `patience`: seconds to wait for a lock."""

    def __init__(self, directory: bytes, patience: float) -> None:
        self.directory = directory
        self._patience = patience
        # One at a time in this process, since it takes a descriptor of every lock file.
        self._looking = threading.Lock()

    @contextlib.contextmanager
    def of(self, key: str) -> Iterator[None]:
        """While this is entered, nobody else changes `key`. Raises `TimeoutError`."""
        fd = os.open(self._file(zlib.crc32(key.encode()) % _LOCKS), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _lock(fd, fcntl.LOCK_EX, time.monotonic() + self._patience)
            yield
        finally:
            os.close(fd)

    def undisturbed(self, look: Callable[[], T]) -> T:
        """What `look` returns where nobody changes any key meanwhile; several may look at once. Raises `TimeoutError`.

        Needs only to be allowed to read, and makes nothing: a lock file that is not there afterwards had no holder.
        """
        end = time.monotonic() + self._patience
        if not self._looking.acquire(timeout=self._patience):
            raise TimeoutError(errno.ETIMEDOUT, "too many wait to read the store while nobody changes it")
        try:
            while True:
                with contextlib.ExitStack() as held:
                    missing = [path for path in map(self._file, range(_LOCKS)) if not _share(path, end, held)]
                    found = look()
                    if not any(map(os.path.lexists, missing)):
                        return found
        finally:
            self._looking.release()

    def _file(self, number: int) -> bytes:
        return os.path.join(self.directory, b"%02x" % number)


def _share(path: bytes, end: float, held: contextlib.ExitStack) -> bool:
    """Holds the lock together with others who only look, until `held` is closed; whether there is such a file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    held.callback(os.close, fd)
    _lock(fd, fcntl.LOCK_SH, end)
    return True


def _lock(fd: int, operation: int, end: float) -> None:
    # Not a blocking flock: a process that was stopped while it held the lock must not hang this one for good.
    pause = 0.0002
    while True:
        try:
            return fcntl.flock(fd, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise TimeoutError(errno.ETIMEDOUT, "another process holds the lock of the store") from None
        time.sleep(pause)
        pause = min(pause * 1.5, 0.005)
