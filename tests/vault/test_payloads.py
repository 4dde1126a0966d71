"""The bytes of segments, while records come and go: redirected, collected, revived, recompressed; never lost."""

import math
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from stowfs import codec
from stowfs.errors import CorruptObject, StoreUnavailable
from stowfs.store.memory import MemoryStore
from stowfs.store.observed import Operation
from stowfs.vault.counts import Counts
from stowfs.vault.naming import blob_key
from stowfs.vault.record import REDIRECT_ABOVE, Payload
from stowfs.vault.ring import CAPACITY, new_id
from tests.support.counting import PAYLOADS, SEGMENTS, blobs, counting, header, payload_of, raw
from tests.support.faults import Action, FailAfter, FailBefore, FaultyStore, Rule, Stall
from tests.vault.test_promises import log_lines

SMALL, LARGE = PAYLOADS["inline"], PAYLOADS["redirected"]

# Redirected payloads


async def test_the_loser_of_a_race_deletes_its_own_blob_only(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with counting(store) as one, counting(store) as other:
        async with store.held("put", "segments/*", one.acquire, new_id(), LARGE.digest, LARGE):
            await other.acquire(new_id(), LARGE.digest, LARGE)
            assert len(await blobs(store)) == 2
        found = await header(one, LARGE)
        assert found.ref_count == 2
        assert found.redirect is not None
        assert await blobs(store) == [blob_key(LARGE.digest, found.redirect)]
        assert await raw(store, LARGE, tmp_path) == SEGMENTS["redirected"]


async def test_a_large_payload_that_is_there_is_not_uploaded_again() -> None:
    store = FaultyStore(MemoryStore())
    async with counting(store) as counts:
        await counts.acquire(new_id(), LARGE.digest, LARGE)
        store.reset_log()
        await counts.acquire(new_id(), LARGE.digest, LARGE)
        assert store.count(key_class="blobs") == 0
        assert store.bytes_sent() < 1000


async def test_a_lost_response_does_not_cost_the_published_blob(
    autojump_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    store = FaultyStore(MemoryStore())
    store.add(Rule(FailAfter(), "put", "segments/*", nth=1))
    async with counting(store) as counts:
        await counts.acquire(new_id(), LARGE.digest, LARGE)
        assert (await header(counts, LARGE)).ref_count == 1
    assert await raw(store, LARGE, tmp_path) == SEGMENTS["redirected"]


async def test_a_blob_that_cannot_be_deleted_fails_nothing(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    store.add(Rule(FailBefore(), "delete", "blobs/*"))
    async with counting(store) as one, counting(store) as other:
        async with store.held("put", "segments/*", one.acquire, new_id(), LARGE.digest, LARGE):
            await other.acquire(new_id(), LARGE.digest, LARGE)
        assert (await header(one, LARGE)).ref_count == 2
    assert await raw(store, LARGE, tmp_path) == SEGMENTS["redirected"]


# Collection


async def released(counts: Counts, payload: Payload) -> None:
    """A segment with no reference left."""
    commit = new_id()
    await counts.acquire(commit, payload.digest, payload)
    await counts.release(commit, payload.digest)


@pytest.mark.parametrize("payload", [SMALL, LARGE], ids=list(PAYLOADS))
async def test_collection_frees_what_nobody_references(payload: Payload, tmp_path: Path) -> None:
    store = MemoryStore()
    async with counting(store) as counts:
        await released(counts, payload)
        assert not await counts.collect(payload.digest, before=0)
        assert await counts.collect(payload.digest, before=float("inf"))
        assert not await counts.collect(payload.digest, before=float("inf"))
        assert (await header(counts, payload)).state == "dead"
        assert await blobs(store) == []
        with pytest.raises(CorruptObject, match="collected"):
            await raw(store, payload, tmp_path)
        await counts.acquire(new_id(), payload.digest, payload)
        assert not await counts.collect(payload.digest, before=float("inf"))
    assert await raw(store, payload, tmp_path) == SEGMENTS["inline" if payload is SMALL else "redirected"]


@pytest.mark.parametrize("payload", [SMALL, LARGE], ids=list(PAYLOADS))
async def test_collection_never_wins_against_an_acquire(payload: Payload, tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with counting(store) as counts, counting(store) as collector:
        await released(counts, payload)
        stall = Stall()
        store.add(Rule(stall, "put", "segments/*", nth=1))
        killed: list[bool] = []

        async def collect() -> None:
            killed.append(await collector.collect(payload.digest, before=float("inf")))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect)
            await stall.reached.wait()
            await counts.acquire(new_id(), payload.digest, payload)
            stall.go.set()
        assert killed == [False]
        assert (await header(counts, payload)).ref_count == 1
        assert len(await blobs(store)) == int(payload is LARGE)
    assert await raw(store, payload, tmp_path) == SEGMENTS["inline" if payload is SMALL else "redirected"]


async def test_a_collection_whose_response_was_lost_is_finished(autojump_clock: trio.testing.MockClock) -> None:
    store = FaultyStore(MemoryStore())
    async with counting(store) as counts:
        await released(counts, LARGE)
        store.add(Rule(FailAfter(), "put", "segments/*", nth=1))
        assert await counts.collect(LARGE.digest, before=float("inf"))
        assert await blobs(store) == []


async def test_a_segment_that_comes_back_during_a_collection_keeps_its_new_bytes(
    autojump_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    """The collector's write took effect and its response is lost; somebody revives the segment meanwhile."""
    store = FaultyStore(MemoryStore())
    async with counting(store) as counts, counting(store) as collector:
        await released(counts, LARGE)
        store.add(Rule(FailAfter(), "put", "segments/*", nth=1))
        stall = Stall()
        store.add(Rule(stall, "get", "segments/*", nth=2))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: collector.collect(LARGE.digest, before=float("inf")))
            await stall.reached.wait()
            await counts.acquire(new_id(), LARGE.digest, LARGE)
            stall.go.set()
        found = await header(counts, LARGE)
        assert (found.state, found.ref_count) == ("live", 1)
        assert found.redirect is not None
        assert await blobs(store) == [blob_key(LARGE.digest, found.redirect)]
    assert await raw(store, LARGE, tmp_path) == SEGMENTS["redirected"]


# Recompression

TEXT = log_lines(REDIRECT_ABOVE // 200)
LOOSE = replace(payload_of(TEXT), compressed=codec.compress(TEXT, level=-30))
TIGHT = replace(payload_of(TEXT), compressed=codec.compress(TEXT, level=12))
assert len(TIGHT.compressed) < REDIRECT_ABOVE < len(LOOSE.compressed)


async def test_recompression_beside_readers(tmp_path: Path) -> None:
    """Inline, redirected, inline …; replaced blobs go after a while, and nobody ever misses a byte."""
    store = MemoryStore()
    done = trio.Event()
    reads = trio.Semaphore(0)

    async def reader() -> None:
        while not done.is_set():
            assert await raw(store, TIGHT, tmp_path) == TEXT
            reads.release()

    async with counting(store) as counts:
        await counts.acquire(new_id(), TIGHT.digest, TIGHT)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(reader)
            replaced = 0
            for step in range(12):
                assert await counts.recompress((LOOSE, TIGHT, LOOSE)[step % 3])
                # The grace period: until everybody who may follow the old record is done.
                for _ in range(reads.value + 6):
                    await reads.acquire()
                assert not await counts.drop_replaced(TIGHT.digest, before=0)
                replaced += await counts.drop_replaced(TIGHT.digest, before=math.inf)
                if step == 6:
                    await counts.acquire(new_id(), TIGHT.digest, LOOSE)
            done.set()
        assert replaced == 7
        found = await header(counts, TIGHT)
        assert found.ref_count == 2
        assert found.redirect is not None
        assert await blobs(store) == [blob_key(TIGHT.digest, found.redirect)]


@pytest.mark.parametrize("crowd", [0, CAPACITY + 4])
async def test_a_lost_response_of_recompress_does_not_cost_the_published_blob(
    crowd: int, autojump_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    """Even where so many count meanwhile that the ring has forgotten the recompression."""
    store = FaultyStore(MemoryStore())
    async with counting(store) as counts, counting(store) as others:
        await counts.acquire(new_id(), LOOSE.digest, LOOSE)
        first = (await header(counts, LOOSE)).redirect
        store.add(Rule(FailAfter(), "put", "segments/*", nth=1))
        stall = Stall()
        store.add(Rule(stall, "get", "segments/*", nth=2))
        applied: list[bool] = []

        async def recompress() -> None:
            applied.append(await counts.recompress(LOOSE) is not None)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(recompress)
            await stall.reached.wait()
            for _ in range(crowd):
                await others.acquire(new_id(), LOOSE.digest, LOOSE)
            stall.go.set()
        assert applied == [True]
        found = await header(counts, LOOSE)
        assert found.ref_count == 1 + crowd
        assert found.redirect not in (None, first)
        assert found.replaced is not None
        assert found.replaced.revision == first
    assert await raw(store, LOOSE, tmp_path) == TEXT


async def test_recompressing_what_is_not_there_leaves_nothing(tmp_path: Path) -> None:
    store = MemoryStore()
    async with counting(store) as counts:
        assert not await counts.recompress(LARGE)
        assert await counts.read(LARGE.digest) is None
        await released(counts, LARGE)
        await counts.collect(LARGE.digest, before=float("inf"))
        assert not await counts.recompress(LARGE)
        assert (await header(counts, LARGE)).state == "dead"
    assert await blobs(store) == []


async def test_a_second_blob_is_not_replaced_before_the_first_is_deleted(tmp_path: Path) -> None:
    """The record has room for the name of one."""
    store = MemoryStore()
    async with counting(store) as counts:
        await counts.acquire(new_id(), LOOSE.digest, LOOSE)
        assert await counts.recompress(LOOSE)
        before = await blobs(store)
        assert not await counts.recompress(LOOSE)
        assert await blobs(store) == before
        assert await counts.drop_replaced(LOOSE.digest, before=math.inf)
        assert not await counts.drop_replaced(LOOSE.digest, before=math.inf)
        assert len(await blobs(store)) == 1
        assert await counts.recompress(TIGHT)
    assert await raw(store, TIGHT, tmp_path) == TEXT


@pytest.mark.parametrize("action", [FailBefore(), FailAfter()])
@pytest.mark.parametrize("operation", ["get", "delete", "put"])
async def test_a_replaced_blob_is_deleted_whatever_is_lost(
    operation: Operation, action: Action, autojump_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    store = FaultyStore(MemoryStore())
    async with counting(store) as counts:
        await counts.acquire(new_id(), LOOSE.digest, LOOSE)
        assert await counts.recompress(TIGHT)
        store.add(Rule(action, operation, nth=1))
        with suppress(StoreUnavailable):
            await counts.drop_replaced(LOOSE.digest, before=math.inf)
        await counts.drop_replaced(LOOSE.digest, before=math.inf)
        assert (await header(counts, LOOSE)).replaced is None
    assert await blobs(store) == []
    assert await raw(store, TIGHT, tmp_path) == TEXT


async def test_a_replaced_blob_is_deleted_after_its_segment_died_and_came_back(tmp_path: Path) -> None:
    store = MemoryStore()
    async with counting(store) as counts:
        await counts.acquire(first := new_id(), LOOSE.digest, LOOSE)
        assert await counts.recompress(TIGHT)
        await counts.release(first, LOOSE.digest)
        assert await counts.collect(LOOSE.digest, before=math.inf)
        assert len(await blobs(store)) == 1
        await counts.acquire(new_id(), LOOSE.digest, LOOSE)
        assert await counts.drop_replaced(LOOSE.digest, before=math.inf)
        assert len(await blobs(store)) == 1
    assert await raw(store, LOOSE, tmp_path) == TEXT
