"""Recompression: what is stored, in a smaller form.

Manifests in a bundle (see `bundle`) are recompressed together, with the bundle: for themselves, each would become an
object again.

A version that is recompressed stays the version it is. Commit id, ring, attributes and bytes are the same; only the
frames are others, and so the ETag, and where its large segments are. Whoever has it open or cached goes on with it; a
PUT that was conditional on the old ETag is refused, and made again as after any other change. One body is replaced by
another of that version only, so whatever ETag comes twice is that of the same one.

What is written is decompressed and compared first. A manifest or record that changes meanwhile is left as it is then:
it has become somebody's newer version, or is smaller already.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import trio

from stowfs import codec
from stowfs.codec import Dictionary
from stowfs.errors import CorruptObject, ObjectNotFound, UnsupportedVersion
from stowfs.hot.segments import CachedSegment
from stowfs.store.base import Found, ObjectStore
from stowfs.vault import bundle as bundles_format
from stowfs.vault import manifest as manifests
from stowfs.vault import record as records
from stowfs.vault.bundle import Bundle, Whole
from stowfs.vault.bundling import replace_bundle
from stowfs.vault.cas import compare_and_swap
from stowfs.vault.catalog import Catalog
from stowfs.vault.counts import Counts
from stowfs.vault.dictionaries import Dictionaries
from stowfs.vault.manifest import NO_BLOBS, Snapshot, blobs_of
from stowfs.vault.naming import blob_key, key_in, manifest_key, path_of_manifest, segment_key
from stowfs.vault.record import Payload
from stowfs.vault.segments import unpack_verified
from stowfs.vault.untrusted import read_bounded

LEVEL = codec.BEST_LEVEL

WORTH = 32
"""What an object must shrink by to be written again: this fraction of it. The higher level alone gains two or three of
these."""


@dataclass(frozen=True, slots=True)
class Saving:
    """Bytes of one object before and after; the same where it was left as it is. `blob`: the revision key under which
    the bytes of a segment are now, where they are redirected."""

    before: int
    after: int
    blob: str | None = None

    @property
    def changed(self) -> bool:
        """Whether it was (or would be) written again."""
        return self.after != self.before


@dataclass(frozen=True, slots=True)
class BundleSaving:
    """`savings`: of the manifests in a bundle that it holds still; `unread`: why some cannot be read, by key.
    `written`: the bundle as it is now, where it was written again."""

    savings: tuple[Saving, ...]
    unread: dict[str, str]
    written: Whole | None = None


class Recompressor:
    """Stores objects again, at `LEVEL` and with the active dictionary."""

    def __init__(
        self,
        store: ObjectStore,
        catalog: Catalog,
        counts: Counts,
        dictionaries: Dictionaries,
        threads: trio.CapacityLimiter,
        *,
        deadline: float,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._counts = counts
        self._dictionaries = dictionaries
        self._threads = threads
        self._deadline = deadline

    async def manifest(
        self, snapshot: Snapshot, blobs: Mapping[str, str] = NO_BLOBS, *, dry_run: bool = False
    ) -> Saving:
        """Stores the manifest of a version again where that is worth it, or large segments are not where it says.

        `blobs`: where they are (see `Snapshot.blobs`), as far as that is known. Raises store errors.
        """
        size = snapshot.stored_size
        dictionary = await self._dictionaries.active()
        found = blobs_of(snapshot.manifest.pieces, blobs, snapshot.blobs)
        astray = found != snapshot.manifest.blobs
        if not astray and snapshot.manifest.level == LEVEL and _id(snapshot.dictionary) == _id(dictionary):
            return Saving(size, size)
        body = await trio.to_thread.run_sync(_manifest, snapshot, dictionary, found, limiter=self._threads)
        if not astray and not _is_worth_it(size, len(body)):
            return Saving(size, size)
        if not dry_run:
            replace = _Replace(snapshot.etag, body)
            key = manifest_key(snapshot.path)
            self._catalog.doubt(snapshot.path)
            swapped = await compare_and_swap(
                self._store, key, replace, first=Found(b"", snapshot.etag), deadline=self._deadline
            )
            if not (swapped.written or replace.done):
                return Saving(size, size)
        return Saving(size, len(body))

    async def is_done(self, bundle: Bundle) -> bool:
        """Whether this bundle has been recompressed with the active dictionary."""
        return bundle.header.dictionary == _id(await self._dictionaries.active())

    async def bundle(
        self, store: ObjectStore, whole: Whole, *, without: Collection[str] = (), dry_run: bool = False
    ) -> BundleSaving:
        """Stores a committed bundle again where that is worth it, `without` what may be left out under these names.

        `store`: that in which bundles are objects. Raises store errors.
        """
        dictionary = await self._dictionaries.active()
        members = [(member, body) for member, body in whole.manifests() if member.name not in without]
        stored: list[tuple[str, bytes, Dictionary | None]] = []
        unread: dict[str, str] = {}
        for member, body in members:
            key = key_in(whole.bundle.prefix, member.name)
            try:
                stored.append((key, body, await self._dictionaries.of(body)))
            except CorruptObject as error:
                unread[key] = str(error)
        smaller, undecodable = await trio.to_thread.run_sync(_manifests, stored, dictionary, limiter=self._threads)
        unread |= undecodable
        kept = BundleSaving(tuple(Saving(member.size, member.size) for member, _ in members), unread)
        again = [
            (member.name, member.commit, smaller.get(key_in(whole.bundle.prefix, member.name), body))
            for member, body in members
        ]
        before = sum(member.size for member in whole.bundle.header.members)
        if not again or not _is_worth_it(before, sum(len(body) for _, _, body in again)):
            return kept
        written = None
        if not dry_run:
            body = bundles_format.committed(again, dictionary=None if unread else _id(dictionary))
            _verify_bundle(whole.bundle, body, again)
            written = await replace_bundle(store, whole.bundle, body, deadline=self._deadline)
            if written is None:
                return kept
        sizes = zip(members, again, strict=True)
        return BundleSaving(tuple(Saving(len(old), len(new)) for (_, old), (_, _, new) in sizes), unread, written)

    async def segment(self, digest: str, *, dry_run: bool = False) -> Saving:
        """Stores a segment again where that is worth it; nothing, if nobody references it.

        Raises `CorruptObject`, `UnsupportedVersion` and store errors.
        """
        try:
            found = await read_bounded(self._store, segment_key(digest))
        except ObjectNotFound:
            return Saving(0, 0)  # removed since it was listed
        record = records.decode(digest, found.body)
        header = record.header
        kept = Saving(header.stored_size, header.stored_size, header.redirect)
        dictionary = await self._dictionaries.active_for(header.raw_size)
        name = dictionary.name if dictionary else None
        done = header.level == LEVEL and header.dictionary == name
        if header.state == "dead" or not header.ref_count or done or (header.redirect and header.replaced):
            return kept
        stored = record.payload
        if header.redirect is not None:
            try:
                stored = (await read_bounded(self._store, blob_key(digest, header.redirect))).body
            except ObjectNotFound:
                raise CorruptObject(f"the bytes of segment {digest} are missing, or have just been replaced") from None
        segment = CachedSegment(header.dictionary, header.raw_size, stored)
        before = await self._dictionaries.of(stored)
        compressed = await trio.to_thread.run_sync(_payload, digest, segment, before, dictionary, limiter=self._threads)
        if not _is_worth_it(len(stored), len(compressed)):
            return kept
        payload = Payload(digest, compressed, header.raw_size, header.type, name, level=LEVEL)
        if dry_run:
            return Saving(len(stored), len(compressed), header.redirect)
        written = await self._counts.recompress(payload, first=found)
        return kept if written is None else Saving(len(stored), len(compressed), written.redirect)


def _manifest(snapshot: Snapshot, dictionary: Dictionary | None, blobs: tuple[str, ...]) -> bytes:
    """The body of a version, with these `Manifest.blobs`. Raises `CorruptObject` unless it is that."""
    manifest = msgspec.structs.replace(snapshot.manifest, level=LEVEL, blobs=blobs)
    body = manifests.encode(manifest, snapshot.inline, dictionary, level=LEVEL)
    again = manifests.decode(snapshot.path, snapshot.etag, body, dictionary)
    if again.manifest != manifest or again.inline != snapshot.inline:
        raise CorruptObject("a manifest is not what it was after it was compressed: the memory of this host is broken")
    return body


def _manifests(
    stored: Sequence[tuple[str, bytes, Dictionary | None]], dictionary: Dictionary | None
) -> tuple[dict[str, bytes], dict[str, str]]:
    """Of the manifests (key, body, and the dictionary that this needs) the smaller bodies, by key, as far as there are
    any; and why some cannot be read."""
    smaller: dict[str, bytes] = {}
    unread: dict[str, str] = {}
    for key, body, before in stored:
        try:
            snapshot = manifests.decode(path_of_manifest(key), "", body, before)
        except (CorruptObject, UnsupportedVersion) as error:
            unread[key] = str(error)
            continue
        done = snapshot.manifest.level == LEVEL and _id(snapshot.dictionary) == _id(dictionary)
        if done or not snapshot.manifest.live or not snapshot.is_conversation:
            continue
        again = _manifest(snapshot, dictionary, snapshot.manifest.blobs)
        if len(again) < len(body):
            smaller[key] = again
    return smaller, unread


def _verify_bundle(bundle: Bundle, body: bytes, expected: Sequence[tuple[str, str, bytes]]) -> None:
    """Raises `CorruptObject` unless this is a version of the bundle with these manifests."""
    again = bundles_format.decode(bundle.key, bundle.etag, body)
    if [(member.name, member.commit, body) for member, body in again.manifests()] != list(expected):
        raise CorruptObject("a bundle is not what it was after it was compressed: the memory of this host is broken")


def _payload(digest: str, stored: CachedSegment, before: Dictionary | None, dictionary: Dictionary | None) -> bytes:
    """The frame of a segment. Raises `CorruptObject` unless it is that, and the one that is stored, too."""
    raw = unpack_verified(digest, stored, before)
    compressed = codec.compress(raw, level=LEVEL, dictionary=dictionary)
    if codec.decompress(compressed, expected=len(raw), dictionary=dictionary) != raw:
        raise CorruptObject(f"segment {digest} is not what it was after it was compressed: this host is broken")
    return compressed


def _id(dictionary: Dictionary | None) -> str:
    return dictionary.id if dictionary else ""


def _is_worth_it(before: int, after: int) -> bool:
    return before - after >= max(before // WORTH, 1)


class _Replace:
    """One body of a manifest to another of the same version."""

    def __init__(self, etag: str, body: bytes) -> None:
        self._etag = etag
        self._body = body
        self.done = False

    def propose(self, current: Found | None) -> bytes | None:
        self.done = current is not None and current.body == self._body
        return self._body if current is not None and current.etag == self._etag else None

    def in_doubt(self) -> None:
        """Nothing to note: the body tells."""
