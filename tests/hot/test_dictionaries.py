"""Dictionaries on the local disk: kept as they are, bounded, and never in the way."""

import os
from pathlib import Path

from stowfs.hot.dictionaries import KEPT, DictionaryFiles


def name(number: int) -> str:
    return f"{number:08x}"


async def test_what_was_put_is_there_after_a_restart(tmp_path: Path) -> None:
    files = DictionaryFiles.open(tmp_path / "d")
    assert await files.get(name(1)) is None
    await files.put(name(1), b"one")
    await files.put(name(1), b"other")
    assert await DictionaryFiles.open(tmp_path / "d").get(name(1)) == b"other"
    assert [path.name for path in (tmp_path / "d").iterdir()] == [name(1)]


async def test_those_used_last_are_kept(tmp_path: Path) -> None:
    files = DictionaryFiles.open(tmp_path)
    for number in range(KEPT):
        await files.put(name(number), b"%d" % number)
        os.utime(tmp_path / name(number), (number, number))
    assert await files.get(name(0)) == b"0"
    await files.put(name(KEPT), b"new")
    assert await files.get(name(1)) is None
    for number in (0, *range(2, KEPT + 1)):
        assert await files.get(name(number)) is not None


async def test_a_disk_that_fails_is_a_miss(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    files = DictionaryFiles.open(tmp_path / "file" / "below")
    await files.put(name(1), b"one")
    assert await files.get(name(1)) is None
