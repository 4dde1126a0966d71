"""Reading segments: memory, then the local disk, then the store; each segment fetched once however many ask for it.

Whatever comes from disk or store is checked against its SHA-256 before anybody sees it. A damaged cache file is a
miss; a damaged object in the store is `CorruptObject`.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import trio

from stowfs.codec import Dictionary
from stowfs.errors import CorruptObject, MissingSegment, ObjectNotFound, StowError
from stowfs.hot.segments import CachedSegment, SegmentFiles
from stowfs.store.base import ObjectStore
from stowfs.vault import record as records
from stowfs.vault.batching import Batcher, carry_out
from stowfs.vault.dictionaries import Dictionaries
from stowfs.vault.lru import Lru
from stowfs.vault.manifest import NO_BLOBS, Reference
from stowfs.vault.naming import blob_key, segment_key
from stowfs.vault.record import Payload
from stowfs.vault.untrusted import read_bounded

log = logging.getLogger(__name__)

INLINE_DECODE = 16 * 1024
"""Compressed bytes up to which a segment is decompressed and checked on the event loop: below, a thread costs more
than the work."""


UNWRITTEN = 32
"""Segments that readers have and the disk has not yet, at most: several batches, some megabytes, or a dozen of them
where they are large."""

BATCH = 8
"""Segments that go to a thread together at most: a millisecond or two of work, for which the first of them waits."""


@dataclass(slots=True)
class SegmentCounts:
    """Segments that were asked for: found in memory, found on the local disk, fetched from the store."""

    memory_hits: int = 0
    disk_hits: int = 0
    misses: int = 0


class SegmentReader:
    """The raw bytes of segments by digest."""

    def __init__(
        self,
        store: ObjectStore,
        files: SegmentFiles,
        dictionaries: Dictionaries,
        nursery: trio.Nursery,
        *,
        memory: int,
        threads: trio.CapacityLimiter,
    ) -> None:
        self._store = store
        self._files = files
        self._dictionaries = dictionaries
        self._nursery = nursery
        self._memory = Lru[bytes](memory, len)
        self._unpacking = Batcher[Callable[[], bytes], bytes](
            nursery, threads, carry_out, threads=round(threads.total_tokens), most=BATCH
        )
        # One at a time: more threads write no faster to a page cache, and take turns at the interpreter.
        self._writing = Batcher[Callable[[], None], None](
            nursery, trio.CapacityLimiter(1), carry_out, threads=1, most=BATCH
        )
        self._flights: dict[str, _Flight] = {}
        self._unwritten = 0
        self.counts = SegmentCounts()

    @property
    def memory_limit(self) -> int:
        """Bytes of decompressed segments that memory may hold."""
        return self._memory.limit

    @property
    def memory_used(self) -> int:
        """Bytes of decompressed segments in memory."""
        return self._memory.used

    async def fetch(self, reference: Reference, blobs: Mapping[str, str] = NO_BLOBS) -> bytes:
        """The raw bytes of a segment, verified. `blobs`: where its bytes probably are (see `Snapshot.blobs`).

        Raises `CorruptObject` and store errors.
        """
        digest = reference.digest
        data = self._memory.get(digest)
        if data is not None:
            self.counts.memory_hits += 1
            return data
        flight = self._flights.get(digest) or self._start(reference, blobs)
        await flight.landed.wait()
        if flight.error is not None:
            raise flight.error
        assert flight.data is not None
        return flight.data

    async def kept(self, digest: str) -> bytes | None:
        """The raw bytes of a segment, verified, if this host has them: the store is asked for nothing but a dictionary.
        Raises store errors."""
        data = self._memory.get(digest)
        if data is None and (cached := await self._files.get(bytes.fromhex(digest))) is not None:
            try:
                data = await self._open(digest, cached)
            except CorruptObject as error:
                log.warning("cached segment %s cannot be read: %s", digest, error)
        return data

    def prefetch(self, references: Iterable[Reference], blobs: Mapping[str, str] = NO_BLOBS) -> None:
        """Begins to fetch segments that will probably be asked for; errors are left to whoever asks."""
        for reference in references:
            if self._memory.get(reference.digest) is None and reference.digest not in self._flights:
                self._start(reference, blobs)

    async def keep(self, payloads: Iterable[Payload]) -> None:
        """Keeps segments on the disk that the caller has just stored: they can be read without the store."""
        for payload in payloads:
            segment = CachedSegment(payload.dictionary, payload.raw_size, payload.compressed)
            await self._files.put(bytes.fromhex(payload.digest), segment)

    async def keep_pages(self, payloads: Iterable[Payload]) -> None:
        """Keeps the pages among them: the next commit asks what they reference."""
        await self.keep(payload for payload in payloads if payload.type == "page")

    def _start(self, reference: Reference, blobs: Mapping[str, str]) -> "_Flight":
        flight = self._flights[reference.digest] = _Flight()
        self._nursery.start_soon(self._fly, reference, blobs.get(reference.digest), flight)
        return flight

    async def _fly(self, reference: Reference, blob: str | None, flight: "_Flight") -> None:
        digest = reference.digest
        fetched = None
        try:
            flight.data, fetched = await self._load(reference, blob)
            self._memory.put(digest, flight.data)
            if fetched is not None and self._unwritten >= UNWRITTEN:
                # The disk cannot follow: readers go at its pace.
                await self._write(digest, fetched)
                fetched = None
        except Exception as error:  # noqa: BLE001 - handed to everybody who waits for this flight
            flight.error = error
        except BaseException:
            flight.error = StowError("the vault was closed during a read")
            raise
        finally:
            del self._flights[digest]
            flight.landed.set()
        if fetched is not None:
            await self._write(digest, fetched)

    async def _write(self, digest: str, segment: CachedSegment) -> None:
        self._unwritten += 1
        try:
            await self._writing.run(partial(self._files.write, bytes.fromhex(digest), segment))
        finally:
            self._unwritten -= 1

    async def _load(self, reference: Reference, blob: str | None) -> tuple[bytes, CachedSegment | None]:
        """The raw bytes of a segment, and as what it was fetched where it was not on the disk."""
        digest = reference.digest
        cached = await self._files.get(bytes.fromhex(digest))
        if cached is not None:
            try:
                data = await self._open(digest, cached)
                self.counts.disk_hits += 1
                return data, None
            except CorruptObject as error:
                log.warning("cached segment %s is damaged and is fetched again: %s", digest, error)
                await self._files.discard(bytes.fromhex(digest))
        self.counts.misses += 1
        if blob is not None and reference.level == 0:
            try:
                return await self._load_blob(reference, blob)
            except (ObjectNotFound, CorruptObject) as error:
                log.debug("segment %s is not where a manifest says: %s", digest, error)
        segment = await self._get(digest)
        return await self._open(digest, segment), segment

    async def _load_blob(self, reference: Reference, blob: str) -> tuple[bytes, CachedSegment]:
        """As `_load`, from the store, without its record. What was made with a dictionary is taken for damaged: only
        the record says whether that is the right one."""
        found = await read_bounded(self._store, blob_key(reference.digest, blob))
        segment = CachedSegment(None, reference.size, found.body)
        return await self._open(reference.digest, segment), segment

    async def _get(self, digest: str) -> CachedSegment:
        """A segment as the store has it, following its redirect."""
        for last_try in (False, True):
            record = await self._record(digest)
            header = record.header
            if header.redirect is None:
                return CachedSegment(header.dictionary, header.raw_size, record.payload)
            try:
                blob = await read_bounded(self._store, blob_key(digest, header.redirect))
            except ObjectNotFound:
                # Recompressed between the two requests: the record now points elsewhere.
                if last_try:
                    raise CorruptObject(f"the bytes of segment {digest} are missing in the store") from None
                continue
            return CachedSegment(header.dictionary, header.raw_size, blob.body)
        raise AssertionError("unreachable")

    async def _record(self, digest: str) -> records.Record:
        try:
            found = await read_bounded(self._store, segment_key(digest))
        except ObjectNotFound:
            raise MissingSegment(digest, f"segment {digest} is missing in the store") from None
        record = records.decode(digest, found.body)
        if record.header.state == "dead":
            raise MissingSegment(digest, f"segment {digest} was collected")
        return record

    async def _open(self, digest: str, segment: CachedSegment) -> bytes:
        dictionary = await self._dictionaries.of(segment.payload)
        if len(segment.payload) <= INLINE_DECODE:
            return unpack_verified(digest, segment, dictionary)
        return await self._unpacking.run(partial(unpack_verified, digest, segment, dictionary))


class _Flight:
    """One fetch under way, and everybody who waits for it."""

    def __init__(self) -> None:
        self.landed = trio.Event()
        self.data: bytes | None = None
        self.error: Exception | None = None


def unpack_verified(digest: str, segment: CachedSegment, dictionary: Dictionary | None) -> bytes:
    """The raw bytes of a stored segment. Raises `CorruptObject` unless they have the digest, and were made with the
    dictionary that is named beside them: by that name, nobody deletes it."""
    if segment.dictionary != (dictionary.name if dictionary else None):
        raise CorruptObject(f"segment {digest} names a dictionary that it was not made with")
    raw = records.unpack(digest, segment.raw_size, segment.payload, dictionary)
    if hashlib.sha256(raw).hexdigest() != digest:
        raise CorruptObject(f"segment {digest} does not match its SHA-256")
    return raw
