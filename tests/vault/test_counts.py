"""Reference counts under concurrency and trouble: exact sums, bounds, and bytes that are never lost."""

import random
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from stowfs import codec
from stowfs.errors import CorruptObject, PathExists, RetriesExhausted
from stowfs.hot.segments import SegmentFiles
from stowfs.store.base import ObjectStore
from stowfs.store.memory import MemoryStore
from stowfs.vault.counts import Counts, operation_id
from stowfs.vault.descriptor import create_descriptor
from stowfs.vault.naming import blob_key, segment_key
from stowfs.vault.record import REDIRECT_ABOVE, Header, Payload
from stowfs.vault.ring import CAPACITY, new_id
from stowfs.vault.segments import SegmentReader
from stowfs.vault.vault import Vault
from tests.store.conftest import Place
from tests.support.audit import audit
from tests.support.counting import PAYLOADS, SEGMENTS, acquire, counting, payload_of
from tests.support.faults import Delay, FailAfter, FailBefore, FaultyStore, Late, Rule, Stall
from tests.support.vaults import Hosts, read, write
from tests.vault.test_promises import log_lines, noise

SMALL, LARGE = PAYLOADS["inline"], PAYLOADS["redirected"]


async def header(counts: Counts, payload: Payload = SMALL) -> Header:
    record = await counts.read(payload.digest)
    assert record is not None
    return record.header


async def blobs(store: ObjectStore) -> list[str]:
    return [info.key async for page in store.list("blobs/") for info in page.objects]


async def raw(store: ObjectStore, payload: Payload, directory: Path) -> bytes:
    """The segment as a host that never saw it reads it."""
    files = SegmentFiles.open(directory / new_id(), 1 << 20)
    threads = trio.CapacityLimiter(1)
    async with trio.open_nursery() as nursery:
        reader = SegmentReader(store, files, nursery, memory=0, threads=threads)
        try:
            return await reader.fetch(payload.digest)
        except CorruptObject as error:
            corrupt = error  # to be raised without the nursery's group around it
        finally:
            files.close()
    raise corrupt


# Exact sums


@pytest.mark.parametrize("kind", SEGMENTS)
async def test_two_processes_give_the_exact_sum(place: Place, store: ObjectStore, kind: str, tmp_path: Path) -> None:
    times, payload = 30, PAYLOADS[kind]
    if place.url is None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(acquire, store, payload, times)
            nursery.start_soon(acquire, store, payload, times)
    else:
        command = [sys.executable, "-m", "tests.support.counting", place.url, kind, str(times)]
        with trio.fail_after(90):
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(partial(trio.run_process, command, cwd=Path(__file__).parents[2]))
    async with counting(store) as counts:
        assert (await header(counts, payload)).ref_count == 2 * times
    assert len(await blobs(store)) == (1 if kind == "redirected" else 0)
    assert await raw(store, payload, tmp_path) == SEGMENTS[kind]


PROMPT = noise(60_000).hex()


def conversation(number: int) -> bytes:
    """One with a long system prompt that many others have, too."""
    return b'{"messages": [{"role": "system", "content": "%s"}, {"role": "user", "content": "%s"}]}' % (
        PROMPT.encode(),
        noise(500, number).hex().encode(),
    )


@pytest.mark.parametrize("place", ["memory", "file", pytest.param("rgw", marks=pytest.mark.rgw)], indirect=True)
async def test_64_committers_with_one_system_prompt(store: ObjectStore, tmp_path: Path) -> None:
    """Each a host of its own, all at once."""
    async with Hosts(store, tmp_path / "hosts", deadline=60.0) as hosts:
        vaults = [await hosts.start(f"host{number}") for number in range(64)]
        async with trio.open_nursery() as nursery:
            for number, vault in enumerate(vaults):
                nursery.start_soon(write, vault, f"c{number}", conversation(number))
        for vault in vaults:
            assert await vault.drain(60) == 0
        fresh = await hosts.start("fresh")
        for number in range(64):
            assert await read(fresh, f"c{number}") == conversation(number)
        result = await audit(store)
        assert result.exact
        assert result.segments == 1
        [key] = [info.key async for page in store.list("segments/") for info in page.objects]
        record = await fresh.counts.read(key.rpartition("/")[2])
        assert record is not None
        assert record.header.ref_count == 64


# Grouping


async def test_changes_at_once_go_together_and_no_response_is_counted_twice(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """As many at a time as a ring can remember: so the lost responses of whole groups do no harm."""
    store = FaultyStore(MemoryStore())
    for nth in (1, 2, 4, 6):
        store.add(Rule(FailAfter(), "put", "segments/*", nth=nth))
    async with counting(store) as counts:
        commits = [new_id() for _ in range(100)]
        async with trio.open_nursery() as nursery:
            for commit in commits:
                nursery.start_soon(counts.acquire, commit, SMALL.digest, SMALL)
        assert (await header(counts)).ref_count == 100
        assert store.count("put", "segments") <= 2 + 100 / CAPACITY
        async with trio.open_nursery() as nursery:
            for commit in commits:
                nursery.start_soon(counts.release, commit, SMALL.digest)
        assert (await header(counts)).ref_count == 0


async def test_a_caller_that_is_cancelled_leaves_nothing_half_done(autojump_clock: trio.testing.MockClock) -> None:
    store = FaultyStore(MemoryStore())
    stall = Stall()
    store.add(Rule(stall, "put", "segments/*", nth=1))
    async with counting(store) as counts:
        commit = new_id()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(counts.acquire, commit, SMALL.digest, SMALL)
            await stall.reached.wait()
            nursery.cancel_scope.cancel()
        undone = trio.Event()

        async def undo() -> None:
            await counts.undo(commit, SMALL.digest)
            undone.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(undo)
            await trio.testing.wait_all_tasks_blocked()
            assert not undone.is_set()
            stall.go.set()
        found = await header(counts)
        assert found.ref_count == 0
        assert [operation_id(commit, "acquire"), operation_id(commit, "undo")] == list(found.ring.recent)


async def test_an_error_reaches_everybody_who_waits(autojump_clock: trio.testing.MockClock) -> None:
    store = FaultyStore(MemoryStore())
    failed = []
    async with counting(store, deadline=3) as counts:
        store.down = True

        async def count() -> None:
            try:
                await counts.acquire(new_id(), SMALL.digest, SMALL)
            except RetriesExhausted as error:
                failed.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(CAPACITY):
                nursery.start_soon(count)
        assert len(failed) == CAPACITY
        store.down = False
        await count()
        assert (await header(counts)).ref_count == 1


async def test_what_is_not_there_cannot_be_acquired_without_its_bytes() -> None:
    async with counting(MemoryStore()) as counts:
        with pytest.raises(CorruptObject, match="not in the store"):
            await counts.acquire(new_id(), SMALL.digest, None)


async def test_a_late_acquire_is_dead_once_it_was_undone(autojump_clock: trio.testing.MockClock) -> None:
    """On a segment that is there, and on one that is not."""
    for known in (True, False):
        store = FaultyStore(MemoryStore())
        async with counting(store, deadline=1) as counts:
            if known:
                await counts.acquire(new_id(), SMALL.digest, SMALL)
            commit = new_id()
            late = store.add(Rule(Late(), "put", "segments/*"))
            with pytest.raises(RetriesExhausted):
                await counts.acquire(commit, SMALL.digest, SMALL)
            store.rules.remove(late)
            await counts.undo(commit, SMALL.digest, retried=True)
            assert None not in await store.carry_out_late()
            assert (await header(counts)).ref_count == int(known)


# Saturation


async def test_a_saturated_count_stays_and_costs_nothing(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    descriptor = await create_descriptor(store, many=5, trash_seconds=0)
    async with Hosts(store, tmp_path, descriptor=descriptor) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        data = log_lines(2000)
        # One more than the bound: what the first one has inline is a segment of the others.
        for number in range(6):
            await write(a, f"c{number}", data)
        digests = [r.digest for r in (await a.head("c1")).top_references]
        assert len(digests) > 2

        async def counted() -> set[int]:
            return {record.header.ref_count for d in digests if (record := await a.counts.read(d)) is not None}

        assert await counted() == {5}
        # Within the time for which that is believed, nobody asks again.
        store.reset_log()
        for number in range(6, 12):
            await write(a, f"c{number}", data)
        assert store.count(key_class="segments") == 0
        await a.rename("c11", "renamed")
        await a.drain()
        assert store.count("put", "segments") == 0
        # Another host finds out once, when it first references each, by a look or a refused write.
        store.reset_log()
        await write(b, "c12", data)
        await write(b, "c13", data)
        assert store.count("get", "segments") == len(digests)
        assert all(request.failed for request in store.log if request.key_class == "segments" and request.sent)
        store.reset_log()
        await write(b, "c14", data)
        assert store.count(key_class="segments") == 0
        for name in [f"c{number}" for number in (*range(11), 12, 13, 14)]:
            await a.remove(name)
        await a.drain()
        await b.drain()
        assert await counted() == {5}
        assert await read(await hosts.start("fresh"), "renamed") == data
        assert (await audit(store, many=5)).exact


# Redirected payloads


async def test_the_loser_of_a_race_deletes_its_own_blob_only(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with counting(store) as one, counting(store) as other:
        stall = Stall()
        store.add(Rule(stall, "put", "segments/*", nth=1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.acquire, new_id(), LARGE.digest, LARGE)
            await stall.reached.wait()
            await other.acquire(new_id(), LARGE.digest, LARGE)
            assert len(await blobs(store)) == 2
            stall.go.set()
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
        stall = Stall()
        store.add(Rule(stall, "put", "segments/*", nth=1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.acquire, new_id(), LARGE.digest, LARGE)
            await stall.reached.wait()
            await other.acquire(new_id(), LARGE.digest, LARGE)
            stall.go.set()
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

TEXT = log_lines(330)
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
            replaced: list[str] = []
            for step in range(12):
                old = await counts.recompress((LOOSE, TIGHT, LOOSE)[step % 3])
                # The grace period: until everybody who may follow the old record is done.
                for _ in range(reads.value + 6):
                    await reads.acquire()
                if old is not None:
                    replaced.append(old)
                    await store.delete(blob_key(TIGHT.digest, old))
                if step == 6:
                    await counts.acquire(new_id(), TIGHT.digest, LOOSE)
            done.set()
        assert len(replaced) == 7
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
        replaced: list[str | None] = []

        async def recompress() -> None:
            replaced.append(await counts.recompress(LOOSE))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(recompress)
            await stall.reached.wait()
            for _ in range(crowd):
                await others.acquire(new_id(), LOOSE.digest, LOOSE)
            stall.go.set()
        assert replaced == [first]
        found = await header(counts, LOOSE)
        assert found.ref_count == 1 + crowd
        assert found.redirect not in (None, first)
    assert await raw(store, LOOSE, tmp_path) == TEXT


async def test_recompressing_what_is_not_there_leaves_nothing(tmp_path: Path) -> None:
    store = MemoryStore()
    async with counting(store) as counts:
        assert await counts.recompress(LARGE) is None
        assert await counts.read(LARGE.digest) is None
        await released(counts, LARGE)
        await counts.collect(LARGE.digest, before=float("inf"))
        assert await counts.recompress(LARGE) is None
        assert (await header(counts, LARGE)).state == "dead"
    assert await blobs(store) == []


# Commits that come to nothing


async def test_losers_of_an_exclusive_creation_give_everything_back(tmp_path: Path) -> None:
    """However busy the shared segment is: what they acquired has long left the ring."""
    store = FaultyStore(MemoryStore())
    store.add(Rule(Delay(0.001), "put", "manifests/*", times=None))
    async with Hosts(store, tmp_path, deadline=30.0) as hosts:
        vaults = [await hosts.start(f"host{number}") for number in range(2 * CAPACITY + 4)]
        won = 0

        async def create(vault: Vault, number: int) -> None:
            nonlocal won
            try:
                await write(vault, "same", conversation(number), exclusive=True)
                won += 1
            except PathExists:
                await write(vault, f"own{number}", conversation(number))

        async with trio.open_nursery() as nursery:
            for number, vault in enumerate(vaults):
                nursery.start_soon(create, vault, number)
        for vault in vaults:
            assert await vault.drain(30) == 0
        assert won == 1
        assert (await audit(store.inner)).exact


async def test_writers_of_one_name_that_share_segments_count_them_once(tmp_path: Path) -> None:
    """The base of each but the first moves, to a version that has some of the same segments."""
    store = FaultyStore(MemoryStore())
    shared = log_lines(1500, 1)
    rng = random.Random(3)
    async with Hosts(store, tmp_path, deadline=30.0) as hosts:
        vaults = [await hosts.start(f"host{number}") for number in range(6)]
        await write(vaults[0], "x", log_lines(400, 2))
        for _ in range(4):
            bases = [await vault.head("x") for vault in vaults]
            async with trio.open_nursery() as nursery:
                for vault, base in zip(vaults, bases, strict=True):
                    data = shared[: rng.randrange(len(shared))] + noise(rng.randrange(100_000), rng.random())
                    nursery.start_soon(write, vault, "x", data, base)
        await vaults[0].rename("x", "y")
        for vault in vaults:
            assert await vault.drain(30) == 0
        assert (await audit(store.inner)).exact
        await vaults[1].remove("y")
        await vaults[1].drain()
        result = await audit(store.inner)
        assert result.exact
        for key in [info.key async for page in store.list("segments/") for info in page.objects]:
            record = await vaults[0].counts.read(key.rpartition("/")[2])
            assert record is not None
            assert record.header.ref_count == 0
            assert key == segment_key(record.header.hash)
