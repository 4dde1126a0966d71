"""Writing the index of a store (see `shards`), and removing what was in it.

Whoever finds that too much is missing lists the manifests of that range anew, and writes shards for all of it. They
are uploaded first and named by the pointer then: one that is cut off in between is garbage, and nothing else. Of two
who do the same at once, the last one is named. Whatever is named is as good, since no row is believed beyond its ETag.
"""

import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

import trio

from stowfs.errors import CorruptObject, StowError, UnsupportedVersion
from stowfs.store.base import ByteRange, Found, ObjectInfo, ObjectStore
from stowfs.vault.bundled_store import BundledStore
from stowfs.vault.cas import compare_and_swap, read_or_none
from stowfs.vault.catalog import Listed
from stowfs.vault.naming import INDEX_POINTER, INDEX_SHARDS, MANIFESTS, shard_key
from stowfs.vault.parallel import each
from stowfs.vault.shards import (
    ENTRIES,
    FULL,
    Pointer,
    Row,
    ShardInfo,
    bundle_row,
    decode_pointer,
    encode_pointer,
    encode_shard,
    row,
)
from stowfs.vault.shared_index import SharedIndex

log = logging.getLogger(__name__)

PAUSE = 60.0
"""Seconds between two times: what changes all the time is not written all the time."""

LONGEST_PAUSE = 3600.0
"""Seconds between two times where it fails again and again, for instance because this host may not write there."""

SHARDS_AT_A_TIME = 16
"""Shards written before the pointer names them; what is left of a range comes the next time."""

REMAINDER = 8
"""The part of a shard that has none of its own where no more follow: a hundred thousand in directories of a thousand
are four shards, not five."""

LARGE = 1024
"""Bytes of a version that are too much for the index: it has large extended attributes, and is fetched."""

GRACE = 3600.0
"""Seconds for which shards are kept that the pointer does not name, so that they can still be read by who has just read
the pointer, and named by who has just written them."""

DELETIONS = 32
"""Shards removed at once; the store has a limit of its own."""


class Versions(Protocol):
    """What listed manifests are, by key (`Catalog.versions`)."""

    async def __call__(self, objects: Sequence[ObjectInfo], *, note_missing: bool) -> dict[str, Listed]:
        """See there."""


class Indexer:
    """Writes the index of one store."""

    def __init__(
        self,
        store: BundledStore,
        shared: SharedIndex,
        versions: Versions,
        threads: trio.CapacityLimiter,
        *,
        deadline: float,
    ) -> None:
        self._store = store
        self._shared = shared
        self._versions = versions
        self._threads = threads
        self._deadline = deadline

    async def run(self) -> None:
        """Writes whenever that is due, for ever."""
        pause = PAUSE
        while True:
            await self._shared.wait_until_due()
            try:
                await self.write()
                pause = PAUSE
            except StowError as error:
                log.warning("the index of the store could not be written: %s", error)
                pause = min(2 * pause, LONGEST_PAUSE)
            await trio.sleep(pause)

    async def write(self) -> int:
        """Writes what is due; returns how many manifests are in the index anew. Raises store errors."""
        written = 0
        try:
            for after, last in self._shared.take_due():
                shards = await self._upload(after, last)
                if shards:
                    naming = _Naming(shards)
                    current = await _read_pointer(self._store)
                    await compare_and_swap(self._store, INDEX_POINTER, naming, first=current, deadline=self._deadline)
                    written += sum(shard.count for shard in shards)
        except BaseException:
            self._shared.give_back()
            raise
        if written:
            self._shared.written()
            log.info("%d conversations are in the index of the store anew", written)
            await remove_unnamed(self._store)
        return written

    async def _upload(self, after: str, last: str) -> list[ShardInfo]:
        """Shards for the keys greater than `after` up to `last`, or fewer of them."""
        shards: list[ShardInfo] = []
        rows: list[Row] = []
        size = 0
        async for page in self._rows(after, last):
            for new in page:
                rows.append(new)
                size += len(new[0]) + len(new[2])
                if len(rows) >= ENTRIES + ENTRIES // REMAINDER or size >= FULL:
                    full, rows = rows[:ENTRIES], rows[ENTRIES:]
                    shards.append(await self._put(full, shards[-1].last if shards else after, full[-1][0]))
                    size = sum(len(key) + len(packed) for key, _, packed in rows)
                    if len(shards) == SHARDS_AT_A_TIME:
                        return shards
        if rows:
            shards.append(await self._put(rows, shards[-1].last if shards else after, last))
        return shards

    async def _rows(self, after: str, last: str) -> AsyncIterator[list[Row]]:
        """The rows for the keys greater than `after` up to `last`, page by page."""
        # A bundle may be met before manifests are listed whose keys are smaller.
        bundles: deque[Row] = deque()
        async for expanded in self._store.expanded(MANIFESTS, start_after=after):
            objects = [info for info in expanded.page.objects if not last or info.key <= last]
            met = [info for info in expanded.bundles if not last or info.key <= last]
            held = await self._store.held_by(met)
            bundles += [bundle_row(info.key, info.etag, held[info.key]) for info in met if info.key in held]
            listed = await self._versions(objects, note_missing=False)
            rows: list[Row] = []
            for info in objects:
                while bundles and bundles[0][0] < info.key:
                    rows.append(bundles.popleft())
                entry = listed.get(info.key)
                if entry is not None and len((new := row(info.key, entry.etag, entry.version))[2]) <= LARGE:
                    rows.append(new)
            yield rows
            if len(objects) < len(expanded.page.objects):
                break
        yield [*bundles]

    async def _put(self, rows: Sequence[Row], after: str, last: str) -> ShardInfo:
        info, body = await trio.to_thread.run_sync(encode_shard, rows, after, last, limiter=self._threads)
        await self._store.put(shard_key(info.id), body)
        return info


class _Naming:
    """The pointer names new shards."""

    def __init__(self, shards: Sequence[ShardInfo]) -> None:
        self._shards = shards

    def propose(self, current: Found | None) -> bytes | None:
        pointer = Pointer("")
        if current is not None:
            try:
                pointer = decode_pointer(current.body)
            except UnsupportedVersion as error:
                log.info("the index is not written: %s", error)
                return None
            except CorruptObject as error:
                log.warning("the index of the store is begun anew: %s", error)
        named = {shard.id for shard in pointer.shards}
        if all(shard.id in named for shard in self._shards):
            return None
        return encode_pointer(pointer.having(self._shards))

    def in_doubt(self) -> None:
        """Nothing to note: the ids in the pointer tell."""


async def _read_pointer(store: ObjectStore) -> Found | None:
    """The object of the pointer; one that is absurdly large without its content."""
    try:
        return await read_or_none(store, INDEX_POINTER)
    except CorruptObject:
        found = await store.get(INDEX_POINTER, byte_range=ByteRange(0, 1))
        assert isinstance(found, Found)
        return found


async def remove_unnamed(
    store: ObjectStore, *, now: Callable[[], float] = time.time, dry_run: bool = False
) -> list[int]:
    """Removes the shards that the pointer does not name and that are an hour old; returns the bytes of each. Raises
    store errors."""
    # In this order: what is named after the listing is named when the pointer is read.
    listed = [info async for page in store.list(INDEX_SHARDS) for info in page.objects]
    current = await _read_pointer(store)
    try:
        named = {shard_key(shard.id) for shard in decode_pointer(current.body).shards} if current else set()
    except UnsupportedVersion:
        return []
    except CorruptObject:
        named = set()  # nobody can read them by it
    unnamed = [info for info in listed if info.key not in named and info.modified < now() - GRACE]
    if not dry_run:
        await each(lambda info: store.delete(info.key), unnamed, limit=DELETIONS)
    return [info.size for info in unnamed]
