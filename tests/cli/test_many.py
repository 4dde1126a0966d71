"""What is kept in memory of each of many files while they are copied in or out: there may be millions."""

import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import trio
from msgspec.structs import replace

from stowfs.cli.download import READS, get
from stowfs.cli.output import progress
from stowfs.cli.tally import Tally
from stowfs.cli.upload import find
from stowfs.vault.manifest import Manifest, Snapshot
from stowfs.vault.ring import Ring
from stowfs.vault.tree import unwritten_directory
from tests.support.vaults import ATTRIBUTES

FILES = 3000

EACH = 400
"""Bytes for a file that is to be put, at most: three quarters of it are its name and numbers."""


class Walked:
    """As much of a vault as `get` needs. It notes how far the walk is ahead of the files that were read."""

    def __init__(self) -> None:
        self.given = self.read_ = self.ahead = 0

    async def walk(self, directory: str) -> AsyncIterator[Snapshot]:
        manifest = Manifest("c", Ring(("c",)), replace(ATTRIBUTES, mode=0o644))
        for number in range(FILES):
            self.given += 1
            self.ahead = max(self.ahead, self.given - self.read_)
            yield Snapshot(f"{directory}/{number % 7}/{number}", "e", manifest, b"")
            await trio.lowlevel.checkpoint()

    async def read(self, snapshot: Snapshot, start: int, end: int) -> bytes:
        await trio.lowlevel.checkpoint()
        self.read_ += 1
        return b""


async def test_get_looks_for_files_no_faster_than_it_copies_them(tmp_path: Path) -> None:
    vault, tally = Walked(), Tally()
    with progress("get") as bar:
        await get(vault, unwritten_directory("top"), str(tmp_path), tally, bar)  # type: ignore[arg-type]
    assert (tally.files, tally.directories, tally.errors) == (FILES, 8, [])
    copied = await trio.to_thread.run_sync(lambda: [path for path in tmp_path.rglob("*") if path.is_file()])
    assert len(copied) == FILES
    # One for each that copies, one for each that waits for them, and what the walk has just found.
    assert vault.ahead <= 2 * READS + 2


def test_little_is_kept_of_a_file_that_is_to_be_put(tmp_path: Path) -> None:
    for number in range(FILES):
        (tmp_path / f"a-name-of-some-length-{number:06d}.json").touch()
    tracemalloc.start()
    try:
        directories, files = find([str(tmp_path)], "", Tally())
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(directories), len(files)) == (1, FILES)
    assert kept < FILES * EACH
