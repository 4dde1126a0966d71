"""The namespace of a mount: which inode a path shows now, and every change of names.

`find` is the one place where this host learns of the work of others. The store is asked, the answer compared with the
inode of the path, and where it is another version: an inode that nobody has open takes it over, an open one is
superseded. An answer that something happened to the inode in the meantime (a commit of this host) makes worthless is
thrown away, and the store asked again.
"""

import logging
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import msgspec
import trio

from stowfs.errors import DirectoryNotEmpty, NoSuchPath, PathExists, StowError
from stowfs.mount.commits import Commits
from stowfs.mount.errnos import stale
from stowfs.mount.inodes import Inode, Inodes, now_ns
from stowfs.mount.listings import Listings
from stowfs.mount.local_names import LocalNames
from stowfs.mount.moves import Moves
from stowfs.mount.reopening import Reopening
from stowfs.mount.walks import Walks
from stowfs.vault.draft import Draft
from stowfs.vault.manifest import Attributes, Snapshot
from stowfs.vault.naming import display, join, split
from stowfs.vault.parallel import each
from stowfs.vault.vault import Vault
from stowfs.vault.version import Version

log = logging.getLogger(__name__)

COMMITS = 32
"""Files committed at once before their directory is renamed: as many requests as go to a store at once."""


class Tree:
    """Names and directories."""

    def __init__(
        self,
        vault: Vault,
        inodes: Inodes,
        commits: Commits,
        moves: Moves,
        local: LocalNames,
        attribute_timeout: float,
    ) -> None:
        """`attribute_timeout`: seconds for which attributes are believed that were asked for."""
        self._vault = vault
        self._local = local
        self._inodes = inodes
        self._commits = commits
        self._moves = moves
        self._attribute_timeout = attribute_timeout
        self._asynchronous = vault.options.asynchronous
        self._revalidate = vault.options.revalidate
        # Where every open has to ask the store, there is nothing to be gained.
        self._walks = Walks(vault.fetch_ahead) if self._revalidate else None
        self.listings = Listings(vault, inodes, self.meet, self._walks, attribute_timeout)
        self.reopening = Reopening()

    # Finding

    def child(self, parent: Inode, name: bytes) -> str:
        """The path of a name in a directory. Raises `NoSuchPath` where the directory was removed."""
        if not parent.linked:
            raise NoSuchPath(f"{display(parent.path)} was removed")
        return join(parent.path, os.fsdecode(name))

    async def find(self, path: str, *, stale_ok: bool = False) -> tuple[Inode, Snapshot | None]:
        """The inode that shows what is under `path` now, and that version; None where this host has changes of its own.

        `stale_ok` as in `Vault.head`. Raises `NoSuchPath` and store errors.
        """
        while True:
            inode = self._inodes.at(path)
            version, draft = (inode.version, inode.draft) if inode else (None, None)
            if inode is not None and draft is not None and not inode.expired:
                return inode, None
            asked = trio.current_time()
            try:
                snapshot = await self._vault.head(path, stale_ok=stale_ok)
            except NoSuchPath:
                if self._unchanged(path, inode, version, draft):
                    if inode is not None:
                        self._inodes.supersede(inode)
                    raise
                continue
            if self._unchanged(path, inode, version, draft):
                if inode is not None and draft is not None:
                    # Its deadline was put off elsewhere.
                    return inode, None
                return self._meet(path, snapshot, asked), snapshot

    def _unchanged(self, path: str, inode: Inode | None, version: Version | None, draft: Draft | None) -> bool:
        """Whether `path` is on this host as it was before the store was asked."""
        same = inode is None or (inode.version is version and inode.draft is draft)
        return self._inodes.at(path) is inode and same

    def _meet(self, path: str, snapshot: Snapshot, asked: float) -> Inode:
        version = Version.of(snapshot)
        inode = self.meet(path, version, asked)
        shown = inode.version
        if version.commit and shown is not None and shown.commit == version.commit and shown != version:
            # What listings show may come from an index that somebody else has written. The manifest is what counts.
            inode.show(version)
        if inode.snapshot is not None:
            # The same version; the same attributes, too, but of a directory without a manifest.
            inode.snapshot = snapshot
        return inode

    def meet(self, path: str, version: Version, asked: float, allowance: float = 0.0) -> Inode:
        """The inode that shows `version`, which was under `path` at the time `asked`: the current one if it may.

        `allowance`: see `Inode`.
        """
        inode = self._at_or_new(path, version)
        inode.validated = asked
        inode.allowance = allowance
        return inode

    def _at_or_new(self, path: str, version: Version) -> Inode:
        inode = self._inodes.at(path)
        if inode is not None and inode.draft is not None:
            # What it replaces may be of another type.
            return inode
        if inode is None or inode.type_bits != version.type_bits:
            return self._inodes.add(path, version)
        if inode.version is not None and inode.version.commit == version.commit:
            return inode
        if inode.handles:
            return self._inodes.add(path, version)
        inode.show(version)
        return inode

    async def revalidate(self, inode: Inode, *, recently: bool = False, stale_ok: bool = False) -> None:
        """Brings an inode up to date whose state the store decides; with `recently` only if what is known is older than
        attributes may be, or versions.

        `stale_ok` as in `Vault.head`. Raises ESTALE where its path shows something else.
        """
        if not inode.linked and not inode.handles and not inode.is_directory:
            raise stale()
        if not self.is_shared(inode):
            return
        believed = self._believed(inode) if recently else 0.0
        if trio.current_time() - inode.validated < believed and not inode.expired:
            return
        try:
            found, _ = await self.find(inode.path, stale_ok=stale_ok)
        except NoSuchPath:
            raise stale() from None
        if found is not inode:
            raise stale()

    def attribute_timeout(self, inode: Inode) -> float:
        """Seconds for which the kernel may believe the attributes of an inode. Counted from when the store was asked,
        so that what a stat says is never older than promised."""
        # Nobody asks the store within the time of revalidation: so the kernel need not ask this process.
        if not self.is_shared(inode):
            return max(self._attribute_timeout, self._revalidate)
        age = trio.current_time() - inode.validated
        return max(0.0, self._believed(inode) - age)

    def _believed(self, inode: Inode) -> float:
        """Seconds from when the store was asked for which the attributes of a shared inode may be shown."""
        return max(self._attribute_timeout + inode.allowance, self._revalidate)

    def is_shared(self, inode: Inode) -> bool:
        """Whether another host can change what the inode shows: not while it is open, changed or unlinked here."""
        return not inode.handles and inode.draft is None and inode.linked and inode is not self._inodes.conversations

    async def open(self, inode: Inode, thread: int, *, writing: bool) -> None:
        """Counts a handle on what the path of `inode` shows now.

        Raises ESTALE where that is not this inode any more.
        """
        if self._walks is not None and not writing:
            self._walks.opened(inode.path, inode.number)
        again = self.reopening.take(thread, inode)
        if again is not None and again.version is not None:
            inode.snapshot = again.version
        elif not inode.linked:
            if not inode.handles or inode.expired:
                raise stale()
        elif inode.draft is None or inode.expired or not self._inodes.is_current(inode):
            try:
                found, snapshot = await self.find(inode.path, stale_ok=True)
            except NoSuchPath:
                raise stale() from None
            if found is inode:
                inode.snapshot = snapshot or inode.snapshot
            elif again is not None and again.version is not None:
                # Opened here while the store was asked.
                inode.snapshot = again.version
            else:
                self.reopening.too_late(thread, inode.path)
                raise stale()
        self.count_handle(inode, writing=writing)

    def count_handle(self, inode: Inode, *, writing: bool) -> None:
        """One more handle on an inode."""
        inode.handles += 1
        inode.writers += writing

    async def close(self, inode: Inode, *, writing: bool) -> None:
        """One handle less; the last writer ends the draft (see `Commits.finish`), the last handle one of a file that
        is unlinked."""
        inode.writers -= writing
        # What was written to a file without a name is nowhere but in the draft: its readers need that to the end.
        ends = writing and not inode.writers if inode.linked else inode.handles == 1
        try:
            if ends:
                await self._commits.finish(inode)
        finally:
            inode.handles -= 1
            if not inode.handles:
                inode.snapshot = None
            self._commits.rest(inode)
            self._inodes.drop_if_unused(inode)

    # Changing

    async def create(
        self, parent: Inode, name: bytes, attributes: Attributes, *, exclusive: bool, appending: bool, at_once: bool
    ) -> Inode:
        """A new, empty file, with a handle for writing counted.

        It is committed with its first flush, with `at_once` in the store before this returns, or by its name never.
        Raises `PathExists` where this host knows the name.
        """
        await self._commits.room()
        path = self.child(parent, name)
        known = self._inodes.at(path)
        if known is not None and not known.expired:
            raise PathExists(f"{display(path)} exists")
        draft = self._vault.draft(path, None, inherit(parent, attributes), appending=appending)
        inode = self._inodes.add(path, None)
        inode.draft = draft
        draft.exclusive = exclusive
        inode.local = self._local.match(path)
        inode.fresh = True
        inode.cached = inode.content
        self.count_handle(inode, writing=True)
        if at_once:
            try:
                await self._commits.commit_once(inode, in_store=True)
            except BaseException:
                await self.close(inode, writing=True)
                raise
        parent.entries_changed_ns = now_ns()
        return inode

    async def make_directory(self, parent: Inode, name: bytes, attributes: Attributes) -> Inode:
        """A new directory. Raises `PathExists`, `NoSuchPath`."""
        inherited = inherit(parent, attributes, directory=True)
        return await self._make(parent, name, lambda path: self._vault.make_directory(path, inherited))

    async def make_symlink(self, parent: Inode, name: bytes, target: bytes, attributes: Attributes) -> Inode:
        """A new symbolic link. Raises `PathExists`, `NoSuchPath`, `NameTooLong`."""
        inherited = inherit(parent, attributes)
        return await self._make(parent, name, lambda path: self._vault.make_symlink(path, target, inherited))

    async def _make(self, parent: Inode, name: bytes, make: Callable[[str], Awaitable[Snapshot]]) -> Inode:
        """Something new that is committed at once."""
        async with self._moves.steady(lambda: (self.child(parent, name),)) as (path,):
            inode = self._inodes.at(path)
            if inode is not None and inode.version is None and not inode.expired:
                raise PathExists(f"{display(path)} exists")
            snapshot = await make(path)
            parent.entries_changed_ns = now_ns()
            return self._meet(path, snapshot, trio.current_time())

    async def target(self, inode: Inode) -> bytes:
        """Where a symbolic link leads. Raises ESTALE where its path shows something else."""
        try:
            found, snapshot = await self.find(inode.path)
        except NoSuchPath:
            raise stale() from None
        if found is not inode or snapshot is None:
            raise stale()
        return snapshot.target

    async def remove(self, parent: Inode, name: bytes) -> None:
        """Removes a file. Raises `NoSuchPath`, `IsDirectory`."""
        async with self._moves.steady(lambda: (self.child(parent, name),)) as (path,):
            inode = self._inodes.at(path)
            async with self._locks(inode):
                await self._commits.remove_locked(inode, path)
                self._unlinked(parent, name, path)
                self._end_unused(inode)

    async def remove_directory(self, parent: Inode, name: bytes) -> None:
        """Removes an empty directory. Raises `DirectoryNotEmpty`, `NotDirectory`, `NoSuchPath`."""
        async with self._moves.moving(lambda: (self.child(parent, name),)) as (path,):
            if self._inodes.uncommitted_in(path):
                raise DirectoryNotEmpty(f"{display(path)} is not empty")
            await self._vault.remove_directory(path)
            self._unlinked(parent, name, path)

    async def rename(self, parent: Inode, name: bytes, new_parent: Inode, new_name: bytes, *, replace: bool) -> None:
        """Renames a file or a directory.

        Raises `PathExists` (not `replace`), `NoSuchPath`, `DirectoryNotEmpty`, `IsDirectory`.
        """

        def paths() -> tuple[str, str]:
            return self.child(parent, name), self.child(new_parent, new_name)

        source, _ = await self.find(self.child(parent, name))
        if source.is_directory:
            async with AsyncExitStack() as held:
                old, new = await held.enter_async_context(self._moves.moving(paths))
                await self._rename_directory(old, new, held, replace=replace)
        else:
            async with self._moves.steady(paths) as (old, new):
                await self._rename_file(old, new, replace=replace)
        parent.entries_changed_ns = new_parent.entries_changed_ns = now_ns()
        self.listings.gone(parent, name)

    async def _rename_file(self, old: str, new: str, *, replace: bool) -> None:
        source, target = self._inodes.at(old), self._inodes.at(new)
        async with self._locks(source, target):
            if not replace and target is not None and target.version is None:
                raise PathExists(f"{display(new)} exists")
            if source is not None and _is_here_only(source):
                if source.local and self._local.match(new) and (target is None or target.local):
                    pass  # it goes on being nobody else's business
                elif self._asynchronous:
                    # One commit, under the new name.
                    if not replace:
                        await self._check_free(new)
                    await self._commits.acknowledge_as(source, new, target, exclusive=not replace)
                else:
                    await self._commits.commit_as(source, new, replace=replace)
                self._inodes.move(old, new)
                self._end_unused(target)
                return
            for inode in (source, target):
                if inode is not None:
                    await self._commits.commit_locked(inode)
            renamed = await self._vault.rename(old, new, replace=replace)
            self._inodes.move(old, new)
            self._end_unused(target)
            if source is None:
                return
            if source.version is not None and _same_state(source.version, renamed):
                self._commits.adopt_same_bytes(source, renamed)
            elif source.handles:
                self._inodes.supersede(source)
            else:
                self._commits.adopt(source, renamed)

    async def _rename_directory(self, old: str, new: str, held: AsyncExitStack, *, replace: bool) -> None:
        """Where the rename goes on in the background after an error, so does what keeps the paths still (`held`)."""
        if not replace:
            await self._check_free(new)
        if self._inodes.uncommitted_in(new):
            raise DirectoryNotEmpty(f"{display(new)} is not empty")
        inodes = self._inodes.below(old)
        async with self._locks(*(inode for inode in inodes if inode.handles or inode.draft is not None)):
            await each(self._commits.commit_locked, inodes, limit=COMMITS)
            try:
                await self._vault.rename_directory(old, new)
            except StowError:
                later = AsyncExitStack()
                if self._vault.when_renamed(old, new, partial(self._directory_renamed_later, old, new, later)):
                    later.push_async_exit(held.pop_all())
                    await self._moves.leave_unfinished(old, new)
                raise
            await self._directory_renamed(old, new, inodes)

    def hold_unfinished(self) -> None:
        """Keeps the paths still of renames that an earlier process began, until they are finished in the background."""
        for old, new in self._vault.unfinished_renames:
            self._moves.claim_unfinished(old, new)
            held = AsyncExitStack()
            held.push_async_callback(self._moves.release, old, new)
            self._vault.when_renamed(old, new, partial(self._directory_renamed_later, old, new, held))

    async def _directory_renamed_later(self, old: str, new: str, held: AsyncExitStack, done: bool) -> None:
        """A rename that went on in the background has ended."""
        async with held:
            if not done:
                return
            inodes = self._inodes.below(old)
            async with self._locks(*(inode for inode in inodes if inode.handles or inode.draft is not None)):
                try:
                    await self._directory_renamed(old, new, inodes)
                except StowError as error:
                    log.warning("open files in %s may be out of date: %s", display(new), error)
            for path in (old, new):
                parent = self._inodes.at(split(path)[0])
                if parent is not None:
                    parent.entries_changed_ns = now_ns()

    async def _directory_renamed(self, old: str, new: str, inodes: list[Inode]) -> None:
        """Everything is under the new name. The caller holds flights and locks of what is open or uncommitted."""
        self._inodes.move(old, new)
        for inode in inodes:
            if not inode.handles or inode.local or not self._inodes.is_current(inode):
                continue
            # The same bytes have a new manifest: what is written to the file from now on must be based on that.
            try:
                snapshot = await self._vault.head(inode.path)
            except NoSuchPath:
                # Deleted elsewhere, or expired, or kept beside what has its name.
                self._inodes.supersede(inode)
                continue
            if inode.version is not None and _same_state(inode.version, snapshot):
                self._commits.adopt_same_bytes(inode, snapshot)

    async def _check_free(self, path: str) -> None:
        """Raises `PathExists` where the store has something under the name."""
        try:
            await self._vault.head(path)
        except NoSuchPath:
            return
        raise PathExists(f"{display(path)} exists")

    @asynccontextmanager
    async def _locks(self, *inodes: Inode | None) -> AsyncIterator[None]:
        """Holds flights and locks of inodes, taken in the order of their numbers so that two renames cannot wait for
        each other."""
        ordered = sorted({inode for inode in inodes if inode is not None}, key=lambda inode: inode.number)
        async with AsyncExitStack() as stack:
            for inode in ordered:
                await stack.enter_async_context(inode.flight)
            for inode in ordered:
                await stack.enter_async_context(inode.lock)
            yield

    def _end_unused(self, inode: Inode | None) -> None:
        """The inode has lost its name: what is uncommitted of it lasts for those who have it open."""
        if inode is not None and not inode.handles:
            self._commits.discard(inode)
            self._inodes.drop_if_unused(inode)

    def _unlinked(self, parent: Inode, name: bytes, path: str) -> None:
        self._inodes.unlink(path)
        parent.entries_changed_ns = now_ns()
        self.listings.gone(parent, name)


def inherit(parent: Inode, attributes: Attributes, *, directory: bool = False) -> Attributes:
    """The attributes of something new in `parent`: a set-group-ID directory hands on its group, and to directories
    that bit."""
    inherited = parent.attributes
    if not inherited.mode & stat.S_ISGID:
        return attributes
    mode = attributes.mode | stat.S_ISGID if directory else attributes.mode
    return msgspec.structs.replace(attributes, gid=inherited.gid, mode=mode)


def _is_here_only(inode: Inode) -> bool:
    """Whether the store has never heard of the file, so that renaming it concerns this host alone."""
    return inode.draft is not None and inode.version is None and not inode.attempted


def _same_state(version: Version, snapshot: Snapshot) -> bool:
    """Whether nothing changed but the name: every other change sets the time of change."""
    return version.attributes == snapshot.attributes and version.size == snapshot.size
