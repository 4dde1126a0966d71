"""The trash: tombstones that still have their content, until their period or their deadline ends or their name is taken
again.

Such a tombstone holds its references as a live manifest does. So bringing a conversation back is one compare-and-swap
to a live manifest with the same pieces, and emptying it is one to a tombstone without pieces, journalled like a
deletion, after which the references are released. Whoever comes second finds that the tombstone is another one.

What has expired (see `expiry`) takes the same way, without a stay in the trash: nothing could be brought back.
"""

import time
from collections.abc import AsyncIterator, Callable

import msgspec

from stowfs.errors import NoSuchPath, PathExists, StowError
from stowfs.store.base import ObjectStore
from stowfs.vault import succession
from stowfs.vault.catalog import Catalog
from stowfs.vault.commit import Committer
from stowfs.vault.expiry import NANOSECONDS
from stowfs.vault.manifest import Attributes, Manifest, Snapshot
from stowfs.vault.naming import children_prefix, display, split
from stowfs.vault.tree import DIRECTORY_MODE, Tree


class _NotDue(StowError):
    """There is nothing (any more) whose time has come."""


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

        return await self._give_up(path, lambda current: is_due(current, before))

    async def give_up_expired(self, path: str, *, before: float) -> bool:
        """Makes what expired before the time `before` an empty tombstone; what it referenced is released in the
        background.

        Returns whether there was anything. Raises `CorruptObject` where it cannot be told what it references.
        """
        return await self._give_up(path, lambda current: expired_before(current, before))

    async def _give_up(self, path: str, is_due: Callable[[Snapshot], bool]) -> bool:
        def emptied(current: Snapshot | None) -> Manifest:
            if current is None or not is_due(current):
                raise _NotDue(display(path))
            bare = succession.bare_tombstone(current)
            return msgspec.structs.replace(bare, deleted=current.manifest.deleted or bare.deleted)

        try:
            await self._committer.rewrite("delete", path, emptied, careful=True)
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
        attributes = Attributes(DIRECTORY_MODE, child.uid, child.gid, now, now)
        if deleted is not None and deleted.is_directory:
            attributes = deleted.attributes
        try:
            await self._committer.make_directory(path, attributes)
        except PathExists:
            # Somebody else was quicker; what they made must be a directory.
            await self._tree.directory(path)


def in_trash(snapshot: Snapshot) -> bool:
    """Whether this is a tombstone whose content can be brought back."""
    manifest = snapshot.manifest
    return manifest.deleted is not None and manifest.holds_something and not manifest.expired


def is_due(snapshot: Snapshot, before: float) -> bool:
    """Whether this is a tombstone with content, made before the time `before`."""
    manifest = snapshot.manifest
    return manifest.deleted is not None and manifest.holds_something and manifest.deleted <= before


def expired_before(snapshot: Snapshot, before: float) -> bool:
    """Whether there is something here, live or in the trash, with a deadline before the time `before`."""
    expires_ns = snapshot.attributes.expires_ns
    return expires_ns is not None and snapshot.manifest.holds_something and expires_ns <= before * NANOSECONDS


def _restored(path: str, current: Snapshot | None) -> Manifest:
    if current is not None and current.manifest.live:
        raise PathExists(f"{display(path)} exists: rename it, then bring the deleted one back")
    if current is None or not in_trash(current):
        raise NoSuchPath(f"{display(path)}: there is no deleted conversation of that name whose content is kept")
    attributes = msgspec.structs.replace(current.attributes, ctime_ns=time.time_ns())
    return msgspec.structs.replace(current.manifest, deleted=None, attributes=attributes)
