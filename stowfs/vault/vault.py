"""The vault: conversations and directories of one store, as the mount and the command line use them.

Opening one starts the recovery of what an earlier process left in the journal; closing one waits, not for ever, until
what is to be released is released. What is not done by then stays in the journal for the next time.
"""

import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import msgspec
import trio

from stowfs.config import VaultOptions
from stowfs.errors import ReadOnly, StoreUnavailable
from stowfs.hot.tier import HotTier
from stowfs.locks import Lock
from stowfs.store.base import Found, ObjectInfo, ObjectStore
from stowfs.tasks import background
from stowfs.vault.assembly import Assembler
from stowfs.vault.backlog import Backlog, Unshown, flush_earlier
from stowfs.vault.bundled_directories import BundledDirectories
from stowfs.vault.bundled_store import BundledStore
from stowfs.vault.bundler import Bundler
from stowfs.vault.cas import read_or_none
from stowfs.vault.catalog import Catalog
from stowfs.vault.commit import Committer
from stowfs.vault.counts import Counts
from stowfs.vault.descriptor import Descriptor
from stowfs.vault.dictionaries import Dictionaries
from stowfs.vault.draft import Draft
from stowfs.vault.flusher import Flusher, Lag
from stowfs.vault.footprint import Footprint, measure
from stowfs.vault.indexing import Indexer
from stowfs.vault.layout import LayoutReader
from stowfs.vault.manifest import Attributes, Snapshot
from stowfs.vault.move import Mover, Then
from stowfs.vault.packing import Packing
from stowfs.vault.recent_listings import DirectoryListing
from stowfs.vault.recompress import Recompressor
from stowfs.vault.recovery import Recovery
from stowfs.vault.segments import SegmentCounts, SegmentReader
from stowfs.vault.shared_index import SharedIndex
from stowfs.vault.training import Trainer
from stowfs.vault.transaction import Row, decode
from stowfs.vault.trash import Trash
from stowfs.vault.tree import Tree, unwritten_directory
from stowfs.vault.version import PackedVersion

log = logging.getLogger(__name__)

DRAIN_TIMEOUT = 30.0
"""Seconds that closing a vault waits for releases; they are safe in the journal, so it need not wait for a store that
is away."""

THREADS = max(2, os.cpu_count() or 1)
"""Threads that cut, hash and compress: these hold the processor, so more than there are gain nothing."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a vault has of the local host. Sizes in bytes: of decompressed segments in memory, compressed ones on the
    disk, and what was written and is not committed. `backlog`: what of it is acknowledged."""

    segments: SegmentCounts
    memory_bytes: int
    disk_bytes: int
    spool_bytes: int
    backlog: Lag


@asynccontextmanager
async def open_vault(
    store: ObjectStore, hot: HotTier, descriptor: Descriptor, options: VaultOptions
) -> AsyncIterator["Vault"]:
    """The vault of a store; neither the store nor the hot tier is closed with it."""
    async with background() as nursery:
        vault = Vault(store, hot, descriptor, options, nursery)
        patience = 0.0
        try:
            if not options.read_only:
                await vault.recover()
                nursery.start_soon(vault.run_flusher)
                nursery.start_soon(vault.run_indexer)
            yield vault
            patience = DRAIN_TIMEOUT
        finally:
            with trio.CancelScope(shield=True):
                remaining = await vault.drain(patience)
            if remaining:
                log.warning("%d commits are not settled yet; the next mount on this host goes on with them", remaining)


class Vault:
    """Conversations and directories by path (see `naming`)."""

    def __init__(
        self, store: ObjectStore, hot: HotTier, descriptor: Descriptor, options: VaultOptions, nursery: trio.Nursery
    ) -> None:
        self.descriptor = descriptor
        self.options = options
        threads = trio.CapacityLimiter(THREADS)
        self._hot = hot
        self._nursery = nursery
        self.dictionaries = Dictionaries(store, hot.dictionaries, active_id=descriptor.dictionary)
        self._shared = SharedIndex(store, threads)
        directories = BundledDirectories(self._read_or_none, self.dictionaries, enabled=descriptor.bundles)
        # From here on nobody needs to know that there are bundles.
        self.store = store = BundledStore(
            store,
            deadline=options.deadline,
            may_hold=directories.may_hold,
            cache=hot.index,
            indexed=self._shared.held,
            read_only=options.read_only,
        )
        self._catalog = Catalog(
            store, hot.index, self.dictionaries, directories, self._shared, revalidate=options.revalidate
        )
        self.counts = Counts(
            store,
            self.dictionaries,
            nursery,
            deadline=options.deadline,
            many=descriptor.many,
            gather=options.flush.gather if options.asynchronous else 0.0,
            recounted_at=descriptor.recounted_at,
        )
        self.segments = SegmentReader(
            store, hot.segments, self.dictionaries, nursery, memory=options.memory_cache_size, threads=threads
        )
        self.recompressor = Recompressor(
            store, self._catalog, self.counts, self.dictionaries, threads, deadline=options.deadline
        )
        self._layouts = LayoutReader(self.segments, prefetch=options.prefetch)
        self.trainer = Trainer(
            self.dictionaries,
            descriptor.segmenter,
            nursery,
            enabled=descriptor.training and not options.read_only,
            deadline=options.deadline,
        )
        assembler = Assembler(
            self._layouts, hot.index, self.dictionaries, self.trainer.observe, descriptor.segmenter, threads
        )
        self._recovery = Recovery(
            store, hot.journal, self._catalog, self.counts, self.dictionaries, nursery, deadline=options.deadline
        )
        self._committer = Committer(
            store,
            hot,
            self._catalog,
            self.counts,
            self.dictionaries,
            self.trainer.observe,
            self._layouts,
            assembler,
            self._recovery,
            Bundler(store, directories, nursery, enabled=options.bundles and descriptor.bundles),
            Packing(nursery, threads),
            deadline=options.deadline,
            trash_seconds=descriptor.trash_seconds,
            # What was acknowledged is read from here whether or not the store answers, also when it is stored.
            keep=self.segments.keep if options.asynchronous else self.segments.keep_pages,
        )
        self.backlog = Backlog(
            hot.journal, hot.spool, self._catalog, self._committer, self.trainer, self._layouts.read, threads
        )
        self.flusher = Flusher(options.flush, patience=options.deadline)
        self._tree = Tree(store, self._catalog, self._committer, read_only=options.read_only)
        self._mover = Mover(self._tree, self._committer, self._recovery, hot.journal)
        self._indexer = Indexer(store, self._shared, self._catalog.versions, threads, deadline=options.deadline)
        self._trash = Trash(store, self._catalog, self._committer, self._tree)

    async def _read_or_none(self, key: str) -> Found | None:
        return await read_or_none(self.store, key)

    async def recover(self) -> None:
        """Begins to settle what an earlier process left in the journal."""
        await self.backlog.restore()
        self.queue_removals()
        await self._recovery.recover(self._mover.resume)

    def queue_removals(self) -> None:
        """Has the flusher finish the removals that are left."""
        for removal in self.backlog.removals:
            # What was to be committed may be under way still, under the id of the draft.
            key = removal.removal or removal.id
            self.flusher.add(key, removal.path, 0, partial(self.backlog.finish_removal, removal))

    def queue_backlog(self) -> None:
        """Has the flusher send what an earlier process left. For a vault whose owner writes nothing itself."""
        versions: dict[str, tuple[Lock, list[Draft]]] = {}
        for draft in self.backlog.in_turn:
            flight, waiting = versions.setdefault(draft.path, (Lock(), []))
            waiting.append(draft)
            commit = partial(self._flush_in_turn, flight, tuple(waiting))
            self.flusher.add(draft.id, draft.path, draft.spooled, commit)

    async def _flush_in_turn(self, flight: Lock, drafts: Sequence[Draft]) -> None:
        """Commits the last one, after the others, which have the same name."""
        *others, last = drafts
        async with flight:
            await flush_earlier(last.path, [partial(self.backlog.flush, draft, Lock(), Unshown) for draft in others])
            await self.backlog.flush(last, Lock(), Unshown)

    async def run_flusher(self) -> None:
        """Sends what is acknowledged to the store, for ever."""
        await self.flusher.run()

    async def run_indexer(self) -> None:
        """Writes the index of the store whenever listings miss too much in it, for ever."""
        await self._indexer.run()

    async def compare_with_index(self, objects: Sequence[ObjectInfo]) -> None:
        """Notes which listed manifests the index of the store lacks, known to this host or not."""
        await self._shared.find(objects)

    async def write_index(self) -> int:
        """Writes of the index what too much is missing of; returns how many manifests that are (see `indexing`)."""
        self._check_writable()
        return await self._indexer.write()

    async def head(self, path: str, *, stale_ok: bool = False) -> Snapshot:
        """The live conversation or directory under `path`, as the store has it now. Raises `NoSuchPath`.

        `stale_ok`: or, while the store cannot be reached, as this host saw it last. Only to show it or to write to it,
        not to decide anything by it.
        """
        await self.backlog.finish_removals(path)
        try:
            return await self._tree.head(path, stale_ok=stale_ok)
        except StoreUnavailable:
            if stale_ok and any(draft.path.startswith(path + "/") for draft in self.backlog.drafts):
                # What waits in a directory is read by way of it.
                return unwritten_directory(path)
            raise

    def fetch_ahead(self, paths: Sequence[str]) -> None:
        """Begins to fetch what is under paths that will be opened soon, and the segments with which it begins; errors
        are left to whoever opens it. For nothing where every open has to ask the store anyway."""
        if self.options.revalidate and (chosen := self._catalog.ahead(paths)):
            self._nursery.start_soon(self._fetch_ahead, chosen)

    async def _fetch_ahead(self, chosen: Sequence[str]) -> None:
        try:
            found = await self._catalog.fetch_ahead(chosen)
            self._layouts.fetch_beginnings([snapshot for snapshot in found if snapshot.manifest.live])
        except Exception:
            # Nobody has asked for it: whoever does is told.
            log.exception("fetching ahead failed unexpectedly")

    async def read(self, snapshot: Snapshot, start: int, end: int) -> bytes:
        """The bytes `start` to `end` of a version, clipped at its size. Raises `CorruptObject` and store errors."""
        return await self._layouts.read(snapshot, start, end)

    async def view(self, snapshot: Snapshot, start: int, end: int) -> bytes | memoryview:
        """As `read`, without copying what lies in one piece of it."""
        return await self._layouts.view(snapshot, start, end)

    async def digests(self, snapshot: Snapshot) -> set[str]:
        """The segments that a version references, pages of references among them."""
        return await self._layouts.digests(snapshot)

    async def footprint(self, snapshot: Snapshot) -> Footprint:
        """What a version uses (see `footprint.measure`): one request for each of its segments."""
        return await measure(self.store, snapshot, await self.digests(snapshot))

    def draft(self, path: str, base: Snapshot | None, attributes: Attributes, *, appending: bool = False) -> Draft:
        """Begins to write to a conversation (a new one, where there is no `base`); costs nothing until something is
        written."""
        self._check_writable()
        return Draft(path, base, attributes, self._hot.spool, self._layouts.read, appending=appending)

    async def commit(self, draft: Draft, *, exclusive: bool = False) -> Snapshot:
        """Makes a draft the next version of its conversation; then it is clean, with that version as its base.

        `exclusive`: only if the name is free. Raises what `Committer.commit` raises.
        """
        self._check_writable()
        draft.exclusive = draft.exclusive or exclusive
        await self.backlog.complete(draft)
        committed = await self._committer.commit(draft, attempting=partial(self.backlog.note_attempts, draft))
        await self.backlog.withdraw(draft)
        draft.settle(committed)
        return committed

    async def acknowledge(self, draft: Draft, *, replacing: Draft | None = None) -> None:
        """Makes what is in a draft durable on this host; the owner hands it to the flusher (see
        `Backlog.acknowledge`)."""
        self._check_writable()
        await self.backlog.acknowledge(draft, replacing=replacing)

    async def set_attributes(
        self,
        path: str,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        mtime_ns: int | None = None,
        atime_ns: int | None = None,
    ) -> Snapshot:
        """Changes what is given; the time of change becomes now. Raises `NoSuchPath`."""
        given = {"mode": mode, "uid": uid, "gid": gid, "mtime_ns": mtime_ns, "atime_ns": atime_ns}
        wanted = {name: value for name, value in given.items() if value is not None}
        return await self.change_attributes(path, lambda current: msgspec.structs.replace(current, **wanted))

    async def change_attributes(self, path: str, change: Callable[[Attributes], Attributes]) -> Snapshot:
        """Makes of the attributes what `change` says, also if others change them at the same time; the time of change
        becomes now. Raises `NoSuchPath`, and what `change` raises."""
        self._check_writable()
        return await self._committer.set_attributes(
            path, lambda current: msgspec.structs.replace(change(current), ctime_ns=time.time_ns())
        )

    async def set_deadline(self, path: str, expires_ns: int | None) -> Snapshot:
        """Sets when a conversation expires, in nanoseconds since the epoch; None: never (see `expiry`).

        Raises `NoSuchPath`, `IsDirectory`.
        """
        self._check_writable()
        return await self._committer.set_deadline(path, expires_ns)

    async def remove(self, path: str, *, commit: str | None = None, doubtful: bool = False) -> None:
        """Deletes a conversation (see `Committer.delete`). Raises `NoSuchPath`, `IsDirectory`."""
        self._check_writable()
        await self._committer.delete(path, directory=False, commit=commit, doubtful=doubtful)

    async def rename(self, old: str, new: str, *, replace: bool = True) -> Snapshot:
        """Renames a conversation (see `Committer.rename`)."""
        self._check_writable()
        return (await self._committer.rename(old, new, replace=replace)).snapshot

    async def rename_directory(self, old: str, new: str) -> None:
        """Renames a directory, one conversation after another (see `Mover.rename`)."""
        self._check_writable()
        await self._mover.rename(old, new)

    @property
    def unfinished_renames(self) -> list[tuple[str, str]]:
        """The renames of directories, old and new name, that go on in the background."""
        return self._mover.unfinished

    def when_renamed(self, old: str, new: str, then: Then) -> bool:
        """Has `then` called at the end of a rename that goes on in the background (see `Mover.when_ended`)."""
        return self._mover.when_ended(old, new, then)

    async def make_directory(self, path: str, attributes: Attributes) -> Snapshot:
        """A new directory. Raises `PathExists`; `NoSuchPath` and `NotDirectory` for the parent."""
        self._check_writable()
        return await self._tree.make(path, attributes)

    async def make_symlink(
        self, path: str, target: bytes, attributes: Attributes, *, replace: bool = False
    ) -> Snapshot:
        """A new symbolic link; with `replace` also in the place of a conversation or link.

        Raises `PathExists`, `IsDirectory`, `NameTooLong`; `NoSuchPath` and `NotDirectory` for the parent.
        """
        self._check_writable()
        return await self._tree.make_symlink(path, target, attributes, replace=replace)

    async def remove_directory(self, path: str) -> None:
        """Removes an empty directory. Raises `DirectoryNotEmpty`, `NotDirectory`, `NoSuchPath`."""
        self._check_writable()
        await self._tree.remove(path)

    async def list_directory(self, path: str) -> list[Snapshot]:
        """What is in a directory, by name: all of it, or an error. Raises `NoSuchPath`, `NotDirectory`."""
        return await self._tree.list(path)

    async def listing(self, path: str) -> DirectoryListing:
        """As `list_versions`; within the revalidation time it need not ask the store."""
        return await self._tree.listing(path)

    async def list_versions(self, path: str) -> Sequence[tuple[str, PackedVersion]]:
        """As `list_directory`, but only names and packed versions, which takes much less memory and fewer requests."""
        return await self._tree.list_versions(path)

    def walk(self, directory: str = "") -> AsyncIterator[Snapshot]:
        """Everything below a directory, in the order of the keys."""
        return self._tree.walk(directory)

    async def versions(self, objects: Sequence[ObjectInfo]) -> list[Snapshot]:
        """The versions that a listing of manifests names, tombstones too, but for what cannot be read or is gone."""
        return await self._catalog.resolve(objects)

    def deleted(self, directory: str = "") -> AsyncIterator[Snapshot]:
        """What was deleted below a directory and can be brought back."""
        return self._trash.walk(directory)

    async def undelete(self, path: str) -> Snapshot:
        """Brings a deleted conversation back (see `Trash.restore`)."""
        self._check_writable()
        return await self._trash.restore(path)

    async def empty_trash(self, path: str, *, before: float) -> bool:
        """Gives up the content of what was deleted before a time (see `Trash.empty`)."""
        self._check_writable()
        return await self._trash.empty(path, before=before)

    async def give_up_expired(self, path: str, *, before: float) -> bool:
        """Gives up what expired before a time (see `Trash.give_up_expired`)."""
        self._check_writable()
        return await self._trash.give_up_expired(path, before=before)

    def usage(self) -> Usage:
        """What this vault has of the local host now."""
        hot = self._hot
        used = self.segments.memory_used, hot.segments.used, hot.spool.used
        return Usage(self.segments.counts, *used, self.flusher.lag)

    async def under_way(self) -> list[tuple[str, Row]]:
        """The commits that are in the journal, the oldest first: how far each is, and what it is about."""
        return [(row.phase, decode(row)) for row in await self._hot.journal.rows()]

    async def drain(self, timeout: float = DRAIN_TIMEOUT) -> int:
        """Waits at most `timeout` seconds for releases and recovery; returns how many commits are not settled."""
        return await self._recovery.drain(timeout)

    def _check_writable(self) -> None:
        if self.options.read_only:
            raise ReadOnly("this mount is read-only")
