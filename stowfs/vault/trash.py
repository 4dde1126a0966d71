"""The trash: tombstones that still have their content, until their period ends or their name is taken again.

Such a tombstone holds its references as a live manifest does. So bringing a conversation back is one compare-and-swap
to a live manifest with the same pieces, and emptying it is one to a tombstone without pieces, journalled like a
deletion, after which the references are released. Whoever comes second finds that the tombstone is another one.
"""

import time
from collections.abc import AsyncIterator

import msgspec

from stowfs.errors import NoSuchPath, PathExists, StowError
from stowfs.store.base import ObjectStore
from stowfs.vault.catalog import Catalog
from stowfs.vault.commit import Committer, bare_tombstone
from stowfs.vault.manifest import Attributes, Manifest, Snapshot
from stowfs.vault.naming import children_prefix, display, split
from stowfs.vault.tree import DIRECTORY_MODE, Tree


class _NotDue(StowError):
    """There is no tombstone (any more) whose period has ended."""


class Trash:
    """The deleted conversations of a store."""

    def __init__(self, store: ObjectStore, catalog: Catalog, committer: Committer, tree: Tree) -> None:
        self._store = store
        self._catalog = catalog
        self._committer = committer
        self._tree = tree

    async def walk(self, directory: str) -> AsyncIterator[Snapshot]:
        """What was deleted below a directory and can be brought back, in the order of the keys."""
        async for page in self._store.list(children_prefix(directory)):
            for snapshot in await self._catalog.resolve(page.objects):
                if in_trash(snapshot):
                    yield snapshot

    async def restore(self, path: str) -> Snapshot:
        """Brings a deleted conversation back, and the directories it was in.

        Raises `PathExists` where the name is taken again, `NoSuchPath` where there is nothing to bring back,
        `NotDirectory` where a conversation has the name of one of the directories.
        """
        deleted = await self._catalog.current(path)
        attributes = _restored(path, deleted).attributes
        await self._restore_directory(split(path)[0], attributes)
        return await self._committer.rewrite("commit", path, lambda current: _restored(path, current))

    async def empty(self, path: str, *, before: float) -> bool:
        """Gives up the content of a tombstone made before the time `before`; it is released in the background.

        Returns whether there was one. Raises `CorruptObject` where it cannot be told what it references.
        """

        def emptied(current: Snapshot | None) -> Manifest:
            if current is None or not is_due(current, before):
                raise _NotDue(display(path))
            return msgspec.structs.replace(bare_tombstone(current), deleted=current.manifest.deleted)

        try:
            await self._committer.rewrite("delete", path, emptied)
        except _NotDue:
            return False
        return True

    async def _restore_directory(self, path: str, child: Attributes) -> None:
        """Makes a directory and those it is in, as they were, where they are gone."""
        try:
            await self._tree.directory(path)
        except NoSuchPath:
            await self._restore_directory(split(path)[0], child)
        else:
            return
        deleted = await self._catalog.current(path)
        now = time.time_ns()
        attributes = deleted.attributes if deleted else Attributes(DIRECTORY_MODE, child.uid, child.gid, now, now)
        try:
            await self._committer.make_directory(path, attributes)
        except PathExists:
            # Somebody else was quicker; what they made must be a directory.
            await self._tree.directory(path)


def in_trash(snapshot: Snapshot) -> bool:
    """Whether this is a tombstone that still has content."""
    return not snapshot.manifest.live and bool(snapshot.manifest.pieces)


def is_due(snapshot: Snapshot, before: float) -> bool:
    """Whether this is a tombstone with content, made before the time `before`."""
    return in_trash(snapshot) and snapshot.manifest.deleted is not None and snapshot.manifest.deleted <= before


def _restored(path: str, current: Snapshot | None) -> Manifest:
    if current is not None and current.manifest.live:
        raise PathExists(f"{display(path)} exists: rename it, then bring the deleted one back")
    if current is None or not in_trash(current):
        raise NoSuchPath(f"{display(path)}: there is no deleted conversation of that name whose content is kept")
    attributes = msgspec.structs.replace(current.attributes, ctime_ns=time.time_ns())
    return msgspec.structs.replace(current.manifest, deleted=None, attributes=attributes)
