"""Garbage collection: it gives space back, and never what anybody needs, whatever races, stalls or dies."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from stowfs.conversation.segmenter import SegmenterParameters
from stowfs.errors import NoSuchPath, StoreError, StoreUnavailable
from stowfs.store.base import ObjectStore
from stowfs.store.file import FileStore
from stowfs.store.memory import MemoryStore
from stowfs.vault.check import Checker
from stowfs.vault.collect import Collected, collect_garbage
from stowfs.vault.descriptor import create_descriptor
from stowfs.vault.naming import blob_key, digest_of_segment, manifest_key, segment_key
from stowfs.vault.repair import repair
from stowfs.vault.ring import FORGOTTEN_AFTER, Verdict, first_ring
from stowfs.vault.vault import Vault
from tests.support.audit import audit, contents
from tests.support.faults import TROUBLE, FailBefore, FaultyStore, Rule, Stall, StallAfter
from tests.support.vaults import DEADLINE, Hosts, append, read, write
from tests.vault.test_promises import log_lines, noise
from tests.vault.test_undelete import WEEK, trash_hosts

SHARED = log_lines(700, 1)
# Some segments and a tail; its beginning it shares.
CONTENT = SHARED + log_lines(900, 2)
# Segments that are too large for their records.
BULKY = noise(600_000, 1)

DEAD = 2048
"""Bytes that a dead record or an empty tombstone takes at most: a ring and a few figures."""


def later(seconds: float) -> Callable[[], float]:
    return lambda: time.time() + seconds


async def collect(
    hosts: Hosts, vault: Vault, *, grace: float = 0, now: Callable[[], float] = time.time, dry_run: bool = False
) -> Collected:
    return await collect_garbage(hosts.store, vault, grace=grace, now=now, dry_run=dry_run)


async def test_space_is_given_back(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        await write(a, "x", CONTENT)
        await write(a, "y", BULKY)
        before = await contents(hosts.store)
        stored = sum(map(len, before.values()))
        assert any(key.startswith("blobs/") for key in before)
        await a.remove("x")
        await a.remove("y")
        await a.drain()
        collected = await collect(hosts, a)
        after = await contents(hosts.store)
        assert not any(key.startswith("blobs/") for key in after)
        assert all(len(body) < DEAD for body in after.values())
        assert sum(map(len, after.values())) < stored / 20
        assert collected.segments == sum(key.startswith("segments/") for key in before)
        assert collected.segment_bytes > stored / 2
        assert collected.kept == ()
        assert (await audit(hosts.store)).exact
        # And what was given up can be stored again.
        await write(a, "z", BULKY)
        assert await read(await hosts.start("b"), "z") == BULKY
        assert (await audit(hosts.store)).exact


async def test_what_others_reference_stays(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        await write(a, "x", CONTENT)
        await write(a, "y", SHARED)
        await a.remove("x")
        await a.drain()
        await collect(hosts, a)
        assert await read(await hosts.start("b"), "y") == SHARED
        assert (await audit(hosts.store)).exact


async def test_trash_and_grace_period(tmp_path: Path) -> None:
    async with await trash_hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        await write(a, "x", CONTENT)
        await a.remove("x")
        segments = len(await contents(hosts.store, "segments/"))
        assert await collect(hosts, a, now=later(WEEK - 60)) == Collected()
        assert await read_deleted(a) == len(CONTENT)
        # The trash period is over, the grace period of what is released has just begun.
        collected = await collect_garbage(hosts.store, a, grace=2 * WEEK, now=later(WEEK + 1))
        assert (collected.emptied, collected.emptied_size, collected.segments) == (1, len(CONTENT), 0)
        with pytest.raises(NoSuchPath):
            await a.undelete("x")
        waiting = await collect(hosts, a, grace=3600)
        assert (waiting.waiting, waiting.segments) == (segments, 0)
        freed = await collect(hosts, a, grace=3600, now=later(3601))
        assert (freed.waiting, freed.segments) == (0, segments)
        assert freed.segment_bytes == waiting.waiting_bytes
        assert (await audit(hosts.store)).exact


async def read_deleted(vault: Vault) -> int:
    """The bytes of everything that can be brought back."""
    total = 0
    async for snapshot in vault.deleted():
        total += len(await vault.read(snapshot, 0, snapshot.size))
    return total


async def test_the_trash_can_be_emptied_before_its_time(tmp_path: Path) -> None:
    async with await trash_hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        await write(a, "x", CONTENT)
        await a.remove("x")
        collected = await collect_garbage(hosts.store, a, grace=0, trash=0)
        assert collected.emptied == 1
        assert collected.segments > 0
        assert all(len(body) < DEAD for body in (await contents(hosts.store)).values())


async def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    async with await trash_hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        await write(a, "x", CONTENT)
        await write(a, "y", log_lines(900, 2))
        await a.remove("x")
        await a.remove("y")
        assert await a.empty_trash("y", before=time.time())
        await a.drain()
        before = await contents(hosts.store)
        dry = await collect(hosts, a, now=later(WEEK + 1), dry_run=True)
        assert await contents(hosts.store) == before
        assert dry.emptied == 1
        assert dry.segments > 0
        assert (await collect(hosts, a, now=later(WEEK + 1))).emptied == 1


@pytest.mark.parametrize("prefix", ["manifests/", "segments/"])
@pytest.mark.parametrize("nth", [1, 2, 3])
async def test_a_listing_that_fails_ends_the_collection(prefix: str, nth: int, tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore(page_size=2))
    async with await trash_hosts(store, tmp_path) as hosts:
        a = await hosts.start("a")
        for path in ("p", "q", "r", "s", "t", "u"):
            await write(a, path, CONTENT + path.encode())
        await a.remove("q")
        before = await contents(store)
        store.add(Rule(FailBefore(), "list", prefix, nth=nth))
        with pytest.raises(StoreUnavailable):
            await collect(hosts, a)
        assert await contents(store) == before
        assert (await audit(store.inner)).exact


async def test_what_cannot_be_read_is_kept(tmp_path: Path) -> None:
    async with await trash_hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        await write(a, "x", CONTENT)
        await a.remove("x")
        damaged = {
            manifest_key("broken"): b"no manifest",
            segment_key("ab" * 32): b"no record",
            "segments/aa/odd": b"",
            "manifests/odd": b"",
        }
        for key, body in damaged.items():
            await hosts.store.put(key, body)
        collected = await collect_garbage(hosts.store, a, grace=0, trash=0)
        assert {kept.key for kept in collected.kept} == set(damaged)
        assert all(kept.reason for kept in collected.kept)
        assert collected.emptied == 1  # the others are not kept by it
        assert {key: (await contents(hosts.store))[key] for key in damaged} == damaged


async def test_a_tombstone_whose_pages_cannot_be_read_is_kept(tmp_path: Path) -> None:
    store = MemoryStore()
    short = SegmenterParameters(minimum=4 << 10, target=5 << 10, maximum=6 << 10)
    descriptor = await create_descriptor(store, segmenter=short, trash_seconds=WEEK)
    async with Hosts(store, tmp_path, descriptor=descriptor) as hosts:
        a = await hosts.start("a")
        snapshot = await write(a, "x", noise(8_000_000))
        pages = [reference for reference in snapshot.top_references if reference.level > 0]
        assert pages
        await a.remove("x")
        before = (await contents(hosts.store, "manifests/"))[manifest_key("x")]
        body = (await contents(hosts.store, segment_key(pages[0].digest)))[segment_key(pages[0].digest)]
        await hosts.store.put(segment_key(pages[0].digest), body[:-1] + b"?")
        fresh = await hosts.start("b")  # has no page in its cache
        collected = await collect_garbage(hosts.store, fresh, grace=0, trash=0)
        assert [kept.key for kept in collected.kept] == [manifest_key("x"), segment_key(pages[0].digest)][:1]
        assert (await contents(hosts.store, "manifests/"))[manifest_key("x")] == before
        assert collected.segments == 0


@pytest.mark.parametrize("kind", ["memory", "file"])
async def test_collections_race_with_writers_and_lose(kind: str, tmp_path: Path) -> None:
    """Three hosts store, drop and store again the same segments while two others collect without any grace."""
    (tmp_path / "store").mkdir()
    store: ObjectStore = MemoryStore() if kind == "memory" else FileStore(tmp_path / "store")
    bodies = [SHARED + log_lines(150, seed) for seed in (5, 6)] + [noise(600_000, 3)]
    freed = 0
    async with Hosts(store, tmp_path / "hosts", deadline=30.0) as hosts:
        writers = [await hosts.start(name) for name in "abc"]
        collectors = [await hosts.start(name) for name in "de"]

        async def store_and_drop(vault: Vault, name: str) -> None:
            for step in range(12):
                body = bodies[step % len(bodies)]
                await write(vault, name, body)
                assert await read(vault, name) == body
                if step % 4 == 3:
                    await vault.rename(name, name + "'")
                    await vault.rename(name + "'", name)
                await vault.remove(name)
                await vault.drain()
            await write(vault, name, bodies[0])

        async def collect_on(vault: Vault) -> None:
            nonlocal freed
            while True:
                freed += (await collect(hosts, vault)).segments

        async with trio.open_nursery() as collecting:
            for vault in collectors:
                collecting.start_soon(collect_on, vault)
            async with trio.open_nursery() as writing:
                for name, vault in zip("xyz", writers, strict=True):
                    writing.start_soon(store_and_drop, vault, name)
            collecting.cancel_scope.cancel()
        assert freed > 0, "nothing was collected: the race did not take place"
        fresh = await hosts.start("f")
        for name in "xyz":
            assert await read(fresh, name) == bodies[0]
        for vault in writers:
            assert await vault.drain() == 0
        result = await audit(store)
        assert result.safe
        assert not result.too_high


@pytest.mark.parametrize("collected", [False, True])
@pytest.mark.parametrize("stalled", ["manifests/*", "segments/*", "blobs/*"])
async def test_a_writer_that_sleeps_through_a_collection_loses_nothing(
    stalled: str, collected: bool, tmp_path: Path
) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write(b, "old", BULKY)
        await b.remove("old")
        await b.drain()
        if collected:
            await collect(hosts, b)
        elif stalled == "blobs/*":
            stalled = "segments/*"  # payloads that are still there are not uploaded again
        async with store.held("put", stalled, write, a, "x", BULKY):
            await collect(hosts, b)
            await collect(hosts, b)
        assert await read(await hosts.start("c"), "x") == BULKY
        await a.drain()
        assert (await audit(store.inner)).exact


async def test_a_collector_that_sleeps_kills_nothing_that_came_back(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write(a, "x", CONTENT)
        await a.remove("x")
        await a.drain()
        stall = Stall()
        store.add(Rule(stall, "put", "segments/*", times=None))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect, hosts, b)
            await stall.reached.wait()
            store.rules.clear()
            await write(a, "x", CONTENT)
            stall.go.set()
        assert await read(await hosts.start("c"), "x") == CONTENT
        assert (await audit(store.inner)).exact


@pytest.mark.parametrize("trouble", TROUBLE)
async def test_a_collection_that_crashes_leaves_counts_exact(trouble: str, tmp_path: Path) -> None:
    """Trouble at the first, second, … request of a collection that empties the trash and frees what it held."""
    for nth in range(1, 200):
        if not await _collect_with_trouble(trouble, nth, tmp_path / str(nth)):
            assert nth > 10
            return
    raise AssertionError("a collection makes no end of requests")


async def _collect_with_trouble(trouble: str, nth: int, directory: Path) -> bool:
    store = FaultyStore(MemoryStore())
    async with await trash_hosts(store, directory) as hosts:
        a = await hosts.start("a")
        await write(a, "x", CONTENT)
        await write(a, "y", BULKY)
        await write(a, "kept", SHARED)
        await a.remove("x")
        await a.remove("y")
        await a.drain()
        action = TROUBLE[trouble]()
        rule = store.add(Rule(action, nth=nth))
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                try:
                    await collect_garbage(store, a, grace=0, trash=0)
                except StoreError:
                    return
                nursery.cancel_scope.cancel()

            nursery.start_soon(run)
            if isinstance(action, Stall | StallAfter):
                await action.reached.wait()
                await trio.sleep(0.02)
                nursery.cancel_scope.cancel()
        await hosts.crash("a")
        happened = rule.seen >= nth
        store.rules.clear()
        a = await hosts.start("a")
        assert await a.drain(10) == 0
        await store.carry_out_late()
        result = await audit(store.inner)
        assert result.safe, (trouble, nth, result)
        assert not result.too_high, (trouble, nth, result)
        assert await read(await hosts.start("b"), "kept") == SHARED
        # What leaked is found and removed, and then collected.
        assert hosts.descriptor is not None
        checked = await Checker(store, hosts.descriptor, exclusive=True).run()
        outcomes = await repair(store, hosts.descriptor, checked, exclusive=True, deadline=DEADLINE)
        assert all(outcome.left is None for outcome in outcomes), outcomes
        await collect_garbage(store, a, grace=0, trash=0)
        assert (await audit(store.inner)).exact
        assert not await contents(store.inner, "blobs/")
        return happened


async def test_traces_are_removed_when_nobody_can_ask_for_them(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        await write(a, "x", CONTENT)
        await write(a, "kept", SHARED)
        await a.remove("x")
        await a.drain()
        await collect(hosts, a)
        before = await contents(hosts.store)

        async def remove(now: Callable[[], float], *, dry_run: bool = False) -> Collected:
            return await collect_garbage(hosts.store, a, grace=0, exclusive=True, now=now, dry_run=dry_run)

        assert (await remove(later(FORGOTTEN_AFTER))).removed == 0
        assert (await collect(hosts, a, now=later(2 * FORGOTTEN_AFTER))).removed == 0
        expected = (await remove(later(2 * FORGOTTEN_AFTER), dry_run=True)).removed
        assert await contents(hosts.store) == before
        assert (await remove(later(2 * FORGOTTEN_AFTER))).removed == expected > 1
        after = await contents(hosts.store)
        assert manifest_key("x") not in after
        assert len(before) - len(after) == expected
        result = await audit(hosts.store)
        assert result.exact
        assert result.segments == len(after.keys() & {key for key in after if key.startswith("segments/")})
        # A host that remembers the tombstone takes the name again.
        await write(a, "x", CONTENT)
        await append(a, "x", b"more")
        assert await read(await hosts.start("b"), "x") == CONTENT + b"more"
        await a.drain()
        assert (await audit(hosts.store)).exact


async def test_a_host_that_comes_back_after_its_trace_was_removed_does_not_release_again(tmp_path: Path) -> None:
    """Its release happened, was forgotten with the record, and then somebody stored the segment again."""
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        await write(a, "x", CONTENT)
        key = next(iter(await contents(hosts.store, "segments/")))
        long_ago = f"{int((time.time() - FORGOTTEN_AFTER - 60) * 1000):012x}" + "7" + "0" * 19
        assert first_ring().verdict(long_ago) is Verdict.UNKNOWN
        await a.counts.release(long_ago, digest_of_segment(key), retried=True)
        assert (await audit(hosts.store)).exact
        await a.counts.undo(long_ago, "cd" * 32, retried=True)  # where there is no record at all
        assert (await audit(hosts.store)).exact


async def test_a_blob_is_deleted_with_its_record(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a = await hosts.start("a")
        await write(a, "x", BULKY)
        (blob, *_) = await contents(store, "blobs/")
        await a.remove("x")
        await a.drain()
        await collect(hosts, a)
        assert not await contents(store, "blobs/")
        deleted = [request.key for request in store.log if request.operation == "delete"]
        digest, revision = blob.split("/")[2:]
        assert blob_key(digest, revision) in deleted
