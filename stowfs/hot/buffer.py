"""The index with its writes gathered: one transaction for many commits instead of two for each.

What is not written yet is found all the same. A crash forgets the last few entries, which costs a cache nothing but a
request each.
"""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from stowfs.hot.index import SIGHTINGS_LIMIT, CachedManifest, Index, Sighting

ENTRIES = 128
"""Entries gathered at most: by then the transaction is a small part of what writing them takes."""

BYTES = 1 << 20
"""Bytes of manifests gathered at most, so that large ones do not pile up in memory."""


class BufferedIndex(Index):
    """An `Index` that writes in batches, and at the latest when it is closed."""

    def __init__(self, path: Path, limit: int, sightings_limit: int = SIGHTINGS_LIMIT) -> None:
        super().__init__(path, limit, sightings_limit)
        # None: to be removed.
        self._new_manifests: dict[str, CachedManifest | None] = {}
        self._new_sightings: dict[bytes, Sighting] = {}
        self._new_bytes = 0

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
        self._new_bytes += sum(len(entry.body) for entry in entries.values() if entry is not None)
        await self._write_many()

    def forget_manifest(self, id: str) -> None:
        """Removes a manifest from the cache; from the disk with the next batch."""
        if self._connection is not None:
            self._new_manifests[id] = None

    async def sightings(self, hashes: Sequence[bytes]) -> dict[bytes, Sighting]:
        """What is known of those segments (SHA-256 keys)."""
        new = {hash: self._new_sightings[hash] for hash in hashes if hash in self._new_sightings}
        rest = [hash for hash in hashes if hash not in new]
        return {**await super().sightings(rest), **new} if rest else new

    async def note_sightings(self, sightings: Mapping[bytes, Sighting]) -> None:
        """Remembers where segments were seen, unless something newer is known; the oldest sightings go."""
        if self._connection is None:
            return
        for hash, sighting in sightings.items():
            known = self._new_sightings.get(hash)
            if known is None or known.seen_at <= sighting.seen_at:
                self._new_sightings[hash] = sighting
        await self._write_many()

    def close(self) -> None:
        """Writes what is left and closes the database; blocks. Every later call finds nothing."""
        self._attempt(self._writing(), None)
        super().close()

    async def _write_many(self) -> None:
        """Writes what has gathered, if it is enough. Whoever reads meanwhile waits for it: one at a time has the
        database."""
        if max(len(self._new_manifests), len(self._new_sightings)) >= ENTRIES or self._new_bytes >= BYTES:
            await self._run(self._writing(), None)

    def _writing(self) -> Callable[[sqlite3.Connection], None]:
        """Takes what has gathered; what is returned writes it."""
        manifests, sightings = self._new_manifests, self._new_sightings
        self._new_manifests, self._new_sightings, self._new_bytes = {}, {}, 0

        def write(connection: sqlite3.Connection) -> None:
            self._write_manifests(connection, manifests)
            self._write_sightings(connection, sightings)

        return write
