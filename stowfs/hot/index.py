"""What this host knows of the store, in `index.db`: manifests by (id, ETag), what listings show of them by the same,
and where segments were last seen.

A cache: no call fails on account of the disk, a file that is damaged or has another schema is rebuilt empty, and what
is found there is only ever as new as its ETag or its time says. All tables are bounded. Manifests go by least recent
use, which is counted in generations: a new one begins whenever a sixteenth of the limit has been written, so a
manifest's use is noted at most once a generation, and listing a quiet store writes nothing.
"""

import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, TypeVar

import trio

from stowfs.hot.database import OtherSchema, connect, transaction
from stowfs.hot.directories import private_directory
from stowfs.hot.failures import DAMAGED, CacheTrouble, logger, primary_code

SCHEMA_VERSION = 2
# The uses are a table of their own, because an update rewrites the whole row, and a manifest is a large one.
SCHEMA = """
CREATE TABLE manifests (
    number INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    etag TEXT NOT NULL,
    checksum INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE TABLE uses (
    number INTEGER PRIMARY KEY,
    generation INTEGER NOT NULL,
    size INTEGER NOT NULL
);
CREATE INDEX uses_by_age ON uses (generation, number, size);
CREATE TABLE versions (
    id BLOB PRIMARY KEY,
    etag TEXT NOT NULL,
    checksum INTEGER NOT NULL,
    body BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE sightings (
    hash BLOB PRIMARY KEY,
    state TEXT NOT NULL,
    seen_at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX sightings_by_age ON sightings (seen_at)
"""

GENERATIONS = 16
"""Generations in one turnover of the cache: least recent use is exact to a sixteenth of the limit."""
ROW_COST = 100
"""Bytes that a cached manifest takes besides its id, ETag and body (keys, index entries, page slack), about."""
SIGHTINGS_LIMIT = 500_000
"""Segments remembered: about 60 MB of disk, for some 10 GB of compressed conversations."""
VERSIONS_LIMIT = 500_000
"""Versions remembered: about 100 MB of disk."""
PAGE_SIZE = 16384
"""Bytes. A page of 4096 holds one manifest of the usual 2.5 KB and wastes the rest: the file was 1.6 times its rows."""
CHUNK = 500
"""Keys in one SELECT: SQLite allows 999 parameters in its older versions, and gains nothing from more."""

T = TypeVar("T")
SightingState = Literal["inline", "stored", "saturated"]


@dataclass(frozen=True, slots=True)
class CachedManifest:
    """The body of a manifest, or what was made of it, and the ETag it has in the store."""

    etag: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Sighting:
    """Where this host last saw a segment, and when (seconds since the epoch).

    `inline`: only inside manifests; `stored`: as a record in the store; `saturated`: as a record whose count is.
    """

    state: SightingState
    seen_at: float


class Index:
    """The index of one slot. `limit` bounds the manifests, in bytes; `sightings_limit` and `versions_limit` bound the
    others, in rows."""

    def __init__(
        self, path: Path, limit: int, sightings_limit: int = SIGHTINGS_LIMIT, versions_limit: int = VERSIONS_LIMIT
    ) -> None:
        self._path = path
        self._versions_limit = versions_limit
        self._limit = limit
        self._sightings_limit = sightings_limit
        self._limiter = trio.CapacityLimiter(1)
        self._trouble = CacheTrouble(f"the index {path}")
        self._connection: sqlite3.Connection | None = None
        self._reset_figures()

    @classmethod
    def open(
        cls, path: Path, limit: int, sightings_limit: int = SIGHTINGS_LIMIT, versions_limit: int = VERSIONS_LIMIT
    ) -> Self:
        """The index at `path`, empty where it is new or was useless; blocks. Without a working disk it stays empty."""
        index = cls(path, limit, sightings_limit, versions_limit)
        index._connect()
        return index

    async def manifest(self, id: str) -> CachedManifest | None:
        """The manifest of that conversation as it was last cached, or None."""
        return (await self.manifests([id])).get(id)

    async def manifests(self, ids: Sequence[str]) -> dict[str, CachedManifest]:
        """Those of the manifests that are cached."""
        return await self._run(lambda connection: self._read_manifests(connection, ids), {})

    async def put_manifests(self, entries: Mapping[str, CachedManifest | None]) -> None:
        """Caches manifests in place of what was cached under their ids (None: nothing); those used longest ago go."""
        await self._run(lambda connection: self._write_manifests(connection, entries), None)

    async def versions(self, ids: Sequence[str]) -> dict[str, CachedManifest]:
        """What is known of the versions of those conversations, by what they were under; the bodies are the caller's
        own."""
        return await self._run(lambda connection: _read_versions(connection, ids), {})

    async def put_versions(self, entries: Mapping[str, CachedManifest]) -> None:
        """Remembers versions in place of earlier ones. Where there are too many, any others go: who goes through all
        of them again and again still finds most."""
        await self._run(lambda connection: self._write_versions(connection, entries), None)

    async def sightings(self, hashes: Sequence[bytes]) -> dict[bytes, Sighting]:
        """What is known of those segments (SHA-256 keys)."""
        return await self._run(lambda connection: _read_sightings(connection, hashes), {})

    async def note_sightings(self, sightings: Mapping[bytes, Sighting]) -> None:
        """Remembers where segments were seen, unless something newer is known; the oldest sightings go."""
        await self._run(lambda connection: self._write_sightings(connection, sightings), None)

    def close(self) -> None:
        """Closes the database; blocks. Every later call finds nothing."""
        self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            try:
                connection.close()
            except sqlite3.Error as error:
                self._trouble.report(error)

    async def _run(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """The result of `work` in a transaction, or `otherwise` where the database fails."""
        return await trio.to_thread.run_sync(self._attempt, work, otherwise, limiter=self._limiter)

    def _attempt(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        if self._connection is None:
            return otherwise
        try:
            with self._transaction(self._connection):
                return work(self._connection)
        except sqlite3.Error as error:
            if primary_code(error) in DAMAGED:
                self._disconnect()
                self._rebuild(f"is damaged ({error})")
            else:
                self._trouble.report(error)
            return otherwise

    @contextmanager
    def _transaction(self, connection: sqlite3.Connection) -> Iterator[None]:
        try:
            with transaction(connection):
                yield
        except BaseException:
            self._reset_figures()
            raise

    def _reset_figures(self) -> None:
        """Figures that mirror the database are read from it when they are needed next."""
        self._size: int | None = None
        self._generation: int | None = None
        self._written = 0
        self._sighted: int | None = None
        self._versions: int | None = None

    def _connect(self) -> None:
        try:
            private_directory(self._path.parent)
            self._connection = self._open_database()
        except OtherSchema as error:
            self._rebuild(f"is of another version ({error})")
        except sqlite3.Error as error:
            if primary_code(error) in DAMAGED:
                self._rebuild(f"is damaged ({error})")
            else:
                self._trouble.report(error)
        except OSError as error:
            self._trouble.report(error)

    def _rebuild(self, reason: str) -> None:
        logger.warning("the index %s %s: it is rebuilt", self._path, reason)
        try:
            # The log first: left beside a new database, it would be taken for that one's.
            for suffix in ("-wal", ""):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            self._connection = self._open_database()
        except (OSError, sqlite3.Error) as error:
            self._trouble.report(error)

    def _open_database(self) -> sqlite3.Connection:
        return connect(self._path, synchronous="NORMAL", schema=SCHEMA, version=SCHEMA_VERSION, page_size=PAGE_SIZE)

    # Manifests

    def _read_manifests(self, connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, CachedManifest]:
        generation = self._current_generation(connection)
        found = {}
        damaged = []
        used = []
        for chunk, holes in _chunks([key_of(id) for id in ids]):
            for key, etag, checksum, body, number, last_used in connection.execute(
                "SELECT id, etag, checksum, body, number, generation FROM manifests JOIN uses USING (number)"
                f" WHERE id IN ({holes})",
                chunk,
            ):
                if checksum != _checksum(etag, body):
                    damaged.append(id_of(key))
                    continue
                found[id_of(key)] = CachedManifest(etag, body)
                if last_used < generation:
                    used.append((generation, number))
        if damaged:
            logger.warning("%d manifests in the index %s are damaged: they are fetched again", len(damaged), self._path)
            self._drop_manifests(connection, damaged)
        connection.executemany("UPDATE uses SET generation = ? WHERE number = ?", used)
        return found

    def _write_manifests(self, connection: sqlite3.Connection, entries: Mapping[str, CachedManifest | None]) -> None:
        self._drop_manifests(connection, entries)
        size = self._current_size(connection)
        for id, entry in entries.items():
            if entry is None:
                continue
            key = key_of(id)
            cost = ROW_COST + len(key) + len(entry.etag) + len(entry.body)
            if cost > self._limit:
                continue  # it would only drive out everything else
            generation = self._current_generation(connection)
            inserted = connection.execute(
                "INSERT INTO manifests (id, etag, checksum, body) VALUES (?, ?, ?, ?)",
                (key, entry.etag, _checksum(entry.etag, entry.body), entry.body),
            )
            connection.execute("INSERT INTO uses VALUES (?, ?, ?)", (inserted.lastrowid, generation, cost))
            size += cost
            self._written += cost
            if self._written * GENERATIONS >= self._limit:
                self._generation = generation + 1
                self._written = 0
        if size > self._limit:
            size -= _evict_manifests(connection, size - self._limit)
        self._size = size

    def _drop_manifests(self, connection: sqlite3.Connection, ids: Iterable[str]) -> None:
        freed = 0
        for chunk, holes in _chunks([key_of(id) for id in ids]):
            dropped = connection.execute(
                f"DELETE FROM uses WHERE number IN (SELECT number FROM manifests WHERE id IN ({holes})) RETURNING size",
                chunk,
            )
            freed += sum(size for (size,) in dropped)
            connection.execute(f"DELETE FROM manifests WHERE id IN ({holes})", chunk)
        self._size = self._current_size(connection) - freed

    def _current_size(self, connection: sqlite3.Connection) -> int:
        if self._size is None:
            (self._size,) = connection.execute("SELECT COALESCE(SUM(size), 0) FROM uses").fetchone()
        assert self._size is not None
        return self._size

    def _current_generation(self, connection: sqlite3.Connection) -> int:
        if self._generation is None:
            (self._generation,) = connection.execute("SELECT COALESCE(MAX(generation), 0) FROM uses").fetchone()
        assert self._generation is not None
        return self._generation

    # Versions

    def _write_versions(self, connection: sqlite3.Connection, entries: Mapping[str, CachedManifest]) -> None:
        if self._versions is None:
            (self._versions,) = connection.execute("SELECT COUNT(*) FROM versions").fetchone()
        rows = [
            (key_of(id), entry.etag, _checksum(entry.etag, entry.body), entry.body) for id, entry in entries.items()
        ]
        added = connection.executemany("INSERT OR IGNORE INTO versions VALUES (?1, ?2, ?3, ?4)", rows).rowcount
        if added < len(rows):
            connection.executemany("INSERT OR REPLACE INTO versions VALUES (?1, ?2, ?3, ?4)", rows)
        self._versions = (self._versions or 0) + added
        if self._versions > self._versions_limit:
            dropped = connection.execute(
                "DELETE FROM versions WHERE id IN (SELECT id FROM versions ORDER BY random() LIMIT ?)",
                (self._versions - self._versions_limit + self._versions_limit // GENERATIONS,),
            )
            self._versions -= dropped.rowcount

    # Sightings

    def _write_sightings(self, connection: sqlite3.Connection, sightings: Mapping[bytes, Sighting]) -> None:
        if self._sighted is None:
            (self._sighted,) = connection.execute("SELECT COUNT(*) FROM sightings").fetchone()
        rows = [(sighting.state, sighting.seen_at, hash) for hash, sighting in sightings.items()]
        added = connection.executemany("INSERT OR IGNORE INTO sightings (state, seen_at, hash) VALUES (?, ?, ?)", rows)
        self._sighted = (self._sighted or 0) + added.rowcount
        connection.executemany("UPDATE sightings SET state = ?1, seen_at = ?2 WHERE hash = ?3 AND seen_at <= ?2", rows)
        if self._sighted > self._sightings_limit:
            dropped = connection.execute(
                "DELETE FROM sightings WHERE hash IN (SELECT hash FROM sightings ORDER BY seen_at LIMIT ?)",
                (self._sighted - self._sightings_limit,),
            )
            self._sighted -= dropped.rowcount


def _read_versions(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, CachedManifest]:
    return {
        id_of(key): CachedManifest(etag, body)
        for chunk, holes in _chunks([key_of(id) for id in ids])
        for key, etag, checksum, body in connection.execute(f"SELECT * FROM versions WHERE id IN ({holes})", chunk)
        # What is damaged is fetched, and written over.
        if checksum == _checksum(etag, body)
    }


def _read_sightings(connection: sqlite3.Connection, hashes: Sequence[bytes]) -> dict[bytes, Sighting]:
    return {
        hash: Sighting(state, seen_at)
        for chunk, holes in _chunks(hashes)
        for hash, state, seen_at in connection.execute(f"SELECT * FROM sightings WHERE hash IN ({holes})", chunk)
    }


def read_prefixes(connection: sqlite3.Connection, *, size: int) -> bytes:
    """The first `size` bytes of the hash of every sighting, in order, one after the other."""
    prefixes = bytearray()
    for (prefix,) in connection.execute("SELECT SUBSTR(hash, 1, ?) FROM sightings ORDER BY hash", (size,)):
        prefixes += prefix
    return bytes(prefixes)


def _evict_manifests(connection: sqlite3.Connection, excess: int) -> int:
    """Drops the manifests used longest ago until `excess` bytes are free. Returns how many bytes are."""
    freed = 0
    numbers = []
    for number, size in connection.execute("SELECT number, size FROM uses ORDER BY generation, number"):
        if freed >= excess:
            break
        freed += size
        numbers.append((number,))
    connection.executemany("DELETE FROM manifests WHERE number = ?", numbers)
    connection.executemany("DELETE FROM uses WHERE number = ?", numbers)
    return freed


def _chunks(keys: Sequence[bytes]) -> Iterator[tuple[Sequence[bytes], str]]:
    """The keys in parts that one statement can take, each with as many parameter signs."""
    for start in range(0, len(keys), CHUNK):
        chunk = keys[start : start + CHUNK]
        yield chunk, ",".join("?" * len(chunk))


def key_of(id: str) -> bytes:
    """The bytes of a name, which need not be UTF-8; independent of the locale."""
    return id.encode("utf-8", "surrogateescape")


def id_of(key: bytes) -> str:
    """The name of which these are the bytes."""
    return key.decode("utf-8", "surrogateescape")


def _checksum(etag: str, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(etag.encode()))
