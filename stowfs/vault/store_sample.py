"""A random sample of what is in a store, to train a dictionary on."""

import random
from dataclasses import dataclass

import trio

from stowfs.config import MIB
from stowfs.errors import CorruptObject, NoSuchPath, UnsupportedVersion
from stowfs.store.base import ObjectStore
from stowfs.vault import manifest as manifests
from stowfs.vault.naming import BLOBS, MANIFESTS, SEGMENTS, digest_of_segment, path_of_manifest
from stowfs.vault.parallel import each
from stowfs.vault.progress import UNWATCHED, Progress
from stowfs.vault.samples import Sample, Samples
from stowfs.vault.training import ENOUGH
from stowfs.vault.vault import Vault

KEYS = 1 * MIB
"""Bytes of the keys of which some are read: thousands."""

AT_ONCE = 32
"""Objects read at once; the store has a limit of its own."""


@dataclass(frozen=True, slots=True)
class StoreSample:
    """`raw_bytes`: of everything in the store that is compressed, estimated."""

    samples: Samples
    raw_bytes: float


async def sample_store(store: ObjectStore, vault: Vault, progress: Progress = UNWATCHED) -> StoreSample:
    """Reads some mebibytes of the store. What cannot be read is left out. Raises store errors."""
    chosen = Sample(KEYS, random.Random())
    stored = 0
    for prefix in (MANIFESTS, SEGMENTS, BLOBS):
        async for page in store.list(prefix):
            stored += sum(info.size for info in page.objects)
            for info in page.objects:
                if prefix != BLOBS:
                    chosen.offer(info.key.encode())
    keys = [key.decode() for key in chosen]
    random.shuffle(keys)
    samples = Samples()
    read = 0
    progress.expect(ENOUGH)

    async def one(key: str) -> tuple[list[bytes], int]:
        try:
            if key.startswith(SEGMENTS):
                digest = digest_of_segment(key)
                record = await vault.counts.read(digest)
                if record is None or record.header.state == "dead":
                    return [], 0
                return [await vault.segments.fetch(digest)], record.header.stored_size
            snapshot = await vault.head(path_of_manifest(key))
        except (CorruptObject, NoSuchPath, UnsupportedVersion):
            return [], 0
        return [manifests.encode_header(snapshot.manifest), snapshot.inline], snapshot.stored_size

    for start in range(0, len(keys), AT_ONCE):
        for parts, size in await each(one, keys[start : start + AT_ONCE]):
            read += size
            before = samples.seen
            samples.offer(parts)
            progress.advance(samples.seen - before)
        if samples.seen >= ENOUGH:
            break
        await trio.lowlevel.checkpoint()
    return StoreSample(samples, stored * samples.seen / read if read else 0.0)
