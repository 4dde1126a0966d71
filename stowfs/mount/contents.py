"""Reading and changing the files behind inodes: their bytes and attributes.

A draft begins with the first write, truncation or creation, is shared by everybody who has the file open on this host,
and ends with its commit (`Commits`). Whoever looks at or changes it holds the inode's `lock`.
"""

import stat
from collections.abc import Awaitable, Callable
from functools import partial
from mmap import PAGESIZE

import msgspec

from stowfs.errors import CorruptObject
from stowfs.mount.commits import Commits
from stowfs.mount.errnos import stale
from stowfs.mount.inode import Inode, modified_ns, now_ns
from stowfs.mount.inodes import Inodes
from stowfs.mount.local_names import is_probe
from stowfs.mount.moves import Moves
from stowfs.mount.outcomes import Invalidate, Outcomes, follows
from stowfs.mount.readers import Reader
from stowfs.vault.draft import Draft
from stowfs.vault.manifest import Attributes, Snapshot
from stowfs.vault.naming import display
from stowfs.vault.vault import Vault


class Contents:
    """The bytes and attributes of files, by inode."""

    def __init__(
        self, vault: Vault, inodes: Inodes, moves: Moves, commits: Commits, outcomes: Outcomes, invalidate: Invalidate
    ) -> None:
        self._vault = vault
        self._inodes = inodes
        self._moves = moves
        self._commits = commits
        self._outcomes = outcomes
        self._invalidate = invalidate

    async def read(self, inode: Inode, start: int, end: int, reader: Reader | None = None) -> bytes | memoryview:
        """The bytes of an open file, with the writes of this host; with `reader` of what that sees.

        Raises `CorruptObject` and store errors.
        """
        if reader is None:
            # For the page cache, and nothing that the kernel takes to lie behind the end.
            inode.cache_end = max(inode.cache_end, min(end, inode.size))
        if inode.draft is not None:
            async with inode.lock:
                # The commit that was waited for may have ended it.
                if inode.draft is not None:
                    return await _read(inode.draft.read, start, end, reader)
        return await _read(partial(self._vault.view, self._base(inode)), start, end, reader)

    async def write(self, inode: Inode, offset: int, data: bytes, *, appending: bool) -> None:
        """Writes to an open file; with `appending` (an O_APPEND handle) at its end.

        Raises `HotTierFull`, `FileTooLarge`.
        """
        # Before it reads or is told anything else.
        to_end = appending and not _is_mapped_page(inode, offset)
        await self._commits.room()
        async with inode.lock:
            draft = self._draft(inode, appending=appending)
            # The kernel puts appended data where it thinks the end is, and may not know that the file has grown.
            position = draft.size if to_end else offset
            inode.local = inode.local and not is_probe(inode.path)
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
            end = offset + len(data)
            inode.kernel_size = max(inode.kernel_size, end)
            inode.cache_end = max(inode.cache_end, end)
            if appending or position != offset:
                # The page cache does not have it, or in the wrong place.
                inode.cached = None
        if draft.attributes.mode != mode:
            # The kernel expects that of a size and of times, but not of a mode.
            await self._invalidate(inode)

    async def truncate(self, inode: Inode, size: int, path: str | None = None) -> None:
        """Cuts or extends an open file. `path`: only if it is what is there, under which it was opened to be cut.

        Raises `FileTooLarge`, `HotTierFailed`; ESTALE where another file is under that path.
        """
        async with inode.lock:
            self._confirm(inode, path)
            self._truncate(inode, size)

    async def truncate_at_once(self, inode: Inode, size: int, path: str | None = None) -> None:
        """As `truncate`, and commits it. On error nothing has changed, also for others who have it open.

        Raises what that raises, and `Commits.commit`.
        """
        async with self._commits.committing(inode) as commit:
            self._confirm(inode, path)
            with self._commits.undone_on_error(inode):
                self._truncate(inode, size)
                await commit()

    def _confirm(self, inode: Inode, path: str | None) -> None:
        """Raises ESTALE where a commit that was under way when a program named `path` has lost against another host:
        the inode is what was kept beside that, and the program meant what has the name."""
        if path is not None and inode.path != path and not self._inodes.is_current(inode):
            raise stale()

    def _truncate(self, inode: Inode, size: int) -> None:
        draft = self._draft(inode, appending=False)
        draft.truncate(size)
        draft.appending = False
        _touch(draft)
        if size == 0:
            draft.attributes = msgspec.structs.replace(draft.attributes, expires_ns=None)
            inode.fresh = True
        self._attach(inode, draft)

    async def change_attributes(self, inode: Inode, change: Callable[[Attributes], Attributes]) -> None:
        """Changes attributes: in the draft, where there is one; else at once in the store.

        Raises `NoSuchPath`, and what `change` raises.
        """
        async with self._moves.steady(lambda: (inode.path,), altering=True), inode.lock:
            if inode.draft is not None:
                inode.draft.attributes = msgspec.structs.replace(change(inode.draft.attributes), ctime_ns=now_ns())
                inode.failure = None
                if not inode.writers:
                    # Nobody is to close it any more.
                    await self._commits.acknowledge_locked(inode)
                return
            before = inode.version
            assert before is not None
            if not inode.linked or inode is self._inodes.conversations:
                # Of neither is anything stored: it lasts as long as the inode.
                attributes = msgspec.structs.replace(change(before.attributes), ctime_ns=now_ns())
                inode.show(msgspec.structs.replace(before, attributes=attributes))
                return
            changed = await self._vault.change_attributes(inode.path, change)
            if follows(changed, before):
                self._outcomes.adopt_same_bytes(inode, changed)
            elif not inode.handles:
                self._outcomes.adopt(inode, changed)
            elif self._inodes.is_current(inode):
                # A version of another host has the new attributes now; whoever has this one open keeps it.
                self._inodes.supersede(inode)

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


async def _read(
    read: Callable[[int, int], Awaitable[bytes | memoryview]], start: int, end: int, reader: Reader | None
) -> bytes | memoryview:
    """The bytes that a reader sees there, or those that are there."""
    if reader is None:
        return await read(start, end)
    # All places are told now: while the first of them is read, others may move.
    return b"".join([await read(*place) for place in reader.ranges(start, end)])


def _is_mapped_page(inode: Inode, offset: int) -> bool:
    """Whether a write through an O_APPEND handle is no append, but pages of a memory mapping on their way back.

    The kernel sends those through any handle for writing, and pyfuse3 does not say which they are. They begin at a
    page that is in the page cache, and there are none unless somebody may have mapped it. What is appended lies behind
    that cache, wherever the file ends.
    """
    return bool(inode.mappers and offset % PAGESIZE == 0 and offset < inode.cache_end)


def _touch(draft: Draft) -> None:
    """What a write does to the attributes. The kernel leaves it to us to take set-id bits away from what is changed."""
    mode = without_privileges(draft.attributes.mode)
    draft.attributes = msgspec.structs.replace(draft.attributes, mode=mode, mtime_ns=modified_ns(), ctime_ns=now_ns())


def without_privileges(mode: int) -> int:
    """`mode` without set-user-ID, and without set-group-ID where that is one (and not a lock mode)."""
    return mode & ~stat.S_ISUID & ~(stat.S_ISGID if mode & stat.S_IXGRP else 0)
