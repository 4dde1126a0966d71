"""Mount points as the kernel and FUSE see them: looking one up, checking one before a mount, unmounting one."""

import os
import re
import shutil
import stat
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stowfs.errors import MountFailed

FILE_SYSTEM_TYPE = "fuse.stowfs"
"""What the kernel calls a mount of stowfs: by the option `subtype=stowfs`."""

TREE_ROOT = "conversations"
"""The directory of a mounted tree in which the conversations are: an id copied from there begins with it."""

FUSE_DEVICE = "/dev/fuse"

UNMOUNT_TIMEOUT = 30.0
"""Seconds for fusermount3, which waits for nothing but the kernel; past it something hangs that waiting will not
mend."""

IN_CONTAINER = (
    "a container needs '--device /dev/fuse --cap-add SYS_ADMIN', on some hosts also"
    " '--security-opt apparmor=unconfined'"
)
"""What to do where a mount is not permitted."""

ANSWER_TIMEOUT = 5.0
"""Seconds for a daemon to answer a statfs, which asks no store; a dead one takes none."""

_DEAD = 3
_ASK = f"""
import errno, os, sys
try:
    os.statvfs(sys.argv[1])
except OSError as error:
    sys.exit({_DEAD} if error.errno in (errno.ENOTCONN, errno.ECONNABORTED) else 0)
"""
"""A program that exits with `_DEAD` where the mount point in its argument is dead."""

_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class MountEntry:
    """A line of the kernel's mount table."""

    file_system: str
    source: str

    @property
    def is_stowfs(self) -> bool:
        return self.file_system == FILE_SYSTEM_TYPE


def canonical(directory: str) -> str:
    """The path under which the mount table lists `directory`. Works for a mount point whose daemon is dead, too."""
    return os.path.realpath(directory)


def mount_entry(mountpoint: str) -> MountEntry | None:
    """What is mounted at the canonical path `mountpoint`, topmost; `None` where it is no mount point."""
    found = None
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        before, _, after = line.partition(b" - ")
        if _unescape(before.split(b" ")[4]) == mountpoint:
            file_system, source, *_ = after.split(b" ")
            found = MountEntry(_unescape(file_system), _unescape(source))
    return found


def is_dead(mountpoint: str) -> bool:
    """Whether this is a mount point of FUSE whose daemon has ended. One that merely does not answer is not dead."""
    # statfs, since the kernel may answer stat from memory; and in a process that can be left behind, since nothing can
    # end one that waits for a daemon that hangs.
    asking = subprocess.Popen(
        [sys.executable, "-S", "-c", _ASK, mountpoint], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        return asking.wait(ANSWER_TIMEOUT) == _DEAD
    except subprocess.TimeoutExpired:
        asking.kill()
        with suppress(subprocess.TimeoutExpired):
            # Until it is gone, the mount is in use. It may not go at all, while a request of it is being answered.
            asking.wait(ANSWER_TIMEOUT)
        return False


def check_fuse() -> None:
    """Raises `MountFailed` where this process cannot mount, and says why."""
    try:
        os.close(os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise MountFailed(
            f"{FUSE_DEVICE} is not usable: {error.strerror}: load FUSE (modprobe fuse); {IN_CONTAINER}"
        ) from error
    if shutil.which("fusermount3") is None:
        raise MountFailed("fusermount3 is not installed: on Debian, apt-get install fuse3")


def prepare_mountpoint(mountpoint: str) -> bool:
    """Checks that `mountpoint` (canonical) can be mounted on; frees it first from a mount whose daemon is dead.

    Returns whether it did so. Raises `MountFailed`.
    """
    recovered = False
    while (entry := mount_entry(mountpoint)) is not None:
        if not entry.is_stowfs or not is_dead(mountpoint):
            raise MountFailed(
                f"{mountpoint} is mounted already ({entry.source}): unmount it first, or name another directory"
            )
        unmount(mountpoint, lazy=True)
        recovered = True
    try:
        if not stat.S_ISDIR(os.stat(mountpoint).st_mode):
            raise MountFailed(f"{mountpoint} is not a directory: a mount point must be one")
        with os.scandir(mountpoint) as entries:
            if any(entries):
                raise MountFailed(f"{mountpoint} is not empty: mount on an empty directory, so that nothing is hidden")
    except FileNotFoundError as error:
        raise MountFailed(f"{mountpoint} does not exist: make it with mkdir") from error
    except OSError as error:
        raise MountFailed(f"{mountpoint} cannot be mounted on: {error.strerror}") from error
    return recovered


def unmount(mountpoint: str, *, lazy: bool = False) -> None:
    """Unmounts; `lazy`: at once for everybody new, even if it is in use. Raises `MountFailed`."""
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", mountpoint]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=UNMOUNT_TIMEOUT,
            check=False,
            # The reason is recognised by its wording.
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError as error:
        raise MountFailed("fusermount3 is not installed: on Debian, apt-get install fuse3") from error
    except subprocess.TimeoutExpired as error:
        raise MountFailed(f"{mountpoint}: unmounting hangs: end its daemon, then try again") from error
    if done.returncode == 0:
        return
    reason = os.fsdecode(done.stderr).strip()
    if "busy" in reason.lower():
        raise MountFailed(
            f"{mountpoint} is in use: leave it and close its files ('fuser -vm {mountpoint}' lists who has them)"
        )
    raise MountFailed(f"{mountpoint} cannot be unmounted: {reason}")


def _unescape(field: bytes) -> str:
    """Undoes the octal escapes of the mount table."""
    return os.fsdecode(_OCTAL.sub(lambda match: bytes([int(match[1], 8)]), field))
