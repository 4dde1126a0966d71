"""Which directories may have bundles: the manifest of each says so, from its birth on and for good.

Whatever comes under the key of a directory later, a tombstone or a conversation, keeps what the first one there said
(see `commit`). So what is known of a directory stays true, and most often nobody has to be asked.
"""

from collections.abc import Awaitable, Callable

from stowfs.errors import CorruptObject, UnsupportedVersion
from stowfs.store.base import Found
from stowfs.vault import manifest as manifests
from stowfs.vault.dictionaries import Dictionaries
from stowfs.vault.lru import Lru
from stowfs.vault.manifest import Snapshot
from stowfs.vault.naming import MANIFESTS, children_prefix, manifest_key, path_of_prefix

MEMORY = 20_000
"""Directories of which it is remembered: some four megabytes."""

Read = Callable[[str], Awaitable[Found | None]]
"""What is under a key; None: nothing."""


class BundledDirectories:
    """The directories of a store. `enabled`: false for one in which there are no bundles."""

    def __init__(self, read: Read, dictionaries: Dictionaries, *, enabled: bool) -> None:
        self._read = read
        self._dictionaries = dictionaries
        self._enabled = enabled
        self._known = Lru[bool](MEMORY, lambda _: 1)

    def note(self, directory: Snapshot) -> None:
        """What is under the path of a directory."""
        if self._enabled:
            self._known.put(children_prefix(directory.path), directory.manifest.bundles)

    async def may_hold(self, prefix: str) -> bool:
        """Whether the directory whose children have that prefix has bundles, or nobody knows. Raises store errors."""
        return await self._ask(prefix) is not False

    async def holds(self, prefix: str) -> bool:
        """Whether bundles may be put into it. Raises store errors."""
        return await self._ask(prefix) is True

    async def _ask(self, prefix: str) -> bool | None:
        """None: nobody knows, since its manifest cannot be read. Where there is none, there are no bundles yet."""
        if not self._enabled or prefix == MANIFESTS:
            return False
        known = self._known.get(prefix)
        if known is not None:
            return known
        try:
            path = path_of_prefix(prefix)
            found = await self._read(manifest_key(path))
            if found is None:
                return False
            dictionary = await self._dictionaries.of(found.body)
            snapshot = manifests.decode(path, found.etag, found.body, dictionary)
        except (CorruptObject, UnsupportedVersion):
            return None
        self.note(snapshot)
        return snapshot.manifest.bundles
