"""Slots: their directories, their lock, and what is left of them."""

import os
import stat
from pathlib import Path

import pytest

from stowfs.config import HotTierOptions
from stowfs.errors import CorruptObject, HotTierBusy, HotTierFailed
from stowfs.hot.index import CachedManifest
from stowfs.hot.journal import JournalRow
from stowfs.hot.segments import CachedSegment
from stowfs.hot.tier import HotTier, slots
from tests.hot.conftest import STORE_ID, Holder


async def test_state_and_cache_are_private_and_apart(options: HotTierOptions) -> None:
    tier = await HotTier.open(options, STORE_ID, "mount")
    try:
        state = options.state_root / STORE_ID / "mount"
        cache = options.cache_root / STORE_ID / "mount"
        assert tier.state_directory == state
        assert sorted(entry.name for entry in state.iterdir()) == [
            "dictionaries",
            "journal.db",
            "journal.db-wal",
            "lock",
            "spool",
        ]
        assert sorted(entry.name for entry in cache.iterdir()) == [
            "index.db",
            "index.db-recent",
            "index.db-wal",
            "others",
            "segments",
        ]
        for directory in (options.state_root, state.parent, state, state / "spool", cache.parent, cache):
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700, directory
    finally:
        await tier.close()


async def test_a_directory_that_was_open_to_others_is_closed_to_them(options: HotTierOptions) -> None:
    state = options.state_root / STORE_ID / "mount"
    state.mkdir(parents=True)
    state.chmod(0o755)
    tier = await HotTier.open(options, STORE_ID, "mount")
    await tier.close()
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


async def test_everything_is_there_after_close_and_open(options: HotTierOptions) -> None:
    tier = await HotTier.open(options, STORE_ID, "mount")
    await tier.journal.record(JournalRow("commit", "recorded", b"payload"))
    await tier.index.put_manifests({"a": CachedManifest("etag", b"body")})
    await tier.segments.put(bytes(32), CachedSegment(None, 3, b"abc"))
    await tier.close()
    await tier.close()
    tier = await HotTier.open(options, STORE_ID, "mount")
    try:
        assert await tier.journal.rows() == [JournalRow("commit", "recorded", b"payload")]
        assert await tier.index.manifest("a") == CachedManifest("etag", b"body")
        assert await tier.segments.get(bytes(32)) == CachedSegment(None, 3, b"abc")
    finally:
        await tier.close()


async def test_a_second_process_is_kept_out_until_the_first_is_killed(options: HotTierOptions, holder: Holder) -> None:
    with holder("mount", "commit-1") as child:
        with pytest.raises(HotTierBusy, match=rf"in use by process {child.pid}$"):
            await HotTier.open(options, STORE_ID, "mount")
        other = await HotTier.open(options, STORE_ID, "other")
        await other.close()
        child.kill()
        child.wait(timeout=30)
        tier = await HotTier.open(options, STORE_ID, "mount")
        lock = tier.state_directory / "lock"
        assert int(lock.read_text()) == os.getpid()
        await tier.close()


async def test_close_lets_go_of_the_slot(options: HotTierOptions) -> None:
    first = await HotTier.open(options, STORE_ID, "mount")
    with pytest.raises(HotTierBusy, match=f"process {os.getpid()}$"):
        await HotTier.open(options, STORE_ID, "mount")
    await first.close()
    second = await HotTier.open(options, STORE_ID, "mount")
    await second.close()


async def test_commands_take_the_first_free_slot(options: HotTierOptions) -> None:
    first = await HotTier.open_free(options, STORE_ID)
    second = await HotTier.open_free(options, STORE_ID)
    await first.close()
    third = await HotTier.open_free(options, STORE_ID)
    fourth = await HotTier.open_free(options, STORE_ID, family="put")
    try:
        assert [tier.state_directory.name for tier in (first, second, third, fourth)] == [
            "cli-0",
            "cli-1",
            "cli-0",
            "put-0",
        ]
        assert slots(options, STORE_ID) == ["cli-0", "cli-1", "put-0"]
    finally:
        for tier in (second, third, fourth):
            await tier.close()


async def test_slots_of_a_store_that_was_never_opened(options: HotTierOptions) -> None:
    assert slots(options, STORE_ID) == []
    tier = await HotTier.open(options, STORE_ID, "mount")
    await tier.close()
    (options.state_root / STORE_ID / "no-slot").mkdir()
    assert slots(options, STORE_ID) == ["mount"]
    assert slots(options, "0191b0a0-7e57-7000-8000-000000000002") == []


@pytest.mark.parametrize("store_id", ["", "..", "../../etc", STORE_ID.upper(), STORE_ID + "/x", "{" + STORE_ID + "}"])
async def test_a_store_id_that_is_no_uuid_is_refused(options: HotTierOptions, store_id: str) -> None:
    with pytest.raises(CorruptObject, match="not a uuid"):
        await HotTier.open(options, store_id, "mount")
    with pytest.raises(CorruptObject, match="not a uuid"):
        slots(options, store_id)
    assert not options.state_root.exists()


@pytest.mark.parametrize("slot", ["", "..", "a/b", ".x", "x" * 65])
async def test_a_slot_that_is_no_plain_name_is_refused(options: HotTierOptions, slot: str) -> None:
    with pytest.raises(ValueError, match="not a name of a slot"):
        await HotTier.open(options, STORE_ID, slot)


async def test_a_failed_open_lets_go_of_the_slot(options: HotTierOptions) -> None:
    state = options.state_root / STORE_ID / "mount"
    state.mkdir(parents=True)
    (state / "journal.db").mkdir()
    with pytest.raises(HotTierFailed, match="opening the journal"):
        await HotTier.open(options, STORE_ID, "mount")
    (state / "journal.db").rmdir()
    tier = await HotTier.open(options, STORE_ID, "mount")
    await tier.close()


async def test_without_a_cache_directory_there_is_only_no_cache(
    options: HotTierOptions, caplog: pytest.LogCaptureFixture
) -> None:
    options.cache_root.write_text("a file where the directory should be")
    tier = await HotTier.open(options, STORE_ID, "mount")
    try:
        await tier.index.put_manifests({"a": CachedManifest("etag", b"body")})
        assert await tier.index.manifest("a") is None
        for _ in range(3):
            await tier.segments.put(bytes(32), CachedSegment(None, 3, b"abc"))
            assert await tier.segments.get(bytes(32)) is None
        await tier.journal.record(JournalRow("commit", "recorded", b""))
    finally:
        await tier.close()
    assert len([record for record in caplog.records if "the index" in record.message]) == 1
    segment_troubles = [record.message for record in caplog.records if "the segment cache" in record.message]
    assert segment_troubles
    assert len(segment_troubles) == len(set(segment_troubles))


async def test_a_cache_shared_by_mistake_is_left_to_its_first_user(options: HotTierOptions, tmp_path: Path) -> None:
    other_state = HotTierOptions(state_root=tmp_path / "other", cache_root=options.cache_root)
    first = await HotTier.open(options, STORE_ID, "mount")
    try:
        await first.index.put_manifests({"a": CachedManifest("etag", b"body")})
        second = await HotTier.open(other_state, STORE_ID, "mount")
        try:
            assert await second.index.manifest("a") is None
        finally:
            await second.close()
        assert await first.index.manifest("a") == CachedManifest("etag", b"body")
    finally:
        await first.close()
