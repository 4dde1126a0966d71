"""An inode: what it shows, and what the kernel knows of it. No I/O."""

import math
import stat
import time
from functools import lru_cache

import trio

from stowfs.locks import Lock
from stowfs.mount.readers import Reader
from stowfs.vault import backlog, expiry
from stowfs.vault.draft import Draft
from stowfs.vault.manifest import Attributes, Snapshot
from stowfs.vault.version import PackedVersion, Version, decode, encode

UNPACKED = 64
"""Versions that stay unpacked: each is looked at several times in a row, and then not for long."""

CLOCK_REALTIME_COARSE = 5
"""The clock by which the kernel sets times of files, from linux/time.h: Python has no name for it."""

_unpacked = lru_cache(UNPACKED)(decode)


class Inode:
    """One file, directory or symbolic link as the kernel knows it: which of them, it stays.

    It costs little, and its version is packed: there may be `inodes.KNOWN` of them, and more for a moment.
    """

    __slots__ = (
        "_flight",
        "_lock",
        "_telling",
        "allowance",
        "attempted",
        "cache_end",
        "cached",
        "changing",
        "doubted",
        "draft",
        "entries_changed_ns",
        "failure",
        "fresh",
        "handles",
        "held",
        "kernel_size",
        "linked",
        "local",
        "lookups",
        "mappers",
        "number",
        "packed",
        "path",
        "readers",
        "settled",
        "snapshot",
        "told",
        "type_bits",
        "validated",
        "writers",
    )

    def __init__(self, number: int, path: str, version: Version | None, as_of: float | None = None) -> None:
        """`as_of`: see `show`."""
        self._lock: Lock | None = None
        self._flight: Lock | None = None
        self._telling: Lock | None = None
        self.number = number
        self.path = path
        self.type_bits = version.type_bits if version else stat.S_IFREG
        # The version it shows. Empty: a file of this host that was never committed.
        self.packed: PackedVersion = encode(version) if version else b""
        # The same with its bytes, while somebody has the file open.
        self.snapshot: Snapshot | None = None
        # Uncommitted changes; None where there are none.
        self.draft: Draft | None = None
        # Created or emptied here since the last commit: the next one fixes the deadline.
        self.fresh = False
        # The store may have a file of this name though there is no version: a commit was tried, or the name was
        # another file's; and how the last attempt failed, if it did and nothing was changed since.
        self.attempted = False
        self.failure: Exception | None = None
        # Kept out of the store (see `local_names`): what is written stays in the draft.
        self.local = False
        self.linked = True
        # References the kernel holds, and handles of user space: all, those that may write, those that may also map.
        # Handles that are only held for an open that is to come (see `reopening`) are among all of them.
        self.lookups = 0
        self.handles = 0
        self.held = 0
        self.writers = 0
        self.mappers = 0
        # As of when the version was last set, to tell whether a listing is older (seconds of trio's clock).
        self.settled = trio.current_time() if as_of is None else as_of
        # When the store was last asked for it, or told (seconds of trio's clock).
        self.validated = self.settled
        # Seconds for which it may be shown for longer than usual without asking: it was listed with many others.
        self.allowance = 0.0
        # When this host last changed the entries of this directory (nanoseconds since the epoch); not stored.
        self.entries_changed_ns = 0
        # What the kernel believes, or was told to ask for: the content its page cache is of, the version its attributes
        # are of, and the size; and where that cache ends: never behind what the kernel takes for the end, which is
        # where it appends. That it was told of more does not say that it knew when it sent what comes next.
        self.cached: str | None = None
        self.told: PackedVersion | None = None
        self.kernel_size = 0
        self.cache_end = 0
        # It showed another version before: an answer with this one may have been passed over for one with that.
        self.doubted = False
        # It is about to show something else: the kernel may not believe what it is told for any longer than that.
        self.changing = False
        # Who reads it past the page cache, since it is contended.
        self.readers: tuple[Reader, ...] = ()

    @property
    def lock(self) -> Lock:
        """Held for writes and commits: a draft takes one at a time.

        Made when it is needed: most inodes are only looked at.
        """
        if self._lock is None:
            self._lock = Lock()
        return self._lock

    @property
    def flight(self) -> Lock:
        """Held while a change of this file is on its way to the store; taken before `lock`."""
        if self._flight is None:
            self._flight = Lock()
        return self._flight

    @property
    def telling(self) -> Lock:
        """Held while the kernel is told to ask for its attributes again."""
        if self._telling is None:
            self._telling = Lock()
        return self._telling

    @property
    def is_open(self) -> bool:
        """Whether a program has it open."""
        return self.handles > self.held

    @property
    def is_directory(self) -> bool:
        """Whether this is a directory."""
        return self.type_bits == stat.S_IFDIR

    @property
    def is_symlink(self) -> bool:
        """Whether this is a symbolic link."""
        return self.type_bits == stat.S_IFLNK

    @property
    def version(self) -> Version | None:
        """What it shows. None: a file of this host that was never committed."""
        return _unpacked(self.packed) if self.packed else None

    @property
    def content(self) -> str:
        """Names the version below the uncommitted changes: the id of its commit, or '' before the first one."""
        return _unpacked(self.packed).commit if self.packed else ""

    @property
    def size(self) -> int:
        """Bytes of the file, uncommitted changes included."""
        if self.draft is not None:
            return self.draft.size
        return _unpacked(self.packed).size if self.packed else 0

    @property
    def attributes(self) -> Attributes:
        """POSIX attributes, uncommitted changes included."""
        if self.draft is not None:
            return self.draft.attributes
        return _unpacked(self.packed).attributes

    @property
    def expired(self) -> bool:
        """Whether the deadline of what it shows has passed. Only the store can tell that nobody has put it off."""
        expires_ns = self.attributes.expires_ns
        return expires_ns is not None and expiry.is_over(expires_ns)

    def moved(self, offset: int, length: int) -> None:
        """Its bytes from `offset` on moved by `length`: what others have appended was put before what this host has."""
        for reader in self.readers:
            reader.put_before(offset, length)

    def show(self, version: Version, as_of: float | None = None) -> None:
        """From now on this is the version the inode shows. `as_of`: when it was known to be the newest, if that is not
        just now."""
        self.packed = encode(version)
        self.doubted = True
        self.settled = self.validated = trio.current_time() if as_of is None else as_of
        self.allowance = 0.0


def turn_of(inode: Inode) -> float:
    """The turn of what waits for the store of an inode; where that is nothing, after all others."""
    return backlog.turn_of(inode.draft) if inode.draft is not None else math.inf


def now_ns() -> int:
    """The time for time stamps: nanoseconds since the epoch."""
    return time.time_ns()


def modified_ns() -> int:
    """The same for what is modified now, as the kernel reckons: in ticks of some milliseconds, as it does for who sets
    the time of a file to now (`touch`). So what is modified or touched later is never older."""
    return time.clock_gettime_ns(CLOCK_REALTIME_COARSE)
