"""Opening and closing files: an open shows what the path shows then, and the last writer to close ends the draft."""

from stowfs.errors import NoSuchPath
from stowfs.mount.commits import Commits
from stowfs.mount.errnos import stale
from stowfs.mount.inode import Inode
from stowfs.mount.inodes import Inodes
from stowfs.mount.lookup import Lookup
from stowfs.mount.reopening import Reopening
from stowfs.mount.walks import Walks


class OpenFiles:
    """Counts who has each file open."""

    def __init__(self, inodes: Inodes, lookup: Lookup, commits: Commits, walks: Walks | None) -> None:
        self._inodes = inodes
        self._lookup = lookup
        self._commits = commits
        self._walks = walks
        self.reopening = Reopening(self._uncount)

    async def open(self, inode: Inode, thread: int, *, writing: bool) -> None:
        """Counts a handle on what the path of `inode` shows now.

        Raises ESTALE where that is not this inode any more: not a second time to the same thread, where it has looked
        up its path since.
        """
        if self._walks is not None and not writing:
            self._walks.opened(inode.path, inode.number)
        if self.reopening.take(thread, inode):
            inode.writers += writing
            return
        if not await self._is_shown(inode):
            self.reopening.too_late(thread, inode.path)
            raise stale()
        self.count_handle(inode, writing=writing)

    async def open_path(self, path: str, *, writing: bool) -> Inode:
        """As `open`, for whatever is under `path`. Raises `NoSuchPath`, and store errors."""
        inode, snapshot = await self._lookup.find(path, stale_ok=True)
        inode.snapshot = snapshot or inode.snapshot
        self.count_handle(inode, writing=writing)
        return inode

    async def _is_shown(self, inode: Inode) -> bool:
        """Whether an inode is what its path shows; then it shows the newest version."""
        if not inode.linked:
            return inode.handles > 0 and not inode.expired
        if inode.draft is not None and not inode.expired and self._inodes.is_current(inode):
            return True
        try:
            found, snapshot = await self._lookup.find(inode.path, stale_ok=True)
        except NoSuchPath:
            return False
        if found is inode:
            inode.snapshot = snapshot or inode.snapshot
        return found is inode

    def count_handle(self, inode: Inode, *, writing: bool) -> None:
        """One more handle on an inode."""
        inode.handles += 1
        inode.writers += writing

    async def close(self, inode: Inode, *, writing: bool) -> None:
        """One handle less; the last writer ends the draft (see `Commits.finish`), the last handle one of a file that
        is unlinked."""
        inode.writers -= writing
        try:
            # What was written to a file without a name is nowhere but in the draft: its readers need that to the end.
            if writing and not inode.writers and inode.linked:
                await self._commits.finish(inode)
        finally:
            self._uncount(inode)

    def _uncount(self, inode: Inode) -> None:
        inode.handles -= 1
        if not inode.handles:
            inode.snapshot = None
            if not inode.linked:
                self._commits.discard(inode)
        self._commits.rest(inode)
        self._inodes.drop_if_unused(inode)
