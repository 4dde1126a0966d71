"""Commits: drafts, deletions, attribute changes and renames, each by one conditional PUT per name (DESIGN §7).

Order, always: journal what will be counted → acquire → journal the PUT → PUT → release. References are counted before
anything points to them and released after nothing does. Where the base has moved, the draft's `Intent` decides; where
a commit fails, its journal row is settled in the background (`recovery`), so that the caller never waits for cleaning
up.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import msgspec

from stowfs.errors import CorruptObject, Deleted, Expired, IsDirectory, MissingSegment, PathExists
from stowfs.hot.index import Sighting
from stowfs.hot.tier import HotTier
from stowfs.store.base import ObjectStore
from stowfs.vault import expiry, succession
from stowfs.vault import manifest as manifests
from stowfs.vault.assembly import Assembled, Assembler, Observe
from stowfs.vault.bundler import Bundler
from stowfs.vault.catalog import Catalog
from stowfs.vault.conflict import Merge, has_expired, is_what_is_there, reconcile, was_deleted
from stowfs.vault.conflict_copy import ConflictCopies
from stowfs.vault.counts import Counts
from stowfs.vault.dictionaries import Dictionaries
from stowfs.vault.doubt import refute
from stowfs.vault.draft import Draft
from stowfs.vault.layout import LayoutReader
from stowfs.vault.lost_base import is_gone, is_same
from stowfs.vault.manifest import Attributes, Manifest, Snapshot
from stowfs.vault.naming import display, manifest_key
from stowfs.vault.packing import Packing
from stowfs.vault.publish import Moved, Outcome, Overtaken, Published, next_ring, publish
from stowfs.vault.record import Payload
from stowfs.vault.recovery import Recovery
from stowfs.vault.succession import Successor
from stowfs.vault.transaction import Kind, Source, Transaction

log = logging.getLogger(__name__)

Keep = Callable[[Sequence[Payload]], Awaitable[None]]
"""Keeps of the segments that were just stored what this host will need, so that it need not ask the store for it."""


@dataclass(frozen=True, slots=True)
class Renamed:
    """A rename that took effect. `retired`: nothing is under the old name any more; otherwise somebody has written
    there since."""

    snapshot: Snapshot
    retired: bool


class Committer:
    """Writes versions of conversations and directories."""

    def __init__(
        self,
        store: ObjectStore,
        hot: HotTier,
        catalog: Catalog,
        counts: Counts,
        dictionaries: Dictionaries,
        observe: Observe,
        layouts: LayoutReader,
        assembler: Assembler,
        recovery: Recovery,
        bundler: Bundler,
        packing: Packing,
        *,
        deadline: float,
        trash_seconds: float,
        keep: Keep,
    ) -> None:
        self._store = store
        self._hot = hot
        self._catalog = catalog
        self._counts = counts
        self._dictionaries = dictionaries
        self._observe = observe
        self._layouts = layouts
        self._assembler = assembler
        self._recovery = recovery
        self._bundler = bundler
        self._packing = packing
        self._deadline = deadline
        self._trash_seconds = trash_seconds
        self._keep = keep
        self._copies = ConflictCopies(hot.spool, catalog, layouts, self.commit)

    async def commit(
        self,
        draft: Draft,
        *,
        unattended: bool = False,
        attempting: Callable[[], Awaitable[None]] | None = None,
        commit: str | None = None,
    ) -> Snapshot:
        """Makes the draft the next version of its conversation; what is there afterwards, which may be another one
        where the draft lost and was kept beside it (`Draft.kept`).

        `unattended`: nobody is there to be told of a conflict; whatever cannot be merged is kept beside what is there.
        `attempting` is called before every PUT that may make the draft a version, after `draft.attempt`. `commit`: the
        id it is tried under, which nothing was tried under before; None: any.

        Raises, unless `unattended`, `PathExists` (only if the draft is exclusive) and `IsDirectory`, also `Gone`,
        and errors of reading and storing; then the draft is as it was, but may have been rebased.
        """
        draft.kept = None
        # A tombstone that this host knows of spares a refused write.
        previous = draft.base or self._catalog.tombstone(draft.path)
        if expiry.is_over(draft.attributes.expires_ns):
            # Unless somebody has put its deadline off.
            previous = await self._catalog.current(draft.path, trust=False)
        asked = False
        while True:
            try:
                return await self._commit(draft, previous, attempting, commit, unattended=unattended)
            except MissingSegment as error:
                current = await self._catalog.current(draft.path, trust=False)
                if draft.base is None or not await is_gone(error, current, self._layouts):
                    raise
                if asked and is_same(current, previous):
                    return await self._copies.keep(draft, current, attempting, lost=error)
                # On what is there by now, it may need nothing of its base.
                previous, asked, commit = current, True, None

    async def _commit(
        self,
        draft: Draft,
        previous: Snapshot | None,
        attempting: Callable[[], Awaitable[None]] | None,
        commit: str | None,
        *,
        unattended: bool,
    ) -> Snapshot:
        """As `commit`, where `previous` is believed to be there. Raises `MissingSegment` where a segment of the base is
        neither in the store nor here."""
        with self._bundler.commit(), self._transaction("commit", draft.path, commit) as transaction:
            while True:
                if previous is not None and previous.manifest.live and previous is not draft.base:
                    await refute(draft, previous, self._layouts)
                    match reconcile(draft, previous, unattended=unattended):
                        case Merge.DONE:
                            committed = previous
                            break
                        case Merge.BESIDE:
                            committed = await self._copies.keep(draft, previous, attempting)
                            break
                        case Merge.MERGED:
                            pass
                if previous is not None and was_deleted(draft, previous):
                    raise Deleted(f"{display(draft.path)}: deleted elsewhere after it was stored")
                if has_expired(draft, previous):
                    raise Expired(f"{display(draft.path)}: the deadline has passed")
                transaction.held = await self._given_up(previous)
                # What of the base stays, assembling reads again.
                stays = transaction.held if previous is draft.base else await self._given_up(draft.base)
                assembled = await self._assembler.assemble(draft, stays, partial(self._acquire, transaction))
                # The content that is kept may come from a version that is not under this name any more.
                await transaction.acquire_existing(assembled.digests, partial(self._find, draft.base))
                manifest = succession.of_draft(draft, assembled, transaction.id, previous, transaction.blobs)
                may_stay = not transaction.recorded and not draft.attempts.may_replace(previous)
                if previous is not None and may_stay and is_what_is_there(manifest, previous):
                    # Unless somebody has written something else since: then this is what comes last.
                    current = await self._catalog.current(draft.path, trust=False)
                    if current is not None and current.etag == previous.etag:
                        committed = previous
                        break
                    previous = current
                    continue
                draft.attempt(transaction.id, previous)
                if attempting is not None:
                    await attempting()
                await transaction.about_to_write(
                    previous.etag if previous else None, transaction.surplus(assembled.digests)
                )
                outcome = await self._publish(draft.path, manifest, assembled.inline, previous, bundled=True)
                if isinstance(outcome, Moved):
                    draft.attempts.failed(transaction.id)
                    previous = outcome.current
                    continue
                committed = await self._learn(outcome, previous)
                self._finish(transaction)
                await self._note_inline(assembled)
                self._observe([manifests.encode_header(manifest)])
                break
        return committed

    async def set_attributes(self, path: str, change: Callable[[Attributes], Attributes]) -> Snapshot:
        """Changes the attributes of a conversation or directory, whatever else happens to it. Raises `NoSuchPath`."""
        return await self.rewrite("commit", path, partial(succession.with_attributes, path, change))

    async def set_deadline(self, path: str, expires_ns: int | None) -> Snapshot:
        """Changes when a conversation expires. Raises `NoSuchPath`, `IsDirectory`."""
        return await self.rewrite("commit", path, partial(succession.with_deadline, path, expires_ns))

    async def make_directory(self, path: str, attributes: Attributes) -> Snapshot:
        """A new directory. Raises `PathExists`."""
        directory = partial(succession.new_directory, path, attributes, self._bundler.enabled)
        return await self.rewrite("commit", path, directory)

    async def make_symlink(
        self, path: str, target: bytes, attributes: Attributes, *, replace: bool = False
    ) -> Snapshot:
        """A new symbolic link; with `replace` also in the place of a conversation or link.

        Raises `PathExists`, `IsDirectory`; `NameTooLong` and `UsageError` for a target that no kernel takes.
        """
        symlink = succession.new_symlink(path, target, attributes, replace=replace)
        return await self.rewrite("commit", path, symlink, inline=target)

    async def delete(
        self,
        path: str,
        *,
        directory: bool,
        wanted: Callable[[Snapshot], bool] = lambda _: True,
        commit: str | None = None,
        doubtful: bool = False,
    ) -> None:
        """Puts a tombstone in the place of a conversation (or an empty directory), if that is `wanted` of what is there
        by then.

        The tombstone keeps the content for the trash period. `commit`: the id of the deletion; None: any. `doubtful`:
        a commit may be on its way to where nothing is yet; then a tombstone there keeps it out. Raises `NoSuchPath`,
        `IsDirectory`, `NotDirectory`.
        """
        keeps = not directory and self._trash_seconds > 0

        def change(current: Snapshot | None) -> Manifest:
            if doubtful and (current is None or not current.manifest.live):
                return succession.another_tombstone(current)
            there = succession.live(path, current)
            return succession.tombstone(path, directory, keeps, there if wanted(there) else None)

        await self.rewrite("delete", path, change, commit=commit)

    async def rename(self, old: str, new: str, *, replace: bool = True, over: Snapshot | None = None) -> Renamed:
        """Gives a conversation another name: first the new name is committed, then the old one becomes a tombstone.

        `over`: a version under the new name that is replaced in any case. Raises `NoSuchPath`, `IsDirectory` (either is
        a directory), `PathExists` (not `replace`, and the new name is taken).
        """
        with self._transaction("rename", new) as transaction:
            source = succession.live(old, await self._catalog.current(old, trust=False))
            if source.is_directory:
                raise IsDirectory(display(old))
            if old == new:
                return Renamed(source, retired=False)
            target = await self._catalog.current(new, trust=False)
            while True:
                if target is not None and target.manifest.live:
                    if not replace and (over is None or target.manifest.commit != over.manifest.commit):
                        raise PathExists(f"{display(new)} exists")
                    if target.is_directory:
                        raise IsDirectory(display(new))
                wanted = await self._layouts.digests(source)
                transaction.held = await self._given_up(target)
                await transaction.acquire_existing(wanted)
                manifest = msgspec.structs.replace(
                    source.manifest, commit=transaction.id, ring=next_ring(target, transaction.id)
                )
                await transaction.about_to_write(
                    target.etag if target else None,
                    transaction.surplus(wanted),
                    source=Source(old, source.etag, tuple(sorted(wanted))),
                )
                outcome = await self._publish(new, manifest, source.inline, target)
                if isinstance(outcome, Moved):
                    target = outcome.current
                    continue
                committed = await self._learn(outcome, target)
                break
            await transaction.updated()
            self._catalog.forget(old)
            retired = await self._recovery.retire_source(transaction.row, source)
            self._finish(transaction)
            return Renamed(committed, retired)

    async def _acquire(self, transaction: Transaction, payloads: Sequence[Payload], there: set[str]) -> None:
        await transaction.acquire(payloads, there)
        await self._keep(payloads)

    async def _find(self, base: Snapshot | None, digest: str) -> Payload | None:
        """A segment of a version that was collected, if this host has it still."""
        kept = await self._layouts.kept(base, digest) if base is not None else None
        if kept is None:
            return None
        # Without a dictionary: that of the version may be gone, too.
        (compressed,) = await self._packing.compress([kept.raw], None)
        return Payload(digest, compressed, len(kept.raw), kept.type)

    @contextmanager
    def _transaction(self, kind: Kind, path: str, commit: str | None = None) -> Iterator[Transaction]:
        """A transaction whose row, if it fails, is cancelled or comes to nothing, is settled in the background."""
        # A name that no store can hold is refused before anything is counted for it.
        manifest_key(path)
        transaction = Transaction(self._hot.journal, self._counts, self._hot.index, kind, path, commit)
        try:
            yield transaction
        except BaseException:
            self._catalog.doubt(path)
            raise
        finally:
            if transaction.recorded and not transaction.finished:
                self._recovery.settle_later(transaction.row, transaction.phase, transaction.counted)

    async def _given_up(self, snapshot: Snapshot | None) -> set[str]:
        """What a version that is replaced references. Nothing where a page is lost or damaged: a name stays of use.

        Then the next version counts what it shares with it once more, which puts it back where it is lost.
        """
        try:
            return await self._layouts.digests(snapshot)
        except CorruptObject as error:
            assert snapshot is not None
            log.error("what %s referenced before stays counted: %s", display(snapshot.path), error)
            return set()

    async def rewrite(
        self,
        kind: Kind,
        path: str,
        change: Successor,
        *,
        inline: bytes | None = None,
        commit: str | None = None,
        careful: bool = False,
    ) -> Snapshot:
        """Replaces a manifest by what `change` makes of the current one, again until nobody was in between.

        `change` leaves `commit` and `ring` to this function. What the old one alone referenced is released. `inline`:
        the inline bytes, where they are not those of the current one. `commit`: its id, which nothing was tried under
        before; None: any. `careful`: raises `CorruptObject` where it cannot be told what there is to release, rather
        than leave that counted.
        """
        with self._transaction(kind, path, commit) as transaction:
            previous = await self._catalog.current(path)
            while True:
                next_manifest = msgspec.structs.replace(
                    change(previous), commit=transaction.id, ring=next_ring(previous, transaction.id)
                )
                kept = previous.inline if previous and next_manifest.inline else b""
                released: set[str] = set()
                if previous is not None and next_manifest.pieces != previous.manifest.pieces:
                    released = await (self._layouts.digests if careful else self._given_up)(previous)
                await transaction.about_to_write(previous.etag if previous else None, released)
                outcome = await self._publish(path, next_manifest, kept if inline is None else inline, previous)
                if isinstance(outcome, Moved):
                    previous = outcome.current
                    continue
                committed = await self._learn(outcome, previous)
                self._finish(transaction)
                return committed

    async def _publish(
        self, path: str, manifest: Manifest, inline: bytes, previous: Snapshot | None, *, bundled: bool = False
    ) -> Outcome:
        if previous is not None or manifest.kind != "directory":
            # For good, whatever comes under this key (see `bundled_directories`).
            keeps = previous is not None and previous.manifest.bundles
            manifest = msgspec.structs.replace(manifest, bundles=keeps)
        dictionary = await self._dictionaries.active()
        body = b"".join(await self._packing.compress(manifests.parts(manifest, inline), dictionary))
        own = Snapshot(path, manifest.commit, manifest, body, dictionary, inline)
        if bundled and previous is None and (etag := await self._bundler.publish(own)) is not None:
            return Published(replace(own, etag=etag))
        return await publish(self._store, self._dictionaries, own, previous, deadline=self._deadline)

    async def _learn(self, outcome: Published | Overtaken, previous: Snapshot | None) -> Snapshot:
        """What was written, in the place of `previous`."""
        if outcome.snapshot.manifest.live and (previous is None or not previous.manifest.live):
            self._catalog.created.note(outcome.snapshot.path)
        match outcome:
            case Published(snapshot):
                await self._catalog.learn(snapshot)
                return snapshot
            case Overtaken(snapshot):
                self._catalog.forget(snapshot.path)
                return snapshot

    def _finish(self, transaction: Transaction) -> None:
        """Leaves what is to be released to the background; the caller has its answer."""
        transaction.finished = True
        if transaction.recorded:
            self._recovery.complete_later(transaction.row)

    async def _note_inline(self, assembled: Assembled) -> None:
        """Remembers what lies inline, so that it is shared when it is seen again."""
        now = time.time()
        if assembled.inline_digests:
            await self._hot.index.note_sightings(
                {bytes.fromhex(digest): Sighting("inline", now) for digest in assembled.inline_digests}
            )
