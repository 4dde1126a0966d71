"""The durable change log of this host, in `journal.db`: a row for each commit in flight, and one for each draft that
was acknowledged before it is in the store.

A method that returned is durable (WAL, synchronous=FULL). Concurrent callers share one transaction, and so one fsync:
what is asked for while a transaction is under way gathers in a batch, which is the next one.
"""

import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from stowfs.errors import HotTierFailed, UnsupportedVersion
from stowfs.hot.database import OtherSchema, connect, transaction
from stowfs.hot.failures import DAMAGED, primary_code, state_error, state_errors
from stowfs.locks import Lock
from stowfs.workers import Workers

SCHEMA_VERSION = 2
SCHEMA = """
CREATE TABLE commits (
    number INTEGER PRIMARY KEY,
    commit_id TEXT NOT NULL UNIQUE,
    phase TEXT NOT NULL,
    payload BLOB NOT NULL
);
CREATE TABLE drafts (
    number INTEGER PRIMARY KEY,
    draft_id TEXT NOT NULL UNIQUE,
    payload BLOB NOT NULL,
    base BLOB
)
"""


@dataclass(frozen=True, slots=True)
class JournalRow:
    """A commit in flight: how far it got, and whatever else its owner needs to finish it or to roll it back."""

    commit_id: str
    phase: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class DraftRow:
    """An acknowledged draft: its state, with its bytes unless they are in the spool file of its id, and the manifest it
    is based on, if there is one."""

    draft_id: str
    payload: bytes
    base: bytes | None


Apply = Callable[[sqlite3.Connection], object]


@dataclass(slots=True, eq=False)
class _Change:
    """What one caller wants done. After its transaction, `error` is why it failed, if it did."""

    apply: Apply
    error: Exception | None = None


class _Batch:
    """The changes of one transaction, and those who wait for it."""

    __slots__ = ("changes", "done")

    def __init__(self) -> None:
        self.changes: list[_Change] = []
        self.done = trio.Event()


class Journal:
    """The journal of one slot. Raises `HotTierFull` or `HotTierFailed` where a change could not be made durable."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        # What gathers for the next transaction. The first of a batch carries it out for all.
        self._next = _Batch()
        self._turn = Lock()
        # Its own thread: it must not queue behind requests to the store for one of trio's common threads.
        self._thread = Workers(1)
        self._transactions = 0

    @classmethod
    def open(cls, path: Path) -> "Journal":
        """Opens or creates the journal; blocks. Raises `HotTierFailed`, `HotTierFull` or `UnsupportedVersion`."""
        try:
            return cls(connect(path, synchronous="FULL", schema=SCHEMA, version=SCHEMA_VERSION))
        except OtherSchema as error:
            raise UnsupportedVersion(f"the journal {path} was written by another version of stowfs: {error}") from error
        except sqlite3.Error as error:
            if primary_code(error) in DAMAGED:
                raise HotTierFailed(
                    f"the journal {path} is damaged ({error}): move it away to go on without the commits it holds"
                ) from error
            raise state_error(f"opening the journal {path}", error) from error

    @property
    def transactions(self) -> int:
        """How many transactions were committed so far: fewer than changes, where callers were grouped."""
        return self._transactions

    async def record(self, row: JournalRow) -> None:
        """Adds the row, or replaces the one of the same commit, which keeps its age."""
        await self._change(
            lambda connection: connection.execute(
                "INSERT INTO commits (commit_id, phase, payload) VALUES (?, ?, ?)"
                " ON CONFLICT (commit_id) DO UPDATE SET phase = excluded.phase, payload = excluded.payload",
                (row.commit_id, row.phase, row.payload),
            )
        )

    async def advance(self, commit_id: str, phase: str, payload: bytes | None = None) -> None:
        """Sets the phase of a commit, and its payload unless None. Raises `KeyError` where there is no such row."""

        def apply(connection: sqlite3.Connection) -> None:
            updated = connection.execute(
                "UPDATE commits SET phase = ?, payload = COALESCE(?, payload) WHERE commit_id = ?",
                (phase, payload, commit_id),
            )
            if updated.rowcount == 0:
                raise KeyError(commit_id)

        await self._change(apply)

    async def remove(self, commit_id: str) -> None:
        """Forgets a commit that is over. Removing what is not there is no error."""
        await self._change(
            lambda connection: connection.execute("DELETE FROM commits WHERE commit_id = ?", (commit_id,))
        )

    async def rows(self) -> list[JournalRow]:
        """Every commit in flight, the one that was recorded first first."""
        async with self._turn:
            return await trio.to_thread.run_sync(self._read)

    async def change_drafts(self, put: Iterable[DraftRow] = (), drop: Iterable[str] = ()) -> None:
        """Adds or replaces rows (which keep their age) and drops others, all or nothing. Dropping what is not there is
        no error."""
        rows = [(row.draft_id, row.payload, row.base) for row in put]
        gone = [(draft_id,) for draft_id in drop]

        def apply(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "INSERT INTO drafts (draft_id, payload, base) VALUES (?, ?, ?) ON CONFLICT (draft_id)"
                " DO UPDATE SET payload = excluded.payload, base = excluded.base",
                rows,
            )
            connection.executemany("DELETE FROM drafts WHERE draft_id = ?", gone)

        await self._change(apply)

    async def drafts(self) -> list[DraftRow]:
        """Every acknowledged draft, the one that was recorded first first."""
        async with self._turn:
            return await trio.to_thread.run_sync(self._read_drafts)

    def lengths(self) -> tuple[int, int]:
        """How many commits are in flight, and how many drafts are acknowledged; blocks."""
        with state_errors("reading the journal"):
            query = "SELECT (SELECT count(*) FROM commits), (SELECT count(*) FROM drafts)"
            commits, drafts = self._connection.execute(query).fetchone()
            return commits, drafts

    def close(self) -> None:
        """Closes the database; blocks. Nothing may be under way."""
        self._thread.close()
        with state_errors("closing the journal"):
            self._connection.close()

    def _read(self) -> list[JournalRow]:
        with state_errors("reading the journal"):
            rows = self._connection.execute("SELECT commit_id, phase, payload FROM commits ORDER BY number")
            return [JournalRow(commit_id, phase, payload) for commit_id, phase, payload in rows]

    def _read_drafts(self) -> list[DraftRow]:
        with state_errors("reading the journal"):
            rows = self._connection.execute("SELECT draft_id, payload, base FROM drafts ORDER BY number")
            return [DraftRow(draft_id, payload, base) for draft_id, payload, base in rows]

    async def _change(self, apply: Apply) -> None:
        change, batch = _Change(apply), self._next
        batch.changes.append(change)
        if len(batch.changes) == 1:
            await self._carry_out(batch)
        else:
            try:
                await batch.done.wait()
            except trio.Cancelled:
                if batch is self._next:
                    batch.changes.remove(change)
                raise
        if isinstance(change.error, sqlite3.Error):
            raise state_error("writing the journal", change.error) from change.error
        if change.error is not None:
            raise change.error

    async def _carry_out(self, batch: _Batch) -> None:
        # Others wait for this batch: it is not given up when the first of them is cancelled.
        with trio.CancelScope(shield=True):
            async with self._turn:
                self._next = _Batch()
                await self._thread.run(partial(self._commit, batch.changes))
                batch.done.set()

    def _commit(self, batch: list[_Change]) -> None:
        try:
            with transaction(self._connection):
                for change in batch:
                    try:
                        change.apply(self._connection)
                    except (KeyError, ValueError) as error:
                        # A mistake of this caller alone: its statement did nothing, and the others go on.
                        change.error = error
            self._transactions += 1
        except Exception as error:  # noqa: BLE001 - each caller raises it
            for change in batch:
                change.error = change.error or error
