"""What a store really references, counted from its manifests, against what its segment records say."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field

from stowfs.store.base import Found, ObjectStore
from stowfs.vault import manifest as manifests
from stowfs.vault import pages, record
from stowfs.vault.bundled_store import BundledStore
from stowfs.vault.dictionaries import Dictionaries
from stowfs.vault.manifest import Reference, Snapshot
from stowfs.vault.naming import MANIFESTS, SEGMENTS, blob_key, path_of_manifest


@dataclass
class Audit:
    """`dangling`: referenced, and not there. `too_low`/`too_high`: counts that are off. `orphan_blobs`: nobody points
    there. `uncounted`: had many references, and has few."""

    dangling: set[str] = field(default_factory=set)
    too_low: set[str] = field(default_factory=set)
    too_high: set[str] = field(default_factory=set)
    orphan_blobs: set[str] = field(default_factory=set)
    uncounted: set[str] = field(default_factory=set)
    segments: int = 0

    @property
    def safe(self) -> bool:
        """Nothing is lost, and nothing can be."""
        return not self.dangling and not self.too_low

    @property
    def exact(self) -> bool:
        """Safe, and nothing leaks."""
        return self.safe and not self.too_high and not self.orphan_blobs


async def audit(store: ObjectStore, *, many: int = record.MANY) -> Audit:
    """Reads everything. To be called when nothing is being committed. `many`: the count that means "uncounted"."""
    result = Audit()
    dictionaries = Dictionaries(store)
    records: dict[str, record.Record] = {}
    raw: dict[str, bytes] = {}
    blobs: set[str] = set()
    for key in await _keys(store, SEGMENTS):
        digest = key.rpartition("/")[2]
        records[digest] = record.decode(digest, (await _get(store, key)).body)
    for key in await _keys(store, "blobs/"):
        blobs.add(key)
    for digest, entry in records.items():
        if entry.header.replaced is not None:
            blobs.discard(blob_key(digest, entry.header.replaced.revision))
        if entry.header.state == "dead":
            continue
        result.segments += 1
        payload = entry.payload
        if entry.header.redirect is not None:
            key = blob_key(digest, entry.header.redirect)
            if key not in blobs:
                continue
            blobs.remove(key)
            payload = (await _get(store, key)).body
        dictionary = await dictionaries.of(payload)
        data = record.unpack(digest, entry.header.raw_size, payload, dictionary)
        if hashlib.sha256(data).hexdigest() == digest:
            raw[digest] = data
    result.orphan_blobs = blobs

    async def fetch(reference: Reference) -> bytes:
        return raw[reference.digest]

    counted: Counter[str] = Counter()
    for snapshot in await snapshots(store):
        try:
            counted.update(await pages.digests(snapshot.manifest.pieces, fetch))
        except KeyError as error:
            result.dangling.add(str(error))
    result.dangling.update(digest for digest in counted if digest not in raw)
    for digest, entry in records.items():
        have = entry.header.ref_count if entry.header.state == "live" else 0
        if have >= many:
            if counted[digest] < many:
                result.uncounted.add(digest)
            continue
        if have < counted[digest]:
            result.too_low.add(digest)
        elif have > counted[digest]:
            result.too_high.add(digest)
    return result


async def snapshots(store: ObjectStore) -> list[Snapshot]:
    """Every manifest and tombstone, wherever it lies."""
    dictionaries = Dictionaries(store)
    bundled = BundledStore(store, deadline=1.0, read_only=True)
    found = []
    async for page in bundled.list(MANIFESTS):
        for info in page.objects:
            answer = await bundled.read(info)
            dictionary = await dictionaries.of(answer.body)
            found.append(manifests.decode(path_of_manifest(info.key), answer.etag, answer.body, dictionary))
    return found


async def _keys(store: ObjectStore, prefix: str) -> list[str]:
    return [info.key async for page in store.list(prefix) for info in page.objects]


async def _get(store: ObjectStore, key: str) -> Found:
    found = await store.get(key)
    assert isinstance(found, Found)
    return found


async def contents(store: ObjectStore, prefix: str = "") -> dict[str, bytes]:
    """Every object, by key."""
    return {key: (await _get(store, key)).body for key in await _keys(store, prefix)}
