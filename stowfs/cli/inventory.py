"""What things cost in the store: bytes and objects by kind."""

from dataclasses import dataclass, field

from stowfs.store.base import ObjectStore
from stowfs.vault.layout import LayoutReader
from stowfs.vault.manifest import Snapshot
from stowfs.vault.naming import BLOBS, DESCRIPTOR, DICTIONARIES, INDEX, MANIFESTS, SEGMENTS, children_prefix
from stowfs.vault.vault import Vault

KINDS = {
    "manifests": MANIFESTS,
    "segments": SEGMENTS,
    "blobs": BLOBS,
    "dictionaries": DICTIONARIES,
    "index": INDEX,
    "descriptor": DESCRIPTOR,
}
"""Kinds of objects by the beginning of their keys; what has another one is 'other'."""


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


def _kind(key: str) -> str:
    return next((kind for kind, prefix in KINDS.items() if key.startswith(prefix)), "other")
