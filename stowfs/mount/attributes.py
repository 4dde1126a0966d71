"""From inodes to what the kernel is told about them."""

import stat
from dataclasses import dataclass

import pyfuse3

from stowfs.config import KIB
from stowfs.mount.inode import Inode
from stowfs.vault import expiry

BLOCK_SIZE = 128 * KIB
"""What programs are advised to read and write at once (`st_blksize`): the size of the kernel's own requests."""

PERMISSIONS = 0o777
"""The bits that `umask=` decides about, as in other file systems: all of them are shown but those in the mask."""

TICK = 0.02
"""Seconds by which the kernel may believe something longer than it was told: it counts in ticks of up to a hundredth of
a second, and rounds up."""

SECTOR = 512
"""Bytes of the unit in which `st_blocks` counts, by definition."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a mount shows instead of the owner, the group and the permissions that are stored; None: those.

    Nothing of it is stored: chown and chmod change what is stored all the same, and other mounts show it.
    """

    uid: int | None = None
    gid: int | None = None
    umask: int | None = None

    def disguise(self, answer: pyfuse3.EntryAttributes) -> None:
        """Puts it into an answer to the kernel."""
        if self.uid is not None:
            answer.st_uid = self.uid
        if self.gid is not None:
            answer.st_gid = self.gid
        # A symbolic link has no permissions of its own.
        if self.umask is not None and not stat.S_ISLNK(answer.st_mode):
            answer.st_mode = pyfuse3.ModeT(stat.S_IFMT(answer.st_mode) | PERMISSIONS & ~self.umask)


def entry(inode: Inode, shown: Shown, attribute_timeout: float, entry_timeout: float) -> pyfuse3.EntryAttributes:
    """The attributes of an inode for the kernel, which then believes them and its name for so many seconds: `answered`
    has to be called with the reply."""
    attributes, size = inode.attributes, inode.size
    answer = pyfuse3.EntryAttributes()
    answer.st_ino = inode.number
    if attributes.expires_ns is not None:
        # Neither is to outlast the deadline.
        left = max(0.0, expiry.seconds_left(attributes.expires_ns) - TICK)
        entry_timeout, attribute_timeout = min(entry_timeout, left), min(attribute_timeout, left)
    answer.entry_timeout = entry_timeout
    answer.attr_timeout = attribute_timeout
    answer.st_mode = pyfuse3.ModeT(inode.type_bits | attributes.mode)
    # A directory's count is 1, which says that it is not kept: a count of 2 would say that there are no subdirectories.
    answer.st_nlink = 1 if inode.linked else 0
    answer.st_uid = attributes.uid
    answer.st_gid = attributes.gid
    answer.st_size = size
    answer.st_blksize = BLOCK_SIZE
    answer.st_blocks = -(-size // SECTOR)
    # Not the later of the two alone: a time that was set may lie before 1970.
    changed = inode.entries_changed_ns
    answer.st_mtime_ns = max(attributes.mtime_ns, changed) if changed else attributes.mtime_ns
    answer.st_atime_ns = answer.st_mtime_ns if attributes.atime_ns is None else attributes.atime_ns
    answer.st_ctime_ns = max(attributes.ctime_ns, changed)
    shown.disguise(answer)
    return answer


def answered(inode: Inode, answer: pyfuse3.EntryAttributes, shown: Inode) -> None:
    """Notes what the kernel knows of an inode after a reply with the attributes of `shown`."""
    inode.kernel_size = answer.st_size
    inode.cache_end = min(inode.cache_end, answer.st_size)
    inode.told = shown.packed


def root_entry(uid: int, gid: int, shown: Shown, mounted_ns: int) -> pyfuse3.EntryAttributes:
    """The attributes of the root of the mount, which only shows the fixed names."""
    answer = pyfuse3.EntryAttributes()
    answer.st_ino = pyfuse3.ROOT_INODE
    answer.st_mode = pyfuse3.ModeT(stat.S_IFDIR | 0o755)
    answer.st_nlink = 1
    answer.st_uid = uid
    answer.st_gid = gid
    answer.st_blksize = BLOCK_SIZE
    answer.st_atime_ns = answer.st_mtime_ns = answer.st_ctime_ns = mounted_ns
    shown.disguise(answer)
    return answer
