"""Opening and closing files: an open shows what the path shows then, and the last writer to close ends the draft."""

from stowfs.errors import NoSuchPath
from stowfs.mount.commits import Commits
from stowfs.mount.errnos import stale
from stowfs.mount.inodes import Inode, Inodes
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
        self.reopening = Reopening()

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
                found, snapshot = await self._lookup.find(inode.path, stale_ok=True)
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
