"""Directories: making, removing, listing.

A directory exists if its manifest is live. One that was removed on one host while another created something in it is
found by the listing of its parent (there are keys below it), and on the host that created it by looking it up; then it
is made again: nothing that was written stays invisible. Where it was replaced by a file, what is below that is found by
the listing, too, and moved to a directory beside it.
"""

import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence, Set
from functools import partial

import trio

from stowfs.errors import (
    CorruptObject,
    DirectoryNotEmpty,
    IsDirectory,
    NoSuchPath,
    NotDirectory,
    PathExists,
    StoreError,
    StowError,
    UnsupportedVersion,
)
from stowfs.store.base import ObjectStore, Page
from stowfs.vault.catalog import Catalog
from stowfs.vault.commit import Committer
from stowfs.vault.conflict import conflict_path
from stowfs.vault.listing_ahead import DirectoryRead
from stowfs.vault.manifest import Attributes, Manifest, Snapshot
from stowfs.vault.naming import children_prefix, display, is_cut, manifest_key, path_of_prefix, split
from stowfs.vault.recent_listings import DirectoryListing
from stowfs.vault.ring import Ring
from stowfs.vault.version import PackedVersion, Version, encode

log = logging.getLogger(__name__)

EMPTY_FOR = 60.0
"""Seconds for which a removed directory that has only tombstones below it is not looked at again. Looking costs a
listing of all of them, and what it would find is rare: a file created in a directory at the moment of its removal."""

DIRECTORY_MODE = 0o755
"""Permissions of directories that nobody made with permissions of their own."""

Lister = Callable[[str], AsyncIterator[Page]]
"""Lists what lies directly below a prefix."""


class Tree:
    """The directories of a store."""

    def __init__(self, store: ObjectStore, catalog: Catalog, committer: Committer, *, read_only: bool) -> None:
        self._store = store
        self._catalog = catalog
        self._committer = committer
        self._read_only = read_only
        self._known_empty: dict[str, float] = {}
        # Files below which something is being moved away.
        self._uncovering: set[str] = set()

    async def head(self, path: str, *, stale_ok: bool = False) -> Snapshot:
        """What is live under `path`; `stale_ok` as in `Catalog.current`. Raises `NoSuchPath`."""
        if not path:
            return unwritten_directory("")
        try:
            snapshot = await self._catalog.current(path, stale_ok=stale_ok)
        except (CorruptObject, UnsupportedVersion):
            # Nothing but the attributes of a directory is lost with its manifest: what is in it must not be.
            if not await self._has_live(children_prefix(path)):
                raise
            return unwritten_directory(path)
        if snapshot is not None and snapshot.manifest.live:
            return snapshot
        prefix = children_prefix(path)
        if (created := self._catalog.created.last(prefix)) is not None:
            if await self._has_live(prefix):
                return await self._make_again(path, snapshot)
            self._catalog.created.forget(prefix, created)
        raise NoSuchPath(f"{display(path)}: no such conversation or directory")

    async def directory(self, path: str) -> Snapshot:
        """The directory `path`. Raises `NoSuchPath`, `NotDirectory`."""
        snapshot = await self.head(path)
        if not snapshot.is_directory:
            raise NotDirectory(f"{display(path)} is not a directory")
        return snapshot

    async def list(self, path: str) -> list[Snapshot]:
        """What is in a directory, by name. A failure in the middle is an error. Raises `NoSuchPath`, `NotDirectory`."""
        entries: list[Snapshot] = []
        prefixes: list[str] = []
        unread: set[str] = set()
        async for page in self._pages(children_prefix(path), self._directly_below):
            found = await self._catalog.resolve(page.objects)
            unread |= {info.key for info in page.objects} - {manifest_key(snapshot.path) for snapshot in found}
            entries += [snapshot for snapshot in found if snapshot.manifest.live]
            prefixes += [prefix for prefix in page.prefixes if not is_cut(prefix)]
        if prefixes:
            known = {children_prefix(entry.path) for entry in entries if entry.is_directory}
            entries += await self._without_manifest(prefixes, known, unread)
        if not entries:
            await self.directory(path)
        return sorted(entries, key=lambda entry: _order(entry.path))

    async def listing(self, path: str) -> DirectoryListing:
        """As `list_versions`, or what that said within the time for which it is believed (see `recent_listings`)."""
        return await self._catalog.listings.read(path, partial(self.list_versions, path))

    async def list_versions(self, path: str, read: DirectoryRead | None = None) -> Sequence[tuple[str, PackedVersion]]:
        """As `list`, but only names and packed versions: a large directory would not fit into memory otherwise. `read`:
        how the store is asked."""
        entries: list[tuple[str, PackedVersion]] = []
        prefixes: list[str] = []
        known: set[str] = set()
        unread: set[str] = set()
        walking = read is not None and read.walking
        async for page in self._pages(children_prefix(path), read.pages if read is not None else self._directly_below):
            asked = read.asked if read is not None else None
            found = await self._catalog.versions(page.objects, asked=asked, walking=walking)
            unread |= {info.key for info in page.objects if info.key not in found}
            live = [one for one in found.values() if one.version.live]
            entries += [(split(one.path)[1], encode(one.version)) for one in live]
            known |= {children_prefix(one.path) for one in live if one.version.is_directory}
            prefixes += [prefix for prefix in page.prefixes if not is_cut(prefix)]
        if prefixes:
            added = await self._without_manifest(prefixes, known, unread)
            entries += [(split(directory.path)[1], encode(Version.of(directory))) for directory in added]
        if not entries:
            # What something is in is a directory; this may be one that is empty.
            listed = await self._catalog.listed(path)
            if listed is None or not listed.live or not listed.is_directory:
                await self.directory(path)
        return sorted(entries, key=lambda entry: _order(entry[0]))

    async def _without_manifest(self, prefixes: Sequence[str], known: Set[str], unread: Set[str]) -> Sequence[Snapshot]:
        """The directories that a listing shows by what is in them alone. `known`: the prefixes of those that have a
        live manifest, `unread`: the keys of manifests that cannot be read."""
        found = []
        for prefix in prefixes:
            if prefix in known or not await self._has_live(prefix):
                continue
            child = path_of_prefix(prefix)
            if manifest_key(child) in unread:
                found.append(unwritten_directory(child))
                continue
            # What is moved must not depend on what was seen there a while ago.
            there = await self._catalog.current(child, trust=False)
            if there is None or not there.manifest.live:
                found.append(await self._make_again(child))
            elif not there.is_directory and (beside := await self._uncover(there)) is not None:
                found.append(beside)
        return found

    async def _uncover(self, file: Snapshot) -> Snapshot | None:
        """Moves what is below a file, where no program can reach it, to a directory beside it; that directory, if
        anything was moved. Raises store errors."""
        path = file.path
        if self._read_only or path in self._uncovering:
            return None
        self._uncovering.add(path)
        try:
            beside, moved = conflict_path(path), 0
            async for page in self._store.list(children_prefix(path)):
                live = [snapshot for snapshot in await self._catalog.resolve(page.objects) if snapshot.manifest.live]
                there = await self._catalog.current(path, trust=False) if live else None
                if there is None or there.etag != file.etag:
                    # Nothing is below it here, or a directory has its name again: what is in that is not hidden.
                    continue
                for snapshot in live:
                    moved += await self._move(snapshot, beside + snapshot.path[len(path) :])
        finally:
            self._uncovering.discard(path)
        if not moved:
            return None
        log.warning(
            "%s became a file elsewhere while something was created in the directory of that name: that is in %s now",
            *map(display, (path, beside)),
        )
        return await self._make_if_absent(beside, unwritten_directory(beside).attributes)

    async def _move(self, snapshot: Snapshot, new: str) -> bool:
        """Renames what nobody can see; whether it is there now. Raises store errors; whatever else is wrong is logged,
        and it stays where it is."""
        try:
            if snapshot.is_directory:
                await self._make_if_absent(new, snapshot.attributes)
                await self._committer.delete(snapshot.path, directory=True)
            else:
                await self._committer.rename(snapshot.path, new, replace=False)
        except StoreError:
            raise
        except NoSuchPath:
            # Another host was quicker.
            return False
        except StowError as error:
            name = display(snapshot.path)
            log.error("%s cannot be shown, since a file has the name of its directory: %s", name, error)
            return False
        return True

    async def _pages(self, prefix: str, lister: Lister) -> AsyncIterator[Page]:
        """What lies directly below `prefix`, and then what long names that are cut go on with."""
        prefixes = [prefix]
        while prefixes:
            async for page in lister(prefixes.pop()):
                yield page
                prefixes += filter(is_cut, page.prefixes)

    def _directly_below(self, prefix: str) -> AsyncIterator[Page]:
        return self._store.list(prefix, delimiter="/")

    async def walk(self, directory: str) -> AsyncIterator[Snapshot]:
        """Everything below a directory, in the order of the keys."""
        await self.directory(directory)
        async for page in self._store.list(children_prefix(directory)):
            for snapshot in await self._catalog.resolve(page.objects):
                if snapshot.manifest.live:
                    yield snapshot

    async def make(self, path: str, attributes: Attributes) -> Snapshot:
        """A new directory. Raises `PathExists`, `NoSuchPath` and `NotDirectory` (the parent)."""
        await self.directory(split(path)[0])
        return await self._committer.make_directory(path, attributes)

    async def make_symlink(self, path: str, target: bytes, attributes: Attributes, *, replace: bool) -> Snapshot:
        """A new symbolic link (see `Committer.make_symlink`). Also raises `NoSuchPath`, `NotDirectory` (the parent)."""
        await self.directory(split(path)[0])
        return await self._committer.make_symlink(path, target, attributes, replace=replace)

    async def remove(self, path: str) -> None:
        """Removes an empty directory. Raises `DirectoryNotEmpty`, `NoSuchPath`, `NotDirectory`, `CorruptObject`."""
        removed = await self.directory(path)
        if not await self.is_empty(path):
            raise DirectoryNotEmpty(f"{display(path)} is not empty")
        await self._committer.delete(path, directory=True)
        if not await self.is_empty(path):
            # Somebody was quicker: what they wrote must not be hidden.
            await self._make_if_absent(path, removed.attributes)
            raise DirectoryNotEmpty(f"{display(path)} is not empty")

    async def is_empty(self, path: str) -> bool:
        """Whether nothing below a directory is live, as the store has it now. Raises `CorruptObject`."""
        return not await self._has_live(children_prefix(path), ask=True)

    async def _has_live(self, prefix: str, *, ask: bool = False) -> bool:
        """Whether anything below `prefix` is live; a recent "no" is believed unless the caller says `ask`.

        Then a manifest that cannot be read is an error, too: what it stands for must not be taken for nothing.
        """
        now = trio.current_time()
        empty, created = self._known_empty.get(prefix, -EMPTY_FOR), self._catalog.created.last(prefix)
        if not ask and now - empty < EMPTY_FOR and (created is None or created < empty):
            return False
        async for page in self._store.list(prefix):
            found = await self._catalog.resolve(page.objects)
            if any(snapshot.manifest.live for snapshot in found):
                self._known_empty.pop(prefix, None)
                return True
            if ask and len(found) < len(page.objects):
                read = {manifest_key(snapshot.path) for snapshot in found}
                await self._catalog.confirm_readable([info for info in page.objects if info.key not in read])
        self._known_empty[prefix] = now
        return False

    async def _make_again(self, path: str, removed: Snapshot | None = None) -> Snapshot:
        if self._read_only:
            return unwritten_directory(path)
        log.warning("%s was removed while something was created in it: the directory is made again", display(path))
        before = removed if removed is not None and removed.is_directory else unwritten_directory(path)
        return await self._make_if_absent(path, before.attributes)

    async def _make_if_absent(self, path: str, attributes: Attributes) -> Snapshot:
        try:
            return await self._committer.make_directory(path, attributes)
        except (PathExists, IsDirectory):
            return await self.head(path)


def _order(path: str) -> bytes:
    """By which a listing is sorted: the bytes of names, as programs see them."""
    return path.encode(errors="surrogateescape")


def unwritten_directory(path: str) -> Snapshot:
    """A directory whose manifest is not there, or not to be had: the root, one whose manifest is damaged, one that a
    read-only mount cannot make again, one that is known only by what waits in it."""
    now = time.time_ns()
    attributes = Attributes(DIRECTORY_MODE, 0, 0, now, now)
    return Snapshot(path, "", Manifest("", Ring(), attributes, kind="directory"), b"")
