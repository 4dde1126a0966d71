"""The index with its writes gathered: it finds what it was given at once, and writes it in few transactions."""

import errno
import os
import shutil
from itertools import count
from pathlib import Path

import pytest

from stowfs.hot.buffer import BYTES, ENTRIES, BufferedIndex
from stowfs.hot.index import CachedManifest, Index, Sighting

LIMIT = 1 << 30


def _hash(number: int) -> bytes:
    return number.to_bytes(32)


def _on_disk(path: Path) -> Index:
    """What a crash would leave."""
    copy = path.parent / "copy"
    copy.mkdir()
    for file in path.parent.glob("index.db*"):
        shutil.copy(file, copy)
    return BufferedIndex.open(copy / path.name, LIMIT)


async def test_what_is_not_written_yet_is_found(tmp_path: Path) -> None:
    index = BufferedIndex.open(tmp_path / "index.db", LIMIT)
    await index.put_manifests({"a": CachedManifest("1", b"one")})
    await index.note_sightings({_hash(1): Sighting("inline", 10.0)})
    assert await index.manifest("a") == CachedManifest("1", b"one")
    assert await index.manifests(["a", "b"]) == {"a": CachedManifest("1", b"one")}
    assert await index.sightings([_hash(1), _hash(2)]) == {_hash(1): Sighting("inline", 10.0)}
    await index.put_manifests({"a": CachedManifest("2", b"two")})
    await index.note_sightings({_hash(1): Sighting("stored", 9.0)})
    assert await index.manifest("a") == CachedManifest("2", b"two")
    assert (await index.sightings([_hash(1)]))[_hash(1)].state == "inline"  # the newer one
    index.forget_manifest("a")
    assert await index.manifest("a") is None
    index.close()


async def test_closing_writes_what_is_left(tmp_path: Path) -> None:
    index = BufferedIndex.open(tmp_path / "index.db", LIMIT)
    await index.put_manifests({"a": CachedManifest("1", b"one"), "b": CachedManifest("1", b"one")})
    await index.note_sightings({_hash(1): Sighting("stored", 10.0)})
    index.forget_manifest("b")
    index.close()
    again = _on_disk(tmp_path / "index.db")
    assert await again.manifests(["a", "b"]) == {"a": CachedManifest("1", b"one")}
    assert _hash(1) in await again.sightings([_hash(1)])
    again.close()


async def test_many_entries_are_written_in_batches(tmp_path: Path) -> None:
    """A crash leaves all manifests, and all but the last few sightings, however many there were."""
    index = BufferedIndex.open(tmp_path / "index.db", LIMIT)
    count = 10 * ENTRIES - 1
    for number in range(count):
        await index.put_manifests({f"{number}": CachedManifest("1", b"body")})
        await index.note_sightings({_hash(number): Sighting("inline", 1.0)})
    crashed = _on_disk(tmp_path / "index.db")
    ids = [f"{number}" for number in range(count)]
    assert len(await crashed.manifests(ids)) == count
    assert count - ENTRIES <= len(await crashed.sightings([_hash(number) for number in range(count)])) < count
    # What was noted beside the database is not noted for ever.
    assert (tmp_path / "index.db-recent").stat().st_size < ENTRIES * 40
    crashed.close()
    assert len(await index.manifests(ids)) == len(ids)
    index.close()


async def test_a_crash_leaves_nothing_older_than_the_last_change(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    index = BufferedIndex.open(path, LIMIT)
    await index.put_manifests({"a": CachedManifest("1", b"one"), "b": CachedManifest("1", b"one")})
    index.close()
    index = BufferedIndex.open(path, LIMIT)
    await index.put_manifests({"a": CachedManifest("2", b"two"), "c": CachedManifest("1", b"one")})
    index.forget_manifest("b")
    index.forget_manifest("c")
    await index.put_manifests({"c": CachedManifest("2", b"two")})
    crashed = _on_disk(path)
    two = CachedManifest("2", b"two")
    assert await crashed.manifests(["a", "b", "c"]) == {"a": two, "c": two}
    crashed.close()
    index.close()


async def test_a_record_cut_off_by_a_power_failure_ends_what_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    index = BufferedIndex.open(path, LIMIT)
    for name in ("a", "b"):
        await index.put_manifests({name: CachedManifest("1", b"one")})
    with (tmp_path / "index.db-recent").open("r+b") as file:
        file.truncate((tmp_path / "index.db-recent").stat().st_size - 1)
    crashed = _on_disk(path)
    assert await crashed.manifests(["a", "b"]) == {"a": CachedManifest("1", b"one")}
    crashed.close()
    index.close()


async def test_a_record_cut_short_by_a_full_disk_hides_none_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "index.db"
    index = BufferedIndex.open(path, LIMIT)
    write, calls = os.write, count()

    def full(fd: int, data: memoryview) -> int:
        if next(calls):
            raise OSError(errno.ENOSPC, "the disk is full")
        return write(fd, data[:10])

    with monkeypatch.context() as disk:
        disk.setattr(os, "write", full)
        await index.put_manifests({"a": CachedManifest("1", b"one")})
    await index.put_manifests({"b": CachedManifest("1", b"one")})
    crashed = _on_disk(path)
    assert await crashed.manifest("b") == CachedManifest("1", b"one")
    crashed.close()
    index.close()


async def test_large_manifests_do_not_pile_up(tmp_path: Path) -> None:
    index = BufferedIndex.open(tmp_path / "index.db", LIMIT)
    await index.put_manifests({"large": CachedManifest("1", bytes(BYTES))})
    reader = _on_disk(tmp_path / "index.db")
    assert await reader.manifest("large") is not None
    reader.close()
    index.close()


async def test_a_database_damaged_meanwhile_is_rebuilt_at_the_end_too(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    index = BufferedIndex.open(path, LIMIT)
    await index.put_manifests({f"{n}": CachedManifest("1", bytes(5000)) for n in range(2 * ENTRIES)})
    index.close()
    index = BufferedIndex.open(path, LIMIT)
    await index.put_manifests({"a": CachedManifest("1", b"one")})
    with path.open("r+b") as file:
        file.seek(16384)
        file.write(b"\xff" * (path.stat().st_size - 16384))
    index.close()
    index = BufferedIndex.open(path, LIMIT)
    assert await index.manifest("0") is None
    index.close()
