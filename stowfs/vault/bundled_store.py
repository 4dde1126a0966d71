"""A store in which the manifests of bundles look as if each had a key of its own (see `bundle`).

What is under the key of a manifest, in a directory that may have bundles:

* the object under that key, if there is one, unless it is *fresh* and a committed bundle holds the name;
* else what a committed bundle holds under the name; else nothing.

An object is fresh if it was created over nothing, and not written since. Whoever creates one asks for the bundles
*after* that, and whoever commits a bundle asks for the objects *after* it has claimed the names. So one of two that
create the same name sees the other: who sees a bundle that is pending makes it void; who sees one that is committed has
lost; and the owner of a bundle leaves out what it sees. Hence where a committed bundle holds the name of a fresh
object, whoever made that was never told that it succeeded; and a fresh object that was seen while no bundle had its
name is there for good. What replaces either is not fresh: it is there whatever any bundle holds.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

from stowfs.errors import CorruptObject, ObjectNotFound, PreconditionFailed, StoreError
from stowfs.store.base import (
    ALWAYS,
    IF_ABSENT,
    ByteRange,
    Condition,
    Found,
    IfAbsent,
    IfMatch,
    NotModified,
    ObjectInfo,
    ObjectStore,
    Page,
)
from stowfs.store.observed import ObservedStore
from stowfs.vault.bundle import FRESH, Bundle, Member, is_token, key_of_token
from stowfs.vault.bundled_listing import BundledListing, Expanded, Indexed
from stowfs.vault.bundles import Bundles, Cache
from stowfs.vault.bundling import Manifest, make_void, put_bundle
from stowfs.vault.cas import read_or_none
from stowfs.vault.lru import Lru
from stowfs.vault.naming import MANIFESTS, may_be_bundled, place_of
from stowfs.vault.untrusted import read_bounded

SETTLED = 20_000
"""Fresh objects of which it is remembered that they are there for good: some four megabytes."""

MANY = 16
"""Bundles of a directory that this host does not have, from which on the index is asked for a name in one of them:
fewer are read at once."""

UNSETTLED = "~"
"""What stands behind the ETag of a fresh object while a bundle claims its name and this host may not write: so that it
is never taken for unchanged."""

MayHold = Callable[[str], Awaitable[bool]]
"""Whether a directory, told by the prefix of what is in it, may have bundles."""


async def everywhere(_: str) -> bool:
    """For who does not know of any directory."""
    return True


class BundledStore(ObservedStore):
    """`inner` with the manifests that are in bundles. Also raises `CorruptObject` and `UnsupportedVersion`, for a
    bundle that cannot be read."""

    def __init__(
        self,
        inner: ObjectStore,
        *,
        deadline: float,
        may_hold: MayHold = everywhere,
        cache: Cache | None = None,
        indexed: Indexed | None = None,
        read_only: bool = False,
    ) -> None:
        super().__init__(inner)
        self.bundles = Bundles(inner, cache)
        self._may_hold = may_hold
        self._deadline = deadline
        self._read_only = read_only
        self._listing = BundledListing(inner, self.bundles, may_hold, indexed)
        self._settled = Lru[str](SETTLED, lambda _: 1)

    async def get(
        self, key: str, *, byte_range: ByteRange | None = None, if_none_match: str | None = None
    ) -> Found | NotModified:
        if not may_be_bundled(key):
            return await self.inner.get(key, byte_range=byte_range, if_none_match=if_none_match)
        token = if_none_match if if_none_match is not None and is_token(if_none_match) else None
        try:
            answer = await self.inner.get(
                key, byte_range=byte_range, if_none_match=if_none_match if token is None else None
            )
        except ObjectNotFound:
            if token is not None and self._is_known(key, token):
                return NotModified()
            try:
                member = await self._member(key)
            except ObjectNotFound:
                # A bundle leaves out what has an object of its own by now.
                return await self.inner.get(key, byte_range=byte_range)
            if member is None:
                raise
            return NotModified() if member.etag == token else member
        if isinstance(answer, Found) and answer.body.startswith(FRESH):
            found = await self._settle(key, answer)
            return NotModified() if found.etag == token else found
        return answer

    async def put(self, key: str, body: bytes, condition: Condition = ALWAYS) -> str:
        with self._changing(key):
            match condition:
                case IfMatch(etag) if is_token(etag):
                    return await self._replace(key, body, etag)
                case IfAbsent() if may_be_bundled(key) and await self._may_hold(place_of(key)[0]):
                    return await self._create(key, body)
                case _:
                    return await self.inner.put(key, body, condition)

    async def delete(self, key: str, condition: Condition = ALWAYS) -> None:
        if may_be_bundled(key) and await self._holder(key) is not None:
            raise PreconditionFailed(f"{key} hides what a bundle holds")
        with self._changing(key):
            await self.inner.delete(key, condition)

    @contextlib.contextmanager
    def _changing(self, key: str) -> Iterator[None]:
        """Around what changes listings of manifests, or may do so though it fails."""
        try:
            yield
        finally:
            if key.startswith(MANIFESTS):
                self._listing.changed()

    def list(self, prefix: str, *, delimiter: str | None = None, start_after: str = "") -> AsyncIterator[Page]:
        return self._listing.pages(prefix, delimiter=delimiter, start_after=start_after)

    def expanded(self, prefix: str, *, start_after: str = "") -> AsyncIterator[Expanded]:
        """As `list`, with the bundles that were met."""
        return self._listing.expanded(prefix, start_after=start_after)

    async def held_by(self, bundles: Sequence[ObjectInfo]) -> dict[str, Sequence[Member]]:
        """What listed bundles hold, by their keys; without those that cannot be read."""
        return await self._listing.held_by(bundles)

    async def read(self, info: ObjectInfo) -> Found:
        """What a listing has shown, or what has taken its place by now. Raises `ObjectNotFound`."""
        return await self.held(info.key, info.etag) or await read_bounded(self, info.key)

    async def held(self, key: str, etag: str) -> Found | None:
        """What a bundle holds under a key, if `etag` is its token; then it is what was there when that was learnt."""
        if not is_token(etag):
            return None
        prefix, name = place_of(key)
        bundle_key = key_of_token(etag, prefix)
        bundle = self.bundles.known(bundle_key)
        if bundle is None:
            whole = await self.bundles.committed(bundle_key)
            bundle = whole.bundle if whole is not None else None
        if bundle is None or (found := await self._in_bundle(bundle, name)) is None or found.etag != etag:
            return None
        return found

    async def confirm_gone(self, key: str) -> None:
        """Raises what is wrong with a bundle that stands in a listing since it could not be read (`CorruptObject`,
        `UnsupportedVersion`), unless it is gone by now, or holds nothing."""
        whole = await self.bundles.fetch(key)
        if whole is not None and whole.bundle.state == "committed":
            raise CorruptObject(f"{key} could not be read a moment ago")

    async def put_together(self, prefix: str, manifests: Sequence[Manifest]) -> dict[str, str]:
        """Creates manifests in a directory that may have bundles, in one; returns the ETags, by name, of those that
        were created. The others are to be created one by one: somebody else may have them.

        Raises store errors; then each of them may still be created.
        """
        with self._changing(prefix):
            return await put_bundle(self.inner, self.bundles, prefix, manifests, deadline=self._deadline)

    def _is_known(self, key: str, token: str) -> bool:
        prefix, name = place_of(key)
        bundle = self.bundles.known(key_of_token(token, prefix))
        return bundle is not None and _is_of(token, bundle, name)

    async def _member(self, key: str) -> Found | None:
        """What a committed bundle holds under a key now."""
        holder = await self._holder(key)
        return await self._in_bundle(holder, place_of(key)[1]) if holder is not None else None

    async def _holder(self, key: str) -> Bundle | None:
        """The committed bundle that holds something under a key now."""
        prefix, name = place_of(key)
        if not await self._may_hold(prefix):
            return None
        if (known := self.bundles.holding(prefix, name)) is not None:
            return known
        return await self._find(await self.bundles.listed(prefix), name)

    async def _find(self, listed: Sequence[ObjectInfo], name: str) -> Bundle | None:
        """The committed one of the listed bundles that holds a name."""
        local = await self.bundles.local(listed)
        for _, bundle in sorted(local.items()):
            if bundle.holds(name):
                return bundle
        rest = [info for info in listed if info.key not in local]
        if len(rest) >= MANY:
            # The index of the store may tell which one it is: to read all of them for one name would be slow.
            damaged: list[ObjectInfo] = []
            held = await self._listing.held_by(rest, damaged=damaged)
            rest = [info for info in rest if any(member.name == name for member in held.get(info.key, ()))] + damaged
        return next((bundle for bundle in await self.bundles.load(rest) if bundle.holds(name)), None)

    async def _in_bundle(self, bundle: Bundle, name: str) -> Found | None:
        member = bundle.member(name)
        if member is None or bundle.state != "committed":
            return None
        return Found(await self.bundles.manifest(bundle, name), bundle.token(member))

    async def _settle(self, key: str, fresh: Found) -> Found:
        """What is under a key, where this is a fresh object."""
        found = Found(fresh.body[len(FRESH) :], fresh.etag)
        if self._settled.get(key) == fresh.etag:
            return found
        rival, claims = await self._rival(key)
        if rival is not None:
            return rival
        if claims:
            return Found(found.body, found.etag + UNSETTLED)
        self._settled.put(key, fresh.etag)
        return found

    async def _look(self, key: str) -> tuple[Found | None, Sequence[Bundle]]:
        """What a committed bundle holds under a key; and, if there is none, the pending ones that claim it."""
        prefix, name = place_of(key)
        claims = []
        for bundle in await self.bundles.of(prefix):
            if (found := await self._in_bundle(bundle, name)) is not None:
                return found, []
            if bundle.member(name) is not None:
                claims.append(bundle)
        return None, claims

    async def _rival(self, key: str) -> tuple[Found | None, Sequence[Bundle]]:
        """As `_look`; but nothing claims the key any more, unless this host may not write. Then, if there is no rival,
        there never will be one as long as there is an object under that key."""
        while True:
            rival, claims = await self._look(key)
            if not claims or self._read_only:
                return rival, claims
            for bundle in claims:
                await make_void(self.inner, bundle, deadline=self._deadline)

    async def _create(self, key: str, body: bytes) -> str:
        etag = await self.inner.put(key, FRESH + body, IF_ABSENT)
        rival, _ = await self._rival(key)
        if rival is None:
            self._settled.put(key, etag)
            return etag
        with contextlib.suppress(StoreError):
            # What is fresh does not count. But as long as it is there, each listing has to look at it.
            await self.inner.put(key, rival.body, IfMatch(etag))
        raise PreconditionFailed(f"{key} is in a bundle already")

    async def _replace(self, key: str, body: bytes, token: str) -> str:
        """Writes in the place of what a bundle holds."""
        if not self._is_known(key, token) and await self.held(key, token) is None:
            # What took its place may be gone again, long after: then there is nothing to write in the place of.
            raise PreconditionFailed(f"{key} is not in that bundle any more")
        try:
            return await self.inner.put(key, body, IF_ABSENT)
        except PreconditionFailed:
            own = await read_or_none(self.inner, key)
            if own is None or not own.body.startswith(FRESH):
                raise
            rival, _ = await self._rival(key)
            if rival is None or rival.etag != token:
                raise
            return await self.inner.put(key, body, IfMatch(own.etag))


def _is_of(token: str, bundle: Bundle, name: str) -> bool:
    """Whether this is the token of what a bundle holds under a name."""
    member = bundle.member(name)
    return member is not None and bundle.token(member) == token
