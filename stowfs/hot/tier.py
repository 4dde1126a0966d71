"""The hot tier of one slot of one store: its directories, its lock, and the parts in them.

State in `{state_root}/{store_id}/{slot}/`: `lock`, `journal.db`, `spool/`, `dictionaries/`. Cache in
`{cache_root}/{store_id}/{slot}/`: `index.db`, `segments/`, `others`. A slot belongs to one process at a time, which
holds an flock on `lock`; the kernel lets go of it however that process ends. A mount has a slot of its own; a command
takes the first free one of a family.
"""

import errno
import fcntl
import os
import re
import uuid
from contextlib import ExitStack
from pathlib import Path

import trio

from stowfs.config import HotTierOptions
from stowfs.errors import CorruptObject, HotTierBusy
from stowfs.hot.buffer import BufferedIndex
from stowfs.hot.dictionaries import DictionaryFiles
from stowfs.hot.directories import private_directory
from stowfs.hot.failures import state_errors
from stowfs.hot.journal import Journal
from stowfs.hot.others import OtherHosts
from stowfs.hot.segments import SegmentFiles
from stowfs.hot.spool import Spool

SLOT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
"""Short file names that need no escaping and cannot leave the directory."""
PID_WIDTH = 20
"""Digits and padding of the pid in the lock file: more than any pid has."""


class HotTier:
    """Local state (journal, spool, dictionaries) and cache (index, segments, what is known of other hosts) of one slot
    of one store, held by this process alone."""

    def __init__(
        self,
        state_directory: Path,
        journal: Journal,
        spool: Spool,
        index: BufferedIndex,
        segments: SegmentFiles,
        dictionaries: DictionaryFiles,
        others: OtherHosts,
        cleanup: ExitStack,
    ) -> None:
        self.state_directory = state_directory
        self.journal = journal
        self.spool = spool
        self.index = index
        self.segments = segments
        self.dictionaries = dictionaries
        self.others = others
        self._cleanup = cleanup

    @classmethod
    async def open(cls, options: HotTierOptions, store_id: str, slot: str) -> "HotTier":
        """Takes the slot, and makes its directories (mode 0700) where they are missing.

        Raises `HotTierBusy` where a process holds it, `HotTierFull` or `HotTierFailed` where the local disk will not
        do, `UnsupportedVersion` for a journal of another version, and `CorruptObject` where `store_id` is not a uuid.
        """
        return await trio.to_thread.run_sync(cls._open, options, store_id, slot)

    @classmethod
    async def open_free(cls, options: HotTierOptions, store_id: str, family: str = "cli") -> "HotTier":
        """Takes the first slot of `family`-0, `family`-1, … that no process holds. Otherwise as `open`."""
        number = 0
        while True:
            try:
                return await cls.open(options, store_id, f"{family}-{number}")
            except HotTierBusy:
                number += 1

    async def close(self) -> None:
        """Closes all parts and lets go of the slot. Idempotent. No call of a part may be under way."""
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._cleanup.close)

    @classmethod
    def _open(cls, options: HotTierOptions, store_id: str, slot: str) -> "HotTier":
        if not SLOT.fullmatch(slot):
            raise ValueError(f"not a name of a slot: {slot!r}")
        state = _store_directory(options.state_root, store_id) / slot
        cache = _store_directory(options.cache_root, store_id) / slot
        with state_errors(f"making the directory {state}"):
            private_directory(state)
        with ExitStack() as cleanup:
            cleanup.callback(os.close, _lock(state / "lock"))
            journal = Journal.open(state / "journal.db")
            cleanup.callback(journal.close)
            spool = Spool.prepare(
                state / "spool", options.spool_limit, short=options.spool_short, memory=options.spool_memory
            )
            cleanup.callback(spool.close)
            index = BufferedIndex.open(cache / "index.db", options.manifest_cache_size)
            cleanup.callback(index.close)
            segments = SegmentFiles.open(cache / "segments", options.segment_cache_size)
            cleanup.callback(segments.close)
            dictionaries = DictionaryFiles.open(state / "dictionaries")
            others = OtherHosts(cache / "others")
            return cls(state, journal, spool, index, segments, dictionaries, others, cleanup.pop_all())


def slots(options: HotTierOptions, store_id: str) -> list[str]:
    """The slots of a store ever used on this host, in order: what a dead process left in one is still there."""
    directory = _store_directory(options.state_root, store_id)
    with state_errors(f"listing {directory}"):
        try:
            names = os.listdir(directory)
        except FileNotFoundError:
            return []
        return sorted(name for name in names if SLOT.fullmatch(name) and (directory / name / "lock").exists())


def _store_directory(root: Path, store_id: str) -> Path:
    """The directory of one store below `root`. Its id comes from the store: it may not be trusted as a file name."""
    try:
        canonical = str(uuid.UUID(store_id)) == store_id
    except ValueError:
        canonical = False
    if not canonical:
        raise CorruptObject(f"the id of the store is not a uuid: {store_id!r}")
    return root / store_id


def _lock(path: Path) -> int:
    """The descriptor that holds the lock until it is closed. The file tells the pid to whoever finds it locked."""
    with state_errors(f"locking {path}"):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Always as long as before: on a full disk, an overwrite in place still lets recovery begin.
            os.pwrite(fd, b"%-*d\n" % (PID_WIDTH, os.getpid()), 0)
        except OSError as error:
            holder = os.pread(fd, PID_WIDTH, 0).decode("ascii", "replace").strip()
            os.close(fd)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                process = f"process {holder}" if holder.isdigit() else "another process"
                raise HotTierBusy(f"{path.parent} is in use by {process}") from error
            raise
    return fd
