"""Which inode a path shows now, and for how long that may be believed.

`find` is the one place where this host learns of the work of others. The store is asked, the answer compared with the
inode of the path, and where it is another version: an inode that nobody has open takes it over, an open one is
superseded, unless the bytes are the same. An answer that something happened to the inode in the meantime (a commit of
this host) makes worthless is thrown away, and the store asked again; so is one that may be of what this host itself is
doing to the path, which is waited for (see `moves`).
"""

import os
from collections.abc import Callable

import trio

from stowfs.errors import NoSuchPath
from stowfs.mount.errnos import stale
from stowfs.mount.inode import Inode
from stowfs.mount.inodes import Inodes
from stowfs.mount.moves import Moves, Question
from stowfs.vault.draft import Draft
from stowfs.vault.manifest import Snapshot
from stowfs.vault.naming import display, join
from stowfs.vault.vault import Vault
from stowfs.vault.version import PackedVersion, Version


class Lookup:
    """Inodes by path, as they are in the store."""

    def __init__(self, vault: Vault, inodes: Inodes, moves: Moves, attribute_timeout: float) -> None:
        """`attribute_timeout`: seconds for which attributes are believed that were asked for."""
        self._vault = vault
        self._inodes = inodes
        self._moves = moves
        self._attribute_timeout = attribute_timeout
        self._revalidate = vault.options.revalidate

    async def find(self, path: str, *, stale_ok: bool = False) -> tuple[Inode, Snapshot | None]:
        """The inode that shows what is under `path` now, and that version; None where this host has changes of its own.

        `stale_ok` as in `Vault.head`. Not to be called by whoever keeps a path still. Raises `NoSuchPath` and store
        errors.
        """
        while True:
            inode = self._inodes.at(path)
            packed, draft = (inode.packed, inode.draft) if inode else (None, None)
            if inode is not None and draft is not None and not inode.expired:
                return inode, None
            if await self._moves.settled(path):
                continue
            asked = trio.current_time()
            with self._moves.question(path) as question:
                try:
                    snapshot = await self._vault.head(path, stale_ok=stale_ok)
                except NoSuchPath:
                    if self._unchanged(path, inode, packed, draft) and not (question.altered or question.moved):
                        if inode is not None and inode.is_directory and self._inodes.uncommitted_in(path):
                            # It is made again as soon as what this host has created in it is in the store.
                            return inode, None
                        if inode is not None:
                            self._inodes.supersede(inode)
                        raise
                    continue
            if self._unchanged(path, inode, packed, draft) and _answers(question, inode, snapshot):
                if inode is not None and draft is not None:
                    # Its deadline was put off elsewhere.
                    return inode, None
                return self.meet_snapshot(path, snapshot, asked), snapshot

    async def find_where(self, locate: Callable[[], str], *, stale_ok: bool = False) -> tuple[Inode, Snapshot | None]:
        """What `find` has for the path that `locate` gives: a rename of a directory above may have been waited for, and
        what was there is found where it is now. Raises also what `locate` raises."""
        while True:
            path = locate()
            try:
                found = await self.find(path, stale_ok=stale_ok)
            except NoSuchPath:
                if locate() == path:
                    raise
            else:
                if locate() == path:
                    return found

    def _unchanged(self, path: str, inode: Inode | None, packed: PackedVersion | None, draft: Draft | None) -> bool:
        """Whether `path` is on this host as it was before the store was asked."""
        # Not the same version, but the very same one: whatever was set since counts.
        same = inode is None or (inode.packed is packed and inode.draft is draft)
        return self._inodes.at(path) is inode and same

    def meet_snapshot(self, path: str, snapshot: Snapshot, asked: float) -> Inode:
        """The inode that shows a version that was under `path` at the time `asked`: the current one if it may."""
        version = Version.of(snapshot)
        inode = self._at_or_new(path, version, snapshot=snapshot)
        inode.validated, inode.allowance = asked, 0.0
        shown = inode.version
        if version.commit and shown is not None and shown.commit == version.commit and shown != version:
            # What listings show may come from an index that somebody else has written. The manifest is what counts.
            inode.show(version)
        if inode.snapshot is not None:
            # The same version; the same attributes, too, but of a directory without a manifest.
            inode.snapshot = snapshot
        return inode

    def meet_listed(self, path: str, version: Version, answered: float, allowance: float) -> Inode:
        """As `meet_snapshot`, for what was in a listing that was whole at the time `answered`.

        `allowance`: see `Inode`.
        """
        known = self._inodes.at(path)
        if known is not None and self._moves.is_altering(path):
            return known
        # The one time is all three, and one object: there may be a hundred thousand inodes of a listing.
        inode = self._at_or_new(path, version, answered)
        inode.validated, inode.allowance = answered, allowance
        return inode

    async def ask_about_open(self, inode: Inode, listed: Version) -> None:
        """Asks the store about an open file, before `meet_listed`, where a listing shows another version of it that may
        have the same bytes: the manifest alone tells whether it is the same file. Raises as `find`."""
        shown = inode.version
        if shown is None or shown.commit == listed.commit or self._moves.is_altering(inode.path):
            return
        if (shown.type_bits, shown.size) == (listed.type_bits, listed.size):
            await self.find(inode.path, stale_ok=True)

    def _at_or_new(
        self, path: str, version: Version, as_of: float | None = None, snapshot: Snapshot | None = None
    ) -> Inode:
        inode = self._inodes.at(path)
        if inode is not None and inode.draft is not None:
            # What it replaces may be of another type.
            return inode
        if inode is None or inode.type_bits != version.type_bits:
            return self._inodes.add(path, version, as_of)
        if inode.version is not None and inode.version.commit == version.commit:
            return inode
        # Where no commit is known, it was renamed with its directory by this host.
        if inode.content or inode.handles:
            self._inodes.contention.changed_elsewhere(path)
        if inode.handles:
            if snapshot is None or inode.snapshot is None or not snapshot.has_content_of(inode.snapshot):
                return self._inodes.add(path, version, as_of)
            # Only attributes were set: whoever has it open goes on with whoever opens it now.
            inode.snapshot = snapshot
            if inode.cached == inode.content:
                inode.cached = version.commit
        inode.show(version, as_of)
        return inode

    async def shown(self, inode: Inode, *, recently: bool = False, stale_ok: bool = False) -> Inode:
        """The inode that tells the attributes of `inode`, and takes changes of them: what its path shows now, where the
        store decides that; with `recently` only if what is known is older than attributes may be, or versions.

        The kernel asks about the inode of a version that was replaced when a program names its path. ESTALE would cost
        that program one of the two attempts that the kernel makes at what it wants to do (see `reopening`).

        `stale_ok` as in `Vault.head`. Raises ESTALE as `current` does.
        """
        if inode.linked:
            believed = self._believed(inode) if recently else 0.0
            recent = trio.current_time() - inode.validated < believed and not inode.expired
            if recent or not self._is_shared(inode):
                return inode
        elif inode.handles or inode.is_directory:
            return inode
        found, _ = await self.current(inode, stale_ok=stale_ok)
        # Somebody may have opened it while the store was asked.
        return inode if inode.is_open else found

    async def current(self, inode: Inode, *, stale_ok: bool = False) -> tuple[Inode, Snapshot | None]:
        """What `find` has for the path of `inode`. Raises ESTALE where that is nothing, or something of another type:
        the kernel looks it up again."""
        try:
            found, snapshot = await self.find_where(lambda: inode.path, stale_ok=stale_ok)
        except NoSuchPath:
            raise stale() from None
        if found.type_bits != inode.type_bits:
            raise stale()
        return found, snapshot

    async def confirm_directory(self, directory: Inode) -> None:
        """Raises `NoSuchPath` for a directory that others have removed, as far as this host knows."""
        if directory.linked and not self._inodes.is_current(directory):
            await self.find_where(lambda: directory.path)

    async def target(self, inode: Inode) -> bytes:
        """Where a symbolic link leads. Raises ESTALE as `current` does."""
        _, snapshot = await self.current(inode)
        if snapshot is None:
            raise stale()
        return snapshot.target

    def attribute_timeout(self, inode: Inode) -> float:
        """Seconds for which the kernel may believe the attributes of an inode. Counted from when the store was asked,
        so that what a stat says is never older than promised."""
        if inode.changing:
            return 0.0
        # Nobody asks the store within the time of revalidation: so the kernel need not ask this process.
        if not self._is_shared(inode):
            return max(self._attribute_timeout, self._revalidate)
        age = trio.current_time() - inode.validated
        return max(0.0, self._believed(inode) - age)

    def _believed(self, inode: Inode) -> float:
        """Seconds from when the store was asked for which the attributes of a shared inode may be shown."""
        return max(self._attribute_timeout + inode.allowance, self._revalidate)

    def _is_shared(self, inode: Inode) -> bool:
        """Whether another host can change what the inode shows: not while it is open, changed or unlinked here."""
        return not inode.is_open and inode.draft is None and inode.linked and inode is not self._inodes.conversations


def _answers(question: Question, inode: Inode | None, snapshot: Snapshot) -> bool:
    """Whether a version is none of those that this host is just making. What the inode shows is none, however often
    that is altered: but who renames a directory has to know of everybody who opens something below it."""
    if question.moved:
        return False
    return not question.altered or (inode is not None and inode.content == snapshot.manifest.commit)


def child_path(parent: Inode, name: bytes) -> str:
    """The path of a name in a directory. Raises `NoSuchPath` where the directory was removed."""
    if not parent.linked:
        raise NoSuchPath(f"{display(parent.path)} was removed")
    return join(parent.path, os.fsdecode(name))
