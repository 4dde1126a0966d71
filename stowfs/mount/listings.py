"""Open directories: what a listing shows, and how it keeps up with what this host does meanwhile.

A listing has the entries that the store had when reading began or, within the revalidation time, a while before; and
the files of this host that were not there yet. It holds names and packed versions only; an entry becomes an inode when
the kernel is given it.
"""

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, field

import trio

from stowfs.errors import NoSuchPath, StowError
from stowfs.mount.inode import Inode
from stowfs.mount.inodes import Inodes
from stowfs.mount.lookup import Lookup
from stowfs.mount.walks import Walk, Walks
from stowfs.vault import expiry
from stowfs.vault.naming import display, join, split
from stowfs.vault.recent_listings import DirectoryListing
from stowfs.vault.vault import Vault
from stowfs.vault.version import PackedVersion, decode

log = logging.getLogger(__name__)

PER_TIMEOUT = 10_000
"""Entries for which what a listing told is believed once more as long as attributes are. Programs read the whole
directory and then look at each entry: without that, a large one would cost them a request for each."""


@dataclass(slots=True, eq=False)
class Listing:
    """An open directory: its entries as they were when the store was asked, and those that went since reading began.

    `asked` and `answered`, when the store was asked and when it had told them all, in trio's time.
    """

    directory: Inode
    entries: list[tuple[str, PackedVersion | None]] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)
    asked: float = 0.0
    answered: float = 0.0
    # Of all its entries (see `Inode`).
    allowance: float = 0.0
    # None: nothing is fetched ahead of whoever goes through it.
    walk: Walk | None = None


class Listings:
    """The open directories of a mount."""

    def __init__(
        self, vault: Vault, inodes: Inodes, lookup: Lookup, walks: Walks | None, attribute_timeout: float
    ) -> None:
        self._vault = vault
        self._walks = walks
        self._inodes = inodes
        self._lookup = lookup
        self._attribute_timeout = attribute_timeout
        self._open: list[Listing] = []

    def open(self, directory: Inode) -> Listing:
        """An open directory, which `read` reads."""
        listing = Listing(directory)
        self._open.append(listing)
        return listing

    def close(self, listing: Listing) -> None:
        """The directory was closed."""
        self._open.remove(listing)

    async def read(self, listing: Listing) -> None:
        """Reads the entries, or reads them again: those in the store, and the files of this host that are not there
        yet."""
        directory = listing.directory
        listing.gone.clear()
        listing.asked = listing.answered = trio.current_time()
        listing.entries = []
        listing.walk = self._walks.begin(directory.path) if self._walks is not None else None
        if directory.linked:
            # Also those that are committed while the store lists what it has.
            uncommitted = self._inodes.uncommitted_in(directory.path)
            try:
                stored = await self._vault.listing(directory.path)
            except NoSuchPath:
                # Somebody has removed it, and it is made again as soon as one of those is committed.
                if not uncommitted:
                    raise
                stored = DirectoryListing((), listing.asked, trio.current_time())
            listing.entries += stored.entries
            listing.asked, listing.answered = stored.asked, stored.answered
            for name, packed in stored.entries:
                known = self._inodes.at(join(directory.path, name))
                if known is not None and known.handles:
                    await self._ask_about_open(listing, name, known, packed)
            uncommitted += self._inodes.uncommitted_in(directory.path)
            if uncommitted:
                listing.entries += _only_here(uncommitted, directory, {name for name, _ in stored.entries})
            listing.allowance = self._attribute_timeout * len(listing.entries) / PER_TIMEOUT

    async def _ask_about_open(self, listing: Listing, name: str, inode: Inode, packed: PackedVersion) -> None:
        try:
            await self._lookup.ask_about_open(inode, decode(packed))
        except NoSuchPath:
            listing.gone.add(name)
        except StowError as error:
            # It is shown as it was listed.
            log.info("%s may be shown as another file than the one that is open: %s", display(inode.path), error)

    def entry(self, listing: Listing, position: int) -> tuple[str, Inode] | None:
        """The name and inode of an entry; None where it went since the directory was read."""
        name, packed = listing.entries[position]
        if name in listing.gone:
            return None
        path = join(listing.directory.path, name)
        inode = self._inodes.at(path)
        # What this host has done or learnt since counts more.
        later = inode is not None and (inode.settled > listing.asked or inode.validated > listing.answered)
        if packed is not None and not later:
            version = decode(packed)
            if not expiry.is_over(version.attributes.expires_ns):
                inode = self._lookup.meet_listed(path, version, listing.answered, listing.allowance)
        if inode is None or inode.expired:
            return None
        if listing.walk is not None:
            listing.walk.add(position, name, inode.number, inode.size)
        return name, inode

    def gone(self, parent: Inode, name: bytes) -> None:
        """A name was removed from a directory: nobody who is reading that sees it any more."""
        for listing in self._open:
            if listing.directory is parent:
                listing.gone.add(os.fsdecode(name))


def _only_here(inodes: Iterable[Inode], directory: Inode, stored: set[str]) -> list[tuple[str, PackedVersion | None]]:
    """The entries of files that were uncommitted in `directory` when its listing began, and that the store has not
    told of. One that was committed since has a version."""
    entries = {}
    for inode in inodes:
        parent, name = split(inode.path)
        if inode.linked and parent == directory.path and name not in stored:
            entries[name] = inode.packed or None
    return [(name, entries[name]) for name in sorted(entries)]
