"""What earlier processes left in the hot tiers of this host: for which store, and how much of it.

Each slot keeps the descriptor of its store (`store.json`), so that what was acknowledged can be read, and waits to be
sent, while that store cannot be reached; and so that a mount point at which something waits for one store is not given
to another one, which would leave it behind unseen.
"""

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from stowfs.durable import sync_directory
from stowfs.errors import MountFailed
from stowfs.hot.journal import Journal
from stowfs.vault.descriptor import Descriptor

RECORD = "store.json"
LOCK = "lock"
JOURNAL = "journal.db"


class StoreRecord(msgspec.Struct, frozen=True):
    """The store that a slot belongs to."""

    url: str
    descriptor: Descriptor


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a slot holds that is not finished: commits to settle, and acknowledged conversations to store."""

    commits: int
    conversations: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.commits + self.conversations


def remember(state_directory: Path, url: str, descriptor: Descriptor) -> None:
    """Notes which store the slot belongs to. Raises `OSError`."""
    path = state_directory / RECORD
    body = msgspec.json.encode(StoreRecord(url, descriptor))
    if path.exists() and path.read_bytes() == body:
        return
    temporary = path.with_suffix(".new")
    with temporary.open("wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    sync_directory(state_directory)


def remembered(state_root: Path, slot: str, url: str) -> Descriptor | None:
    """The store at `url` as it was seen last at this slot, if something waits there to be stored in it."""
    for directory in _slots(state_root, slot):
        record = _record(directory)
        if record is None or record.url != url:
            continue
        waiting = look(directory)
        if waiting is not None and waiting.conversations:
            return record.descriptor
    return None


def check_slot(state_root: Path, slot: str, store_id: str, mountpoint: str) -> None:
    """Raises `MountFailed` where something waits at this slot for another store."""
    for directory in _slots(state_root, slot):
        record = _record(directory)
        if record is None or record.descriptor.store_id == store_id:
            continue
        waiting = look(directory)
        if waiting is not None and waiting.conversations:
            raise MountFailed(
                f"{waiting.conversations} conversations written at {mountpoint} wait for another store, {record.url}"
                f" (id {record.descriptor.store_id}): store them with 'stowfs flush {record.url}', or mount on another"
                f" directory; what is lost for good can be given up by removing {directory}"
            )


def look(state_directory: Path) -> Waiting | None:
    """What a slot holds; None while a process has it. Raises errors of the hot tier."""
    fd = os.open(state_directory / LOCK, os.O_RDWR | os.O_CLOEXEC)
    try:
        return count(state_directory) if try_lock(fd) else None
    finally:
        os.close(fd)


def try_lock(fd: int) -> bool:
    """Whether the lock is this process's now."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def count(state_directory: Path) -> Waiting:
    """What a slot holds whose lock the caller has. Raises errors of the hot tier."""
    journal = Journal.open(state_directory / JOURNAL)
    try:
        return Waiting(*journal.lengths())
    finally:
        journal.close()


def _slots(state_root: Path, slot: str) -> list[Path]:
    return sorted(lock_file.parent for lock_file in state_root.glob(f"*/{slot}/{LOCK}"))


def _record(directory: Path) -> StoreRecord | None:
    try:
        return msgspec.json.decode((directory / RECORD).read_bytes(), type=StoreRecord)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None  # Never mounted by a version that writes it, or cut by a crash before anything was written there.
