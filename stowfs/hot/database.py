"""SQLite connections of the hot tier: WAL, one connection a database, transactions begun and ended by hand.

The slot's lock already keeps other processes out, so the database is locked exclusively: SQLite then needs no shared
memory file and takes no file locks for each transaction.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

WAL_LIMIT = 16 << 20
"""Bytes to which the write-ahead log is cut back after a checkpoint: a burst of commits must not keep disk space."""


class OtherSchema(Exception):
    """The database was written by another version of stowfs; `found` is the version it has."""

    def __init__(self, found: int) -> None:
        super().__init__(f"the database has schema version {found}")
        self.found = found


def connect(
    path: Path, *, synchronous: Literal["FULL", "NORMAL"], schema: str, version: int, page_size: int = 4096
) -> sqlite3.Connection:
    """Opens the database, and creates it with the statements of `schema` where it is new or empty.

    FULL: a transaction that was committed is durable. NORMAL: after a power failure the last ones may be missing, but
    the database is consistent. The connection may be used from any thread, by one at a time. Raises `OtherSchema`
    unless its user_version is `version` (at least 1), and `sqlite3.Error`. `page_size` in bytes, for a new one.
    """
    # timeout=0: whoever holds this database will not let go of it soon, so waiting would only be a hang.
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        connection.execute(f"PRAGMA page_size = {page_size}")
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT}")
        with transaction(connection):
            (found,) = connection.execute("PRAGMA user_version").fetchone()
            if found == 0:
                for statement in schema.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {version}")
            elif found != version:
                raise OtherSchema(found)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commits what the block did, or rolls it back where the block or the commit raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # SQLite rolls back by itself after some errors, and then refuses a second time.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
