"""How what is written to files gets into the store: commits and acknowledgements of drafts, by inode.

A draft ends with the commit: at a flush (each close of a writer), an fsync, or the release of the last writer. With
`commit=async` that is where it is acknowledged; it ends when the flusher has committed it and nothing was done to it
since, which may be long after the last close.

Whoever sends a change to the store keeps the path steady first (`Moves`), then takes the inode's `flight`, so that
there is one at a time; whoever looks at or changes the draft holds the inode's `lock`. Always in this order.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import msgspec

from stowfs.errors import Gone, NoSuchPath, PathExists, StoreUnavailable, StowError
from stowfs.mount.inode import Inode
from stowfs.mount.inodes import Inodes
from stowfs.mount.moves import Moves
from stowfs.mount.outcomes import Before, Outcomes, Showing
from stowfs.vault import expiry
from stowfs.vault.backlog import flush_earlier
from stowfs.vault.draft import Draft
from stowfs.vault.naming import display
from stowfs.vault.vault import Vault
from stowfs.vault.version import Version

log = logging.getLogger(__name__)


class Commits:
    """The uncommitted changes of a mount, on their way into the store."""

    def __init__(
        self,
        vault: Vault,
        inodes: Inodes,
        moves: Moves,
        outcomes: Outcomes,
        *,
        lifetime: float | None,
    ) -> None:
        """`lifetime`: seconds after which new content expires; None: it does not."""
        self._vault = vault
        self._lifetime = lifetime
        self._inodes = inodes
        self._moves = moves
        self._outcomes = outcomes
        self._asynchronous = vault.options.asynchronous

    def restore(self) -> None:
        """Shows what an earlier process acknowledged and did not bring into the store, and goes on bringing it
        there."""
        for draft in self._vault.backlog.in_turn:
            inode = self._inodes.add(draft.path, Version.of(draft.base) if draft.base else None)
            inode.draft = draft
            inode.attempted = True
            self._queue(inode)

    async def room(self) -> None:
        """Waits while too much waits for the store. Raises `BacklogFull` where it stays so."""
        if self._asynchronous:
            await self._vault.flusher.room()

    async def commit(self, inode: Inode, *, in_store: bool = False) -> None:
        """Makes what is uncommitted durable: in the store, or, with `commit=async` and unless `in_store`, here.

        On error it stays uncommitted. Raises what `Vault.commit` or `Vault.acknowledge` raises.
        """
        if inode.draft is None or inode.local:
            return
        if self._asynchronous and not in_store and _is_safe(inode.draft):
            return
        async with self.committing(inode, in_store=in_store) as commit:
            await commit()

    @asynccontextmanager
    async def committing(self, inode: Inode, *, in_store: bool = False) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """The block holds the inode's lock, and may call what it gets to commit as `commit` does."""
        if self._asynchronous and not in_store:
            async with self._moves.steady(lambda: (inode.path,)), inode.lock:
                yield partial(self.acknowledge_locked, inode)
            return
        async with self._moves.steady(lambda: (inode.path,)), inode.flight, inode.lock:
            yield partial(self.commit_locked, inode)
        await self._outcomes.tell_size(inode)

    @contextmanager
    def undone_on_error(self, inode: Inode) -> Iterator[None]:
        """Where the block fails, which changes the inode and commits that, it is as it was. The caller holds the
        lock."""
        draft, fresh, failure = inode.draft, inode.fresh, inode.failure
        before, tried = (draft.freeze(), draft.attempts.copy()) if draft is not None else (None, None)
        acknowledged = draft.acknowledged if draft is not None else None
        try:
            yield
        except BaseException:
            if draft is None:
                self.discard(inode)
            elif inode.draft is draft and draft.acknowledged is acknowledged:
                assert before is not None
                assert tried is not None
                draft.undo(before, tried)
                inode.cached = None
            inode.fresh, inode.failure = fresh, failure
            raise

    async def commit_locked(self, inode: Inode) -> None:
        """As `commit` in the store, for a caller that keeps the path steady and holds flight and lock."""
        draft = inode.draft
        if draft is None or not inode.linked or inode.local:
            return
        self._fix_deadline(inode, draft)
        before = Before(inode.version, draft)
        inode.attempted = True
        try:
            committed = await self._vault.commit(draft)
        except Gone as gone:
            log.info("%s", gone)
            self._gone(inode)
            return
        except Exception as error:
            inode.failure = error
            if draft.exclusive and isinstance(error, PathExists):
                # What is there is another file, of which nothing that is done to this one is meant.
                inode.attempted = bool(draft.attempts)
            # It may have been moved onto another version before that.
            self._outcomes.merged(inode, before, draft.size - before.size)
            raise
        try:
            await self._outcomes.about_to_show(inode, before, draft.kept or committed)
        finally:
            inode.draft = None
            self._outcomes.committed(inode, before, committed, draft.kept)

    async def commit_once(self, inode: Inode, *, in_store: bool = False) -> None:
        """As `commit`, for a caller that is a writer itself, and will not try again.

        On error the changes are dropped, unless there are other writers.
        """
        try:
            await self.commit(inode, in_store=in_store)
        except Exception:
            if inode.writers == 1:
                self.discard(inode)
            raise

    async def commit_as(self, inode: Inode, path: str, *, replace: bool) -> None:
        """Commits a file that is nowhere but here under another name; with `replace` whatever is there. The caller
        keeps both steady and holds flight and lock. Raises as `commit_locked`; then nothing has changed."""
        draft = inode.draft
        assert draft is not None
        before = draft.path, draft.appending, draft.exclusive
        local, failure = inode.local, inode.failure
        draft.path, draft.appending, draft.exclusive = path, False, not replace
        inode.local = False
        try:
            await self.commit_locked(inode)
        except BaseException:
            draft.path, draft.appending, draft.exclusive = before
            inode.local, inode.failure, inode.attempted = local, failure, False
            raise

    async def acknowledge_locked(self, inode: Inode) -> None:
        """As `commit` with `commit=async`, for a caller that keeps the path steady and holds the lock."""
        draft = inode.draft
        if draft is None or not inode.linked or inode.local or _is_safe(draft):
            return
        self._fix_deadline(inode, draft)
        try:
            await self._vault.acknowledge(draft)
        except Exception as error:
            inode.failure = error
            raise
        inode.failure = None
        self._queue(inode)
        self._outcomes.show_again(inode)

    async def acknowledge_as(self, inode: Inode, path: str, replaced: Inode | None, *, exclusive: bool) -> None:
        """Gives a file that is nowhere but here another name, in the place of `replaced`; with `exclusive` only if it
        is still free when it is committed. The caller holds flight and lock of both. Raises what `Vault.acknowledge`
        raises; then nothing has changed."""
        draft = inode.draft
        assert draft is not None
        self._fix_deadline(inode, draft)
        before = draft.path, draft.appending, draft.exclusive
        # Whatever is under that name is replaced.
        draft.path, draft.appending, draft.exclusive = path, False, exclusive
        other = replaced.draft if replaced is not None else None
        try:
            await self._vault.acknowledge(draft, replacing=other)
        except BaseException:
            draft.path, draft.appending, draft.exclusive = before
            raise
        if other is not None:
            self._vault.flusher.drop(other.id)
        inode.local = False
        # The store may have another file of that name.
        inode.attempted = True
        self._queue(inode)

    async def flush(self, inode: Inode) -> None:
        """Commits what is acknowledged, in the background; after what was acknowledged before of other versions of its
        name. Raises what `Backlog.flush` raises."""
        # What one of those leaves acknowledged, whatever the reason, holds up no other.
        tried: set[Inode] = set()
        while True:
            earlier = self._inodes.acknowledged_before(inode) - tried
            tried |= earlier
            await flush_earlier(inode.path, [partial(self.flush, other) for other in earlier])
            try:
                await self._flush(inode, tried)
            except _OutOfTurn:
                continue
            return

    async def _flush(self, inode: Inode, tried: set[Inode]) -> None:
        async with self._moves.steady(lambda: (inode.path,)), inode.flight:
            draft = inode.draft
            if draft is None or draft.acknowledged is None:
                return
            if not inode.linked:
                # Its name went while it showed something else.
                async with inode.lock:
                    await self._vault.backlog.withdraw(draft)
                return
            inode.attempted = True
            try:
                if not await self._vault.backlog.flush(draft, inode.lock, partial(self._show, inode, tried)):
                    async with inode.lock:
                        self._gone(inode)
            finally:
                inode.changing = False
                # Where it failed, its bytes were read.
                self.rest(inode)
        await self._outcomes.tell_size(inode)
        self._inodes.drop_if_unused(inode)

    def _show(self, inode: Inode, tried: set[Inode], acknowledged: Draft) -> Showing:
        if self._inodes.acknowledged_before(inode) - tried:
            raise _OutOfTurn
        return Showing(self._outcomes, inode, acknowledged)

    async def flush_all(self, timeout: float) -> None:
        """Waits until everything that is acknowledged is in the store. Raises why something is not."""
        left = await self._vault.flusher.flush(timeout)
        for entry in left:
            raise entry.failure or StoreUnavailable(f"{len(left)} conversations are not in the store yet")

    async def remove_locked(self, inode: Inode | None, path: str) -> None:
        """Removes a file from the store, if it may be there, and what is acknowledged of it. The caller keeps the path
        steady and holds flight and lock. Raises `NoSuchPath`, `IsDirectory`, and store errors."""
        draft = inode.draft if inode is not None else None
        stored = inode is None or inode.version is not None
        if stored or (inode is not None and inode.attempted):
            async with self._vault.backlog.removing(draft) as commit:
                try:
                    await self._vault.remove(path, commit=commit, doubtful=draft is not None and bool(draft.attempts))
                except NoSuchPath:
                    if stored:
                        raise
        if draft is not None:
            self._vault.flusher.drop(draft.id)
            await self._vault.backlog.withdraw(draft)
            self._vault.queue_removals()

    async def finish(self, inode: Inode) -> None:
        """Ends the draft of a file that nobody writes to any more: committed, or dropped with a line in the log.

        What a flush could not commit is not tried again: its caller knows.
        """
        if inode.draft is None or (inode.local and inode.linked):
            return
        error = inode.failure
        if inode.linked and error is None:
            try:
                await self.commit(inode)
            except StowError as failure:
                error = failure
            except Exception:
                if not inode.writers:
                    self.discard(inode)
                raise
        if inode.draft is None or inode.writers or (inode.linked and _is_safe(inode.draft)):
            return
        if isinstance(error, PathExists):
            log.info("%s was created elsewhere first", display(inode.path))
        elif error is not None:
            log.error("%s: what was written last is lost: %s", display(inode.path), error)
        self.discard(inode)

    def discard(self, inode: Inode) -> None:
        """Drops what is neither committed nor acknowledged; a file that was neither is gone."""
        inode.failure = None
        if inode.draft is not None and inode.draft.acknowledged is not None:
            inode.draft.revert()
            inode.cached = None
            return
        draft, inode.draft = inode.draft, None
        if draft is not None:
            draft.discard()
            inode.cached = None
        if inode.version is None and draft is not None:
            # Whoever still has it open sees an empty file without a name.
            inode.show(Version("", draft.attributes, 0))
            if self._inodes.is_current(inode):
                self._inodes.unlink(inode.path)

    def rest(self, inode: Inode) -> None:
        """Nobody has the file open: what waits of it holds no descriptor until it is used again."""
        if inode.draft is not None and not inode.handles:
            inode.draft.park()

    def _fix_deadline(self, inode: Inode, draft: Draft) -> None:
        """Before new content is committed or acknowledged for the first time: its lifetime begins."""
        if inode.fresh:
            draft.attributes = msgspec.structs.replace(draft.attributes, expires_ns=expiry.deadline(self._lifetime))
            inode.fresh = False

    def _queue(self, inode: Inode) -> None:
        draft = inode.draft
        assert draft is not None
        self._vault.flusher.add(draft.id, draft.path, draft.spooled, partial(self.flush, inode))

    def _gone(self, inode: Inode) -> None:
        """The file has expired or was deleted elsewhere before this host could know that the store had it: it is gone,
        but for those who have it open."""
        self._inodes.lose(inode)
        if not inode.handles:
            self.discard(inode)


class _OutOfTurn(Exception):
    """Another version of the name was acknowledged before, and is not in the store yet."""


def _is_safe(draft: Draft) -> bool:
    """Whether everything in it is acknowledged."""
    return draft.acknowledged is not None and draft.is_as(draft.acknowledged.mark())
