"""The index with its writes gathered: one transaction for many commits instead of two for each.

What is not written yet is found all the same. Of manifests it is noted beside the database as well (`recent`): while
the store is away they are shown without asking it, and after a crash must not be older than what this host did before.
Of sightings a crash forgets the last few, which costs nothing but a request each. That a segment was never seen, which
is true of most, is told from memory (`known`).
"""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Self

from stowfs.hot.index import (
    SIGHTINGS_LIMIT,
    VERSIONS_LIMIT,
    CachedManifest,
    Index,
    Sighting,
    id_of,
    key_of,
    read_prefixes,
)
from stowfs.hot.known import PREFIX, KnownHashes
from stowfs.hot.recent import Entry, RecentEntries

ENTRIES = 128
"""Entries gathered at most: by then the transaction is a small part of what writing them takes."""

BYTES = 1 << 20
"""Bytes of manifests gathered at most, so that large ones do not pile up in memory."""


class BufferedIndex(Index):
    """An `Index` that writes in batches, and at the latest when it is closed."""

    def __init__(
        self, path: Path, limit: int, sightings_limit: int = SIGHTINGS_LIMIT, versions_limit: int = VERSIONS_LIMIT
    ) -> None:
        super().__init__(path, limit, sightings_limit, versions_limit)
        # None: to be removed.
        self._new_manifests: dict[str, CachedManifest | None] = {}
        self._new_sightings: dict[bytes, Sighting] = {}
        self._new_bytes = 0
        self._recent = RecentEntries(path.with_name(path.name + "-recent"))
        # Batches that were taken and are not in the database yet.
        self._under_way = 0
        self._known = KnownHashes()

    @classmethod
    def open(
        cls, path: Path, limit: int, sightings_limit: int = SIGHTINGS_LIMIT, versions_limit: int = VERSIONS_LIMIT
    ) -> Self:
        """As `Index.open`, with what a crash kept from being written."""
        index = super().open(path, limit, sightings_limit, versions_limit)
        index._recover()
        return index

    def _recover(self) -> None:
        """Writes what an earlier process has left, and begins to note anew."""
        if self._connection is None:
            return
        try:
            for entry in self._recent.read():
                cached = None if entry.etag is None else CachedManifest(entry.etag, entry.body)
                self._new_manifests[id_of(entry.key)] = cached
            if self._attempt(self._writing(), False):
                self._recent.begin_anew(())
        except OSError as error:
            self._trouble.report(error)

    async def manifests(self, ids: Sequence[str]) -> dict[str, CachedManifest]:
        """Those of the manifests that are cached."""
        new = {id: entry for id in ids if (entry := self._new_manifests.get(id)) is not None}
        rest = [id for id in ids if id not in self._new_manifests]
        return {**await super().manifests(rest), **new} if rest else new

    async def put_manifests(self, entries: Mapping[str, CachedManifest | None]) -> None:
        """Caches manifests in place of what was cached under their ids (None: nothing); those used longest ago go."""
        if self._connection is None:
            return  # without a database there is no cache
        self._new_manifests.update(entries)
        self._note(entries)
        self._new_bytes += sum(len(entry.body) for entry in entries.values() if entry is not None)
        await self._write_many()

    def forget_manifest(self, id: str) -> None:
        """Removes a manifest from the cache; from the disk with the next batch."""
        if self._connection is not None:
            self._new_manifests[id] = None
            self._note({id: None})

    async def sightings(self, hashes: Sequence[bytes]) -> dict[bytes, Sighting]:
        """What is known of those segments (SHA-256 keys)."""
        new = {hash: self._new_sightings[hash] for hash in hashes if hash in self._new_sightings}
        rest = [hash for hash in hashes if hash not in new and self._known.may_have(hash)]
        if not rest:
            return new
        found = await super().sightings(rest)
        if self._known.is_due and not self._under_way:
            await self._read_known()
        return {**found, **new}

    async def note_sightings(self, sightings: Mapping[bytes, Sighting]) -> None:
        """Remembers where segments were seen, unless something newer is known; the oldest sightings go."""
        if self._connection is None:
            return
        for hash, sighting in sightings.items():
            known = self._new_sightings.get(hash)
            if known is None or known.seen_at <= sighting.seen_at:
                self._new_sightings[hash] = sighting
                self._known.add(hash)
        await self._write_many()

    async def _read_known(self) -> None:
        self._known.begin(self._new_sightings)
        prefixes = None
        try:
            prefixes = await self._run(partial(read_prefixes, size=PREFIX), None)
        finally:
            self._known.end(prefixes)

    def close(self) -> None:
        """Writes what is left and closes the database; blocks. Every later call finds nothing."""
        if self._attempt(self._writing(), False):
            self._begin_anew()
        self._recent.close()
        super().close()

    async def _write_many(self) -> None:
        """Writes what has gathered, if it is enough. Whoever reads meanwhile waits for it: one at a time has the
        database."""
        if max(len(self._new_manifests), len(self._new_sightings)) >= ENTRIES or self._new_bytes >= BYTES:
            self._under_way += 1
            try:
                written = await self._run(self._writing(), False)
            finally:
                self._under_way -= 1
            if written and not self._under_way:
                self._begin_anew()

    def _note(self, entries: Mapping[str, CachedManifest | None]) -> None:
        try:
            self._recent.append(_noted(entries))
        except OSError as error:
            self._trouble.report(error)

    def _begin_anew(self) -> None:
        """The database has what was noted, but for what has gathered since."""
        try:
            self._recent.begin_anew(_noted(self._new_manifests))
        except OSError as error:
            self._trouble.report(error)

    def _writing(self) -> Callable[[sqlite3.Connection], bool]:
        """Takes what has gathered; what is returned writes it, and says that it did."""
        manifests, sightings = self._new_manifests, self._new_sightings
        self._new_manifests, self._new_sightings, self._new_bytes = {}, {}, 0

        def write(connection: sqlite3.Connection) -> bool:
            self._write_manifests(connection, manifests)
            self._write_sightings(connection, sightings)
            return True

        return write


def _noted(entries: Mapping[str, CachedManifest | None]) -> Iterator[Entry]:
    for id, entry in entries.items():
        yield Entry(key_of(id)) if entry is None else Entry(key_of(id), entry.etag, entry.body)
