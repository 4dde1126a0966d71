"""The index: bounded, and never more than a cache, whatever happens to its file."""

import logging
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stowfs.config import MIB
from stowfs.hot.index import ROW_COST, CachedManifest, Index, Sighting


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "index.db"


@pytest.fixture
def index(path: Path) -> Iterator[Index]:
    index = Index.open(path, MIB)
    yield index
    index.close()


def manifest(number: int, size: int = 1000) -> CachedManifest:
    return CachedManifest(f"etag-{number}", bytes([number % 251]) * size)


def stored_size(index: Index) -> int:
    """Bytes of ids, ETags and bodies in the database, by its own account of its rows."""
    assert index._connection is not None
    (size,) = index._connection.execute(
        "SELECT COALESCE(SUM(LENGTH(id) + LENGTH(etag) + LENGTH(body)), 0) FROM manifests"
    ).fetchone()
    return int(size)


async def test_manifests_are_kept_by_id_and_replaced(index: Index, path: Path) -> None:
    odd = "not utf-8 \udcff\udc80/ü.json"
    await index.put_manifests({"a": manifest(1), odd: manifest(2), "": CachedManifest("", b"")})
    await index.put_manifests({"a": manifest(3, size=7)})
    expected = {"a": manifest(3, size=7), odd: manifest(2), "": CachedManifest("", b"")}
    assert await index.manifests(["a", odd, "", "missing"]) == expected
    assert await index.manifest(odd) == manifest(2)
    assert await index.manifest("missing") is None
    index.close()
    again = Index.open(path, MIB)
    try:
        assert await again.manifests(["a", odd, "", "missing"]) == expected
        await again.put_manifests({"a": None, "missing": None})
        assert await again.manifests(["a", odd]) == {odd: manifest(2)}
    finally:
        again.close()


async def test_a_listing_longer_than_one_statement(index: Index) -> None:
    entries = {f"conversation-{number}": manifest(number, size=10) for number in range(1203)}
    await index.put_manifests(entries)
    assert await index.manifests([*entries, "missing"]) == entries
    await index.put_manifests(dict.fromkeys(list(entries)[:1100]))
    assert len(await index.manifests(list(entries))) == 103


async def test_the_least_recently_used_manifests_go(tmp_path: Path) -> None:
    cost = 1000 + ROW_COST + len("000") + len("etag-0")
    limit = 40 * cost
    index = Index.open(tmp_path / "index.db", limit)
    try:
        await index.put_manifests({"favourite": manifest(0, size=500)})
        for number in range(200):
            await index.put_manifests({f"{number:03}": CachedManifest("etag-x", bytes(1000))})
            assert await index.manifest("favourite") == manifest(0, size=500)
            assert stored_size(index) <= limit
        kept = sorted(await index.manifests([f"{number:03}" for number in range(200)]))
        assert kept == [f"{number:03}" for number in range(200 - len(kept), 200)], "the newest ones"
        assert len(kept) == 39, "the limit is made use of"
    finally:
        index.close()


async def test_recency_outlives_the_process(tmp_path: Path) -> None:
    limit = 40 * 1200
    index = Index.open(tmp_path / "index.db", limit)
    await index.put_manifests({f"{number:02}": CachedManifest("etag", bytes(1000)) for number in range(40)})
    await index.manifest("00")
    index.close()
    index = Index.open(tmp_path / "index.db", limit)
    try:
        await index.put_manifests({f"new-{number}": CachedManifest("etag", bytes(1000)) for number in range(20)})
        assert await index.manifest("00") is not None
        assert await index.manifests([f"{number:02}" for number in range(1, 15)]) == {}
        assert stored_size(index) <= limit
    finally:
        index.close()


async def test_reading_a_quiet_index_writes_nothing(index: Index) -> None:
    entries = {f"{number}": manifest(number) for number in range(100)}
    await index.put_manifests(entries)
    await index.manifests(list(entries))
    assert index._connection is not None
    before = index._connection.total_changes
    assert await index.manifests(list(entries)) == entries
    assert index._connection.total_changes == before


async def test_a_manifest_over_the_limit_drives_nothing_out(index: Index) -> None:
    await index.put_manifests({"small": manifest(1), "large": manifest(2)})
    await index.put_manifests({"large": CachedManifest("etag", bytes(2 * MIB))})
    assert await index.manifests(["small", "large"]) == {"small": manifest(1)}, "and the old version is not kept either"


async def test_the_newest_sighting_counts(index: Index, path: Path) -> None:
    first, second = b"\x00" * 32, b"\xff" * 32
    await index.note_sightings({first: Sighting("inline", 100.5), second: Sighting("stored", 100.0)})
    await index.note_sightings({first: Sighting("stored", 200.25), second: Sighting("saturated", 50.0)})
    expected = {first: Sighting("stored", 200.25), second: Sighting("stored", 100.0)}
    assert await index.sightings([first, second, b"\x11" * 32]) == expected
    index.close()
    again = Index.open(path, MIB)
    try:
        assert await again.sightings([first, second]) == expected
    finally:
        again.close()


async def test_the_oldest_sightings_go(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    hashes = [bytes([number]) * 32 for number in range(30)]
    index = Index.open(path, MIB, sightings_limit=10)
    for number, hash in enumerate(hashes[:15]):
        await index.note_sightings({hash: Sighting("inline", float(number))})
    await index.note_sightings({hashes[5]: Sighting("stored", 99.0)})
    index.close()
    index = Index.open(path, MIB, sightings_limit=10)
    try:
        await index.note_sightings({hash: Sighting("inline", 50.0) for hash in hashes[15:22]})
        assert set(await index.sightings(hashes)) == {hashes[5], *hashes[13:22]}
    finally:
        index.close()


def replace_content(path: Path, change: Callable[[bytes], bytes]) -> bytes:
    """Puts in the file what `change` makes of its content (empty where there is no file), and returns it."""
    path.parent.mkdir(exist_ok=True)
    changed = change(path.read_bytes() if path.exists() else b"")
    path.write_bytes(changed)
    return changed


async def assert_works_when_rebuilt(index: Index) -> None:
    assert await index.manifest("a") is None
    await index.put_manifests({"a": manifest(9)})
    await index.note_sightings({b"h" * 32: Sighting("stored", 1.0)})
    assert await index.manifest("a") == manifest(9)
    assert await index.sightings([b"h" * 32]) == {b"h" * 32: Sighting("stored", 1.0)}


@pytest.mark.parametrize("garbage", [b"this is no database " * 500, b"SQLite format 3\x00" + b"\xff" * 9000])
async def test_garbage_is_rebuilt(path: Path, garbage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    replace_content(path, lambda _: garbage)
    replace_content(path.with_name("index.db-wal"), lambda _: garbage)
    index = Index.open(path, MIB)
    try:
        assert [record.name for record in caplog.records] == ["stowfs.hot"]
        assert "is damaged" in caplog.text
        await assert_works_when_rebuilt(index)
    finally:
        index.close()


async def test_pages_that_go_bad_are_rebuilt_when_they_are_met(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    index = Index.open(path, MIB)
    await index.put_manifests({"a": manifest(1), **{f"{number}": manifest(number) for number in range(200)}})
    index.close()
    replace_content(path, lambda content: content[:4096] + b"\xff" * (len(content) - 4096))
    index = Index.open(path, MIB)
    try:
        await assert_works_when_rebuilt(index)
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert "is damaged" in caplog.text
    finally:
        index.close()


async def test_a_body_that_went_bad_is_a_miss(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    index = Index.open(path, MIB)
    await index.put_manifests({"a": CachedManifest("etag", b"precious bytes"), "b": manifest(2)})
    index.close()
    changed = replace_content(path, lambda content: content.replace(b"precious bytes", b"precious bytez"))
    assert changed.count(b"precious bytez") == 1
    index = Index.open(path, MIB)
    try:
        assert await index.manifests(["a", "b"]) == {"b": manifest(2)}
        assert "1 manifests in the index" in caplog.text
        caplog.clear()
        assert await index.manifest("a") is None
        assert caplog.text == "", "it was removed"
    finally:
        index.close()


async def test_another_schema_is_rebuilt(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Index.open(path, MIB).close()
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE manifests")
    connection.execute("PRAGMA user_version = 99")
    connection.commit()
    connection.close()
    index = Index.open(path, MIB)
    try:
        assert "schema version 99" in caplog.text
        await assert_works_when_rebuilt(index)
    finally:
        index.close()


async def test_a_full_disk_only_means_not_cached(index: Index, caplog: pytest.LogCaptureFixture) -> None:
    await index.put_manifests({"kept": manifest(1, size=300_000)})
    assert index._connection is not None
    (pages,) = index._connection.execute("PRAGMA page_count").fetchone()
    index._connection.execute(f"PRAGMA max_page_count = {pages}")
    for number in range(3):
        await index.put_manifests({f"{number}": manifest(number, size=100_000)})
    assert await index.manifests(["kept", "0", "1", "2"]) == {"kept": manifest(1, size=300_000)}
    assert len(caplog.records) == 1
    assert "SQLITE_FULL" in caplog.text
    for _ in range(3):
        await index.put_manifests({"kept": manifest(1, size=MIB // 2)})
    assert await index.manifest("kept") == manifest(1, size=300_000), "what was rolled back is not counted either"
    index._connection.execute("PRAGMA max_page_count = 1000000")
    await index.put_manifests({f"{number}": manifest(number, size=100_000) for number in range(20)})
    assert stored_size(index) <= MIB
    assert await index.manifest("19") == manifest(19, size=100_000)


async def test_versions_are_bounded_and_whoever_goes_through_all_still_finds_most(path: Path) -> None:
    index = Index.open(path, MIB, versions_limit=1000)
    entries = {f"conversation-{number}": manifest(number, size=10) for number in range(1200)}
    try:
        for _ in range(3):
            found = await index.versions(list(entries))
            assert all(entries[id] == version for id, version in found.items())
            missing = [id for id in entries if id not in found]
            for start in range(0, len(missing), 100):
                await index.put_versions({id: entries[id] for id in missing[start : start + 100]})
            assert 850 <= len(await index.versions(list(entries))) <= 1000
        assert len(missing) < 600
        changed = {"conversation-7": manifest(8), "conversation-new": manifest(9)}
        await index.put_versions(changed)
        assert await index.versions(list(changed)) == changed
    finally:
        index.close()
