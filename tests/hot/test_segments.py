"""The segment cache: bounded files, of which a damaged one is never shown."""

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from stowfs.config import KIB, MIB
from stowfs.hot.segments import BLOCK, CachedSegment, SegmentFiles


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "segments"


@pytest.fixture
def cache(directory: Path) -> Iterator[SegmentFiles]:
    cache = SegmentFiles.open(directory, MIB)
    yield cache
    cache.close()


def hash_of(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


def segment(number: int, size: int = 6000) -> CachedSegment:
    return CachedSegment(f"dictionary-{number}", size * 5, bytes([number % 251]) * size)


def files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


async def count_all(cache: SegmentFiles) -> None:
    """Waits until what was there at start has been counted."""
    assert cache._scanner is not None
    await trio.to_thread.run_sync(cache._scanner.join)


async def test_segments_are_found_until_discarded(cache: SegmentFiles, directory: Path) -> None:
    plain = CachedSegment(None, 1 << 40, b"")
    await cache.put(hash_of(1), segment(1))
    await cache.put(hash_of(2), plain)
    assert await cache.get(hash_of(1)) == segment(1)
    assert await cache.get(hash_of(2)) == plain
    assert await cache.get(hash_of(3)) is None
    await cache.put(hash_of(1), segment(7))
    assert await cache.get(hash_of(1)) == segment(7)
    name = hash_of(1).hex()
    assert directory / name[:2] / name in files(directory)
    for _ in range(2):
        await cache.discard(hash_of(1))
        assert await cache.get(hash_of(1)) is None
    assert len(files(directory)) == 1
    assert cache.used == BLOCK


async def test_the_limit_holds_and_the_least_recently_used_go(directory: Path) -> None:
    limit = 10 * 2 * BLOCK
    cache = SegmentFiles.open(directory, limit)
    try:
        await cache.put(hash_of(0), segment(0))
        await count_all(cache)
        for number in range(1, 50):
            await cache.put(hash_of(number), segment(number))
            assert await cache.get(hash_of(0)) == segment(0)
            assert cache.used <= limit
        kept = [number for number in range(50) if await cache.get(hash_of(number)) is not None]
        assert kept == [0, *range(41, 50)]
        assert len(files(directory)) == 10
    finally:
        cache.close()


async def test_concurrent_puts_stay_within_the_limit(directory: Path) -> None:
    limit = 64 * KIB
    cache = SegmentFiles.open(directory, limit)
    try:
        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(cache.put, hash_of(number % 60), segment(number % 60))
        await count_all(cache)
        assert cache.used == limit
        # One that was put again while it was evicted is counted until it is missed.
        assert 0 < sum(-(-path.stat().st_size // BLOCK) * BLOCK for path in files(directory)) <= limit
        for number in range(60):
            assert await cache.get(hash_of(number)) in (None, segment(number))
    finally:
        cache.close()


async def test_what_was_there_is_counted_after_a_restart(directory: Path) -> None:
    cache = SegmentFiles.open(directory, MIB)
    for number in range(20):
        await cache.put(hash_of(number), segment(number))
        name = hash_of(number).hex()
        os.utime(directory / name[:2] / name, (time.time() - 90_000 + number,) * 2)
    cache.close()

    limit = 10 * 2 * BLOCK
    cache = SegmentFiles.open(directory, limit)
    try:
        assert await cache.get(hash_of(3)) == segment(3), "before anything is counted"
        await cache.put(hash_of(100), segment(100))
        await count_all(cache)
        assert cache.used == limit
        kept = [number for number in [*range(20), 100] if await cache.get(hash_of(number)) is not None]
        assert kept == [3, *range(12, 20), 100], "the newest by mtime, and what was used since"
    finally:
        cache.close()


async def test_nothing_is_evicted_before_all_is_counted(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = SegmentFiles.open(directory, MIB)
    for number in range(10):
        await cache.put(hash_of(number), segment(number))
    cache.close()

    may_scan = threading.Event()
    scan = SegmentFiles._scan

    def scan_later(self: SegmentFiles) -> None:
        may_scan.wait()
        scan(self)

    monkeypatch.setattr(SegmentFiles, "_scan", scan_later)
    limit = 5 * 2 * BLOCK
    cache = SegmentFiles.open(directory, limit)
    try:
        for number in range(10, 17):
            await cache.put(hash_of(number), segment(number))
        await cache.get(hash_of(4))
        await cache.get(hash_of(12))
        assert len(files(directory)) == 17
        may_scan.set()
        await count_all(cache)
        assert cache.used == limit
        kept = [number for number in range(17) if await cache.get(hash_of(number)) is not None]
        assert kept == [4, 12, 14, 15, 16]
    finally:
        may_scan.set()
        cache.close()


async def test_a_hit_renews_an_old_mtime_and_leaves_a_new_one(cache: SegmentFiles, directory: Path) -> None:
    await cache.put(hash_of(1), segment(1))
    (path,) = files(directory)
    for age, renewed in ((100.0, False), (90_000.0, True)):
        then = time.time() - age
        os.utime(path, (then, then))
        await cache.get(hash_of(1))
        assert (path.stat().st_mtime > then + age / 2) == renewed


async def test_no_damaged_file_is_shown(cache: SegmentFiles, directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    small = CachedSegment("d", 9, b"payload")
    await cache.put(hash_of(1), small)
    (path,) = files(directory)
    whole = path.read_bytes()
    flipped = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
    cut = [whole[:length] for length in range(len(whole))]
    for damaged in [*flipped, *cut, whole + b"\x00"]:
        await cache.put(hash_of(1), small)
        path.write_bytes(damaged)
        assert await cache.get(hash_of(1)) is None, damaged
        assert not path.exists()
    assert cache.used == 0
    assert len(caplog.records) == 2 * len(whole) + 1
    await cache.put(hash_of(1), small)
    assert await cache.get(hash_of(1)) == small


async def test_a_segment_over_the_limit_drives_nothing_out(cache: SegmentFiles) -> None:
    await cache.put(hash_of(1), segment(1))
    await cache.put(hash_of(2), segment(2))
    await cache.put(hash_of(2), segment(2, size=2 * MIB))
    assert await cache.get(hash_of(1)) == segment(1)
    assert await cache.get(hash_of(2)) is None


async def test_the_directory_may_be_swept_at_any_time(cache: SegmentFiles, directory: Path) -> None:
    await cache.put(hash_of(1), segment(1))
    shutil.rmtree(directory)
    assert await cache.get(hash_of(1)) is None
    assert cache.used == 0
    await cache.put(hash_of(2), segment(2))
    assert await cache.get(hash_of(2)) == segment(2)


async def test_a_write_error_is_logged_once_and_means_not_cached(
    cache: SegmentFiles, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await cache.put(hash_of(1), segment(1))
    await count_all(cache)
    (directory / "incoming").rmdir()
    (directory / "incoming").write_text("in the way")
    for number in range(2, 6):
        await cache.put(hash_of(number), segment(number))
        assert await cache.get(hash_of(number)) is None
    assert [record.name for record in caplog.records] == ["stowfs.hot"]
    assert "ENOTDIR" in caplog.text
    assert await cache.get(hash_of(1)) == segment(1)
    assert cache.used == 2 * BLOCK


async def test_what_a_killed_process_was_writing_is_removed(directory: Path) -> None:
    (directory / "incoming").mkdir(parents=True)
    (directory / "incoming" / "0").write_bytes(b"half a segm")
    cache = SegmentFiles.open(directory, MIB)
    cache.close()
    assert files(directory) == []
