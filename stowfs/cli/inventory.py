"""What things cost in the store: bytes and objects by kind, and what one conversation uses."""

from dataclasses import dataclass, field

import msgspec

from stowfs.store.base import ByteRange, Found, ObjectStore
from stowfs.vault.layout import LayoutReader
from stowfs.vault.manifest import Snapshot
from stowfs.vault.naming import BLOBS, DESCRIPTOR, MANIFESTS, SEGMENTS, children_prefix, segment_key
from stowfs.vault.parallel import each
from stowfs.vault.record import Header
from stowfs.vault.vault import Vault

KINDS = {"manifests": MANIFESTS, "segments": SEGMENTS, "blobs": BLOBS, "descriptor": DESCRIPTOR}
"""Kinds of objects by the beginning of their keys; what has another one is 'other'."""

HEADER_LIMIT = 16 * 1024
"""Bytes in which the header of a segment record surely ends: its ring of ids takes one or two thousand."""

REQUESTS = 32
"""Headers asked for at once; the store has a limit of its own."""


@dataclass(slots=True)
class Usage:
    """Objects of one kind, and their bytes."""

    objects: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        self.objects += 1
        self.bytes += size


@dataclass(slots=True)
class Inventory:
    """`raw_bytes`: the conversations as they are read; `stored`: the objects they are in, by kind."""

    conversations: int = 0
    directories: int = 0
    symlinks: int = 0
    raw_bytes: int = 0
    stored: dict[str, Usage] = field(default_factory=lambda: {kind: Usage() for kind in [*KINDS, "other"]})

    @property
    def objects(self) -> int:
        return sum(usage.objects for usage in self.stored.values())

    @property
    def stored_bytes(self) -> int:
        return sum(usage.bytes for usage in self.stored.values())

    @property
    def ratio(self) -> float | None:
        """Raw bytes for each stored byte."""
        return self.raw_bytes / self.stored_bytes if self.stored_bytes else None

    def see(self, snapshot: Snapshot) -> None:
        """Counts a conversation or directory as its reader sees it."""
        if snapshot.is_directory:
            self.directories += 1
        elif snapshot.is_symlink:
            self.symlinks += 1
        else:
            self.conversations += 1
            self.raw_bytes += snapshot.size


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one conversation uses. Its segments (pages of references among them) may be used by others, too.

    `manifest_bytes` includes `inline_bytes`, which are counted raw.
    """

    segments: int
    segment_bytes: int
    inline_bytes: int
    manifest_bytes: int


async def whole_store(store: ObjectStore, vault: Vault) -> Inventory:
    """Everything in the store, by what a listing says."""
    inventory = Inventory()
    async for page in store.list(""):
        for entry in page.objects:
            inventory.stored[_kind(entry.key)].add(entry.size)
    async for snapshot in vault.walk():
        inventory.see(snapshot)
    return inventory


async def part_of_store(store: ObjectStore, vault: Vault, top: Snapshot) -> Inventory:
    """The conversation or directory `top` with all below it: their manifests, tombstones too, and each segment once
    that any of them uses, whoever else does."""
    inventory = Inventory()
    layouts = LayoutReader(vault.segments, prefetch=0)
    digests: set[str] = set()
    if top.path:
        inventory.stored["manifests"].add(top.stored_size)
    if top.is_directory:
        async for page in store.list(children_prefix(top.path)):
            for entry in page.objects:
                inventory.stored["manifests"].add(entry.size)
        async for snapshot in vault.walk(top.path):
            inventory.see(snapshot)
            digests |= await layouts.digests(snapshot)
    else:
        inventory.see(top)
        digests = await layouts.digests(top)
    for prefix, kind in ((SEGMENTS, "segments"), (BLOBS, "blobs")):
        async for page in store.list(prefix):
            for entry in page.objects:
                if entry.key.split("/")[2] in digests:
                    inventory.stored[kind].add(entry.size)
    return inventory


async def footprint(store: ObjectStore, vault: Vault, snapshot: Snapshot) -> Footprint:
    """What a conversation uses: asks for the header of every segment. Raises store errors, `CorruptObject`."""
    digests = await LayoutReader(vault.segments, prefetch=0).digests(snapshot)

    async def stored_size(digest: str) -> int:
        found = await store.get(segment_key(digest), byte_range=ByteRange(0, HEADER_LIMIT))
        assert isinstance(found, Found)
        return msgspec.json.decode(found.body.partition(b"\n")[0], type=Header).stored_size

    sizes = await each(stored_size, digests, limit=REQUESTS)
    return Footprint(len(digests), sum(sizes), snapshot.manifest.inline, snapshot.stored_size)


def _kind(key: str) -> str:
    return next((kind for kind, prefix in KINDS.items() if key.startswith(prefix)), "other")
