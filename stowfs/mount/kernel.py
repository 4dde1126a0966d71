"""What is said to the kernel outside of replies: mount flags, read-ahead, invalidations; and the figures for statfs."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pyfuse3
import trio

from stowfs.config import TIB
from stowfs.errors import StoreUnavailable
from stowfs.mount.attributes import BLOCK_SIZE
from stowfs.mount.inode import Inode
from stowfs.mount.options import MountOptions
from stowfs.vault.naming import NAME_LIMIT

log = logging.getLogger(__name__)

READ_AHEAD_KIB = 512
"""What the kernel reads ahead of a sequential reader: four requests at once, about 30 % faster than its default of
128."""

ENDLESS = 1024 * TIB
"""Bytes that a store without a limit is said to have. Some programs count in signed 64-bit sectors: not more than
this."""

FILES = 1 << 32
"""Files that a store without a limit is said to have room for."""


def mount_flags(options: MountOptions, url: str) -> set[str]:
    """The options that libfuse is given. `url` is what mount(8) and df(1) will show as the source."""
    # libfuse cuts its options at commas and takes backslashes away; pyfuse3 passes ASCII only.
    source = quote(url, safe="/:@%+=?&~!$()*;[]'-._")
    flags = {f"fsname={source}", "subtype=stowfs", "default_permissions"}
    if options.read_only:
        flags.add("ro")
    if options.allow_other:
        flags.add("allow_other")
    if options.no_exec:
        flags.add("noexec")
    return flags


async def invalidate_attributes(inode: Inode) -> None:
    """Makes the kernel ask for the attributes of an inode again.

    Never to be called with a lock that a handler may need, unless the file is open: then the kernel waits for nothing.
    Else it may be about to forget the inode, and wait until what it has of it is written.
    """
    try:
        # A thread, since the call waits for the kernel. The page cache is left alone: dropping pages of an open file
        # can wait for a request that this process would have to answer.
        await trio.to_thread.run_sync(lambda: pyfuse3.invalidate_inode(inode.number, attr_only=True))
    except FileNotFoundError:
        log.debug("the kernel has forgotten inode %d", inode.number)


def forget_name(directory: Inode, name: str) -> None:
    """Makes the kernel look up a name again, when nothing is under way in the directory any more; nobody waits for
    that."""
    pyfuse3.invalidate_entry_async(directory.number, pyfuse3.FileNameT(os.fsencode(name)), ignore_enoent=True)


async def tell_once(inode: Inode) -> None:
    """Makes the kernel ask for the attributes of an inode that is being opened, where it may have old ones.

    Only one open does that. The kernel numbers what it is told: told so while it asks for another program, it passes
    over the answer, and that program takes the old size for the end of the new bytes.
    """
    async with inode.telling:
        if inode.doubted or inode.told != inode.packed or inode.kernel_size != inode.size:
            packed, size, inode.doubted = inode.packed, inode.size, False
            # It may find out by reading that there is less.
            inode.cache_end = min(inode.cache_end, size)
            await invalidate_attributes(inode)
            inode.told, inode.kernel_size = packed, size


def set_read_ahead(mountpoint: str) -> None:
    """Raises the read-ahead of a mount where this process may."""
    device = os.stat(mountpoint).st_dev
    setting = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    try:
        setting.write_text(f"{READ_AHEAD_KIB}\n")
    except OSError as error:
        log.info("the read-ahead of the mount stays as the kernel chose it: %s", error)


def capacity_of(url: str) -> Callable[[], pyfuse3.StatvfsData]:
    """What statfs answers for the store at `url`: the figures of the local disk that holds it, or room without end.

    The function it returns blocks, and raises `StoreUnavailable`.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        directory = unquote(parts.path)
        return lambda: _of_disk(directory)
    return _endless


def _of_disk(directory: str) -> pyfuse3.StatvfsData:
    try:
        figures = os.statvfs(directory)
    except OSError as error:
        raise StoreUnavailable(f"{directory}: {error.strerror}") from error
    answer = pyfuse3.StatvfsData()
    answer.f_bsize = figures.f_bsize
    answer.f_frsize = figures.f_frsize
    answer.f_blocks = figures.f_blocks
    answer.f_bfree = figures.f_bfree
    answer.f_bavail = figures.f_bavail
    answer.f_files = figures.f_files
    answer.f_ffree = figures.f_ffree
    answer.f_favail = figures.f_favail
    answer.f_namemax = NAME_LIMIT
    return answer


def _endless() -> pyfuse3.StatvfsData:
    answer = pyfuse3.StatvfsData()
    answer.f_bsize = answer.f_frsize = BLOCK_SIZE
    answer.f_blocks = answer.f_bfree = answer.f_bavail = ENDLESS // BLOCK_SIZE
    answer.f_files = answer.f_ffree = answer.f_favail = FILES
    answer.f_namemax = NAME_LIMIT
    return answer
