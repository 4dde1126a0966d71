"""The names of a mount: files and directories are made, removed and renamed.

Whoever changes a name keeps its path still first (`Moves`), then holds flight and lock of the files it concerns. What
has been done shows at once, in inodes and in the listings that somebody is reading.
"""

import logging
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

import msgspec
import trio

from stowfs.errors import DirectoryNotEmpty, NoSuchPath, PathExists, StowError
from stowfs.mount.commits import Commits
from stowfs.mount.inode import Inode, now_ns, turn_of
from stowfs.mount.inodes import Inodes
from stowfs.mount.listings import Listings
from stowfs.mount.local_names import LocalNames
from stowfs.mount.lookup import Lookup, child_path
from stowfs.mount.moves import Moves
from stowfs.mount.open_files import OpenFiles
from stowfs.mount.outcomes import Outcomes
from stowfs.vault.manifest import Attributes, Snapshot
from stowfs.vault.naming import display, split
from stowfs.vault.parallel import each
from stowfs.vault.vault import Vault
from stowfs.vault.version import Version, encode

log = logging.getLogger(__name__)

COMMITS = 32
"""Files committed at once before their directory is renamed: as many requests as go to a store at once."""


class Tree:
    """Names and directories."""

    def __init__(
        self,
        vault: Vault,
        inodes: Inodes,
        lookup: Lookup,
        listings: Listings,
        open_files: OpenFiles,
        commits: Commits,
        outcomes: Outcomes,
        moves: Moves,
        local: LocalNames,
    ) -> None:
        self._vault = vault
        self._inodes = inodes
        self._lookup = lookup
        self._listings = listings
        self._open_files = open_files
        self._commits = commits
        self._outcomes = outcomes
        self._moves = moves
        self._local = local
        self._asynchronous = vault.options.asynchronous

    async def create(
        self, parent: Inode, name: bytes, attributes: Attributes, *, exclusive: bool, appending: bool, at_once: bool
    ) -> Inode:
        """A new, empty file, with a handle for writing counted.

        It is committed with its first flush, with `at_once` in the store before this returns, or by its name never.
        Raises `PathExists` where this host knows the name, `NoSuchPath` where it knows that the directory is gone.
        """
        await self._commits.room()
        await self._lookup.confirm_directory(parent)
        path = child_path(parent, name)
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
        self._open_files.count_handle(inode, writing=True)
        if at_once:
            try:
                await self._commits.commit_once(inode, in_store=True)
            except BaseException:
                await self._open_files.close(inode, writing=True)
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
        async with self._moves.steady(lambda: (child_path(parent, name),)) as (path,):
            inode = self._inodes.at(path)
            if inode is not None and inode.version is None and not inode.expired:
                raise PathExists(f"{display(path)} exists")
            snapshot = await make(path)
            parent.entries_changed_ns = now_ns()
            return self._lookup.meet_snapshot(path, snapshot, trio.current_time())

    async def remove(self, parent: Inode, name: bytes) -> None:
        """Removes a file. Raises `NoSuchPath`, `IsDirectory`."""
        async with self._moves.steady(lambda: (child_path(parent, name),), altering=True) as (path,):
            removed = self._inodes.linked_at(path)
            async with self._locks(*removed):
                await self._commits.remove_locked(self._inodes.at(path), path)
                self._unlinked(parent, name, path)
                await self._end(removed)

    async def remove_directory(self, parent: Inode, name: bytes) -> None:
        """Removes an empty directory. Raises `DirectoryNotEmpty`, `NotDirectory`, `NoSuchPath`."""
        async with self._moves.moving(lambda: (child_path(parent, name),)) as (path,):
            if self._inodes.uncommitted_in(path):
                raise DirectoryNotEmpty(f"{display(path)} is not empty")
            await self._vault.remove_directory(path)
            self._unlinked(parent, name, path)

    async def rename(self, parent: Inode, name: bytes, new_parent: Inode, new_name: bytes, *, replace: bool) -> None:
        """Renames a file or a directory.

        Raises `PathExists` (not `replace`), `NoSuchPath`, `DirectoryNotEmpty`, `IsDirectory`.
        """

        def paths() -> tuple[str, str]:
            return child_path(parent, name), child_path(new_parent, new_name)

        await self._lookup.confirm_directory(new_parent)
        source, _ = await self._lookup.find_where(lambda: child_path(parent, name))
        if source.is_directory:
            async with AsyncExitStack() as held:
                old, new = await held.enter_async_context(self._moves.moving(paths))
                await self._rename_directory(old, new, held, replace=replace)
        else:
            async with self._moves.steady(paths, altering=True) as (old, new):
                await self._rename_file(old, new, replace=replace)
        parent.entries_changed_ns = new_parent.entries_changed_ns = now_ns()
        self._listings.gone(parent, name)

    async def _rename_file(self, old: str, new: str, *, replace: bool) -> None:
        moved, replaced = self._inodes.linked_at(old), self._inodes.linked_at(new)
        async with self._locks(*moved, *replaced):
            # What was on its way until now may have lost, and have another name.
            source, target = self._inodes.at(old), self._inodes.at(new)
            if not replace and target is not None and target.version is None:
                raise PathExists(f"{display(new)} exists")
            others = [inode for inode in moved if inode is not source and inode.draft is not None]
            if source is not None and _is_here_only(source) and not others:
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
                await self._end(replaced)
                return
            # Also what was written to versions that others have replaced: where it would be committed after a crash,
            # there is the old name again, or something is added to what has the new one.
            for inode in sorted((*moved, *replaced), key=turn_of):
                try:
                    await self._commits.commit_locked(inode)
                except PathExists:
                    # It was to be new, and another host was quicker: what is replaced is that host's file.
                    if inode not in replaced or not replace:
                        raise
            renamed = await self._vault.rename(old, new, replace=replace)
            self._inodes.move(old, new)
            for inode in moved:
                if inode.path != new:
                    # It had lost to what has been renamed; the kernel gives it the new name.
                    self._outcomes.forget_name(new)
                    continue
                if inode.version is not None and _same_state(inode.version, renamed):
                    self._outcomes.adopt_same_bytes(inode, renamed)
                elif inode is not source:
                    continue
                elif inode.handles:
                    self._inodes.supersede(inode)
                else:
                    self._outcomes.adopt(inode, renamed)
            await self._end(replaced)

    async def _rename_directory(self, old: str, new: str, held: AsyncExitStack, *, replace: bool) -> None:
        """Where the rename goes on in the background after an error, so does what keeps the paths still (`held`)."""
        if not replace:
            await self._check_free(new)
        if self._inodes.uncommitted_in(new):
            raise DirectoryNotEmpty(f"{display(new)} is not empty")
        inodes = self._in_use(old)
        async with self._locks(*inodes):
            await each(self._commit_in_turn, _by_path(inodes), limit=COMMITS)
            try:
                await self._vault.rename_directory(old, new)
            except StowError:
                later = AsyncExitStack()
                if self._vault.when_renamed(old, new, partial(self._directory_renamed_later, old, new, later)):
                    later.push_async_exit(held.pop_all())
                    await self._moves.leave_unfinished(old, new)
                raise
            await self._directory_renamed(old, new, inodes)

    async def _commit_in_turn(self, versions: Sequence[Inode]) -> None:
        for inode in sorted(versions, key=turn_of):
            # It was to be new, and another host was quicker: who closes it is told so.
            with suppress(PathExists):
                await self._commits.commit_locked(inode)

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
            inodes = self._in_use(old)
            async with self._locks(*inodes):
                try:
                    await self._directory_renamed(old, new, inodes)
                except StowError as error:
                    log.warning("open files in %s may be out of date: %s", display(new), error)
            for path in (old, new):
                parent = self._inodes.at(split(path)[0])
                if parent is not None:
                    parent.entries_changed_ns = now_ns()

    def _in_use(self, directory: str) -> list[Inode]:
        """What is open or uncommitted below a directory. Nobody comes to use more of it while that is renamed, unless
        it was made meanwhile: lookups wait for that."""
        return [inode for inode in self._inodes.below(directory) if inode.handles or inode.draft is not None]

    async def _directory_renamed(self, old: str, new: str, inodes: list[Inode]) -> None:
        """Everything is under the new name. The caller holds flights and locks of the inodes that are in use."""
        self._inodes.move(old, new)
        directory = self._inodes.at(new)
        for inode in [*self._inodes.below(new), *([directory] if directory else [])]:
            if inode.version is not None and inode.draft is None and not inode.handles:
                # The same in a commit that has not been read: none of another host.
                inode.packed = encode(msgspec.structs.replace(inode.version, commit=""))
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
                self._outcomes.adopt_same_bytes(inode, snapshot)

    async def _check_free(self, path: str) -> None:
        """Raises `PathExists` where the store has something under the name."""
        try:
            await self._vault.head(path)
        except NoSuchPath:
            return
        raise PathExists(f"{display(path)} exists")

    @asynccontextmanager
    async def _locks(self, *inodes: Inode) -> AsyncIterator[None]:
        """Holds flights and locks of inodes, taken in the order of their numbers so that two renames cannot wait for
        each other."""
        ordered = sorted(set(inodes), key=lambda inode: inode.number)
        async with AsyncExitStack() as stack:
            for inode in ordered:
                await stack.enter_async_context(inode.flight)
            for inode in ordered:
                await stack.enter_async_context(inode.lock)
            yield

    async def _end(self, inodes: Sequence[Inode]) -> None:
        """The inodes have lost their name, unless they have another one by now: what is uncommitted of them lasts for
        those who have them open. The caller holds flights and locks. Raises `HotTierFailed`, `HotTierFull`."""
        for inode in inodes:
            if inode.linked:
                continue
            if inode.draft is not None:
                self._vault.flusher.drop(inode.draft.id)
                await self._vault.backlog.withdraw(inode.draft)
            if not inode.handles:
                self._commits.discard(inode)
                self._inodes.drop_if_unused(inode)

    def _unlinked(self, parent: Inode, name: bytes, path: str) -> None:
        self._inodes.unlink(path)
        parent.entries_changed_ns = now_ns()
        self._listings.gone(parent, name)


def inherit(parent: Inode, attributes: Attributes, *, directory: bool = False) -> Attributes:
    """The attributes of something new in `parent`: a set-group-ID directory hands on its group, and to directories
    that bit."""
    inherited = parent.attributes
    if not inherited.mode & stat.S_ISGID:
        return attributes
    mode = attributes.mode | stat.S_ISGID if directory else attributes.mode
    return msgspec.structs.replace(attributes, gid=inherited.gid, mode=mode)


def _by_path(inodes: Iterable[Inode]) -> list[list[Inode]]:
    """The inodes of each path."""
    versions: dict[str, list[Inode]] = {}
    for inode in inodes:
        versions.setdefault(inode.path, []).append(inode)
    return list(versions.values())


def _is_here_only(inode: Inode) -> bool:
    """Whether the store has never heard of the file, so that renaming it concerns this host alone."""
    return inode.draft is not None and inode.version is None and not inode.attempted


def _same_state(version: Version, snapshot: Snapshot) -> bool:
    """Whether nothing changed but the name: every other change sets the time of change."""
    return version.attributes == snapshot.attributes and version.size == snapshot.size
