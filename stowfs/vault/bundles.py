"""The bundles of directories, as this host knows them: in memory and, as they lie in the store, in the hot tier.

A bundle that is committed stays so, and keeps what it holds unless that has a key of its own by then; so to know it is
to know what it holds, and only whether there are others has to be asked: with one listing of the bundles of a directory
for all who ask while another is under way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio

from stowfs.config import MIB
from stowfs.errors import CorruptObject, ObjectNotFound, UnsupportedVersion
from stowfs.hot.index import CachedManifest
from stowfs.locks import Lock
from stowfs.store.base import ObjectInfo, ObjectStore
from stowfs.vault.bundle import Bundle, DamagedPayload, Whole, decode
from stowfs.vault.lru import Lru
from stowfs.vault.naming import bundles_prefix, place_of
from stowfs.vault.parallel import each
from stowfs.vault.untrusted import read_bounded

HEADERS_MEMORY = 24 * MIB
"""Bytes of bundles without what they hold: some 60,000 names."""

PAYLOADS_MEMORY = 16 * MIB
"""Bytes of what they hold: some 10,000 small conversations, which programs that go through a directory come back to one
by one."""

FETCHES = 16
"""Bundles fetched at once; the store has a limit of its own."""

PART = 32
"""Bundles taken from the hot tier at once: they are some 100 KB each, and no more than 4 MB."""

DIRECTORIES = 256
"""Directories of which it is remembered what bundles they had: more than programs use at once."""


class Cache(Protocol):
    """Where objects of the store are kept on this host, by ids."""

    async def manifests(self, ids: Sequence[str]) -> dict[str, CachedManifest]:
        """Those of the objects that are kept."""

    async def put_manifests(self, entries: Mapping[str, CachedManifest | None]) -> None:
        """Keeps objects."""


@dataclass(slots=True)
class _Directory:
    """What was told of a directory when the question of the number `asked` was asked; and the keys of its bundles that
    were seen committed."""

    lock: Lock = field(default_factory=Lock)
    asked: int = -1
    bundles: tuple[ObjectInfo, ...] = ()
    committed: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Flight:
    """A bundle that is being read."""

    done: trio.Event = field(default_factory=trio.Event)
    whole: Whole | None = None


class Bundles:
    """Bundles by key. What reads them raises store errors, `CorruptObject` and `UnsupportedVersion`."""

    def __init__(self, store: ObjectStore, cache: Cache | None = None) -> None:
        self._store = store
        self._cache = cache
        self._headers = Lru[Bundle](HEADERS_MEMORY, lambda bundle: bundle.cost)
        self._payloads = Lru[memoryview](PAYLOADS_MEMORY, len)
        self._directories = Lru[_Directory](DIRECTORIES, lambda _: 1)
        self._flights: dict[str, _Flight] = {}
        # Questions are numbered, since several may be asked at the same time of the clock.
        self._questions = 0

    def remember(self, whole: Whole) -> None:
        """A bundle is in the store like this."""
        bundle = whole.bundle
        self._headers.put(bundle.key, bundle)
        if bundle.state == "committed":
            self._payloads.put(bundle.etag, whole.payload)
            self._directory(bundle.prefix).committed.add(bundle.key)

    def forget(self, key: str) -> None:
        """There is no such bundle any more."""
        self._headers.drop(key)
        self._directory(place_of(key)[0]).committed.discard(key)

    def known(self, key: str) -> Bundle | None:
        """A bundle as it was seen last."""
        return self._headers.get(key)

    def holding(self, prefix: str, name: str) -> Bundle | None:
        """The committed bundle of a directory that holds a name, if it is known. It holds it still, unless there is an
        object for it by now."""
        for key in self._directory(prefix).committed:
            bundle = self._headers.get(key)
            if bundle is not None and bundle.member(name) is not None:
                return bundle
        return None

    async def of(self, prefix: str) -> list[Bundle]:
        """The bundles of a directory as they are at some moment after this call."""
        return await self.load(await self.listed(prefix))

    async def listed(self, prefix: str) -> tuple[ObjectInfo, ...]:
        """As `of`, but what a listing tells of them."""
        directory = self._directory(prefix)
        called = self._number()
        async with directory.lock:
            if directory.asked < called:
                asked = self._number()
                pages = self._store.list(bundles_prefix(prefix))
                directory.bundles = tuple([info async for page in pages for info in page.objects])
                directory.asked = asked
            return directory.bundles

    async def load(self, listed: Sequence[ObjectInfo], damaged: list[ObjectInfo] | None = None) -> list[Bundle]:
        """Those of the listed bundles that are there still, by key; one may be a later version by then. `damaged` as in
        `read`."""
        found = await self.local(listed)
        found |= await self.read([info for info in listed if info.key not in found], damaged)
        return [found[key] for key in sorted(found)]

    async def local(self, listed: Sequence[ObjectInfo]) -> dict[str, Bundle]:
        """Those of the listed bundles that this host has, by key."""
        found: dict[str, Bundle] = {}
        missing: list[ObjectInfo] = []
        for info in listed:
            known = self._headers.get(info.key)
            if known is not None and known.etag == info.etag:
                found[info.key] = known
            else:
                missing.append(info)
        for start in range(0, len(missing), PART):
            cached = await self._cached(missing[start : start + PART])
            found.update((whole.bundle.key, whole.bundle) for whole in cached)
        return found

    async def read(self, listed: Sequence[ObjectInfo], damaged: list[ObjectInfo] | None = None) -> dict[str, Bundle]:
        """As `load`, by key, from the store. What cannot be read goes to `damaged`, where that is given; else it is an
        error, unless the names are known that it has."""
        found: dict[str, Bundle] = {}

        async def fetch(info: ObjectInfo) -> None:
            try:
                whole = await self.fetch(info.key)
            except (CorruptObject, UnsupportedVersion) as error:
                if damaged is not None:
                    damaged.append(info)
                elif isinstance(error, DamagedPayload):
                    # Of all other names of the directory it can be told that this one does not have them.
                    found[info.key] = error.bundle
                else:
                    raise
            else:
                if whole is not None:
                    found[info.key] = whole.bundle

        await each(fetch, listed, limit=FETCHES)
        return found

    async def fetch(self, key: str) -> Whole | None:
        """A bundle as it is in the store; None: it is gone."""
        try:
            found = await read_bounded(self._store, key)
        except ObjectNotFound:
            return None
        whole = decode(key, found.etag, found.body)
        self.remember(whole)
        if self._cache is not None and whole.bundle.state == "committed":
            await self._cache.put_manifests({_cache_id(key): CachedManifest(found.etag, found.body)})
        return whole

    async def committed(self, key: str) -> Whole | None:
        """A bundle that was seen to be committed: what the store tells, or has told whoever is just asking."""
        flight = self._flights.get(key)
        if flight is not None:
            await flight.done.wait()
            if flight.whole is not None and flight.whole.bundle.state == "committed":
                return flight.whole
            # It was asked for before that, or in vain.
            return await self.fetch(key)
        flight = self._flights[key] = _Flight()
        try:
            flight.whole = await self.fetch(key)
            return flight.whole
        finally:
            del self._flights[key]
            flight.done.set()

    async def manifest(self, bundle: Bundle, name: str) -> bytes:
        """What a committed bundle holds under a name. Raises `ObjectNotFound` where it does not any more."""
        payload = self._payloads.get(bundle.etag)
        if payload is None:
            cached = await self._cached([ObjectInfo(bundle.key, 0, bundle.etag, 0.0)])
            whole = cached[0] if cached else await self.committed(bundle.key)
            if whole is None or whole.bundle.member(name) is None:
                raise ObjectNotFound(f"{bundle.key} does not hold {name} any more")
            # Where many are read at once it may be out of memory already.
            bundle, payload = whole.bundle, whole.payload
        return bundle.manifest(name, payload)

    async def _cached(self, listed: Sequence[ObjectInfo]) -> list[Whole]:
        """Those that the hot tier has as they were listed."""
        if self._cache is None:
            return []
        bodies = await self._cache.manifests([_cache_id(info.key) for info in listed])
        found = []
        for info in listed:
            body = bodies.get(_cache_id(info.key))
            if body is None or body.etag != info.etag:
                continue
            try:
                whole = decode(info.key, body.etag, body.body)
            except (CorruptObject, UnsupportedVersion):
                continue  # another version of stowfs took it for good: it is fetched, and judged, again
            self.remember(whole)
            found.append(whole)
        return found

    def _directory(self, prefix: str) -> _Directory:
        directory = self._directories.get(prefix)
        if directory is None:
            directory = _Directory()
            self._directories.put(prefix, directory)
        return directory

    def _number(self) -> int:
        self._questions += 1
        return self._questions


def _cache_id(key: str) -> str:
    """Under which a bundle is kept: no path of a conversation is like that."""
    return "/" + key
