"""Garbage collection: gives back the space of what nobody can read any more. Safe beside any number of writers.

Some steps, each a compare-and-swap of one object that fails where anybody was quicker:

* a tombstone whose trash period is over loses its content, and what it referenced is released; so does a conversation
  some time after its deadline (`expiry.MARGIN`), deleted or not;
* a record that nothing has referenced for the grace period becomes dead: its payload goes, its ring stays, since a
  writer may still have to find out there what became of its change;
* bundles of manifests lose what has a key of its own by now, and go where nothing is left (`bundle_care`);
* only if nothing has the store mounted (`exclusive`): what has been dead, or an empty tombstone, for so long that no
  ring is asked for that old an id (`ring.FORGOTTEN_AFTER`) is removed, and so are dictionaries that nothing was
  compressed with, but for the active one. Whoever compresses needs no request for that, so nothing in the store tells
  who is about to use one.

A listing only tells where to look. What is freed is decided by the object itself, and a listing that fails half-way
ends the collection with its error. What cannot be read is kept, and named.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from stowfs.codec import NAME_LENGTH
from stowfs.errors import CorruptObject, ObjectNotFound, PreconditionFailed, UnsupportedVersion
from stowfs.store.base import ByteRange, Found, IfMatch, ObjectInfo, ObjectStore
from stowfs.vault import manifest as manifests
from stowfs.vault import record as records
from stowfs.vault.bundle import is_token
from stowfs.vault.bundle_care import SETTLED, BundleCare
from stowfs.vault.bundled_store import BundledStore
from stowfs.vault.cas import read_or_none
from stowfs.vault.descriptor import read_descriptor
from stowfs.vault.dictionaries import Dictionaries
from stowfs.vault.expiry import MARGIN
from stowfs.vault.indexing import remove_unnamed
from stowfs.vault.manifest import Snapshot
from stowfs.vault.naming import (
    DICTIONARIES,
    MANIFESTS,
    SEGMENTS,
    digest_of_segment,
    id_of_dictionary,
    is_bundle,
    manifest_key,
    path_of_manifest,
)
from stowfs.vault.parallel import each
from stowfs.vault.progress import UNWATCHED, Progress
from stowfs.vault.ring import FORGOTTEN_AFTER
from stowfs.vault.trash import expired_before, is_due
from stowfs.vault.vault import Vault

GRACE = 86400.0
"""Seconds for which a segment without references is kept: a file that was opened before its conversation was changed
or deleted is read from it, and hardly any is held open for more than a day."""

CLOCK_ALLOWANCE = 86400.0
"""Seconds by which the clocks of hosts and of the store may differ: what is removed for good is older by as much."""

REQUESTS = 32
"""Objects worked on at once; the store has a limit of its own."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An object that could not be read, and so was left as it is."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection did, or with `dry_run` would do.

    `emptied`: deleted conversations that cannot be brought back any more, of `emptied_size` bytes as they were read;
    `expired`, `expired_size`: conversations that had expired.
    `segments`: payloads dropped, `segment_bytes` as stored. `waiting`, `waiting_bytes`: without references, but within
    the grace period. `removed`: dead records, empty tombstones, dictionaries, what was in the index before, bundles,
    and manifests in bundles that have keys of their own by now; `removed_bytes` of the store. `replaced`: payloads
    deleted that `compact` had replaced by smaller ones.
    `unsettled`: commits whose releases are still to be done; the next command on this host goes on with them.
    """

    emptied: int = 0
    emptied_size: int = 0
    expired: int = 0
    expired_size: int = 0
    segments: int = 0
    segment_bytes: int = 0
    waiting: int = 0
    waiting_bytes: int = 0
    removed: int = 0
    removed_bytes: int = 0
    unsettled: int = 0
    replaced: int = 0
    kept: tuple[Kept, ...] = ()


async def collect_garbage(
    store: ObjectStore,
    vault: Vault,
    *,
    grace: float = GRACE,
    trash: float | None = None,
    exclusive: bool = False,
    dry_run: bool = False,
    now: Callable[[], float] = time.time,
    progress: Progress = UNWATCHED,
) -> Collected:
    """Collects the garbage of the whole store.

    `grace`, `trash` (seconds; `None`: as the store's descriptor says): how long segments without references and
    deleted conversations are kept. `exclusive`: the caller knows that nothing else uses the store. Raises store
    errors; what was freed until then is freed.
    """
    kept_for = vault.descriptor.trash_seconds if trash is None else trash
    work = _Collection(store, vault, grace, kept_for, exclusive=exclusive, dry_run=dry_run, now=now, progress=progress)
    if exclusive:
        # Tombstones stay as long as they hide something.
        await work.bundles()
    await work.tombstones()
    if not exclusive or work.given_up:
        await work.bundles()
    await work.index()
    await work.segments()
    await work.dictionaries()
    return work.result()


async def read_manifest(store: BundledStore, dictionaries: Dictionaries, key: str) -> Snapshot | None:
    """What is under a key that the vault could not make sense of, or that is gone (`None`). Raises `CorruptObject`,
    `UnsupportedVersion`, store errors."""
    if is_bundle(key):
        await store.confirm_gone(key)
        return None
    path = path_of_manifest(key)
    found = await read_or_none(store, key)
    if found is None:
        return None
    return manifests.decode(path, found.etag, found.body, await dictionaries.of(found.body))


class _Collection:
    def __init__(
        self,
        store: ObjectStore,
        vault: Vault,
        grace: float,
        trash: float,
        *,
        exclusive: bool,
        dry_run: bool,
        now: Callable[[], float],
        progress: Progress,
    ) -> None:
        self._store = BundledStore(store, deadline=vault.options.deadline)
        self._vault = vault
        self._grace = grace
        self._trash = trash
        self._exclusive = exclusive
        self._dry_run = dry_run
        self._now = now
        self._progress = progress
        self._emptied: list[int] = []
        self._expired: list[int] = []
        self._freed: list[int] = []
        self._waiting: list[int] = []
        self._removed: list[int] = []
        self._left_out: list[int] = []
        self._kept: list[Kept] = []
        self._unsettled = 0
        self._replaced_blobs = 0
        # The keys of what is given up and lies in bundles still.
        self.given_up: set[str] = set()
        # Of the page that is worked on: what hides something that lies in a bundle.
        self._hidden: set[str] = set()
        # The names of the dictionaries that something was compressed with.
        self._dictionaries: set[str] = set()

    def result(self) -> Collected:
        return Collected(
            emptied=len(self._emptied),
            emptied_size=sum(self._emptied),
            expired=len(self._expired),
            expired_size=sum(self._expired),
            segments=len(self._freed),
            segment_bytes=sum(self._freed),
            waiting=len(self._waiting),
            waiting_bytes=sum(self._waiting),
            removed=len(self._removed) + len(self._left_out),
            removed_bytes=sum(self._removed) + sum(self._left_out),
            unsettled=self._unsettled,
            replaced=self._replaced_blobs,
            kept=tuple(self._kept),
        )

    async def bundles(self) -> None:
        """Takes what nobody needs out of bundles."""
        if not self._vault.descriptor.bundles:
            return
        care = BundleCare(
            self._store,
            known=(self._vault.store.bundles,),
            deadline=self._vault.options.deadline,
            before=self._now() - SETTLED - CLOCK_ALLOWANCE,
            given_up=self.given_up,
            exclusive=self._exclusive,
            dry_run=self._dry_run,
        )
        await care.run()
        # Where nothing is changed, a second time meets what the first one met.
        self._left_out = care.removed if self._dry_run else self._left_out + care.removed
        self._dictionaries |= care.dictionaries
        self._kept += [Kept(key, reason) for key, reason in care.unread.items()]

    async def tombstones(self) -> None:
        """Empties the trash, gives up what has expired, and removes what has long been empty."""
        async for expanded in self._store.expanded(MANIFESTS):
            page, self._hidden = expanded.page, {line.key for line in expanded.hidden}
            self._progress.expect(sum(info.size for info in page.objects))
            await self._vault.compare_with_index(page.objects)
            found = {manifest_key(snapshot.path): snapshot for snapshot in await self._vault.versions(page.objects)}
            await each(self._tombstone, [(info, found.get(info.key)) for info in page.objects], limit=REQUESTS)
            # The releases of one page are done before the next one begins: they do not pile up.
            self._unsettled = await self._vault.drain()

    async def index(self) -> None:
        """Writes the index where too much is missing in it, and removes what was in it before."""
        if not self._dry_run:
            await self._vault.write_index()
        unnamed = await remove_unnamed(self._store, now=self._now, dry_run=self._dry_run)
        self._removed += unnamed

    async def segments(self) -> None:
        """Frees what nothing references."""
        async for page in self._store.list(SEGMENTS):
            self._progress.expect(sum(info.size for info in page.objects))
            await each(self._segment, page.objects, limit=REQUESTS)

    async def dictionaries(self) -> None:
        """Removes those that nothing needs; where something could not be read, nobody can tell."""
        if not self._exclusive or self._kept:
            return
        active = (await read_descriptor(self._store)).dictionary
        before = self._now() - self._grace - CLOCK_ALLOWANCE
        async for page in self._store.list(DICTIONARIES):
            for info in page.objects:
                id = id_of_dictionary(info.key)
                if id == active or id[:NAME_LENGTH] in self._dictionaries or info.modified > before:
                    continue
                if not self._dry_run:
                    await self._store.delete(info.key)
                self._removed.append(info.size)

    async def _tombstone(self, listed: tuple[ObjectInfo, Snapshot | None]) -> None:
        info, found = listed
        try:
            snapshot = found or await read_manifest(self._store, self._vault.dictionaries, info.key)
            if snapshot is None:
                return
            if snapshot.dictionary:
                self._dictionaries.add(snapshot.dictionary.name)
            deadline, before = self._now() - MARGIN, self._now() - self._trash
            if expired_before(snapshot, deadline):
                if self._dry_run or await self._vault.give_up_expired(snapshot.path, before=deadline):
                    self._expired.append(snapshot.size)
                    self._give_up(info.key, snapshot)
            elif is_due(snapshot, before):
                if self._dry_run or await self._vault.empty_trash(snapshot.path, before=before):
                    self._emptied.append(snapshot.size)
                    self._give_up(info.key, snapshot)
            elif not snapshot.manifest.holds_something:
                self._give_up(info.key, snapshot)
                if not snapshot.manifest.bundles:
                    await self._remove(info, snapshot.etag)
        except (CorruptObject, UnsupportedVersion) as error:
            self._kept.append(Kept(info.key, str(error)))
        finally:
            self._progress.advance(info.size)

    def _give_up(self, key: str, given_up: Snapshot) -> None:
        """Notes what is to leave a bundle."""
        # With `exclusive`, what is hidden has been left out already.
        if is_token(given_up.etag) or (key in self._hidden and not self._exclusive):
            self.given_up.add(key)

    async def _segment(self, info: ObjectInfo) -> None:
        try:
            digest = digest_of_segment(info.key)
            found = await self._store.get(info.key, byte_range=ByteRange(0, records.HEADER_LIMIT))
            assert isinstance(found, Found)
            header = records.decode_header(digest, found.body)
            await self._replaced(digest, header)
            if header.dictionary is not None and header.state == "live":
                self._dictionaries.add(header.dictionary)
            if header.state == "dead":
                await self._remove(info, found.etag)
            elif header.ref_count == 0:
                await self._unreferenced(digest, header)
        except ObjectNotFound:
            return  # removed since the listing
        except (CorruptObject, UnsupportedVersion) as error:
            self._kept.append(Kept(info.key, str(error)))
        finally:
            self._progress.advance(info.size)

    async def _unreferenced(self, digest: str, header: records.Header) -> None:
        before = self._now() - self._grace
        if header.zero_since is None or header.zero_since > before:
            self._waiting.append(header.stored_size)
        elif self._dry_run or await self._vault.counts.collect(digest, before=before):
            self._freed.append(header.stored_size)

    async def _replaced(self, digest: str, header: records.Header) -> None:
        """Deletes a blob that a recompression has replaced."""
        before = self._now() - self._grace
        if header.replaced is None or header.replaced.since > before:
            return
        if self._dry_run or await self._vault.counts.drop_replaced(digest, before=before):
            self._replaced_blobs += 1

    async def _remove(self, info: ObjectInfo, etag: str) -> None:
        """Removes what is dead for good, if nobody wrote to it for long enough."""
        if not self._exclusive or info.modified > self._now() - FORGOTTEN_AFTER - CLOCK_ALLOWANCE:
            return
        if not self._dry_run:
            try:
                await self._store.delete(info.key, IfMatch(etag))
            except PreconditionFailed:
                return  # somebody needs it again
        self._removed.append(info.size)
