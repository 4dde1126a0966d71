"""`get`: conversations and directories to local files, many at once.

A file appears whole or not at all: it is written under a temporary name and renamed. Nothing is written outside the
target directory, whatever the store holds: names come from it checked, and no symbolic link below the target is
followed, of those that are copied neither. A symbolic link is copied as it is, wherever it leads.
"""

import os
import stat
import tempfile
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

import trio

from stowfs.cli.output import Progress
from stowfs.cli.pool import is_below
from stowfs.cli.tally import Tally
from stowfs.config import MIB
from stowfs.errors import NotDirectory, PathExists, StowError
from stowfs.vault.manifest import Attributes, Snapshot
from stowfs.vault.naming import display, split
from stowfs.vault.ring import new_id
from stowfs.vault.vault import Vault

READS = 16
"""Conversations fetched at once; each fetches its segments in parallel, too."""

STEP = 4 * MIB
"""Bytes written at a time."""

PERMISSIONS = 0o777
"""What is taken over of a stored mode: a store must not plant set-user-ID files."""


@dataclass(frozen=True, slots=True)
class Item:
    """A conversation or symbolic link, and the local path it gets."""

    target: str
    snapshot: Snapshot


async def get(
    vault: Vault,
    found: Snapshot,
    directory: str,
    tally: Tally,
    progress: Progress,
    *,
    taken: dict[str, str] | None = None,
) -> None:
    """Copies `found` into the local `directory`, while it is walked through: no more is in memory than is under way.

    The top directory of the store stands for what is in it. `taken`: the local paths that other copies into this
    directory gave to files, with where those are in the store; they are kept, and what this one gives is added. Errors
    of single directories and files go to `tally`. Raises errors of listing; what was found until then is copied.
    """
    folders = _Folders(found, directory, tally)

    async def get_files(items: trio.MemoryReceiveChannel[Item]) -> None:
        async for item in items:
            try:
                folders.check_above(item.target)
                if item.snapshot.is_symlink:
                    await trio.to_thread.run_sync(_link, item)
                else:
                    await _write(vault, item, progress)
                tally.copied(item.snapshot.size)
            except (OSError, OverflowError, StowError) as error:
                tally.failed(item.snapshot.path, error)

    failure: StowError | None = None
    async with trio.open_nursery() as nursery:
        sender, receiver = trio.open_memory_channel[Item](READS)
        for _ in range(READS):
            nursery.start_soon(get_files, receiver)
        async with sender:
            try:
                async with aclosing(_walk(vault, found, folders)) as items:
                    async for item in items:
                        if taken is not None and item.target in taken:
                            _keep(taken[item.target], item, tally)
                            continue
                        if taken is not None:
                            taken[item.target] = item.snapshot.path
                        progress.expect(item.snapshot.size)
                        await sender.send(item)
            except StowError as error:
                failure = error
    # After the files: each entry made in a directory changes its time.
    await folders.finish()
    if failure is not None:
        raise failure


def _keep(kept: str, item: Item, tally: Tally) -> None:
    """Says that what `kept` is in the store stays where `item` would go; what was named twice is no other."""
    if kept != item.snapshot.path:
        tally.failed(item.snapshot.path, PathExists(f"would replace what {display(kept)} puts at {item.target}"))


async def _walk(vault: Vault, found: Snapshot, folders: "_Folders") -> AsyncGenerator[Item]:
    """The files of a copy, each after the directories above it were made."""
    if not found.is_directory:
        yield Item(folders.local(found.path), found)
        return
    await folders.make(found.path, found.attributes if found.path else None)
    async for snapshot in vault.walk(found.path):
        if snapshot.is_directory:
            await folders.make(snapshot.path, snapshot.attributes)
        else:
            await folders.make(split(snapshot.path)[0], None)
            yield Item(folders.local(snapshot.path), snapshot)


class _Folders:
    """The local directories of a copy: made as they are met, and given their attributes in the end."""

    def __init__(self, found: Snapshot, directory: str, tally: Tally) -> None:
        self._parent = split(found.path)[0]
        self._directory = directory
        self._tally = tally
        # By path in the store, each after the one that it is in. None: the store has no attributes for it.
        self._attributes: dict[str, Attributes | None] = {}
        # Local paths of those that could not be made.
        self._blocked: set[str] = set()

    def local(self, path: str) -> str:
        """Where what is at `path` in the store goes."""
        return os.path.join(self._directory, path[len(self._parent) :].lstrip("/")) if path else self._directory

    async def make(self, path: str, attributes: Attributes | None) -> None:
        """Makes a directory, and those above it, which may be missing in the store after a removal on another host."""
        missing = []
        above = path
        while above not in self._attributes and above != self._parent:
            missing.append(above)
            above = split(above)[0]
        for one in reversed(missing or [path]):
            if one not in self._attributes:
                self._attributes[one] = None
                await self._make(self.local(one))
        if attributes is not None:
            self._attributes[path] = attributes

    async def _make(self, target: str) -> None:
        try:
            self.check_above(target)
            await trio.to_thread.run_sync(_make_directory, target)
            self._tally.directories += 1
        except (OSError, StowError) as error:
            self._blocked.add(target)
            self._tally.failed(target, error)

    def check_above(self, target: str) -> None:
        """Raises `NotDirectory` where the directory of a local path could not be made."""
        if is_below(target, self._blocked):
            raise NotDirectory("the directory above it could not be made")

    async def finish(self) -> None:
        """Gives them their attributes, the deepest first."""
        for path, attributes in reversed(self._attributes.items()):
            target = self.local(path)
            if attributes is not None and target not in self._blocked:
                try:
                    await trio.to_thread.run_sync(_finish_directory, target, attributes)
                except (OSError, OverflowError) as error:
                    self._tally.failed(target, error)


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
    with _named(item):
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
    with _named(item):
        temporary = os.path.join(directory, f".stowfs-{new_id()}")
        os.symlink(item.snapshot.target, os.fsencode(temporary))
        try:
            mtime_ns = item.snapshot.attributes.mtime_ns
            os.utime(temporary, ns=(mtime_ns, mtime_ns), follow_symlinks=False)
            os.replace(temporary, item.target)
        except BaseException:
            os.unlink(temporary)
            raise


@contextmanager
def _named(item: Item) -> Iterator[None]:
    """Around what makes a file: errors are about its own name, of the temporary one nobody knows."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, item.target) from error


def _make_directory(path: str) -> None:
    try:
        # Writable until it is filled; it gets its own mode afterwards.
        os.mkdir(path, 0o700)
    except FileExistsError:
        _check_directory(path)


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
