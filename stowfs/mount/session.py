"""What the handlers of a mount share: its parts, its open files, and what a request is about."""

import errno
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

import pyfuse3
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FUSEError,
    StatvfsData,
)

from stowfs.errors import StowError
from stowfs.hot.others import OtherHosts
from stowfs.mount.about import About, generated_files
from stowfs.mount.attributes import Shown, answered, entry
from stowfs.mount.commits import Commits
from stowfs.mount.contents import Contents
from stowfs.mount.errnos import stale
from stowfs.mount.extended import ExtendedAttributes
from stowfs.mount.figures import Inventory
from stowfs.mount.forgetting import Forgetting, forget_names
from stowfs.mount.inode import Inode, now_ns
from stowfs.mount.inodes import Inodes
from stowfs.mount.kernel import forget_name, invalidate_attributes
from stowfs.mount.listings import Listing, Listings
from stowfs.mount.local_names import LocalNames
from stowfs.mount.lookup import Lookup
from stowfs.mount.monitor import Monitor
from stowfs.mount.moves import Moves
from stowfs.mount.open_files import OpenFiles
from stowfs.mount.options import ENTRY_TIMEOUT, MountOptions
from stowfs.mount.outcomes import Outcomes
from stowfs.mount.readers import Contention, Reader
from stowfs.mount.tree import Tree
from stowfs.mount.walks import Walks
from stowfs.store.counting import RequestCounts
from stowfs.vault.draft import Intent
from stowfs.vault.manifest import Attributes
from stowfs.vault.naming import display, join
from stowfs.vault.vault import Vault
from stowfs.vault.version import Version

log = logging.getLogger(__name__)

CONVERSATIONS_NAME = b"conversations"
"""The name of the directory that shows the vault, in the root of the mount."""

CONVERSATIONS_MODE = 0o755
"""Permissions of that directory, which is not stored; a mount can change them for as long as it lasts."""

FLUSH_TIMEOUT = 600.0
"""Seconds that a flush of everything, or an unmount, waits while commits succeed: it ends at once when one fails, and
what is left then is safe on this host."""

_BY_HANDLE = frozenset({"read", "write", "flush", "fsync", "release", "readdir", "fsyncdir", "releasedir"})
"""Handlers whose first argument is a handle, not an inode."""


@dataclass(frozen=True, slots=True)
class Handle:
    """A file that somebody has open."""

    inode: Inode
    writing: bool
    appending: bool
    # May have mapped it for writing.
    mapping: bool
    # Where it reads past the page cache: what it sees.
    reader: Reader | None


class Session(pyfuse3.Operations):
    """One mount, but for its handlers."""

    # Inodes are known as long as the kernel refers to them; they could not be looked up by number afterwards.
    supports_dot_lookup = False

    def __init__(
        self,
        vault: Vault,
        options: MountOptions,
        capacity: Callable[[], StatvfsData],
        monitor: Monitor,
        requests: RequestCounts,
        about: About,
        others: OtherHosts,
    ) -> None:
        super().__init__()
        self.monitor = monitor
        self._generated = generated_files(about, vault, monitor, requests, self._inventory)
        self._entry_timeout = max(ENTRY_TIMEOUT, vault.options.revalidate)
        self._exclusive_at_once = options.exclusive == "open"
        self._shown = Shown(options.uid, options.gid, options.umask)
        self._capacity = capacity
        self._mounted_ns = now_ns()
        self._owner = (os.getuid(), os.getgid())
        root = Attributes(CONVERSATIONS_MODE, *self._owner, self._mounted_ns, self._mounted_ns)
        moves = Moves(vault.options.deadline)
        self._inodes = Inodes(Version("", root, 0, "directory"), Contention(others.unseen, others.see))
        self.forgetting = Forgetting(self._inodes, forget_names)
        self._vault = vault
        outcomes = Outcomes(self._inodes, invalidate_attributes, forget_name)
        self._commits = Commits(vault, self._inodes, moves, outcomes, lifetime=options.lifetime)
        self._commits.restore()
        self._contents = Contents(vault, self._inodes, moves, self._commits, outcomes, invalidate_attributes)
        self._lookup = Lookup(vault, self._inodes, moves, options.attribute_timeout)
        # Where every open has to ask the store, there is nothing to be gained.
        walks = Walks(vault.fetch_ahead) if vault.options.revalidate else None
        self._directories = Listings(vault, self._inodes, self._lookup, walks, options.attribute_timeout)
        self._open_files = OpenFiles(self._inodes, self._lookup, self._commits, walks)
        self._tree = Tree(
            vault,
            self._inodes,
            self._lookup,
            self._directories,
            self._open_files,
            self._commits,
            outcomes,
            moves,
            LocalNames(options.local),
        )
        self._tree.hold_unfinished()
        self._extended_attributes = ExtendedAttributes(vault, self._lookup, self._contents) if options.xattr else None
        self._handles: dict[int, Handle] = {}
        # Of the root and of what is generated, the entries.
        self._listings: dict[int, Listing | list[tuple[bytes, int]]] = {}
        self._last_handle = 0

    def _inventory(self) -> Inventory:
        """What is held in memory now."""
        inodes = list(self._inodes)
        uncommitted = sum(inode.draft is not None and not inode.local for inode in inodes)
        local = sum(inode.local for inode in inodes)
        return Inventory(len(inodes), len(self._handles), uncommitted, local, len(self._listings))

    async def finish(self) -> None:
        """Commits what is left when the mount ends, while files are open for writing perhaps; what fails is logged.

        What was acknowledged and cannot be committed stays in the hot tier.
        """
        for inode in self._inodes:
            if inode.local:
                self._commits.discard(inode)
            await self._commits.finish(inode)
        try:
            await self._commits.flush_all(FLUSH_TIMEOUT)
        except StowError as error:
            lag = self._vault.flusher.lag
            log.warning(
                "%d conversations (%d bytes) are not in the store yet; the next mount here sends them: %s",
                lag.count,
                lag.size,
                error,
            )

    def describe(self, handler: str, *arguments: object) -> str:
        """The path that a request is about, for the log."""
        match arguments:
            case [int(number), bytes(name), *_] if handler not in _BY_HANDLE:
                return f"{self._path(number).rstrip('/')}/{display(os.fsdecode(name))}"
            case [int(number), *_] if handler in _BY_HANDLE:
                handle = self._handles.get(number)
                listing = self._listings.get(number)
                if isinstance(listing, Listing):
                    return self._path(listing.directory.number)
                if (document := self._generated.number_of(number)) is not None:
                    return self._path(document)
                return self._path(handle.inode.number) if handle else f"handle {number}"
            case [int(number), *_]:
                return self._path(number)
        return "the mount"

    def _path(self, number: int) -> str:
        if number == pyfuse3.ROOT_INODE:
            return "/"
        if number in self._generated:
            return self._generated.path(number)
        try:
            return "/" + display(join(os.fsdecode(CONVERSATIONS_NAME), self._inodes[number].path)).rstrip("/")
        except KeyError:
            return f"inode {number}"

    # For the handlers

    def _inode(self, number: int) -> Inode:
        """An inode below `/conversations`. Raises EROFS for what is not stored."""
        if not self._is_stored(number):
            raise FUSEError(errno.EROFS)
        try:
            return self._inodes[number]
        except KeyError:
            raise stale() from None

    def _is_stored(self, number: int) -> bool:
        return number != pyfuse3.ROOT_INODE and number not in self._generated

    def _answer(self, inode: Inode, shown: Inode | None = None) -> EntryAttributes:
        """The attributes of an inode, or those of `shown` in their place."""
        shown = shown or inode
        answer = self._entry(shown)
        answered(inode, answer, shown)
        return answer

    def _entry(self, inode: Inode) -> EntryAttributes:
        return entry(inode, self._shown, self._lookup.attribute_timeout(inode), self._entry_timeout)

    def _looked_up(self, inode: Inode) -> EntryAttributes:
        inode.lookups += 1
        return self._answer(inode)

    def _new_handle(self, inode: Inode, flags: int, *, writing: bool, keep_cache: bool) -> FileInfo:
        """A handle, as the kernel is told of it. `keep_cache`: its page cache has what the inode shows."""
        mapping = flags & os.O_ACCMODE == os.O_RDWR
        inode.mappers += mapping
        appending = inode.draft is not None and inode.draft.intent is Intent.APPEND
        moves = self._inodes.contention.moves(inode.path, appending=appending)
        reader = Reader() if moves and not writing else None
        if reader is not None:
            inode.readers = (*inode.readers, reader)
        handle = self._next_handle()
        self._handles[handle] = Handle(inode, writing, bool(flags & os.O_APPEND), mapping, reader)
        direct = reader is not None or _is_for_appends(flags)
        return FileInfo(fh=handle, direct_io=direct, keep_cache=keep_cache)

    def _next_handle(self) -> FileHandleT:
        self._last_handle += 1
        return FileHandleT(self._last_handle)


def _is_for_appends(flags: int) -> bool:
    """Whether a handle can only append. It goes past the page cache, through which the kernel may cut a write in two
    where a page ends; what another host appends could come between the halves. One that can be read, too, may have to
    be mapped, which needs the cache."""
    return bool(flags & os.O_APPEND) and flags & os.O_ACCMODE == os.O_WRONLY
