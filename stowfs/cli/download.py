"""`get`: conversations and directories to local files, many at once.

A file appears whole or not at all: it is written under a temporary name and renamed. Nothing is written outside the
target directory, whatever the store holds: names come from it checked, and no symbolic link below the target is
followed, of those that are copied neither. A symbolic link is copied as it is, wherever it leads.
"""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from stowfs.cli.output import Progress
from stowfs.cli.pool import is_below, work_through
from stowfs.cli.tally import Tally
from stowfs.config import MIB
from stowfs.errors import NotDirectory, StowError
from stowfs.vault.manifest import Attributes, Snapshot
from stowfs.vault.naming import split
from stowfs.vault.ring import new_id
from stowfs.vault.vault import Vault

READS = 16
"""Conversations fetched at once; each fetches its segments in parallel, too."""

STEP = 4 * MIB
"""Bytes written at a time."""

PERMISSIONS = 0o777
"""What is taken over of a stored mode: a store must not plant set-user-ID files."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A local directory to be made; `attributes` are `None` where the store has none for it."""

    target: str
    attributes: Attributes | None


@dataclass(frozen=True, slots=True)
class Item:
    """A conversation or symbolic link, and the local path it gets."""

    target: str
    snapshot: Snapshot


async def find(vault: Vault, found: Snapshot, directory: str) -> tuple[list[Folder], list[Item]]:
    """What `get` of `found` makes in the local `directory`: directories, each before what is in it, and files.

    The top directory of the store stands for what is in it.
    """
    parent, name = split(found.path)
    if not found.is_directory:
        return [], [Item(os.path.join(directory, name), found)]
    folders: dict[str, Attributes | None] = {found.path: found.attributes if found.path else None}
    files: list[Snapshot] = []
    async for snapshot in vault.walk(found.path):
        if snapshot.is_directory:
            folders[snapshot.path] = snapshot.attributes
        else:
            files.append(snapshot)
            # Its directory may be missing in the store, after a removal on another host.
            above = split(snapshot.path)[0]
            while above not in folders:
                folders[above] = None
                above = split(above)[0]

    def local(path: str) -> str:
        return os.path.join(directory, path[len(parent) :].lstrip("/")) if path else directory

    ordered = sorted(folders, key=lambda path: path.count("/") if path else -1)
    return [Folder(local(path), folders[path]) for path in ordered], [Item(local(s.path), s) for s in files]


async def get(vault: Vault, folders: list[Folder], items: list[Item], tally: Tally, progress: Progress) -> None:
    """Makes the directories and files. Errors of single ones go to `tally`."""
    blocked: set[str] = set()
    for folder in folders:
        try:
            _check_above(folder.target, blocked)
            await trio.to_thread.run_sync(_make_directory, folder.target)
            tally.directories += 1
        except (OSError, StowError) as error:
            blocked.add(folder.target)
            tally.failed(folder.target, error)

    async def get_file(item: Item) -> None:
        try:
            _check_above(item.target, blocked)
            if item.snapshot.is_symlink:
                await trio.to_thread.run_sync(_link, item)
            else:
                await _write(vault, item, progress)
            tally.copied(item.snapshot.size)
        except (OSError, OverflowError, StowError) as error:
            tally.failed(item.snapshot.path, error)

    progress.expect(sum(item.snapshot.size for item in items))
    await work_through(get_file, items, workers=READS)
    # The deepest first, and all after the files: each entry made in a directory changes its time.
    for folder in reversed(folders):
        if folder.attributes is not None and folder.target not in blocked:
            try:
                await trio.to_thread.run_sync(_finish_directory, folder.target, folder.attributes)
            except (OSError, OverflowError) as error:
                tally.failed(folder.target, error)


async def _write(vault: Vault, item: Item, progress: Progress) -> None:
    data = await vault.read(item.snapshot, 0, STEP)
    if len(data) == item.snapshot.size:
        # Most files: one way to a thread for all that is to be done.
        await trio.to_thread.run_sync(_write_whole, item, data)
        progress.advance(len(data))
        return
    with _appearing(item) as fd:
        written = 0
        while data:
            await trio.to_thread.run_sync(_write_all, fd, data)
            progress.advance(len(data))
            written += len(data)
            data = await vault.read(item.snapshot, written, written + STEP)


def _write_whole(item: Item, data: bytes) -> None:
    with _appearing(item) as fd:
        _write_all(fd, data)


@contextmanager
def _appearing(item: Item) -> Iterator[int]:
    """The descriptor of a new file that gets its name and attributes when the block has ended well, else is gone."""
    directory = os.path.dirname(item.target)
    _check_directory(directory)
    fd, temporary = tempfile.mkstemp(prefix=".stowfs-", dir=directory)
    try:
        with os.fdopen(fd, "wb", buffering=0):
            yield fd
            attributes = item.snapshot.attributes
            os.fchmod(fd, attributes.mode & PERMISSIONS)
            os.utime(fd, ns=(attributes.mtime_ns, attributes.mtime_ns))
        os.replace(temporary, item.target)
    except BaseException:
        os.unlink(temporary)
        raise


def _link(item: Item) -> None:
    directory = os.path.dirname(item.target)
    _check_directory(directory)
    temporary = os.path.join(directory, f".stowfs-{new_id()}")
    os.symlink(item.snapshot.target, os.fsencode(temporary))
    try:
        mtime_ns = item.snapshot.attributes.mtime_ns
        os.utime(temporary, ns=(mtime_ns, mtime_ns), follow_symlinks=False)
        os.replace(temporary, item.target)
    except BaseException:
        os.unlink(temporary)
        raise


def _make_directory(path: str) -> None:
    try:
        # Writable until it is filled; it gets its own mode afterwards.
        os.mkdir(path, 0o700)
    except FileExistsError:
        _check_directory(path)


def _check_above(path: str, blocked: set[str]) -> None:
    if is_below(path, blocked):
        raise NotDirectory("the directory above it could not be made")


def _check_directory(path: str) -> None:
    """Refuses a symbolic link where a directory is expected: it may lead outside the target."""
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        raise NotDirectory(f"{path} is in the way: it is no directory (links are not followed)")


def _finish_directory(path: str, attributes: Attributes) -> None:
    _check_directory(path)
    os.chmod(path, attributes.mode & PERMISSIONS)
    os.utime(path, ns=(attributes.mtime_ns, attributes.mtime_ns))


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
