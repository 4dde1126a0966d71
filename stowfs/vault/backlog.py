"""The backlog: changes that were acknowledged and are not in the store yet (`commit=async`).

Invariants:

* A draft has a row in the journal as long as it is acknowledged. The row holds its bytes where they are few; else they
  are durable in the spool before the row is, and are never written over (`hot.spool`).
* Before a PUT that may make a draft a version, its row has the id of the commit. So whoever finds the row, after
  whatever crash, can tell from the ring of the manifest whether it happened, and goes on from there. The row of new
  content has an id from the beginning (`Draft.plan`): it is written again only where something else is to be tried.
* The row is dropped, or reduced to what was acknowledged since, only when the store has the rest, or when it is to be
  thrown away.

A draft is committed from a frozen copy, while the owner goes on writing.
"""

import logging
import math
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Protocol

import msgspec
import trio

from stowfs.errors import (
    CorruptObject,
    Deleted,
    Gone,
    HotTierFailed,
    HotTierFull,
    IsDirectory,
    NoSuchPath,
    NotDirectory,
    StoreUnavailable,
    StowError,
)
from stowfs.hot.journal import DraftRow, Journal
from stowfs.hot.spool import Spool
from stowfs.locks import Lock
from stowfs.vault import manifest as manifests
from stowfs.vault.attempts import Attempts
from stowfs.vault.catalog import Catalog
from stowfs.vault.commit import Committer
from stowfs.vault.draft import Draft, ReadBase
from stowfs.vault.draft_state import DraftState, decode, encode
from stowfs.vault.manifest import Snapshot
from stowfs.vault.naming import display, manifest_key
from stowfs.vault.ring import Verdict, new_id
from stowfs.vault.training import CONTENT, Trainer

log = logging.getLogger(__name__)

ADD_UP_AFTER = 0.5
"""Seconds between two looks at how much waits: all of it is looked at, and it may be thousands."""


class Shown(Protocol):
    """Whoever shows a draft to programs, for one commit of it. All is called with the lock of the draft held."""

    async def about_to_change(self, committed: Snapshot) -> None:
        """The draft is in this version: it will be based on that, or be that."""

    def settled(self, committed: Snapshot, kept: Snapshot | None, *, clean: bool) -> None:
        """So it is now; or, where it lost to that, it is based on what was `kept` of it. `clean`: there is nothing else
        in it."""


Show = Callable[[Draft], Shown]
"""Who shows a draft, where a commit begins of what is acknowledged of it. It is called with the lock held, too."""


class Unshown:
    """Nobody shows a draft."""

    def __init__(self, acknowledged: Draft) -> None:
        """Nobody needs to know."""

    async def about_to_change(self, committed: Snapshot) -> None:
        """Nobody needs to know."""

    def settled(self, committed: Snapshot, kept: Snapshot | None, *, clean: bool) -> None:
        """Nobody needs to know."""


class Backlog:
    """Acknowledged drafts of this host."""

    def __init__(
        self,
        journal: Journal,
        spool: Spool,
        catalog: Catalog,
        committer: Committer,
        trainer: Trainer,
        read_base: ReadBase,
        threads: trio.CapacityLimiter,
    ) -> None:
        self._journal = journal
        self._spool = spool
        self._catalog = catalog
        self._committer = committer
        self._trainer = trainer
        self._read_base = read_base
        self._threads = threads
        self._pending: dict[str, Draft] = {}
        # The manifests that drafts are based on, as they stand in their rows.
        self._bases: dict[str, tuple[Snapshot, bytes]] = {}
        self._removals: list[DraftState] = []
        # The last turn that was given (see `Draft`).
        self._turns = 0
        # How much is new, and when that was added up.
        self._new_bytes = 0
        self._added_up = -math.inf

    @property
    def drafts(self) -> list[Draft]:
        """Those that are acknowledged, in the order in which they first were."""
        return list(self._pending.values())

    @property
    def in_turn(self) -> list[Draft]:
        """The same, in the order in which those of one name are to go to the store."""
        return sorted(self._pending.values(), key=turn_of)

    @property
    def removals(self) -> list[DraftState]:
        """Those that an earlier process was removing when it ended, or this one could not say otherwise."""
        return list(self._removals)

    async def restore(self) -> list[Draft]:
        """The drafts that an earlier process acknowledged and did not bring into the store.

        What lies in the spool besides was promised to nobody, and is removed. A row that cannot be used is left in
        the journal, with its bytes, and logged.
        """
        kept = set()
        for row in await self._journal.drafts():
            kept.add(row.draft_id)
            try:
                state = decode(row)
                if state.removal is not None:
                    self._removals.append(state)
                    # Whatever becomes of it, its bytes are not needed.
                    kept.discard(row.draft_id)
                    continue
                draft = self._restored(state, row.base)
            except (HotTierFailed, CorruptObject, ValueError) as error:
                log.error("the acknowledged draft %s cannot be restored: %s", row.draft_id, error)
                continue
            self._pending[draft.id] = draft
            self._turns = max(self._turns, draft.turn)
        for name in self._spool.names():
            if name not in kept:
                self._spool.remove(name)
        return self.drafts

    def _restored(self, state: DraftState, manifest: bytes | None) -> Draft:
        base = None
        if manifest is not None:
            if state.base_etag is None:
                raise CorruptObject("its row has a base without an ETag")
            base = manifests.decode(state.path, state.base_etag, manifest)
        draft = Draft.restored(state, base, self._spool, self._read_base)
        draft.park()
        return draft

    async def acknowledge(self, draft: Draft, *, replacing: Draft | None = None) -> None:
        """Makes what is in the draft now durable on the local disk. The caller holds its lock.

        `replacing`: another acknowledged draft that is thrown away in the same instant. Raises `HotTierFull`,
        `HotTierFailed`, `NameTooLong`; then the draft counts as acknowledged as it was before.
        """
        manifest_key(draft.path)
        frozen = draft.freeze()
        if not frozen.fits_journal:
            await trio.to_thread.run_sync(draft.sync, limiter=self._threads)
        frozen.plan()
        known = draft.acknowledged
        # Who sets attributes only does not write the file once more.
        if known is not None and known.path == frozen.path and known.mark().changes == frozen.mark().changes:
            frozen.turn = known.turn
        else:
            self._turns += 1
            frozen.turn = self._turns
        await self._journal.change_drafts([self._row(frozen)], [replacing.id] if replacing else [])
        draft.acknowledged = frozen
        self._pending[draft.id] = draft
        if replacing is not None:
            self._forget(replacing)
            replacing.acknowledged = None

    async def complete(self, draft: Draft) -> None:
        """Of a draft that is acknowledged, what was changed since is, too: what a crash leaves of its commit can be
        told from its attempts then. The caller holds its lock. Raises as `acknowledge`."""
        known = draft.acknowledged
        if known is not None and known.path == draft.path and not draft.is_as(known.mark()):
            await self.acknowledge(draft)

    async def note_attempts(self, draft: Draft) -> None:
        """Before a PUT that may make a draft a version: where it is acknowledged, its row gets the id of the commit.
        The caller holds its lock. Raises `HotTierFailed`, `HotTierFull`."""
        if draft.acknowledged is not None:
            await self._journal.change_drafts([self._row(draft.acknowledged)])

    async def withdraw(self, draft: Draft) -> None:
        """What is acknowledged of the draft is not to be stored: it was stored otherwise, or removed. The caller holds
        its lock. Raises `HotTierFailed`, `HotTierFull`."""
        if draft.acknowledged is not None:
            await self._journal.change_drafts(drop=[draft.id])
            self._forget(draft)
            draft.acknowledged = None

    @asynccontextmanager
    async def removing(self, draft: Draft | None) -> AsyncIterator[str]:
        """Around the removal of a conversation from the store, for which it gives a commit id: where a crash ends it
        half-way, it is finished later, unless that id tells that it was done; and what is acknowledged does not bring
        it back. Nothing of it is acknowledged any more after the block, unless that fails. The caller holds the lock.

        Where the local disk is too full to note how the block ended, it is finished later, too, and no error here: else
        somebody would be told that it failed, and a restart would carry it out all the same.
        """
        commit = new_id()
        acknowledged = draft.acknowledged if draft is not None else None
        if draft is None or acknowledged is None:
            yield commit
            return
        removed = acknowledged.base.content_id if acknowledged.base is not None else ""
        removal = msgspec.structs.replace(acknowledged.state(), removal=commit, removed=removed)
        await self._journal.change_drafts([DraftRow(removal.id, encode(removal), None)])
        failure: Exception | None = None
        try:
            yield commit
        except Exception as error:  # noqa: BLE001 - raised below, unless it is tried again
            # Only cancelled, it goes on as after a crash.
            failure = error
        try:
            if failure is None:
                await self.withdraw(draft)
            else:
                await self._journal.change_drafts([self._row(acknowledged)])
        except HotTierFull as full:
            log.warning(
                "%s is removed as soon as the store answers (%s), since this host cannot note anything else: %s",
                display(draft.path),
                failure or "it has",
                full,
            )
            self._removals.append(removal)
            self._forget(draft)
            draft.acknowledged = None
            return
        if failure is not None:
            raise failure

    async def finish_removals(self, path: str) -> None:
        """Finishes what an earlier process was removing under a path: what the store still has there may be older than
        what that process last showed. Raises store errors, `HotTierFailed`, `HotTierFull`."""
        for removal in self.removals:
            if removal.path == path:
                await self.finish_removal(removal)

    async def finish_removal(self, removal: DraftState) -> None:
        """Removes what an earlier process was removing, unless it is another conversation by now. Any number of times,
        also at once. Raises store errors, `HotTierFailed`, `HotTierFull`."""
        current = await self._catalog.current(removal.path, trust=False)
        there = current is not None and current.manifest.live
        # A commit of it may be on its way still: then a tombstone keeps it out.
        doubtful = not there and Attempts(removal.attempts).may_replace(current)
        if doubtful or (current is not None and there and _is_older(current, removal)):
            try:
                await self._committer.delete(
                    removal.path,
                    directory=current is not None and current.is_directory,
                    wanted=partial(_is_older, removal=removal),
                    doubtful=doubtful,
                )
            except (NoSuchPath, IsDirectory, NotDirectory):
                log.info("%s was removed already", display(removal.path))
        await self._journal.change_drafts(drop=[removal.id])
        if removal in self._removals:
            self._removals.remove(removal)

    async def flush(self, draft: Draft, lock: Lock, show: Show) -> bool:
        """Commits what is acknowledged of a draft. One at a time; the caller does not hold `lock`, the draft's.

        False where it is gone, with what was written to it: then nothing of it is acknowledged any more. Raises what
        `Committer.commit` raises (unattended), and errors of the hot tier; then it is acknowledged still.
        """
        await self._train_first()
        async with lock:
            acknowledged = draft.acknowledged
            if acknowledged is None:
                return True
            shown = show(acknowledged)
            # What a commit does to the draft on its way must not be seen by the next attempt.
            frozen, plan = acknowledged.freeze(), acknowledged.take_plan()

        async def attempting() -> None:
            async with lock:
                if draft.acknowledged is acknowledged and plan is not None and frozen.attempts.was(plan):
                    return
                await self.note_attempts(draft)

        try:
            committed = await self._committer.commit(
                frozen, unattended=True, attempting=attempting, commit=plan.commit if plan else None
            )
        except Gone as error:
            async with lock:
                unchanged = draft.acknowledged is acknowledged and draft.is_as(acknowledged.mark())
                if isinstance(error, Deleted) and not unchanged:
                    # The next commit brings it back, with what was written since.
                    return True
                log.info("%s", error)
                await self.withdraw(draft)
            return False
        async with lock:
            kept = frozen.kept
            takes_file = committed is not kept and not (committed.is_directory or committed.is_symlink)
            if kept is not None and takes_file and draft.replaced_since(acknowledged.mark()):
                # Somebody has replaced both since: the last one wins.
                kept = None
            await shown.about_to_change(kept or committed)
            clean = await self._advance(draft, frozen, acknowledged, kept or committed)
            shown.settled(committed, kept if kept is not None and draft.path == kept.path else None, clean=clean)
        return True

    async def _advance(self, draft: Draft, frozen: Draft, done: Draft, committed: Snapshot) -> bool:
        """The store has the draft as it was when `done` was frozen, in `committed` unless it lost to that.

        Whether there is nothing else in it.
        """
        mark = done.mark()
        kept = frozen.kept is committed
        later = draft.acknowledged if draft.acknowledged is not done else None
        if later is None and draft.is_as(mark):
            await self.withdraw(draft)
            draft.settle(committed)
            if kept:
                draft.stand_for(committed)
            return True
        # Where what was changed since makes no sense on what is there now, the next commit keeps it beside that.
        same = not frozen.moved and (kept or frozen.kept is None) and draft.shares_base(done)
        followed = (draft.follow if later is None else draft.advance)(mark, committed, same=same)
        if followed and kept:
            draft.stand_for(committed)
        if later is None:
            await self.withdraw(draft)
        else:
            await self._journal.change_drafts([self._row(later)])
        if followed:
            draft.attempts.forget(committed)
        draft.release()
        return False

    async def _train_first(self) -> None:
        """Where much is waiting and the store has no dictionary yet, makes one first."""
        if not self._trainer.wants_first:
            return
        now = trio.current_time()
        if now >= self._added_up + ADD_UP_AFTER:
            self._added_up = now
            self._new_bytes = sum(draft.size for draft in self._new_drafts())
        async with aclosing(self._selection()) as selection:
            await self._trainer.train_first(selection, self._new_bytes)

    def _new_drafts(self) -> list[Draft]:
        known = [draft.acknowledged for draft in self._pending.values()]
        return [draft for draft in known if draft is not None and draft.base is None]

    async def _selection(self) -> AsyncGenerator[bytes]:
        """The beginnings of what is new, in any order."""
        drafts = self._new_drafts()
        for draft in random.sample(drafts, len(drafts)):
            pending = self._pending.get(draft.id)
            if pending is None or pending.acknowledged is not draft:
                continue
            try:
                yield await draft.read(0, CONTENT)
            except StowError as error:
                log.info("%s is not sampled: %s", display(draft.path), error)

    def _forget(self, draft: Draft) -> None:
        self._pending.pop(draft.id, None)
        self._bases.pop(draft.id, None)

    def _row(self, frozen: Draft) -> DraftRow:
        base = frozen.base
        if base is None:
            return DraftRow(frozen.id, encode(frozen.state()), None)
        known = self._bases.get(frozen.id)
        if known is None or known[0] is not base:
            known = self._bases[frozen.id] = base, manifests.encode(base.manifest, base.inline)
        return DraftRow(frozen.id, encode(frozen.state()), known[1])


async def flush_earlier(path: str, flushes: Iterable[Callable[[], Awaitable[object]]]) -> None:
    """Has other versions of a path flushed, which were acknowledged before the one that is to follow. What cannot be
    stored of them holds up nothing. Raises `StoreUnavailable`."""
    for flush in flushes:
        try:
            await flush()
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - raised to who flushes that one
            log.debug("%s goes before what was closed earlier: %s", display(path), error)


def turn_of(draft: Draft) -> float:
    """Of a draft the turn of what is acknowledged of it; where that is nothing, after all others."""
    return draft.acknowledged.turn if draft.acknowledged is not None else math.inf


def _is_older(current: Snapshot, removal: DraftState) -> bool:
    """Whether the version was there when the removal began, or is what was removed: the fence of an interrupted commit
    may have written that again since, or a commit of it have taken effect late."""
    assert removal.removal is not None
    if current.etag == removal.base_etag:
        # No ETag comes twice: nothing was written since, however the clocks of those who wrote before were set.
        return True
    ring = current.manifest.ring
    if ring.verdict(removal.removal) is not Verdict.DID_NOT_HAPPEN:
        # It was removed, and this is what somebody has made there after that.
        return False
    written_before = ring.recent[-1] < removal.removal
    return written_before or current.content_id == removal.removed or current.manifest.commit in removal.attempts
