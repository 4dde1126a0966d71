"""Manifests as this host sees them: in memory, in the hot tier's index, and revalidated against the store by ETag.

What is cached is never believed for longer than the revalidation time (default 0): an open asks the store whether the
ETag still holds. A tombstone is cached like any manifest, so that the name can be taken again with one conditional
write. So is what expires: whether it has is asked each time, not here.

While the store cannot be reached, callers that say `stale_ok` get what this host saw last. That is never older than
what this host has done itself: what it knows to have changed is forgotten in memory and index alike.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import trio

from stowfs.errors import CorruptObject, ObjectNotFound, StoreUnavailable, StowError, UnsupportedVersion
from stowfs.hot.buffer import BufferedIndex
from stowfs.hot.index import CachedManifest
from stowfs.store.base import Found, NotModified, ObjectInfo
from stowfs.vault import manifest as manifests
from stowfs.vault import version as versions
from stowfs.vault.absence import Absences
from stowfs.vault.bundled_directories import BundledDirectories
from stowfs.vault.bundled_store import BundledStore
from stowfs.vault.created import Created
from stowfs.vault.dictionaries import Dictionaries
from stowfs.vault.listed_tags import ListedTags
from stowfs.vault.manifest import Snapshot
from stowfs.vault.naming import display, is_bundle, manifest_key
from stowfs.vault.parallel import each
from stowfs.vault.recent_listings import RecentListings
from stowfs.vault.shared_index import SharedIndex
from stowfs.vault.snapshot_cache import SnapshotCache
from stowfs.vault.unreadable import Unreadable
from stowfs.vault.untrusted import get_bounded
from stowfs.vault.version import Version

log = logging.getLogger(__name__)

FETCHES = 32
"""Manifests fetched at once for a listing; the store has a limit of its own."""


PART = 128
"""Manifests read from the index at once: of the largest, some 250 MB would be possible; of those that are, a few."""

Wanted = tuple[ObjectInfo, str]
"""An object of a listing, and its path."""


class Listed(NamedTuple):
    """A version of a listing, and the ETag that it has or, if it was changed since, had when it was read."""

    path: str
    etag: str
    version: Version


class Catalog:
    """Current versions by path."""

    def __init__(
        self,
        store: BundledStore,
        index: BufferedIndex,
        dictionaries: Dictionaries,
        directories: BundledDirectories,
        shared: SharedIndex,
        *,
        revalidate: float,
    ) -> None:
        self._store = store
        self._index = index
        self._dictionaries = dictionaries
        self._directories = directories
        self._shared = shared
        self._revalidate = revalidate
        self._absences = Absences(store, believed=revalidate)
        self._tags = ListedTags(believed=revalidate)
        self.listings = RecentListings(store, revalidate=revalidate)
        self.created = Created()
        # What is being asked for: by somebody, and ahead of everybody.
        self._asking: set[str] = set()
        self._ahead: dict[str, trio.Event] = {}
        self._memory = SnapshotCache()
        # Something was shown without asking the store, and it has not answered since.
        self._stale = False
        self._unreadable = Unreadable()

    async def current(self, path: str, *, trust: bool = True, stale_ok: bool = False) -> Snapshot | None:
        """What is under `path` now: live, expired, a tombstone, or `None` where nothing ever was. Raises store errors,
        `CorruptObject`.

        `trust`: what was validated within the revalidation time may be answered without asking the store.
        `stale_ok`: while it cannot be reached, the live version that this host saw last will do. That is for reading,
        and for the base of a draft, since a commit compares; nothing may be decided by it. That nothing is under a path
        is never answered without the store, but for what it told within the revalidation time (see `absence`).
        """
        if trust and (flight := self._ahead.get(path)) is not None:
            await flight.wait()
        if trust and (snapshot := self._fresh(path)) is not None:
            return snapshot
        if trust and self._absences.covers(path):
            return None
        known = await self._known(path)
        if trust and (snapshot := await self._as_listed(path, known)) is not None:
            return snapshot
        self._asking.add(path)
        try:
            return await self._ask(path, known, stale_ok=stale_ok)
        finally:
            self._asking.discard(path)

    def _fresh(self, path: str) -> Snapshot | None:
        """What was validated within the revalidation time."""
        entry = self._memory.get(path)
        if entry is None or trio.current_time() - entry.checked >= self._revalidate:
            return None
        return entry.snapshot

    def _confirmed(self, known: Snapshot | None) -> Snapshot | None:
        """The same, where a listing has shown it within the revalidation time."""
        if known is None or (listed := self._tags.confirmed(known.path, known.etag)) is None:
            return None
        return self._keep(known, listed)

    async def _as_listed(self, path: str, known: Snapshot | None) -> Snapshot | None:
        """What a listing has shown under a path within the revalidation time, if it is known or a bundle holds it."""
        if (snapshot := self._confirmed(known)) is not None:
            return snapshot
        if (listed := self._tags.current(path)) is None:
            return None
        tag, asked = listed
        found = await self._store.held(manifest_key(path), tag)
        return await self.learn(await self._decode(path, tag, found.body), asked) if found is not None else None

    async def _ask(self, path: str, known: Snapshot | None, *, stale_ok: bool = False) -> Snapshot | None:
        """What the store says is under `path`; `known`: what was seen there last."""
        asked = trio.current_time()
        try:
            answer = await get_bounded(self._store, manifest_key(path), if_none_match=known.etag if known else None)
        except ObjectNotFound:
            self._stale = False
            self.forget(path)
            await self._absences.missed(path)
            return None
        except StoreUnavailable as error:
            # Meanwhile another task may have learnt or forgotten something.
            known = await self._known(path) if stale_ok else None
            if known is None or not known.manifest.live:
                raise
            self._warn_once(error)
            return known
        self._stale = False
        match answer:
            case NotModified():
                assert known is not None
                return self._keep(known, asked)
            case Found(body, etag):
                return await self.learn(await self._decode(path, etag, body), asked)

    def ahead(self, paths: Sequence[str]) -> list[str]:
        """Those of the paths that are worth being fetched ahead of those who will ask for them: `fetch_ahead` must
        follow. Whoever asks for them meanwhile waits for that."""
        chosen = [
            path for path in paths if path not in self._ahead and path not in self._asking and self._fresh(path) is None
        ]
        self._ahead.update((path, trio.Event()) for path in chosen)
        return chosen

    async def fetch_ahead(self, chosen: Sequence[str]) -> list[Snapshot]:
        """Brings what is under those paths into memory, to be believed for the revalidation time: from the index, where
        a listing has confirmed it, else from the store, in parallel. Errors are left to whoever asks."""
        flights = {path: self._ahead[path] for path in chosen}

        def landed(path: str) -> None:
            # Once it is there, somebody else may have begun to fetch it again.
            if self._ahead.get(path) is flights[path]:
                del self._ahead[path]
            flights[path].set()

        try:
            known = {path: snapshot for path in chosen if (snapshot := self._in_memory(path)) is not None}
            bodies = await self._index.manifests([path for path in chosen if path not in known])
            for path, body in bodies.items():
                if (decoded := await self._decode_known(path, body)) is not None:
                    known[path] = decoded

            async def fetch(path: str) -> Snapshot | None:
                seen = known.get(path)
                try:
                    return await self._as_listed(path, seen) or await self._ask(path, seen)
                except StowError as error:
                    log.debug("not fetched ahead: %s", error)
                    return None
                finally:
                    landed(path)

            return [snapshot for snapshot in await each(fetch, chosen, limit=FETCHES) if snapshot is not None]
        finally:
            for path in chosen:
                landed(path)

    def tombstone(self, path: str) -> Snapshot | None:
        """The tombstone, or what has expired, under `path`, if it is remembered; it may be out of date."""
        known = self._in_memory(path)
        return known if known is not None and not known.manifest.live else None

    def doubt(self, path: str) -> None:
        """It may have changed, through a commit of this host whose outcome is unknown: the next `current` asks."""
        self._no_longer_as_listed(path)
        entry = self._memory.get(path)
        if entry is not None:
            entry.checked = -math.inf

    def forget(self, path: str) -> None:
        """It has changed: the next `current` asks the store, and needs its answer."""
        self._no_longer_as_listed(path)
        self._memory.drop(path)
        self._index.forget_manifest(path)

    async def learn(self, snapshot: Snapshot, when: float | None = None) -> Snapshot:
        """Remembers a version that was just read or written (asked for at the trio time `when`).

        Returns what is current as far as this host knows: it may have written a later one meanwhile.
        """
        kept = self._keep(snapshot, trio.current_time() if when is None else when)
        if kept is snapshot:
            await self._index.put_manifests({snapshot.path: CachedManifest(snapshot.etag, snapshot.body)})
        return kept

    async def resolve(self, objects: Sequence[ObjectInfo]) -> list[Snapshot]:
        """The versions that a listing names: from memory or the index where the ETag is known, else fetched, in
        parallel.

        What vanished since the listing is left out. A manifest that cannot be read is left out, too, and logged once:
        it must not hide the rest of the directory; to open it is an error.
        """
        asked = trio.current_time()
        found: dict[str, Snapshot] = {}
        unknown: list[Wanted] = []
        for wanted in self._readable(objects):
            info, path = wanted
            snapshot = self._remembered(path, info.etag, asked)
            if snapshot is not None:
                found[info.key] = snapshot
            else:
                unknown.append(wanted)
        missing = []
        for part in _parts(unknown):
            cached = await self._cached(part)
            for wanted in part:
                snapshot = cached.get(wanted[0].key)
                if snapshot is None:
                    missing.append(wanted)
                else:
                    found[wanted[0].key] = self._keep(snapshot, asked)
        for snapshot in await each(self._fetch, missing, limit=FETCHES):
            if snapshot is not None:
                found[manifest_key(snapshot.path)] = self._keep(snapshot, asked)
        return [found[info.key] for info in objects if info.key in found]

    async def versions(
        self,
        objects: Sequence[ObjectInfo],
        *,
        asked: float | None = None,
        walking: bool = False,
        note_missing: bool = True,
    ) -> dict[str, Listed]:
        """As `resolve`, but versions only, by key; their bytes pass through memory a few at a time, if at all.

        `asked`: when they were listed, in trio's time, if not just now. `walking`: what follows these will be wanted,
        too. `note_missing`: what the index of the store lacks is to be written there some time.
        """
        if asked is None:
            asked = trio.current_time()
        readable = self._readable(objects)
        for info, path in readable:
            if self._tags.note(path, info.etag, asked):
                self.listings.changed(path)
        known = await self._index.versions([path for _, path in readable]) if readable else {}
        found: dict[str, Listed] = {}
        remembered: dict[str, Snapshot] = {}
        missing: list[Wanted] = []
        for wanted in readable:
            info, path = wanted
            snapshot = self._remembered(path, info.etag, asked)
            row = known.get(path)
            if row is not None and row.etag == info.etag and (version := self._version_or_none(row.body)) is not None:
                found[info.key] = Listed(path, info.etag, version)
                continue
            missing.append(wanted)
            if snapshot is not None:
                remembered[info.key] = snapshot
        learned: dict[str, CachedManifest] = {}

        def learn(key: str, path: str, etag: str, version: Version) -> None:
            found[key] = Listed(path, etag, version)
            learned[path] = CachedManifest(etag, versions.encode(version))

        async def fetch(wanted: Wanted) -> None:
            snapshot = await self._fetch(wanted)
            if snapshot is not None:
                learn(wanted[0].key, snapshot.path, snapshot.etag, Version.of(snapshot))

        # Also for what was written here, so that it is known how much of that others have to fetch.
        indexed = await self._shared.find([info for info, _ in missing], note=note_missing, walking=walking)
        rest = []
        for wanted in missing:
            info, path = wanted
            if (snapshot := remembered.get(info.key)) is not None:
                learn(info.key, path, info.etag, Version.of(snapshot))
            elif (version := indexed.get(info.key)) is not None:
                learn(info.key, path, info.etag, version)
            else:
                rest.append(wanted)
        for part in _parts(rest):
            cached = await self._cached(part)
            for key, snapshot in cached.items():
                learn(key, snapshot.path, snapshot.etag, Version.of(snapshot))
            await each(fetch, [wanted for wanted in part if wanted[0].key not in cached], limit=FETCHES)
        if learned:
            await self._index.put_versions(learned)
        return found

    async def listed(self, path: str) -> Version | None:
        """The version under `path` that a listing has shown within the revalidation time."""
        if not self._revalidate:
            return None
        row = (await self._index.versions([path])).get(path)
        if row is None or self._tags.confirmed(path, row.etag) is None:
            return None
        return self._version_or_none(row.body)

    def _no_longer_as_listed(self, path: str) -> None:
        self._absences.appeared(path)
        self._tags.forget(path)
        self.listings.changed(path)

    def _readable(self, objects: Sequence[ObjectInfo]) -> list[Wanted]:
        """Those that are not known to make no sense, with their paths."""
        return [
            (info, path)
            for info in objects
            if (path := self._unreadable.path(info)) is not None and info not in self._unreadable
        ]

    def _remembered(self, path: str, etag: str, asked: float) -> Snapshot | None:
        """What is in memory of a version that was listed at the time `asked`."""
        entry = self._memory.get(path)
        if entry is None or entry.snapshot.etag != etag:
            return None
        entry.checked = max(entry.checked, asked)
        return entry.snapshot

    async def _cached(self, wanted: Sequence[Wanted]) -> dict[str, Snapshot]:
        """Those whose manifests are in the index, by key."""
        bodies = await self._index.manifests([path for _, path in wanted]) if wanted else {}
        return {
            info.key: snapshot
            for info, path in wanted
            if (body := bodies.get(path)) is not None
            and body.etag == info.etag
            and (snapshot := await self._decode_known(path, body)) is not None
        }

    async def confirm_readable(self, objects: Sequence[ObjectInfo]) -> None:
        """Raises what is wrong with the first of the objects that is there and cannot be read (`CorruptObject`,
        `UnsupportedVersion`): where `resolve` leaves it out, nothing may be concluded from its absence."""
        for info in objects:
            if is_bundle(info.key):
                await self._store.confirm_gone(info.key)
            elif (path := self._unreadable.path(info)) is not None:
                await self.current(path)

    async def _fetch(self, wanted: Wanted) -> Snapshot | None:
        """The version that the store has now; it is cached. None, logged, where it cannot be read; or it is gone."""
        info, path = wanted
        try:
            answer = await self._store.read(info)
        except ObjectNotFound:
            return None
        except CorruptObject as error:
            self._unreadable.add(info, error)
            return None
        snapshot = await self._decode_or_none(path, replace(info, etag=answer.etag), answer.body)
        if snapshot is not None:
            await self._index.put_manifests({path: CachedManifest(snapshot.etag, answer.body)})
        return snapshot

    async def _known(self, path: str) -> Snapshot | None:
        """What was seen last, a tombstone too."""
        known = self._in_memory(path)
        if known is not None:
            return known
        cached = await self._index.manifest(path)
        return await self._decode_known(path, cached) if cached is not None else None

    def _in_memory(self, path: str) -> Snapshot | None:
        entry = self._memory.get(path)
        return entry.snapshot if entry is not None else None

    async def _decode_known(self, path: str, cached: CachedManifest) -> Snapshot | None:
        try:
            return await self._decode(path, cached.etag, cached.body)
        except (CorruptObject, UnsupportedVersion):
            # Another version of stowfs took it for good; or it is in a bundle that was compressed again since, and the
            # dictionary that it was made with is gone. It is fetched, and judged, again.
            return None

    def _warn_once(self, error: StoreUnavailable) -> None:
        if not self._stale:
            log.warning("files are shown as this host saw them last, since the store cannot be reached: %s", error)
        self._stale = True

    async def _decode(self, path: str, etag: str, body: bytes) -> Snapshot:
        try:
            return manifests.decode(path, etag, body, await self._dictionaries.of(body))
        except (CorruptObject, UnsupportedVersion) as error:
            raise type(error)(f"{display(path)}: {error}") from error

    async def _decode_or_none(self, path: str, info: ObjectInfo, body: bytes) -> Snapshot | None:
        try:
            return await self._decode(path, info.etag, body)
        except (CorruptObject, UnsupportedVersion) as error:
            self._unreadable.add(info, error)
            return None

    def _version_or_none(self, body: bytes) -> Version | None:
        try:
            return versions.decode(body)
        except CorruptObject:
            return None  # another version of stowfs wrote it: it is fetched

    def _keep(self, snapshot: Snapshot, checked: float) -> Snapshot:
        """Remembers what the store said to a question of the time `checked`, unless something later is known."""
        self._absences.appeared(snapshot.path)
        if snapshot.is_directory:
            self._directories.note(snapshot)
        if self._tags.confirmed(snapshot.path, snapshot.etag) is None:
            self.listings.changed(snapshot.path)
        known = self._memory.get(snapshot.path)
        if known is not None and known.checked > checked:
            return known.snapshot
        self._memory.put(snapshot, checked)
        return snapshot


def _parts(wanted: Sequence[Wanted]) -> Iterator[Sequence[Wanted]]:
    for start in range(0, len(wanted), PART):
        yield wanted[start : start + PART]
