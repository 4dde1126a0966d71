"""What one conversation uses in the store."""

from collections.abc import Collection
from dataclasses import dataclass

import msgspec

from stowfs.store.base import ByteRange, Found, ObjectStore
from stowfs.vault.manifest import Snapshot
from stowfs.vault.naming import segment_key
from stowfs.vault.parallel import each
from stowfs.vault.record import Header

HEADER_LIMIT = 16 * 1024
"""Bytes in which the header of a segment record surely ends: its ring of ids takes one or two thousand."""

REQUESTS = 32
"""Headers asked for at once; the store has a limit of its own."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one conversation uses. Its segments (pages of references among them) may be used by others, too.

    `manifest_bytes` includes `inline_bytes`, which are counted raw.
    """

    segments: int
    segment_bytes: int
    inline_bytes: int
    manifest_bytes: int


async def measure(store: ObjectStore, snapshot: Snapshot, digests: Collection[str]) -> Footprint:
    """What a version with the segments `digests` uses: asks for the header of each. Raises store errors."""

    async def stored_size(digest: str) -> int:
        found = await store.get(segment_key(digest), byte_range=ByteRange(0, HEADER_LIMIT))
        assert isinstance(found, Found)
        return msgspec.json.decode(found.body.partition(b"\n")[0], type=Header).stored_size

    sizes = await each(stored_size, digests, limit=REQUESTS)
    return Footprint(len(digests), sum(sizes), snapshot.manifest.inline, snapshot.stored_size)
