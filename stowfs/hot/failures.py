"""What becomes of an error of the local disk.

State (journal, spool) that cannot be written is an error of the operation: `state_errors` gives it a `StowError`.
A cache that cannot be read or written is only slower: `CacheTrouble` logs it, and the caller goes on without.
"""

import errno
import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from stowfs.errors import FileTooLarge, HotTierFailed, HotTierFull, StowError

logger = logging.getLogger("stowfs.hot")

DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
"""Primary result codes of a file that is not, or no longer, a database."""


def primary_code(error: sqlite3.Error) -> int | None:
    """SQLite's primary result code (the low byte of the extended one); None for errors of the Python module itself."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def state_error(doing: str, error: OSError | sqlite3.Error) -> StowError:
    """The error of stowfs for a failure of the local disk while `doing` (a phrase such as "writing the journal")."""
    if isinstance(error, sqlite3.Error):
        full, too_large = primary_code(error) == sqlite3.SQLITE_FULL, False
        reason = str(error)
    else:
        full, too_large = error.errno in (errno.ENOSPC, errno.EDQUOT), error.errno == errno.EFBIG
        reason = error.strerror or str(error)
    if full:
        return HotTierFull(f"the local disk is full: {doing}: {reason}")
    if too_large:
        return FileTooLarge(f"the file is larger than the local disk can hold: {doing}: {reason}")
    return HotTierFailed(f"the local disk failed: {doing}: {reason}")


@contextmanager
def state_errors(doing: str) -> Iterator[None]:
    """Turns `OSError` and `sqlite3.Error` from the block into `HotTierFull`, `FileTooLarge` or `HotTierFailed`."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise state_error(doing, error) from error


class CacheTrouble:
    """Logs the troubles of one cache: each kind (errno or SQLite code) once, as a full disk fails every write."""

    def __init__(self, cache: str) -> None:
        self._cache = cache
        self._lock = threading.Lock()
        self._seen: set[str] = set()

    def report(self, error: OSError | sqlite3.Error) -> None:
        """Logs `error` as a warning, the first time."""
        if isinstance(error, sqlite3.Error):
            kind = getattr(error, "sqlite_errorname", type(error).__name__)
        else:
            kind = errno.errorcode.get(error.errno or 0, type(error).__name__)
        with self._lock:
            if kind in self._seen:
                return
            self._seen.add(kind)
        logger.warning(
            "%s: going on without it where it fails (%s; further ones are not logged): %s", self._cache, kind, error
        )
