"""Reference counts under concurrency and trouble: exact sums, bounds, and bytes that are never lost."""

import random
import sys
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from stowfs.errors import CorruptObject, PathExists, RetriesExhausted
from stowfs.store.base import ObjectStore
from stowfs.store.memory import MemoryStore
from stowfs.vault.counts import operation_id
from stowfs.vault.descriptor import create_descriptor
from stowfs.vault.naming import segment_key
from stowfs.vault.ring import CAPACITY, new_id
from stowfs.vault.vault import Vault
from tests.store.conftest import Place
from tests.support.audit import audit
from tests.support.counting import PAYLOADS, SEGMENTS, acquire, blobs, counting, header, raw
from tests.support.faults import Delay, FailAfter, FaultyStore, Late, Rule, Stall
from tests.support.vaults import Hosts, read, write
from tests.vault.test_promises import log_lines, noise

SMALL, LARGE = PAYLOADS["inline"], PAYLOADS["redirected"]


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
                    data = shared[: rng.randrange(len(shared))] + noise(rng.randrange(100_000), rng.randrange(1 << 30))
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
