"""The daemon of each mount: where its local state is, and how other processes find it and wait for its end.

A mount's slot of the hot tier is named after its mount point, so that the next mount there goes on with what the last
one left. Its record lies in the slot; whether it lives is told by the lock of the slot, which the kernel frees however
it ends.
"""

import hashlib
import os
import time
from pathlib import Path

import msgspec
import trio

from stowfs.cli.leftovers import LOCK, Waiting, count, try_lock
from stowfs.hot.directories import private_directory
from stowfs.hot.failures import state_errors
from stowfs.mount.options import MountOptions

RECORD = "mount.json"

POLL = 0.05
"""Seconds between two looks whether a daemon has ended: nobody notices, and it costs nothing."""


class MountRecord(msgspec.Struct, frozen=True):
    """What a daemon says of itself. `started` in seconds since the epoch."""

    pid: int
    mountpoint: str
    store: str
    started: float
    options: MountOptions = MountOptions()


def slot_of(mountpoint: str) -> str:
    """The slot of the hot tier for a mount at this canonical path."""
    return "mount-" + hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:16]


def log_file(state_root: Path, mountpoint: str) -> Path:
    """Where the daemon of a mount writes what it has to say; makes the directory. Raises `OSError`."""
    directory = state_root / "logs"
    private_directory(directory)
    return directory / f"{slot_of(mountpoint)}.log"


def write_record(state_directory: Path, store_url: str, mountpoint: str, options: MountOptions) -> Path:
    """Records this process as the daemon of a mount; the file, to be removed at its end. Raises errors of the hot
    tier."""
    path = state_directory / RECORD
    temporary = path.with_suffix(".new")
    # A name that is not UTF-8 is no JSON: escaped, and compared in that form.
    shown = os.fsencode(mountpoint).decode(errors="backslashreplace")
    record = MountRecord(os.getpid(), shown, store_url, time.time(), options)
    with state_errors(f"writing {path}"):
        temporary.write_bytes(msgspec.json.encode(record))
        temporary.rename(path)
    return path


def find_daemon(state_root: Path, mountpoint: str) -> tuple[Path, MountRecord] | None:
    """The state directory and the record of the daemon that serves or last served `mountpoint`."""
    found: list[tuple[Path, MountRecord]] = []
    for path in state_root.glob(f"*/{slot_of(mountpoint)}/{RECORD}"):
        try:
            found.append((path.parent, msgspec.json.decode(path.read_bytes(), type=MountRecord)))
        except (FileNotFoundError, msgspec.MsgspecError):
            continue  # It ended just now, or a crash cut the file: no daemon to wait for.
    # One that another store's daemon left behind in a crash is older.
    return max(found, key=lambda entry: entry[1].started, default=None)


async def wait_for_end(state_directory: Path, timeout: float) -> Waiting | None:
    """Waits until the daemon has ended; what it left. `None` where it goes on past `timeout`
    seconds.

    Raises errors of the hot tier.
    """
    fd = os.open(state_directory / LOCK, os.O_RDWR | os.O_CLOEXEC)
    try:
        with trio.move_on_after(timeout):
            # A lock of the kernel: nothing tells when it becomes free.
            while not try_lock(fd):  # noqa: ASYNC110
                await trio.sleep(POLL)
            # With the lock held: nobody else opens the journal now.
            return count(state_directory)
        return None
    finally:
        os.close(fd)
