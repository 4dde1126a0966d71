"""Giving back what nobody needs of bundles (see `bundle`). Safe beside any number of writers.

* One that has been pending or void for a while is made void, and deleted. Whoever wants to commit it finds that it is
  void, or gone.
* A manifest that has an object under its own key by now is left out. The bundle is written again by compare-and-swap;
  one that holds nothing any more becomes void, and is deleted.

A manifest may be left out only where its own object is not *fresh* (see `bundled_store`): a fresh one does not count as
long as the bundle holds the name. And only where that object has been there for a while: who reads asks for the object
first and for the bundles then, and must not find neither. What is given up for good, with an empty tombstone in its
place, is left out at once: to find neither is right then. One such manifest is enough for its bundle to be written
again: what somebody has deleted or replaced must not be kept on account of what lies beside it.
"""

import heapq
import math
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field

from stowfs import codec
from stowfs.errors import CorruptObject, ObjectNotFound, UnsupportedVersion
from stowfs.store.base import ByteRange, Found, ObjectInfo, ObjectStore, Page
from stowfs.vault import bundle as bundles_format
from stowfs.vault.bundle import FRESH, Bundle, Whole, key_of_token
from stowfs.vault.bundled_listing import Expanded
from stowfs.vault.bundled_store import BundledStore
from stowfs.vault.bundles import Bundles
from stowfs.vault.bundling import make_void, replace_bundle
from stowfs.vault.naming import MANIFESTS, key_in, place_of
from stowfs.vault.parallel import each

SETTLED = 86400.0
"""Seconds after which nothing is under way any more that began before: operations end after minutes, but a host may
have been asleep meanwhile."""

BUNDLES_AT_ONCE = 8
"""Bundles worked on at once, of up to some megabytes each."""

READS = 32
"""Objects looked at at once for one bundle; the store has a limit of its own."""


@dataclass(slots=True)
class Passed:
    """A bundle that a listing has met: how many manifests it holds, and the names of those that are `hidden`."""

    info: ObjectInfo
    members: int
    hidden: set[str] = field(default_factory=set)


async def walk(
    store: BundledStore, *, before: float, given_up: Collection[str] = ()
) -> AsyncIterator[tuple[Expanded, list[Passed]]]:
    """Lists all manifests; with each page the bundles of which everything has been listed by then. Noted as hidden is
    only what an object hides that was written `before` that time, or that has a key of `given_up`.

    In memory are the bundles that the listing is within, with the names that are hidden so far. Those that cannot be
    read are left out.
    """
    within: dict[str, Passed] = {}
    ends: list[tuple[str, str]] = []
    async for expanded in store.expanded(MANIFESTS):
        listed = {info.key: info for info in expanded.bundles}
        for bundle in await store.bundles.load(expanded.bundles, damaged=[]):
            within[bundle.key] = Passed(listed[bundle.key], len(bundle.held))
            last = max((key_in(bundle.prefix, member.name) for member in bundle.held), default=bundle.key)
            heapq.heappush(ends, (last, bundle.key))
        for line in expanded.hidden:
            prefix, name = place_of(line.key)
            passed = within.get(key_of_token(line.etag, prefix))
            if passed is not None and (line.modified < before or line.key in given_up):
                passed.hidden.add(name)
        reached = expanded.page.objects[-1].key if expanded.page.objects else ""
        done = []
        while ends and ends[0][0] <= reached:
            done.append(within.pop(heapq.heappop(ends)[1]))
        yield expanded, done
    yield Expanded(Page((), (), last=True)), list(within.values())


async def superseded(store: ObjectStore, bundle: Bundle, names: Collection[str]) -> set[str]:
    """Those of the names under which a bundle may leave out what it holds, since an object of its own has taken its
    place. `store`: that in which bundles are objects."""

    async def one(name: str) -> bool:
        try:
            found = await store.get(key_in(bundle.prefix, name), byte_range=ByteRange(0, len(FRESH)))
        except ObjectNotFound:
            return False
        assert isinstance(found, Found)
        return not found.body.startswith(FRESH)

    wanted = [name for name in names if bundle.member(name) is not None]
    return {name for name, is_there in zip(wanted, await each(one, wanted, limit=READS), strict=True) if is_there}


class BundleCare:
    """One collection of what bundles do not need. `removed`: the bytes of each bundle that is deleted, and of each
    manifest that is left out; `unread`: why bundles could not be read that could be a moment before, by key.

    `before`: what was written before that time is settled. `given_up`: the keys of what is to go at once. `known`: what
    else remembers the bundles of this store. `exclusive`: nothing else uses it. All that is hidden is left out then, so
    that it hides nothing from `delete`; and `dictionaries` has the names of those that the frames in bundles were made
    with. What hosts remember of a manifest in a bundle cannot tell: it keeps its ETag when it is compressed again.
    """

    def __init__(
        self,
        store: BundledStore,
        *,
        known: Sequence[Bundles],
        deadline: float,
        before: float,
        given_up: Collection[str],
        exclusive: bool,
        dry_run: bool,
    ) -> None:
        self._store = store
        self._known = (store.bundles, *known)
        self._deadline = deadline
        self._before = before
        self._given_up = given_up
        self._exclusive = exclusive
        self._dry_run = dry_run
        self.removed: list[int] = []
        self.dictionaries: set[str] = set()
        self.unread: dict[str, str] = {}

    async def run(self) -> None:
        """Goes through all bundles. Raises store errors; what was done until then is done."""
        before = math.inf if self._exclusive else self._before
        async for _, passed in walk(self._store, before=before, given_up=self._given_up):
            await each(self._one, passed, limit=BUNDLES_AT_ONCE)

    async def _one(self, passed: Passed) -> None:
        try:
            if not passed.members:
                await self._abandoned(passed.info)
            elif passed.hidden or self._exclusive:
                await self._committed(passed)
        except (CorruptObject, UnsupportedVersion) as error:
            self.unread[passed.info.key] = str(error)

    async def _abandoned(self, info: ObjectInfo) -> None:
        """Removes a bundle that is pending or void, if nobody wrote to it for long enough."""
        if info.modified >= self._before:
            return
        for bundle in await self._store.bundles.load([info]):
            if bundle.etag == info.etag and bundle.state != "committed":
                await self._remove(bundle, info.size)

    async def _committed(self, passed: Passed) -> None:
        whole = await self._store.bundles.fetch(passed.info.key)
        if whole is None or whole.bundle.state != "committed":
            return
        gone = await superseded(self._store.inner, whole.bundle, passed.hidden)
        if gone:
            await self._leave_out(whole, gone, passed.info.size)
        if self._exclusive:
            numbers = {codec.dictionary_number(body) for member, body in whole.manifests() if member.name not in gone}
            self.dictionaries.update(codec.dictionary_name(number) for number in numbers if number)

    async def _leave_out(self, whole: Whole, gone: Collection[str], size: int) -> None:
        bundle = whole.bundle
        kept = [(member.name, member.commit, body) for member, body in whole.manifests() if member.name not in gone]
        if not kept:
            await self._remove(bundle, size)
            return
        if not self._dry_run:
            body = bundles_format.committed(kept, dictionary=bundle.header.dictionary)
            written = await replace_bundle(self._store.inner, bundle, body, deadline=self._deadline)
            if written is None:
                return  # somebody else takes care of it
            for bundles in self._known:
                bundles.remember(written)
        self.removed += [member.size for member in bundle.header.members if member.name in gone]

    async def _remove(self, bundle: Bundle, size: int) -> None:
        if not self._dry_run:
            if bundle.state != "void" and not await make_void(self._store.inner, bundle, deadline=self._deadline):
                return  # it is committed by now, or somebody else takes care of it
            await self._store.inner.delete(bundle.key)
            for bundles in self._known:
                bundles.forget(bundle.key)
        self.removed.append(size)
