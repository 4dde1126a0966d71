"""Reading one object for a check: all of it, verified, in bounded memory, and without any cache."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import trio

from stowfs.errors import CorruptObject, ObjectNotFound, UnsupportedVersion
from stowfs.hot.segments import CachedSegment
from stowfs.store.base import ByteRange, Found, ObjectStore
from stowfs.tasks import run_long
from stowfs.vault import record as records
from stowfs.vault.dictionaries import Dictionaries, DictionaryLost
from stowfs.vault.naming import blob_key, segment_key
from stowfs.vault.record import Header
from stowfs.vault.segments import unpack_verified
from stowfs.vault.untrusted import read_bounded

T = TypeVar("T")

RECORD_LIMIT = records.HEADER_LIMIT + records.RAW_LIMIT
"""Bytes of a record that are read: no honest one is longer."""

REREADS = 5
"""Times a record is read again because its payload moved meanwhile. It takes a recompression each time."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """One segment as it is in the store.

    `etag`: of its record (`None`: there is none). `header`: what the record says, if it makes sense, else `damage`
    says why not, and `newer` whether a later stowfs wrote it. Of a live segment, `raw` are its bytes; where they cannot
    be had, `damage` says why, and `blob_missing` whether it is only that the redirected payload is gone,
    `lost_dictionary` the key of the dictionary that is.
    """

    digest: str
    etag: str | None = None
    header: Header | None = None
    raw: bytes | None = None
    damage: str | None = None
    newer: bool = False
    blob_missing: bool = False
    lost_dictionary: str | None = None


class Inspector:
    """Reads segments from a store."""

    def __init__(self, store: ObjectStore, threads: trio.CapacityLimiter, *, dictionary: str) -> None:
        self.dictionaries = Dictionaries(store, active_id=dictionary)
        self._store = store
        self._threads = threads

    async def segment(self, digest: str) -> Inspection:
        """Reads and verifies a record and its payload. Raises store errors."""
        inspection = Inspection(digest)
        for _ in range(REREADS):
            inspection = await self._segment(digest)
            if not inspection.blob_missing or await self._etag(digest) == inspection.etag:
                break
        return inspection

    async def header(self, digest: str) -> Header | None:
        """What the record of a segment says; `None` where there is none. Raises `CorruptObject`,
        `UnsupportedVersion`."""
        try:
            found = await self._store.get(segment_key(digest), byte_range=ByteRange(0, records.HEADER_LIMIT))
        except ObjectNotFound:
            return None
        assert isinstance(found, Found)
        return records.decode_header(digest, found.body)

    async def blob(self, digest: str, revision: str, limit: int) -> bytes:
        """A redirected payload. Raises `ObjectNotFound`, and `CorruptObject` where it is longer than `limit`."""
        return (await self.bounded(blob_key(digest, revision), limit)).body

    async def bounded(self, key: str, limit: int) -> Found:
        """An object of at most `limit` bytes. Raises `ObjectNotFound`, and `CorruptObject` where it is longer."""
        return await read_bounded(self._store, key, limit=limit)

    async def run(self, size: int, function: Callable[..., T], *arguments: object) -> T:
        """Calls a function that works on `size` bytes: here, or in a thread where that takes long."""
        return await run_long(partial(function, *arguments), size, self._threads)

    async def _segment(self, digest: str) -> Inspection:
        try:
            found = await self.bounded(segment_key(digest), RECORD_LIMIT)
        except ObjectNotFound:
            return Inspection(digest)
        except CorruptObject as error:
            return Inspection(digest, await self._etag(digest), damage=str(error))
        try:
            record = records.decode(digest, found.body)
        except (CorruptObject, UnsupportedVersion) as error:
            newer = isinstance(error, UnsupportedVersion)
            return Inspection(digest, found.etag, damage=str(error), newer=newer)
        header = record.header
        if header.state == "dead":
            return Inspection(digest, found.etag, header)
        try:
            payload = record.payload
            if header.redirect is not None:
                payload = await self.blob(digest, header.redirect, RECORD_LIMIT)
            if len(payload) != header.stored_size:
                raise CorruptObject(f"the payload has {len(payload)} bytes, not {header.stored_size}")
            stored = CachedSegment(header.dictionary, header.raw_size, payload)
            dictionary = await self.dictionaries.of(payload)
            raw = await self.run(len(payload), unpack_verified, digest, stored, dictionary)
        except ObjectNotFound:
            return Inspection(digest, found.etag, header, damage="the payload is missing", blob_missing=True)
        except DictionaryLost as error:
            return Inspection(digest, found.etag, header, damage=str(error), lost_dictionary=error.key)
        except CorruptObject as error:
            return Inspection(digest, found.etag, header, damage=str(error))
        return Inspection(digest, found.etag, header, raw)

    async def _etag(self, digest: str) -> str | None:
        try:
            found = await self._store.get(segment_key(digest), byte_range=ByteRange(0, 1))
        except ObjectNotFound:
            return None
        assert isinstance(found, Found)
        return found.etag
