"""What things cost in requests and bytes: the budgets, counted at the store."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from stowfs.hot.buffer import ENTRIES
from stowfs.hot.known import ASKED_FROM
from stowfs.store.memory import MemoryStore
from tests.support.audit import audit
from tests.support.corpus import samples
from tests.support.faults import Delay, FaultyStore, Rule
from tests.support.vaults import ATTRIBUTES, Hosts, append, read, read_in_steps, write
from tests.vault.test_promises import log_lines, noise


async def test_a_small_new_conversation_is_one_put(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a = await hosts.start("a")
        await a.make_directory("new", ATTRIBUTES)
        small = [path.read_bytes()[: 64 << 10] for path in samples()] + [noise(64 << 10), b"", log_lines(60)]
        for number, data in enumerate(small):
            # With an index of its own, nothing is known to be shared.
            vault = await hosts.start(f"host{number}")
            # As who creates a file does.
            await vault.head("new")
            store.reset_log()
            await write(vault, f"new/{number}", data)
            await vault.drain()
            assert store.counts() == {("put", "manifests"): 1}, number
        assert await read(a, "new/0") == small[0]


async def test_small_new_conversations_change_threads_in_batches_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To change to another thread and back takes longer than all that a small conversation has to do there."""
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        vault = await hosts.start("a")
        for number in range(2 * ASKED_FROM):
            await write(vault, f"first/{number}", noise(2000, seed=number))
        changes: list[object] = []
        original = trio.to_thread.run_sync

        async def counted(function: Callable[..., object], *arguments: object, **options: Any) -> object:
            changes.append(function)
            return await original(function, *arguments, **options)

        monkeypatch.setattr(trio.to_thread, "run_sync", counted)
        for number in range(2 * ENTRIES):
            await write(vault, f"next/{number}", noise(2000, seed=1000 + number))
        # Manifests and sightings, each in two or three batches.
        assert 0 < len(changes) <= 6


async def test_an_append_to_a_long_session_is_cheap(tmp_path: Path) -> None:
    """50 MB: less than 256 KiB and at most three requests a turn, one of them the revalidation."""
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a = await hosts.start("a")
        session = log_lines(66_000)
        assert len(session) > 50_000_000
        await write(a, "session", session)
        rng = random.Random(5)
        for number in range(60):
            turn = log_lines(rng.randint(1, 4), seed=1000 + number)
            store.reset_log()
            await append(a, "session", turn)
            await a.drain()
            assert store.bytes_sent() < 256 << 10, number
            assert len(store.log) <= 3, store.counts()
            session += turn
        assert await read(await hosts.start("b"), "session") == session
        assert (await audit(store.inner)).exact


async def test_an_append_reads_nothing_of_what_was_there(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        await write(await hosts.start("a"), "session", log_lines(20_000))
        b = await hosts.start("b")
        store.reset_log()
        await append(b, "session", b"one more\n")
        assert store.count("get", "segments") == 0
        assert store.count("get", "blobs") == 0


async def test_reading_a_cached_unchanged_conversation_again_makes_no_request(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path, revalidate=3600.0) as hosts:
        a = await hosts.start("a")
        data = log_lines(5000)
        await write(a, "x", data)
        assert await read(a, "x") == data
        store.reset_log()
        assert await read(a, "x") == data
        assert store.log == []


async def test_reading_again_costs_one_revalidation_where_every_open_asks(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a = await hosts.start("a")
        data = log_lines(5000)
        await write(a, "x", data)
        await read(a, "x")
        for _ in range(2):  # from memory, and after a restart from the hot tier
            store.reset_log()
            assert await read(a, "x") == data
            assert [(request.operation, request.key_class, request.received) for request in store.log] == [
                ("get", "manifests", 0)
            ]
            await hosts.crash("a")
            a = await hosts.start("a")


async def test_a_cold_read_fetches_the_manifest_and_each_segment_once(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        data = log_lines(20_000)
        snapshot = await write(await hosts.start("a"), "x", data)
        b = await hosts.start("b")
        store.reset_log()
        assert await read_in_steps(b, "x", 100_000) == data
        segments = {reference.digest for reference in snapshot.top_references}
        assert segments > set(snapshot.blobs) > set()  # Some are large.
        assert store.counts() == {
            ("get", "manifests"): 1,
            ("get", "segments"): len(segments) - len(snapshot.blobs),
            ("get", "blobs"): len(snapshot.blobs),
        }


async def test_committing_the_same_bytes_under_other_names_stores_them_once(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a = await hosts.start("a")
        data = log_lines(10_000)
        await write(a, "one", data)
        first = sum(info.size for page in [p async for p in store.inner.list("")] for info in page.objects)
        for number in range(4):
            await write(a, f"copy{number}", data)
        total = sum(info.size for page in [p async for p in store.inner.list("")] for info in page.objects)
        assert total < first * 1.25
        assert (await audit(store.inner)).exact


async def test_a_shared_system_prompt_is_stored_once(tmp_path: Path) -> None:
    """Conversations that differ in everything but a long system prompt."""
    store = FaultyStore(MemoryStore())
    prompt = log_lines(60, seed=99).hex()[:40_000]
    async with Hosts(store, tmp_path) as hosts:
        a = await hosts.start("a")
        for number in range(20):
            body = b'{"messages": [{"role": "system", "content": "%s"}, {"role": "user", "content": "%s"}]}' % (
                prompt.encode(),
                noise(2000, number).hex().encode(),
            )
            await write(a, f"c{number}", body)
        objects = [info async for page in store.inner.list("segments/") for info in page.objects]
        assert len(objects) == 1
        manifests = [info.size async for page in store.inner.list("manifests/") for info in page.objects]
        assert sorted(manifests)[-2] < 4000  # all but the first, which could not know, hold their own words only


async def test_concurrent_changes_of_one_count_are_grouped(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a = await hosts.start("a")
        data = log_lines(400)
        await write(a, "first", data)
        await write(a, "second", data)
        # Long enough for all of them to come while the first is under way.
        store.add(Rule(Delay(1.0), "put", "segments/*", times=None))
        store.reset_log()
        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(write, a, f"c{number}", data)
        segments = len([info async for page in store.inner.list("segments/") for info in page.objects])
        assert store.count("put", "segments") <= 40 * segments // 4
        assert (await audit(store.inner)).exact
