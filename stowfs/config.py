"""What can be set, in one place: where the hot tier lives, and the figures that bound time, memory and requests.

Everything here is plain data; nothing reads the environment but the functions that say so.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How to talk to a store. Times in seconds.

    `connect_timeout` and `read_timeout` bound one attempt of one request. `deadline` bounds one operation of the file
    system with all its retries: it is what a user waits at most before a dead store becomes an error.
    """

    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None
    connect_timeout: float = 5.0
    read_timeout: float = 20.0
    deadline: float = 60.0
    # More requests at once than this gain nothing from two cores of client, and fewer leave a store 20 ms away idle.
    concurrency: int = 32


@dataclass(frozen=True, slots=True)
class HotTierOptions:
    """Where and how much a mount may keep on the local disk. Sizes in bytes."""

    state_root: Path = field(default_factory=lambda: default_state_root())
    cache_root: Path = field(default_factory=lambda: default_cache_root())
    # Compressed segments kept on disk (DESIGN §9).
    segment_cache_size: int = 1 * GIB
    # Uncommitted bytes of all open files; past it writers get ENOSPC.
    spool_limit: int = 64 * GIB
    # Bytes up to which what is uncommitted of a file stays in memory, and goes into the journal to be durable:
    # making, syncing and removing a file costs milliseconds of disk, several times what a row of the journal does.
    spool_short: int = 64 * KIB
    # Bytes of them all in memory: some thousands of small files.
    spool_memory: int = 16 * MIB
    # Cached manifests (attributes and small conversations): about 100,000 of 2.5 KB each.
    manifest_cache_size: int = 256 * MIB


@dataclass(frozen=True, slots=True)
class FlushOptions:
    """When acknowledged changes go to the store, with `commit=async`.

    A group is committed when its oldest change has waited `delay` seconds, or when `count` conversations or `size`
    bytes wait. Past `count_limit` or `size_limit` writers wait, and get ENOSPC in the end.
    """

    # Long enough that an editor's or a program's burst of changes to one file is one commit, short enough that other
    # hosts hardly notice.
    delay: float = 2.0
    # Some seconds of requests for a store 20 ms away.
    count: int = 512
    size: int = 64 * MIB
    # Each waiting conversation costs about five kilobytes of memory.
    count_limit: int = 10_000
    # What a slow uplink of 10 MB/s takes less than ten minutes for.
    size_limit: int = 4 * GIB
    # Seconds that the first change of a reference count waits for others of a group: what cutting and compressing the
    # conversations of a group takes, about.
    gather: float = 0.05


@dataclass(frozen=True, slots=True)
class VaultOptions:
    """How a vault behaves on this host. What all hosts of a store must agree on is in the store's descriptor
    instead."""

    # Seconds for which what was last seen of a conversation is believed without asking the store again. 0: every open
    # asks, which is what close-to-open consistency between hosts needs.
    revalidate: float = 0.0
    # Bytes of decompressed segments kept in memory: a few hundred segments, well under the memory promised in total.
    memory_cache_size: int = 64 * MIB
    # Segments fetched ahead of a sequential reader, at most: as many as there may be requests at once.
    prefetch: int = 32
    # Seconds for one operation with all its retries (see `StoreOptions.deadline`).
    deadline: float = 60.0
    read_only: bool = False
    # Whether a close returns when the local disk has what was written (True), or the store (False).
    asynchronous: bool = False
    flush: FlushOptions = FlushOptions()
    # Whether new directories may have bundles, and new conversations in such go there where many are committed at
    # once. For who brings many: in these directories, a lone commit and the question for what is not there take two
    # requests instead of one.
    bundles: bool = False


def default_state_root() -> Path:
    """Where journals and spools live: `STOWFS_STATE_DIR`, else the place the system has for state."""
    return _root("STOWFS_STATE_DIR", "XDG_STATE_HOME", ".local/state", "/var/lib/stowfs")


def default_cache_root() -> Path:
    """Where caches live: `STOWFS_CACHE_DIR`, else the place the system has for caches."""
    return _root("STOWFS_CACHE_DIR", "XDG_CACHE_HOME", ".cache", "/var/cache/stowfs")


def _root(own: str, xdg: str, below_home: str, of_root: str) -> Path:
    if value := os.environ.get(own):
        return Path(value)
    if value := os.environ.get(xdg):
        return Path(value) / "stowfs"
    if os.geteuid() == 0:
        return Path(of_root)
    return Path.home() / below_home / "stowfs"
