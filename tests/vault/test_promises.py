"""The promises of the design (§8) at the level of the vault, one test a line."""

import os
import random
from pathlib import Path

import pytest
import trio

from stowfs.errors import CorruptObject, NoSuchPath, PathExists, StoreUnavailable
from stowfs.store.memory import MemoryStore
from stowfs.vault.vault import Vault
from tests.support.audit import audit
from tests.support.corpus import samples
from tests.support.faults import FailBefore, FaultyStore, Rule
from tests.support.vaults import ATTRIBUTES, Hosts, append, edit, read, write


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def log_lines(count: int, seed: int = 1) -> bytes:
    """JSONL that compresses about as real sessions do."""
    rng = random.Random(seed)
    words = ["refund", "order", "please", "the", "customer", "asks", "because", "of", "a", "late", "delivery", "in"]
    return b"".join(
        b'{"type":"user","uuid":"%s","message":{"role":"user","content":"%s"}}\n'
        % (rng.randbytes(16).hex().encode(), " ".join(rng.choices(words, k=120)).encode())
        for _ in range(count)
    )


async def test_1_what_was_read_back_equals_what_was_written(tmp_path: Path) -> None:
    contents = {f"samples/{path.name}": path.read_bytes() for path in samples()}
    contents |= {f"sizes/{size}": noise(size, size) for size in (0, 1, 4095, 65536, 65537, 300_000, 9_000_000)}
    contents |= {"zeros": bytes(3_000_000), "lines": log_lines(20_000), "odd/na me\udcff%.json/ü": b"\x00\xff"}
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        for path, data in contents.items():
            await write(a, path, data)
        for path, data in contents.items():
            assert await read(a, path) == data, path
        await hosts.crash("a")
        for name in ("a", "b"):  # after a restart, and on a host with an empty hot tier
            vault = await hosts.start(name)
            for path, data in contents.items():
                assert await read(vault, path) == data, path
            snapshot = await vault.head("lines")
            assert await vault.read(snapshot, 1_000_003, 1_300_001) == contents["lines"][1_000_003:1_300_001]
            assert await vault.read(snapshot, snapshot.size - 5, snapshot.size + 5) == contents["lines"][-5:]
        assert (await audit(hosts.store)).exact


async def test_2_a_commit_that_returned_survives_a_crash(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        await write(a, "x", log_lines(3000))
        await hosts.crash("a")
        assert await read(await hosts.start("b"), "x") == log_lines(3000)


async def test_3_an_open_after_another_hosts_commit_sees_its_bytes(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        for turn in range(6):
            writer, reader = (a, b) if turn % 2 else (b, a)
            if turn:
                await append(writer, "x", b"turn %d\n" % turn)
            else:
                await write(writer, "x", b"turn 0\n")
            assert await read(reader, "x") == b"".join(b"turn %d\n" % n for n in range(turn + 1))
        await a.remove("x")
        with pytest.raises(NoSuchPath):
            await b.head("x")


async def test_4_an_open_snapshot_keeps_its_version(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        old, new = log_lines(8000, seed=1), log_lines(8000, seed=2)
        await write(a, "x", old)
        opened = await b.head("x")
        await write(a, "x", new, await a.head("x"))
        assert await b.read(opened, 0, opened.size) == old
        assert await read(b, "x") == new


async def test_5_exclusive_creation_has_exactly_one_winner(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        vaults = [await hosts.start(name) for name in "abcd"]
        for attempt in range(5):
            winners: list[int] = []

            async def claim(index: int, path: str, winners: list[int]) -> None:
                try:
                    await write(vaults[index], path, b"%d" % index, exclusive=True)
                    winners.append(index)
                except PathExists:
                    pass  # what a loser is told

            async with trio.open_nursery() as nursery:
                for index in range(len(vaults)):
                    nursery.start_soon(claim, index, f"lock{attempt}", winners)
            assert len(winners) == 1
            assert await read(vaults[0], f"lock{attempt}") == b"%d" % winners[0]
            await vaults[0].remove(f"lock{attempt}")
            await write(vaults[1], f"lock{attempt}", b"again", exclusive=True)


async def test_5_rename_without_replacement_refuses_a_taken_name(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write(a, "x", b"x")
        await write(b, "y", b"y")
        with pytest.raises(PathExists):
            await a.rename("x", "y", replace=False)
        assert (await read(b, "x"), await read(b, "y")) == (b"x", b"y")
        await a.rename("x", "z", replace=False)
        assert await read(b, "z") == b"x"


async def test_6_collection_never_takes_what_is_referenced(tmp_path: Path) -> None:
    """A collector with no grace at all runs against writers that store, drop and store again the same segment."""
    data = log_lines(3000)
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b, c = [await hosts.start(name) for name in "abc"]
        collected = 0
        done = trio.Event()

        async def writer(name: str) -> None:
            vault = a if name == "a" else b
            for _ in range(15):
                await write(vault, name, data)
                assert await read(vault, name) == data
                await vault.remove(name)
                await vault.drain()
            await write(vault, name, data)

        async def collector() -> None:
            nonlocal collected
            while not done.is_set():
                pages = [page async for page in hosts.store.list("segments/")]
                for info in (info for page in pages for info in page.objects):
                    collected += await c.counts.collect(info.key.rpartition("/")[2], before=float("inf"))
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(collector)
            async with trio.open_nursery() as writers:
                writers.start_soon(writer, "a")
                writers.start_soon(writer, "b")
            done.set()
        assert collected > 0
        fresh = await hosts.start("fresh")
        assert await read(fresh, "a") == await read(fresh, "b") == data
        await a.drain()
        await b.drain()
        assert (await audit(hosts.store)).exact


async def _read_or_error(vault: Vault, path: str) -> bytes | Exception:
    try:
        return await read(vault, path)
    except (CorruptObject, NoSuchPath) as error:
        return error


async def test_8_corrupt_or_missing_bytes_are_an_error_never_data(tmp_path: Path) -> None:
    data = log_lines(3000)
    store = MemoryStore()
    async with Hosts(store, tmp_path) as hosts:
        contents = {"x": data, "small": b"intact " * 100}
        for path, content in contents.items():
            await write(await hosts.start(f"writer of {path}"), path, content)
        keys = [info.key async for page in store.list("") for info in page.objects if info.key != "stowfs.json"]
        assert len([key for key in keys if key.startswith("segments/")]) >= 2
        for number, key in enumerate(keys):
            found = await store.get(key)
            body = found.body  # type: ignore[union-attr]
            middle = len(body) // 2
            damages = [body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :], body[:-1], b"", None]
            for kind, damage in enumerate(damages):
                if damage is None:
                    await store.delete(key)
                else:
                    await store.put(key, damage)
                host = f"reader{number}-{kind}"
                reader = await hosts.start(host)
                for path, content in contents.items():
                    damaged = path == "small" if "small" in key else path == "x"
                    outcome = await _read_or_error(reader, path)
                    assert outcome == content or damaged
                    if damaged and kind < 3:
                        assert isinstance(outcome, CorruptObject), (key, kind)
                    elif damaged:
                        assert isinstance(outcome, CorruptObject if "segments" in key else NoSuchPath)
                await hosts.crash(host)
            await store.put(key, body)


async def test_8_a_damaged_cache_is_fetched_again(tmp_path: Path) -> None:
    data = log_lines(3000)
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        await write(await hosts.start("a"), "x", data)
        assert await read(await hosts.start("b"), "x") == data
        await hosts.crash("b")
        cached = [path for path in (tmp_path / "b" / "cache").rglob("*") if path.is_file() and len(path.name) >= 60]
        assert cached
        for path in cached:
            os.truncate(path, path.stat().st_size - 3)
        assert await read(await hosts.start("b"), "x") == data


async def test_9_with_the_store_down_cached_versions_read_and_writes_fail_clearly(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path, deadline=0.3) as hosts:
        a = await hosts.start("a")
        await write(a, "x", log_lines(3000))
        opened = await a.head("x")
        assert await a.read(opened, 0, opened.size) == log_lines(3000)
        store.down = True
        assert await a.read(opened, 0, opened.size) == log_lines(3000)
        with pytest.raises(StoreUnavailable):
            await a.head("x")
        draft = a.draft("x", opened, ATTRIBUTES)
        draft.write(opened.size, b"more")
        with pytest.raises(StoreUnavailable):
            await a.commit(draft)
        store.down = False
        await a.commit(draft)
        assert await read(a, "x") == log_lines(3000) + b"more"


async def test_9_an_unreachable_store_is_not_an_empty_one(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a = await hosts.start("a")
        await a.make_directory("d", ATTRIBUTES)
        for number in range(5):
            await write(a, f"d/{number}", b"x")
        store.add(Rule(FailBefore(), "list", "manifests/*"))
        with pytest.raises(StoreUnavailable):
            await a.list_directory("d")


async def test_10_a_hostile_object_cannot_claim_memory(tmp_path: Path) -> None:
    """A frame that claims a terabyte is refused before anything is allocated for it."""
    store = MemoryStore()
    async with Hosts(store, tmp_path) as hosts:
        a = await hosts.start("a")
        # A zstd frame header: magic, single segment with an 8-byte content size, and the claim.
        bomb = bytes.fromhex("28b52ffde0") + (1 << 40).to_bytes(8, "little") + b"\x01\x00\x00"
        await store.put("manifests/bomb.json", bomb)
        with pytest.raises(CorruptObject):
            await a.head("bomb")
        assert await a.list_directory("") == []


async def test_edits_appends_and_truncations_leave_the_rest_alone(tmp_path: Path) -> None:
    rng = random.Random(7)
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        for name, content in (("lines", log_lines(4000)), ("noise", noise(1_500_000)), ("small", b"short\n" * 9)):
            model = bytearray(content)
            await write(a, name, content)
            for step in range(25):
                base = await a.head(name)
                draft = a.draft(name, base, ATTRIBUTES)
                for _ in range(rng.randint(1, 3)):
                    match rng.randrange(4):
                        case 0:
                            new = rng.randrange(len(model) + 5000)
                            draft.truncate(new)
                            model[:] = model[:new].ljust(new, b"\0")
                        case 1:
                            data = log_lines(rng.randint(1, 400), seed=step)
                            draft.write(len(model), data)
                            model += data
                        case _:
                            offset = rng.randrange(len(model) + 2000)
                            data = rng.randbytes(rng.randint(1, 3000))
                            draft.write(offset, data)
                            model[:] = model.ljust(offset, b"\0")
                            model[offset : offset + len(data)] = data
                assert await draft.read(0, len(model) + 10) == model
                await a.commit(draft)
                assert await read(a, name) == model
        await a.drain()
        assert await read(await hosts.start("b"), "lines") == await read(a, "lines")
        assert (await audit(hosts.store)).exact


async def test_an_edit_uploads_only_what_changed(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a = await hosts.start("a")
        data = bytearray(log_lines(60_000))
        await write(a, "x", bytes(data))
        store.reset_log()
        await edit(a, "x", len(data) // 2, b"X" * 100)
        data[len(data) // 2 : len(data) // 2 + 100] = b"X" * 100
        assert store.count("put", "segments") - 2 <= 4  # the runs that changed, and the releases of the old ones
        assert store.bytes_sent() < 1_000_000  # a large run, compressed
        assert await read(await hosts.start("b"), "x") == data
