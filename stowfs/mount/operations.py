"""The FUSE handlers: each finds its inode, calls the part that does it, and tells the kernel what came of it."""

import errno
import os
import stat
from collections.abc import Sequence
from typing import cast

import msgspec
import pyfuse3
import trio
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    FUSEError,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
    XAttrNameT,
)

from stowfs.errors import PathExists
from stowfs.mount import generated
from stowfs.mount.attributes import answered, root_entry
from stowfs.mount.contents import without_privileges
from stowfs.mount.errnos import handler
from stowfs.mount.extended import ExtendedAttributes
from stowfs.mount.inode import Inode, modified_ns, now_ns
from stowfs.mount.inodes import CONVERSATIONS
from stowfs.mount.kernel import tell_once
from stowfs.mount.listings import Listing
from stowfs.mount.lookup import child_path
from stowfs.mount.session import CONVERSATIONS_NAME, FLUSH_TIMEOUT, Session
from stowfs.vault.manifest import Attributes, representable

SYMLINK_MODE = 0o777
"""Permissions of a symbolic link: nothing ever asks for them, and this is what other file systems show."""

PERMISSIONS = 0o7777
"""The part of a mode that can be set."""


class FileSystem(Session):
    """A vault below `/conversations`, as pyfuse3 wants a file system."""

    # Names

    @handler
    async def lookup(self, parent: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        if parent == pyfuse3.ROOT_INODE:
            if name == generated.NAME:
                return await self._generated.entry(generated.DIRECTORY)
            if name != CONVERSATIONS_NAME:
                raise FUSEError(errno.ENOENT)
            return self._looked_up(self._inodes.conversations)
        if parent in self._generated:
            return await self._generated.entry(self._generated.lookup(name))
        directory = self._inode(parent)
        inode, snapshot = await self._lookup.find_where(lambda: child_path(directory, name), stale_ok=True)
        self._open_files.reopening.looked_up(ctx.pid, child_path(directory, name), inode, snapshot)
        return self._looked_up(inode)

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for number, lookups in inode_list:
            self._inodes.forget(number, lookups)

    @handler
    async def create(
        self, parent: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        directory = self._inode(parent)
        exclusive = bool(flags & os.O_EXCL)
        try:
            inode = await self._tree.create(
                directory,
                name,
                _new_attributes(mode, ctx),
                exclusive=exclusive,
                appending=bool(flags & os.O_APPEND),
                at_once=exclusive and self._exclusive_at_once,
            )
        except PathExists:
            if exclusive:
                raise
            # Somebody was quicker, after the kernel had looked: then it is opened.
            writing = _may_write(flags)
            inode = await self._open_files.open_path(child_path(directory, name), writing=writing)
            info = await self._opened(inode, flags, writing=writing)
            return info, self._looked_up(inode)
        # A writer even with O_RDONLY: its flush is what stores the new file.
        info = self._new_handle(inode, flags, writing=True, keep_cache=True)
        return info, self._looked_up(inode)

    @handler
    async def mknod(
        self, parent: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        if not stat.S_ISREG(mode):
            raise FUSEError(errno.EPERM)
        attributes = _new_attributes(mode, ctx)
        directory = self._inode(parent)
        inode = await self._tree.create(directory, name, attributes, exclusive=True, appending=False, at_once=True)
        answer = self._looked_up(inode)
        await self._open_files.close(inode, writing=True)
        return answer

    @handler
    async def mkdir(self, parent: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext) -> EntryAttributes:
        directory = self._inode(parent)
        return self._looked_up(await self._tree.make_directory(directory, name, _new_attributes(mode, ctx)))

    @handler
    async def unlink(self, parent: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        await self._tree.remove(self._inode(parent), name)

    @handler
    async def rmdir(self, parent: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        await self._tree.remove_directory(self._inode(parent), name)

    @handler
    async def rename(
        self,
        parent: InodeT,
        name: FileNameT,
        new_parent: InodeT,
        new_name: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        if flags & ~pyfuse3.RENAME_NOREPLACE:
            raise FUSEError(errno.EINVAL)
        replace = not flags & pyfuse3.RENAME_NOREPLACE
        await self._tree.rename(self._inode(parent), name, self._inode(new_parent), new_name, replace=replace)

    @handler
    async def link(
        self, inode: InodeT, new_parent: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        raise FUSEError(errno.EPERM)

    @handler
    async def symlink(self, parent: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext) -> EntryAttributes:
        directory = self._inode(parent)
        attributes = _new_attributes(SYMLINK_MODE, ctx)
        return self._looked_up(await self._tree.make_symlink(directory, name, target, attributes))

    @handler
    async def readlink(self, number: InodeT, ctx: RequestContext) -> FileNameT:
        inode = self._inode(number)
        if not inode.is_symlink:
            raise FUSEError(errno.EINVAL)
        return FileNameT(await self._lookup.target(inode))

    # Attributes

    @handler
    async def getattr(self, number: InodeT, ctx: RequestContext) -> EntryAttributes:
        if number == pyfuse3.ROOT_INODE:
            return root_entry(*self._owner, self._shown, self._mounted_ns)
        if number in self._generated:
            return await self._generated.entry(number)
        inode = self._inode(number)
        return self._answer(inode, await self._lookup.shown(inode, recently=True, stale_ok=True))

    @handler
    async def setattr(
        self,
        number: InodeT,
        wanted: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        inode = shown = self._inode(number)
        if fields.update_size:
            await self._truncate(inode, wanted.st_size, fh, ctx)
        changes = {}
        if fields.update_mode:
            changes["mode"] = wanted.st_mode & PERMISSIONS
        if fields.update_uid:
            changes["uid"] = wanted.st_uid
        if fields.update_gid:
            changes["gid"] = wanted.st_gid
        if fields.update_mtime:
            changes["mtime_ns"] = representable(wanted.st_mtime_ns)
        if fields.update_atime:
            changes["atime_ns"] = representable(wanted.st_atime_ns)
        if changes:
            shown = await self._lookup.shown(inode)
            if "mtime_ns" in changes and "atime_ns" not in changes:
                # It may have been shown as the same, and stays what it was.
                changes["atime_ns"] = self._entry(shown).st_atime_ns
            if "mode" not in changes and ("uid" in changes or "gid" in changes) and not shown.is_directory:
                changes["mode"] = without_privileges(shown.attributes.mode)
            if "mtime_ns" in changes:
                # It is what a directory shows until its entries change again.
                shown.entries_changed_ns = 0
            await self._contents.change_attributes(shown, lambda old: msgspec.structs.replace(old, **changes))
        return self._answer(inode, shown)

    async def _truncate(self, inode: Inode, size: int, fh: FileHandleT | None, ctx: RequestContext) -> None:
        """By handle: part of what its flush commits. By path: nobody would, so it is committed here."""
        if inode.is_directory:
            raise FUSEError(errno.EISDIR)
        if fh is not None:
            await self._contents.truncate(inode, size)
            return
        await self._open_files.open(inode, ctx.pid, writing=True)
        try:
            await self._contents.truncate_at_once(inode, size, inode.path)
        finally:
            await self._open_files.close(inode, writing=True)

    @handler
    async def getxattr(self, number: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        extended = self._extended()
        if not self._is_stored(number):
            raise FUSEError(errno.ENOTSUP)
        return await extended.get(self._inode(number), name)

    @handler
    async def setxattr(self, number: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext) -> None:
        await self._extended().set(self._inode(number), name, value)

    @handler
    async def listxattr(self, number: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        extended = self._extended()
        names = await extended.names(self._inode(number)) if self._is_stored(number) else []
        return [XAttrNameT(name) for name in names]

    @handler
    async def removexattr(self, number: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        await self._extended().remove(self._inode(number), name)

    def _extended(self) -> ExtendedAttributes:
        """Raises ENOSYS where they are not wanted: then the kernel asks no more, and each write is cheaper for it."""
        if self._extended_attributes is None:
            raise FUSEError(errno.ENOSYS)
        return self._extended_attributes

    @handler
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        return await trio.to_thread.run_sync(self._capacity)

    # Files

    @handler
    async def open(self, number: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        if number in self._generated:
            return await self._generated.open(number, flags, self._next_handle())
        return await self._open(self._inode(number), flags, ctx)

    async def _open(self, inode: Inode, flags: int, ctx: RequestContext) -> FileInfo:
        if inode.is_directory:
            raise FUSEError(errno.EISDIR)
        writing = _may_write(flags)
        await self._open_files.open(inode, ctx.pid, writing=writing)
        return await self._opened(inode, flags, writing=writing)

    async def _opened(self, inode: Inode, flags: int, *, writing: bool) -> FileInfo:
        """A handle was counted: the rest of an open."""
        try:
            if flags & os.O_TRUNC:
                await self._contents.truncate(inode, 0, inode.path)
                inode.kernel_size = inode.cache_end = 0
            else:
                await tell_once(inode)
        except BaseException:
            await self._open_files.close(inode, writing=writing)
            raise
        unchanged = inode.cached == inode.content
        inode.cached = inode.content
        return self._new_handle(inode, flags, writing=writing, keep_cache=unchanged)

    @handler
    async def read(self, fh: FileHandleT, offset: int, size: int) -> bytes:
        if self._generated.number_of(fh) is not None:
            return self._generated.read(fh, offset, offset + size)
        handle = self._handles[fh]
        # pyfuse3 sends any buffer; its annotation does not say so.
        return cast(bytes, await self._contents.read(handle.inode, offset, offset + size, handle.reader))

    @handler
    async def write(self, fh: FileHandleT, offset: int, data: bytes) -> int:
        handle = self._handles[fh]
        await self._contents.write(handle.inode, offset, data, appending=handle.appending)
        return len(data)

    @handler
    async def flush(self, fh: FileHandleT) -> None:
        if self._vault.options.read_only:
            # No close has anything to do: the kernel asks for none any more, and opening and closing is half as much.
            raise FUSEError(errno.ENOSYS)
        handle = self._handles.get(fh)
        if handle is not None and handle.writing:
            await self._commits.commit(handle.inode)

    @handler
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        if fh in self._handles:
            await self._commits.commit(self._handles[fh].inode)

    @handler
    async def release(self, fh: FileHandleT) -> None:
        if self._generated.number_of(fh) is not None:
            self._generated.close(fh)
            return
        handle = self._handles.pop(fh)
        handle.inode.mappers -= handle.mapping
        handle.inode.readers = tuple(reader for reader in handle.inode.readers if reader is not handle.reader)
        await self._open_files.close(handle.inode, writing=handle.writing)

    # Directories

    @handler
    async def opendir(self, number: InodeT, ctx: RequestContext) -> FileHandleT:
        listing: Listing | list[tuple[bytes, int]]
        if number == pyfuse3.ROOT_INODE:
            listing = [(generated.NAME, generated.DIRECTORY), (CONVERSATIONS_NAME, CONVERSATIONS)]
        elif number in self._generated:
            listing = self._generated.entries()
        else:
            listing = self._directories.open(self._inode(number))
        handle = self._next_handle()
        self._listings[handle] = listing
        return handle

    @handler
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        listing = self._listings[fh]
        if isinstance(listing, list):
            await self._read_fixed(listing, start_id, token)
            return
        if start_id == 0:
            # Also after rewinddir(3), which asks for the entries as they are then.
            await self._directories.read(listing)
        for position in range(start_id, len(listing.entries)):
            listed = self._directories.entry(listing, position)
            if listed is None:
                continue
            name, inode = listed
            answer = self._entry(inode)
            if not pyfuse3.readdir_reply(token, os.fsencode(name), answer, position + 1):
                self._inodes.drop_if_unused(inode)
                return
            inode.lookups += 1
            answered(inode, answer, inode)

    async def _read_fixed(self, entries: list[tuple[bytes, int]], start: int, token: ReaddirToken) -> None:
        """Lists what is not stored; the kernel's references to `conversations` alone are counted."""
        conversations = self._inodes.conversations
        for position, (name, number) in enumerate(entries[start:], start + 1):
            stored = number == CONVERSATIONS
            answer = self._answer(conversations) if stored else await self._generated.entry(number)
            if not pyfuse3.readdir_reply(token, name, answer, position):
                return
            conversations.lookups += stored

    @handler
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        # There is no request for sync(2) or syncfs(2): this is how a program waits for the store with commit=async.
        await self._commits.flush_all(FLUSH_TIMEOUT)

    @handler
    async def releasedir(self, fh: FileHandleT) -> None:
        listing = self._listings.pop(fh)
        if isinstance(listing, Listing):
            self._directories.close(listing)


def _may_write(flags: int) -> bool:
    """Whether a handle changes its file. With O_TRUNC, Linux lets whoever may write cut a file with O_RDONLY, too; then
    its flush is what stores that."""
    return bool(flags & (os.O_ACCMODE | os.O_TRUNC))


def _new_attributes(mode: int, ctx: RequestContext) -> Attributes:
    return Attributes(mode & PERMISSIONS, ctx.uid, ctx.gid, modified_ns(), now_ns())
