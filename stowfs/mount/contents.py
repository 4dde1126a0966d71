"""Reading and writing the files behind inodes: drafts, commits, attributes.

A draft begins with the first write, truncation or creation, is shared by everybody who has the file open on this host,
and ends with the commit: at a flush (each close of a writer), an fsync, or the release of the last writer. Whoever
writes or commits holds the lock of the inode; whoever sends a change to the store keeps the path steady first
(`Moves`), so that the order is always the same.
"""

import dataclasses
import logging
import stat
from collections.abc import Awaitable, Callable
from mmap import PAGESIZE

import msgspec

from stowfs.errors import CorruptObject, PathExists, StowError
from stowfs.mount.inodes import Inode, Inodes, Version, now_ns
from stowfs.mount.moves import Moves
from stowfs.vault.draft import Draft, Intent
from stowfs.vault.manifest import Attributes, Snapshot
from stowfs.vault.naming import display
from stowfs.vault.vault import Vault

log = logging.getLogger(__name__)

Invalidate = Callable[[Inode], Awaitable[None]]
"""Makes the kernel forget the attributes of an inode. Not to be called with its lock: a request may wait for that."""


class Contents:
    """The bytes and attributes of files, by inode."""

    def __init__(self, vault: Vault, inodes: Inodes, moves: Moves, invalidate: Invalidate) -> None:
        self._vault = vault
        self._inodes = inodes
        self._moves = moves
        self._invalidate = invalidate

    async def read(self, inode: Inode, start: int, end: int) -> bytes:
        """The bytes of an open file, with the writes of this host. Raises `CorruptObject` and store errors."""
        if inode.draft is not None:
            async with inode.lock:
                # The commit that was waited for may have ended it.
                if inode.draft is not None:
                    return await inode.draft.read(start, end)
        return await self._vault.read(self._base(inode), start, end)

    async def write(self, inode: Inode, offset: int, data: bytes, *, appending: bool) -> None:
        """Writes to an open file; with `appending` (an O_APPEND handle) at its end.

        Raises `HotTierFull`, `FileTooLarge`.
        """
        async with inode.lock:
            draft = self._draft(inode, appending=appending)
            position = offset
            if appending and not _is_mapped_page(inode, draft, offset, len(data)):
                # The kernel puts appended data where it thinks the end is, and may not know that the file has grown.
                position = draft.size
            try:
                draft.write(position, data)
            except BaseException:
                if draft is not inode.draft:
                    draft.discard()
                raise
            draft.appending = draft.appending and appending
            mode = draft.attributes.mode
            _touch(draft)
            self._attach(inode, draft)
            inode.kernel_size = max(inode.kernel_size, offset + len(data))
            if appending or position != offset:
                # The page cache does not have it, or in the wrong place.
                inode.cached = None
        if draft.attributes.mode != mode:
            # The kernel expects that of a size and of times, but not of a mode.
            await self._invalidate(inode)

    async def truncate(self, inode: Inode, size: int) -> None:
        """Cuts or extends an open file. Raises `FileTooLarge`, `HotTierFailed`."""
        async with inode.lock:
            draft = self._draft(inode, appending=False)
            draft.truncate(size)
            # A change of the time stamp at least; and an O_TRUNC of an empty file is a replacement like any other.
            draft.dirty = True
            draft.appending = False
            _touch(draft)
            self._attach(inode, draft)

    async def commit(self, inode: Inode) -> None:
        """Commits what is uncommitted; on error it stays so. Raises what `Vault.commit` raises."""
        if inode.draft is None:
            return
        async with self._moves.steady(lambda: (inode.path,)), inode.lock:
            await self.commit_locked(inode)
        if inode.size != inode.kernel_size:
            # Merged with the work of another host.
            await self._invalidate(inode)

    async def commit_locked(self, inode: Inode) -> None:
        """As `commit`, for a caller that keeps the path steady and holds the lock."""
        draft = inode.draft
        if draft is None or not inode.linked:
            return
        base, intent, size, attributes = inode.version, draft.intent, draft.size, draft.attributes
        inode.attempted = True
        try:
            committed = await self._vault.commit(draft, exclusive=inode.exclusive)
        except Exception as error:
            inode.failure = error
            raise
        inode.draft = None
        inode.failure = None
        inode.exclusive = False
        inode.attempted = False
        own = committed.attributes == attributes and committed.size == size
        if own and (intent is Intent.REPLACE or base is None or _follows(committed, base)):
            self.adopt_same_bytes(inode, committed)
        else:
            # Merged with the work of another host, or beaten by it.
            self.adopt(inode, committed)
        self._inodes.committed(inode)

    async def commit_once(self, inode: Inode) -> None:
        """Commits for a caller that is a writer itself, and will not try again. Raises as `commit`.

        On error the changes are dropped, unless there are other writers.
        """
        try:
            await self.commit(inode)
        except Exception:
            if inode.writers == 1:
                self.discard(inode)
            raise

    async def finish(self, inode: Inode) -> None:
        """Ends the draft of a file that nobody writes to any more: committed, or dropped with a line in the log.

        What a flush could not commit is not tried again: its caller knows.
        """
        if inode.draft is None:
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
        if inode.draft is None or inode.writers:
            return
        if isinstance(error, PathExists):
            log.info("%s was created elsewhere first", display(inode.path))
        elif error is not None:
            log.error("%s: what was written last is lost: %s", display(inode.path), error)
        self.discard(inode)

    def discard(self, inode: Inode) -> None:
        """Drops uncommitted changes; a file that was never committed is gone."""
        draft, inode.draft = inode.draft, None
        inode.failure = None
        if draft is not None:
            draft.discard()
            inode.cached = None
        if inode.version is None and draft is not None:
            # Whoever still has it open sees an empty file without a name.
            inode.show(Version("", draft.attributes, 0, is_directory=False))
            if self._inodes.is_current(inode):
                self._inodes.unlink(inode.path)

    async def change_attributes(self, inode: Inode, change: Callable[[Attributes], Attributes]) -> None:
        """Changes attributes: in the draft, where there is one; else at once in the store.

        Raises `NoSuchPath`, and what `change` raises.
        """
        async with self._moves.steady(lambda: (inode.path,)), inode.lock:
            if inode.draft is not None:
                inode.draft.attributes = msgspec.structs.replace(change(inode.draft.attributes), ctime_ns=now_ns())
                inode.failure = None
                return
            before = inode.version
            assert before is not None
            if not inode.linked or inode is self._inodes.conversations:
                # Of neither is anything stored: it lasts as long as the inode.
                attributes = msgspec.structs.replace(change(before.attributes), ctime_ns=now_ns())
                inode.show(dataclasses.replace(before, attributes=attributes))
                return
            changed = await self._vault.change_attributes(inode.path, change)
            if _follows(changed, before):
                self.adopt_same_bytes(inode, changed)
            elif not inode.handles:
                self.adopt(inode, changed)
            elif self._inodes.is_current(inode):
                # A version of another host has the new attributes now; whoever has this one open keeps it.
                self._inodes.supersede(inode)

    def adopt(self, inode: Inode, snapshot: Snapshot) -> None:
        """The inode shows this version from now on."""
        inode.show(Version.of(snapshot))
        inode.snapshot = snapshot if inode.handles else None

    def adopt_same_bytes(self, inode: Inode, snapshot: Snapshot) -> None:
        """As `adopt`, for a version with the bytes the inode had: what the kernel has stays as good as it was."""
        before = inode.content
        self.adopt(inode, snapshot)
        inode.cached = inode.content if inode.cached == before else None
        inode.told = inode.content if inode.told == before else None

    def _draft(self, inode: Inode, *, appending: bool) -> Draft:
        """The draft of an open file, or a new one; the caller attaches that when something was done to it."""
        if inode.draft is not None:
            return inode.draft
        return self._vault.draft(inode.path, self._base(inode), inode.attributes, appending=appending)

    def _attach(self, inode: Inode, draft: Draft) -> None:
        """The draft was changed: it is what the inode shows, and there is something new to commit."""
        inode.draft = draft
        inode.failure = None

    def _base(self, inode: Inode) -> Snapshot:
        if inode.snapshot is None:
            raise CorruptObject(f"{display(inode.path)} was never stored, and what was written to it was given up")
        return inode.snapshot


def _follows(snapshot: Snapshot, version: Version) -> bool:
    """Whether a version was made directly from the other one, with no commit of anybody else in between."""
    return snapshot.manifest.ring.recent[-2:-1] == (version.commit,)


def _is_mapped_page(inode: Inode, draft: Draft, offset: int, length: int) -> bool:
    """Whether a write through an O_APPEND handle is no append, but pages of a memory mapping on their way back.

    The kernel sends those through any handle for writing, and pyfuse3 does not say which they are. They begin at a
    page, fill it or end with the file, and there are none unless somebody may have mapped it.
    """
    end = offset + length
    return bool(
        inode.mappers
        and offset % PAGESIZE == 0
        and (end == draft.size or (end < draft.size and length % PAGESIZE == 0))
    )


def _touch(draft: Draft) -> None:
    """What a write does to the attributes. The kernel leaves it to us to take set-id bits away from what is changed."""
    now = now_ns()
    mode = without_privileges(draft.attributes.mode)
    draft.attributes = msgspec.structs.replace(draft.attributes, mode=mode, mtime_ns=now, ctime_ns=now)


def without_privileges(mode: int) -> int:
    """`mode` without set-user-ID, and without set-group-ID where that is one (and not a lock mode)."""
    return mode & ~stat.S_ISUID & ~(stat.S_ISGID if mode & stat.S_IXGRP else 0)
