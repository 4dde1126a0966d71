"""The parts of a mount over a vault, without a kernel."""

import trio

from stowfs.mount.commits import Commits
from stowfs.mount.contents import Contents
from stowfs.mount.inode import Inode
from stowfs.mount.inodes import Inodes
from stowfs.mount.listings import Listings
from stowfs.mount.local_names import LocalNames
from stowfs.mount.lookup import Lookup
from stowfs.mount.moves import Moves
from stowfs.mount.open_files import OpenFiles
from stowfs.mount.outcomes import Invalidate, Outcomes
from stowfs.mount.readers import Contention
from stowfs.mount.tree import Tree
from stowfs.vault.vault import Vault
from stowfs.vault.version import Version
from tests.support.vaults import ATTRIBUTES

ATTRIBUTE_TIMEOUT = 1.0
DEADLINE = 5.0


class View:
    """A vault as a mount sees it."""

    def __init__(self, vault: Vault, invalidate: Invalidate | None = None) -> None:
        """`invalidate`: what is done in the place of telling a kernel to ask for attributes again."""
        tell = invalidate or _invalidate
        moves = Moves(DEADLINE)
        self.inodes = Inodes(Version("", ATTRIBUTES, 0, "directory"), Contention())
        outcomes = Outcomes(self.inodes, tell, lambda *_: None)
        self.commits = Commits(vault, self.inodes, moves, outcomes, lifetime=None)
        self.contents = Contents(vault, self.inodes, moves, self.commits, outcomes, tell)
        self.lookup = Lookup(vault, self.inodes, moves, ATTRIBUTE_TIMEOUT)
        self.listings = Listings(vault, self.inodes, self.lookup, None, ATTRIBUTE_TIMEOUT)
        self.open_files = OpenFiles(self.inodes, self.lookup, self.commits, None)
        self.tree = Tree(
            vault,
            self.inodes,
            self.lookup,
            self.listings,
            self.open_files,
            self.commits,
            outcomes,
            moves,
            LocalNames(()),
        )

    async def listed(self, directory: Inode | None = None) -> list[tuple[str, Inode]]:
        """What a program sees that reads a directory (None: the uppermost), looking at each entry."""
        listing = self.listings.open(directory or self.inodes.conversations)
        try:
            await self.listings.read(listing)
            entries = [self.listings.entry(listing, position) for position in range(len(listing.entries))]
            return [entry for entry in entries if entry is not None]
        finally:
            self.listings.close(listing)


async def _invalidate(inode: Inode) -> None:
    """There is no kernel that could have cached anything."""
    await trio.lowlevel.checkpoint()
