"""`put`: local files and directories into a store, by the same commits as a mount's, many at once.

One file that cannot be read or stored does not keep the others. Symbolic links inside directories are stored as they
are, wherever they lead; special files in them are skipped.
"""

import contextlib
import os
import random
import stat
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import msgspec
import trio

from stowfs.cli.output import Progress
from stowfs.cli.pool import is_below, work_through
from stowfs.cli.tally import Tally
from stowfs.config import KIB, MIB
from stowfs.errors import NoSuchPath, NotDirectory, PathExists, StowError
from stowfs.vault.draft import Draft
from stowfs.vault.expiry import deadline
from stowfs.vault.manifest import Attributes, representable
from stowfs.vault.naming import join
from stowfs.vault.training import CONTENT
from stowfs.vault.vault import Vault

COMMITS = 12
"""Batches under way at once: the small conversations of each are committed together, so that those of all are three
bundles, of which one or two are being cut and compressed while others are sent."""

STEP = 4 * MIB
"""Bytes copied at a time."""

PAST_END = 16 * KIB
"""Bytes asked for where a file should have ended: it may have grown. Memory is taken for all that is asked for: beyond
128 KiB, from the kernel each time."""

BATCH = 16
BATCH_SIZE = 256 * KIB
"""Files and bytes that are read in one go: to change to another thread and back takes longer than to read a small
file."""

ROUNDS = 4
"""Batches for each of the commits under way, at least, so that all of them have something to do to the end."""

NEW_MODE = 0o755
"""Permissions of directories that no local directory stands for."""


ITSELF = "it is the store that it would be copied into"
"""Why a directory is left out: the store would hold itself as it was at some moment, and with each `put` twice as
much."""


@dataclass(frozen=True, slots=True)
class Directory:
    """A local directory to be put, and its path in the store."""

    source: str
    path: str
    mode: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Item:
    """A local file or symbolic link to be put: `name` in the directory `folder`, which is `above` in the store.

    There may be millions: nothing is kept of each that can be made of the rest.
    """

    folder: str
    above: str
    name: str
    mode: int
    size: int
    mtime_ns: int

    @property
    def source(self) -> str:
        """Its local path."""
        return os.path.join(self.folder, self.name)

    @property
    def path(self) -> str:
        """Its path in the store."""
        return join(self.above, self.name)


def find(
    sources: list[str], target: str, tally: Tally, *, store: str | None = None
) -> tuple[list[Directory], list[Item]]:
    """The directories (parents first) and files under `sources`, each to be put into the directory `target` under its
    own name.

    A source that ends in '/.' stands for what is in it. Of files that would get the same path, the first is kept.
    The local directory `store` is that of the store itself, and left out. Blocks. What cannot be read, stored or kept,
    or is skipped, goes to `tally`.
    """
    own = _status(store)
    directories: list[Directory] = []
    files: list[Item] = []
    tops: list[str] = []
    for source in sources:
        folder, name = os.path.split(source.rstrip("/") or "/")
        try:
            # Followed: a link that is named is meant.
            status = os.stat(source)
        except OSError as error:
            tally.failed(source, error)
            continue
        if stat.S_ISDIR(status.st_mode):
            if _is_same(status, own):
                tally.failed(source, PathExists(ITSELF))
                continue
            path = target if name in (".", "..", "") else join(target, name)
            if path:
                directories.append(Directory(source, path, status.st_mode, status.st_mtime_ns))
            tops.append(path)
            _scan(source, path, directories, files, tally, own)
        elif stat.S_ISREG(status.st_mode):
            tops.append(join(target, name))
            files.append(_item(folder, target, name, status))
        else:
            # Inside a directory it would be skipped; this one was asked for.
            tally.failed(source, StowError("it is no regular file, and only those are stored"))
    # Only such sources can meet: to know all paths takes more memory than the files themselves do.
    if len(set(tops)) < len(tops) or (target in tops and len(tops) > 1):
        files = _first_of_each(files, tally)
    return directories, files


async def put(
    vault: Vault,
    directories: list[Directory],
    files: list[Item],
    target: str,
    tally: Tally,
    progress: Progress,
    *,
    lifetime: float | None = None,
) -> None:
    """Makes the directory `target`, the directories in it, and commits the files, each to expire after `lifetime`
    seconds. Errors of single ones go to `tally`."""
    now = time.time_ns()
    parts = target.split("/") if target else []
    for depth in range(len(parts)):
        await _make_directory(
            vault, "/".join(parts[: depth + 1]), Attributes(NEW_MODE, os.getuid(), os.getgid(), now, now)
        )
    missing: set[str] = set()
    there = await _names(vault, target)
    for directory in directories:
        try:
            if is_below(directory.path, missing):
                raise NotDirectory("the directory above it could not be made")
            if not await _make_directory(vault, directory.path, _attributes(directory, now)):
                there |= await _names(vault, directory.path)
            tally.directories += 1
        except StowError as error:
            missing.add(directory.path)
            tally.failed(directory.source, error)

    async def put_link(item: Item) -> None:
        try:
            target = os.readlink(os.fsencode(item.source))
            await vault.make_symlink(item.path, target, _attributes(item, now), replace=True)
            tally.copied(len(target))
            progress.advance(item.size)
        except Exception as error:  # noqa: BLE001 - a defect keeps no other file from the store
            tally.failed(item.source, error)

    async def begin(item: Item) -> Draft:
        attributes = _attributes(item, now)
        if item.path not in there:
            return vault.draft(item.path, None, attributes)
        # What is there is replaced, whatever it is by then; but if it is the same, nothing is written.
        return await _replacing(vault, item.path, attributes)

    async def commit(item: Item, draft: Draft) -> None:
        try:
            size = draft.size
            draft.attributes = msgspec.structs.replace(draft.attributes, expires_ns=deadline(lifetime))
            await vault.commit(draft)
            tally.copied(size)
            progress.advance(size)
        except Exception as error:  # noqa: BLE001 - a defect keeps no other file from the store
            tally.failed(item.source, error)

    async def put_files(items: Sequence[Item]) -> None:
        drafts: list[tuple[Item, Draft]] = []
        try:
            for item in items:
                if is_below(item.path, missing):
                    tally.failed(item.source, NotDirectory("its directory could not be made"))
                elif stat.S_ISLNK(item.mode):
                    await put_link(item)
                else:
                    try:
                        drafts.append((item, await begin(item)))
                    except Exception as error:  # noqa: BLE001 - as above
                        tally.failed(item.source, error)
            copied = await trio.to_thread.run_sync(_copy_all, drafts)
            async with trio.open_nursery() as nursery:
                for (item, draft), failure in zip(drafts, copied, strict=True):
                    if failure is None:
                        nursery.start_soon(commit, item, draft)
                    else:
                        tally.failed(item.source, failure)
        finally:
            for _, draft in drafts:
                draft.discard()

    total = sum(item.size for item in files)
    progress.expect(total)
    async with aclosing(_selection(files)) as selection:
        await vault.trainer.train_first(selection, total)
    await work_through(put_files, list(_batches(files, len(files) // (COMMITS * ROUNDS))), workers=COMMITS)


def _batches(items: Sequence[Item], count: int) -> Iterator[list[Item]]:
    """The items in their order, few enough together to be read in one go; no more than `count`, where that is more
    than one."""
    batch: list[Item] = []
    size = 0
    for item in items:
        if batch and (size + item.size > BATCH_SIZE or len(batch) >= min(count, BATCH)):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += item.size
    if batch:
        yield batch


async def _selection(files: list[Item]) -> AsyncGenerator[bytes]:
    """The beginnings of files at random, for a dictionary. What cannot be read is left out here: to copy it will tell
    why."""
    regular = [item for item in files if stat.S_ISREG(item.mode)]
    for batch in _batches(random.sample(regular, len(regular)), BATCH):
        for content in await trio.to_thread.run_sync(_beginnings, batch):
            yield content


def _beginnings(items: Sequence[Item]) -> list[bytes]:
    contents = []
    for item in items:
        with contextlib.suppress(OSError), open(item.source, "rb", buffering=0) as file:
            contents.append(file.read(min(CONTENT, item.size)))
    return contents


def _copy_all(drafts: Sequence[tuple[Item, Draft]]) -> list[Exception | None]:
    """Copies files into drafts; what went wrong with each."""
    failures: list[Exception | None] = []
    for item, draft in drafts:
        try:
            _copy(item, draft)
            failures.append(None)
        except Exception as error:  # noqa: BLE001 - a defect keeps no other file from the store
            failures.append(error)
    return failures


def _copy(item: Item, draft: Draft) -> None:
    with open(item.source, "rb", buffering=0) as file:
        offset = 0
        while data := file.read(min(STEP, max(item.size - offset, PAST_END))):
            draft.write(offset, data)
            offset += len(data)


def _scan(
    directory: str,
    path: str,
    directories: list[Directory],
    files: list[Item],
    tally: Tally,
    own: os.stat_result | None,
) -> None:
    """Adds what is below a local directory; without recursion, since trees may be deeper than Python's stack."""
    pending: list[tuple[str, str]] = [(directory, path)]
    while pending:
        directory, path = pending.pop()
        for entry in _listing(directory, tally):
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError as error:
                tally.failed(entry.path, error)
                continue
            if _is_same(status, own):
                tally.failed(entry.path, PathExists(ITSELF))
            elif stat.S_ISDIR(status.st_mode):
                found = Directory(entry.path, join(path, entry.name), status.st_mode, status.st_mtime_ns)
                directories.append(found)
                pending.append((found.source, found.path))
            elif stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
                files.append(_item(directory, path, entry.name, status))
            else:
                tally.skipped(entry.path, "not a regular file")


def _first_of_each(files: list[Item], tally: Tally) -> list[Item]:
    """The files without those whose path has another file already; one that was named twice is no other."""
    first: dict[str, Item] = {}
    for item in files:
        kept = first.setdefault(item.path, item)
        if kept is not item and not _is_same(_status(kept.source), _status(item.source)):
            tally.failed(item.source, PathExists(f"would replace what {kept.source} puts at {item.path}"))
    return list(first.values())


def _status(path: str | None) -> os.stat_result | None:
    try:
        return None if path is None else os.lstat(path)
    except OSError:
        return None


def _is_same(one: os.stat_result | None, other: os.stat_result | None) -> bool:
    """Whether both are there, and the same."""
    return one is not None and other is not None and os.path.samestat(one, other)


def _item(folder: str, above: str, name: str, status: os.stat_result) -> Item:
    return Item(folder, above, name, status.st_mode, status.st_size, status.st_mtime_ns)


def _listing(directory: str, tally: Tally) -> Iterator["os.DirEntry[str]"]:
    try:
        with os.scandir(directory) as entries:
            yield from sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        tally.failed(directory, error)


async def _names(vault: Vault, directory: str) -> set[str]:
    """The paths of what is in a directory."""
    return {join(directory, name) for name, _ in await vault.list_versions(directory)}


async def _replacing(vault: Vault, path: str, attributes: Attributes) -> Draft:
    """An empty draft to be put in the place of what is there."""
    try:
        base = await vault.head(path)
    except NoSuchPath:
        return vault.draft(path, None, attributes)
    draft = vault.draft(path, base if base.is_conversation else None, attributes)
    draft.truncate(0)
    return draft


async def _make_directory(vault: Vault, path: str, attributes: Attributes) -> bool:
    """Makes a directory; False where there is one."""
    try:
        if (await vault.head(path)).is_directory:
            return False
    except NoSuchPath:
        pass  # The usual case; what stands in the way otherwise, or comes first, is an error of the next step.
    try:
        await vault.make_directory(path, attributes)
    except PathExists:
        if not (await vault.head(path)).is_directory:
            raise
        return False
    return True


def _attributes(found: Directory | Item, now: int) -> Attributes:
    """Mode and time of the local file; the owner is who puts it, as with cp(1)."""
    modified = representable(found.mtime_ns)
    return Attributes(stat.S_IMODE(found.mode), os.getuid(), os.getgid(), modified, now)
