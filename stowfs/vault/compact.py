"""Compaction: what is stored already, in its smallest form, with the best dictionary there is. Safe beside any number
of writers and readers, and of other compactions.

First the dictionary: one is trained for the whole store, and used from then on, by all hosts, if that gains. Then
every segment that something references and every live manifest is compressed again, each by one compare-and-swap, if it
shrinks by enough (see `recompress`); those manifests that are in a bundle are with it. Manifests come last, since they
say where large segments are. What has been done says so, so that a compaction that was interrupted, or is repeated
later, goes on where there is something to do; it only tries again what gained too little.
"""

import time
from dataclasses import dataclass

from stowfs.errors import CorruptObject, UnsupportedVersion
from stowfs.store.base import ObjectInfo, ObjectStore
from stowfs.vault.best_dictionary import Trained, train_best
from stowfs.vault.bundle import Whole, is_token
from stowfs.vault.bundle_care import BUNDLES_AT_ONCE, SETTLED, Passed, superseded, walk
from stowfs.vault.bundled_store import BundledStore
from stowfs.vault.collect import CLOCK_ALLOWANCE, Kept, read_manifest
from stowfs.vault.manifest import Snapshot
from stowfs.vault.naming import SEGMENTS, digest_of_segment, manifest_key
from stowfs.vault.parallel import each
from stowfs.vault.progress import UNWATCHED, Progress
from stowfs.vault.recompress import Saving
from stowfs.vault.vault import Vault

REQUESTS = 16
"""Objects worked on at once: enough that the processor does not wait for the store, at a few megabytes each."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """What a compaction did, or with `dry_run` would do. `conversations`, `segments`: how many were stored again, of
    those `looked_at`; `bytes_before`, `bytes_after`: what these took and take."""

    trained: Trained | None
    conversations: int
    segments: int
    looked_at: int
    bytes_before: int
    bytes_after: int
    unread: tuple[Kept, ...]


async def compact_store(
    store: ObjectStore,
    vault: Vault,
    *,
    train: bool = True,
    dry_run: bool = False,
    progress: Progress = UNWATCHED,
) -> Compacted:
    """Compacts the whole store. `train`: look for a better dictionary first.

    With `dry_run` nothing is changed, and what is said of the rest takes the dictionary that there is. Raises store
    errors; what was done until then is done.
    """
    trained = None
    if train:
        trained = await train_best(store, vault.dictionaries, dry_run=dry_run, deadline=vault.options.deadline)
    work = _Compaction(store, vault, dry_run=dry_run, progress=progress)
    await work.segments()
    await work.manifests()
    return work.result(trained)


class _Compaction:
    def __init__(self, store: ObjectStore, vault: Vault, *, dry_run: bool, progress: Progress) -> None:
        self._store = BundledStore(store, deadline=vault.options.deadline)
        self._vault = vault
        self._dry_run = dry_run
        self._progress = progress
        self._manifests: list[Saving] = []
        self._segments: list[Saving] = []
        # Where large segments are, by digest: some 200 bytes for each megabyte of conversations.
        self._blobs: dict[str, str] = {}
        self._unread: list[Kept] = []

    def result(self, trained: Trained | None) -> Compacted:
        savings = [*self._manifests, *self._segments]
        return Compacted(
            trained=trained,
            conversations=sum(saving.changed for saving in self._manifests),
            segments=sum(saving.changed for saving in self._segments),
            looked_at=len(savings),
            bytes_before=sum(saving.before for saving in savings),
            bytes_after=sum(saving.after for saving in savings),
            unread=tuple(self._unread),
        )

    async def manifests(self) -> None:
        """Conversations that are live; what lies in the trash is given up before that would pay."""
        async for expanded, passed in walk(self._store, before=time.time() - SETTLED - CLOCK_ALLOWANCE):
            objects = [info for info in expanded.page.objects if not is_token(info.etag)]
            self._progress.expect(sum(info.size for info in [*objects, *(bundle.info for bundle in passed)]))
            found = await self._vault.versions(objects)
            known = {manifest_key(snapshot.path): snapshot for snapshot in found}
            await each(self._manifest, [(info, known.get(info.key)) for info in objects], limit=REQUESTS)
            await each(self._bundle, passed, limit=BUNDLES_AT_ONCE)

    async def segments(self) -> None:
        """Segments that something references."""
        async for page in self._store.list(SEGMENTS):
            self._progress.expect(sum(info.size for info in page.objects))
            await each(self._segment, page.objects, limit=REQUESTS)

    async def _manifest(self, listed: tuple[ObjectInfo, Snapshot | None]) -> None:
        info, found = listed
        try:
            snapshot = found or await read_manifest(self._store, self._vault.dictionaries, info.key)
            if snapshot is not None and snapshot.manifest.live and snapshot.is_conversation:
                self._manifests.append(
                    await self._vault.recompressor.manifest(snapshot, self._blobs, dry_run=self._dry_run)
                )
        except (CorruptObject, UnsupportedVersion) as error:
            self._unread.append(Kept(info.key, str(error)))
        finally:
            self._progress.advance(info.size)

    async def _bundle(self, passed: Passed) -> None:
        info = passed.info
        try:
            for bundle in await self._store.bundles.load([info]):
                if bundle.state != "committed" or await self._vault.recompressor.is_done(bundle):
                    held = [member for member in bundle.header.members if member.name not in passed.hidden]
                    self._manifests += [Saving(member.size, member.size) for member in held]
                elif (whole := await self._store.bundles.fetch(info.key)) is not None:
                    await self._recompress(whole, passed)
        except (CorruptObject, UnsupportedVersion) as error:
            self._unread.append(Kept(info.key, str(error)))
        finally:
            self._progress.advance(info.size)

    async def _recompress(self, whole: Whole, passed: Passed) -> None:
        gone = await superseded(self._store.inner, whole.bundle, passed.hidden)
        saving = await self._vault.recompressor.bundle(self._store.inner, whole, without=gone, dry_run=self._dry_run)
        self._manifests += saving.savings
        self._unread += [Kept(key, reason) for key, reason in saving.unread.items()]
        if saving.written is not None:
            self._vault.store.bundles.remember(saving.written)

    async def _segment(self, info: ObjectInfo) -> None:
        try:
            digest = digest_of_segment(info.key)
            saving = await self._vault.recompressor.segment(digest, dry_run=self._dry_run)
            self._segments.append(saving)
            if saving.blob is not None:
                self._blobs[digest] = saving.blob
        except (CorruptObject, UnsupportedVersion) as error:
            self._unread.append(Kept(info.key, str(error)))
        finally:
            self._progress.advance(info.size)
