"""What inodes and their names show when a commit has ended: the version that the draft became, or merged with, or lost
to; and what the kernel has to be told of it.
"""

from collections.abc import Awaitable, Callable

from stowfs.mount.inode import Inode, turn_of
from stowfs.mount.inodes import Inodes
from stowfs.vault.draft import Draft, Intent
from stowfs.vault.manifest import Snapshot
from stowfs.vault.naming import split
from stowfs.vault.version import Version

Invalidate = Callable[[Inode], Awaitable[None]]
"""Makes the kernel forget the attributes of an inode. With the inode's lock, only while somebody has it open."""

ForgetName = Callable[[Inode, str], None]
"""Makes the kernel look up a name in a directory again, sooner or later."""


class Outcomes:
    """What becomes of the inodes of a mount."""

    def __init__(self, inodes: Inodes, invalidate: Invalidate, forget_name: ForgetName) -> None:
        self._inodes = inodes
        self._invalidate = invalidate
        self._forget_name = forget_name

    def adopt(self, inode: Inode, snapshot: Snapshot) -> None:
        """The inode shows this version from now on."""
        inode.show(Version.of(snapshot))
        inode.snapshot = snapshot if inode.handles else None

    def adopt_same_bytes(self, inode: Inode, snapshot: Snapshot) -> None:
        """As `adopt`, for a version with the bytes the inode had: what the kernel has stays as good as it was."""
        before, shown, doubted = inode.content, inode.packed, inode.doubted
        self.adopt(inode, snapshot)
        inode.doubted = doubted
        inode.cached = inode.content if inode.cached == before else None
        inode.told = inode.packed if inode.told == shown else None

    async def about_to_show(self, inode: Inode, before: "Before", committed: Snapshot) -> None:
        """Before `committed`, for a caller that holds the lock.

        Where that is merged with the work of another host, whoever has the file open will read other bytes than the
        kernel knows the size of. It must not take the old size for the end of the new bytes: so it is told to ask again
        before any of them can be read, and what it is told until then, it does not believe for longer.
        """
        if inode.is_open and not before.becomes(committed):
            inode.changing = True
            await self._invalidate(inode)

    def committed(self, inode: Inode, before: "Before", committed: Snapshot, kept: Snapshot | None) -> None:
        """The inode shows the version that its draft became, or lost to; or, where it is still in use, as what it was
        `kept` beside that; that is what was `committed`, too, where nothing else is there."""
        announced, inode.changing = inode.changing, False
        inode.failure = None
        inode.attempted = False
        if kept is not None and (inode.is_open or inode.draft is not None or kept is committed):
            self._stand_for(inode, kept)
            committed = kept
        elif committed.is_directory or committed.is_symlink:
            self._replaced_by_another_type(inode, before)
            return
        if before.becomes(committed):
            self.adopt_same_bytes(inode, committed)
        else:
            # Merged with the work of another host, or beaten by it.
            self.adopt(inode, committed)
            self.merged(inode, before, committed.size - before.size)
        self._inodes.contention.committed(inode.path, appended=before.intent is Intent.APPEND)
        if announced:
            # It is going to ask. Told so once more, the kernel would pass over the answer to what it asks just now, and
            # take the old size for the end after all.
            inode.told, inode.kernel_size, inode.doubted = inode.packed, inode.size, False
        self._inodes.committed(inode)

    def _stand_for(self, inode: Inode, kept: Snapshot) -> None:
        """The inode was beaten: its name shows what won, as soon as somebody looks. Who has it open keeps it as it is,
        and what is written to it goes to what was kept."""
        path = inode.path
        self._inodes.contention.changed_elsewhere(path)
        self._inodes.stand_for(inode, kept.path)
        self.forget_name(path)

    def forget_name(self, path: str) -> None:
        """The kernel takes a path for an inode that has another one."""
        directory, name = split(path)
        if (parent := self._inodes.at(directory)) is not None:
            self._forget_name(parent, name)

    def show_again(self, inode: Inode) -> None:
        """The inode was closed, perhaps after others had replaced what it shows: where it is to replace that, its name
        shows it again."""
        assert inode.draft is not None
        current = self._inodes.at(inode.path)
        if current is inode or inode.draft.intent is not Intent.REPLACE:
            return
        if current is not None and current.type_bits != inode.type_bits:
            return
        if current is not None and current.draft is not None and turn_of(current) > turn_of(inode):
            return
        self._inodes.show_again(inode)
        self.forget_name(inode.path)

    def _replaced_by_another_type(self, inode: Inode, before: "Before") -> None:
        """Somebody has made a directory or a symbolic link in the place of a file."""
        if inode.draft is not None:
            # The next commit keeps it beside that.
            if self._inodes.is_current(inode):
                self._inodes.supersede(inode)
            return
        inode.show(Version("", before.attributes, 0))
        self._inodes.lose(inode)

    def merged(self, inode: Inode, before: "Before", distance: int) -> None:
        """What was appended to the inode moved by so many bytes, to come after the work of another host."""
        if before.intent is Intent.APPEND and distance > 0:
            self._inodes.contention.merged(inode.path)
            inode.moved(before.base_size, distance)

    async def tell_size(self, inode: Inode) -> None:
        """Has the kernel ask for the size where it knows another one. The caller holds nothing."""
        if inode.size != inode.kernel_size:
            # Merged with the work of another host when nobody had it open any more, or appended where the kernel did
            # not expect it.
            await self._invalidate(inode)


class Before:
    """What an inode showed when a commit of its draft began, and what was to be committed."""

    def __init__(self, version: Version | None, draft: Draft) -> None:
        self.version = version
        self.path = draft.path
        self.intent = draft.intent
        self.size = draft.size
        self.base_size = draft.base.size if draft.base is not None else 0
        self.attributes = draft.attributes

    def becomes(self, committed: Snapshot) -> bool:
        """Whether a version is just that, with nobody else's work in it."""
        own = committed.attributes == self.attributes and committed.size == self.size
        if self.intent is Intent.REPLACE or committed.path != self.path:
            return own
        return own and (self.version is None or follows(committed, self.version))


class Showing:
    """An inode that shows a draft which is committed in the background."""

    def __init__(self, outcomes: Outcomes, inode: Inode, acknowledged: Draft) -> None:
        self._outcomes = outcomes
        self._inode = inode
        self._before = Before(inode.version, acknowledged)

    async def about_to_change(self, committed: Snapshot) -> None:
        await self._outcomes.about_to_show(self._inode, self._before, committed)

    def settled(self, committed: Snapshot, kept: Snapshot | None, *, clean: bool) -> None:
        if clean:
            self._inode.draft = None
        self._outcomes.committed(self._inode, self._before, committed, kept)


def follows(snapshot: Snapshot, version: Version) -> bool:
    """Whether a version was made directly from the other one, with no commit of anybody else in between."""
    return snapshot.manifest.ring.recent[-2:-1] == (version.commit,)
