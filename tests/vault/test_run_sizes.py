"""Large runs: where they are cut, what they save, and that whatever is done to a long conversation keeps its bytes."""

import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stowfs import codec
from stowfs.conversation.segmenter import DEFAULT_PARAMETERS, SegmenterParameters
from stowfs.store.base import ObjectStore
from stowfs.store.memory import MemoryStore
from stowfs.vault import cutting
from stowfs.vault import record as records
from stowfs.vault.compact import compact_store
from stowfs.vault.descriptor import create_descriptor
from stowfs.vault.manifest import Snapshot
from stowfs.vault.naming import segment_key
from stowfs.vault.run_sizes import END, LARGER, RunSizes
from stowfs.vault.vault import Vault
from tests.support.audit import audit
from tests.support.faults import FaultyStore
from tests.support.vaults import Hosts, append, edit, read, read_in_steps, write
from tests.vault.test_promises import log_lines, noise

TINY = SegmenterParameters(minimum=64, target=256, maximum=1024)
"""So that a conversation of some 40 KB has large runs."""

TINY_END = END * LARGER * TINY.maximum

LARGE_AT_LEAST = LARGER * DEFAULT_PARAMETERS.minimum


@asynccontextmanager
async def tiny_hosts(store: ObjectStore, directory: Path) -> AsyncIterator[Hosts]:
    """Hosts of a store that cuts tiny runs."""
    descriptor = await create_descriptor(store, segmenter=TINY, trash_seconds=0)
    async with Hosts(store, directory, descriptor=descriptor) as hosts:
        yield hosts


async def grown(vault: Vault) -> bytes:
    """What is in `session`, which has grown line by line: stored in one go, so much would have large runs."""
    content = b""
    await write(vault, "session", content)
    for number in range(80):
        turn = log_lines(1, seed=number)
        await append(vault, "session", turn)
        content += turn
    await vault.drain()
    return content


def sizes(snapshot: Snapshot) -> list[int]:
    """The sizes of the pieces of a version, of which none is a page."""
    assert all(reference.level == 0 for reference in snapshot.top_references)
    return [piece if isinstance(piece, int) else piece.size for piece in snapshot.manifest.pieces]


@pytest.mark.parametrize("size", [0, 1, DEFAULT_PARAMETERS.maximum, END * LARGER * DEFAULT_PARAMETERS.maximum])
def test_what_is_not_long_has_small_runs_only(size: int) -> None:
    found = RunSizes.of(DEFAULT_PARAMETERS, size)
    assert found.large_until == 0
    assert found.at(0).parameters == DEFAULT_PARAMETERS
    assert found.at(0).end == found.at(0).needed == size


def test_large_runs_begin_before_the_end_of_what_is_long() -> None:
    found = RunSizes.of(DEFAULT_PARAMETERS, 100 << 20)
    assert found.large_until == 92 << 20
    assert found.at(found.large_until - 1).parameters.maximum == 2 << 20
    assert found.at(found.large_until).parameters == DEFAULT_PARAMETERS
    assert found.at(0).needed < found.size
    assert found.only_small().at(0).parameters == DEFAULT_PARAMETERS


def test_no_run_is_larger_than_a_segment_may_be() -> None:
    largest = SegmenterParameters(1 << 20, 2 << 20, records.RAW_LIMIT)
    assert RunSizes.of(largest, 1 << 30).at(0).parameters == largest
    middle = SegmenterParameters(256 << 10, 512 << 10, 1 << 20)
    assert RunSizes.of(middle, 1 << 30).at(0).parameters.maximum == records.RAW_LIMIT


async def test_a_long_conversation_takes_few_objects(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a = await hosts.start("a")
        session = log_lines(40_000)
        snapshot = await write(a, "session", session)
        await a.drain()
        long = [size for size in sizes(snapshot) if size >= LARGE_AT_LEAST]
        assert sum(long) > len(session) - (10 << 20)
        assert len(long) < sum(long) >> 20
        # The end is cut as before, so that an append costs as little.
        assert max(sizes(snapshot)[-8:]) <= DEFAULT_PARAMETERS.maximum
        assert store.count("put", "segments") < len(session) >> 18
        # Before a large one is sent, it is asked for, once.
        assert store.count("get", "segments") == store.count("put", "blobs") > 0
        assert await read(await hosts.start("b"), "session") == session
        assert (await audit(store.inner)).exact


@pytest.mark.parametrize("memory", [64 << 20, 1 << 20])
async def test_a_cold_sequential_read_asks_for_each_large_segment_once(tmp_path: Path, memory: int) -> None:
    """Its blob, also where one segment is more than the memory for all."""
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        session = log_lines(30_000)
        snapshot = await write(await hosts.start("a"), "session", session)
        b = await hosts.start("b", memory_cache_size=memory)
        store.reset_log()
        assert await read_in_steps(b, "session", 128 << 10) == session
        assert store.count("get", "segments") + store.count("get", "blobs") == len(snapshot.top_references)
        # Which of them are redirected, their compressed sizes decide.
        large = sum(reference.size >= LARGE_AT_LEAST for reference in snapshot.top_references)
        assert large // 2 < store.count("get", "blobs") <= large
        assert b.segments.counts.disk_hits == 0


async def test_cuts_do_not_depend_on_how_much_is_cut_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    session = log_lines(300) + noise(100_000) + log_lines(100, seed=2)
    cut = []
    async with tiny_hosts(store, tmp_path) as hosts:
        for window in (1 << 10, 50_000, 1 << 20):
            monkeypatch.setattr(cutting, "WINDOW", window)
            monkeypatch.setattr(cutting, "LEAST_WINDOW", window)
            vault = await hosts.start(f"host{window}")
            snapshot = await write(vault, f"session{window}", session)
            cut.append(sizes(snapshot))
        assert cut[0] == cut[1] == cut[2]
        assert max(cut[0]) > TINY.maximum


async def test_a_longer_version_is_cut_like_a_shorter_one_up_to_where_its_large_runs_end(tmp_path: Path) -> None:
    store = MemoryStore()
    session = log_lines(400)
    async with tiny_hosts(store, tmp_path) as hosts:
        short = sizes(await write(await hosts.start("a"), "short", session[:200_000]))
        long = sizes(await write(await hosts.start("b"), "long", session))
        last = max(index for index, size in enumerate(short) if size > TINY.maximum)
        assert sum(short[:last]) > 200_000 - 2 * TINY_END
        assert short[: last + 1] == long[: last + 1]


async def test_a_session_that_grew_line_by_line_is_copied_over_itself_without_a_write(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with tiny_hosts(store, tmp_path) as hosts:
        a = await hosts.start("a")
        session = await grown(a)
        before = await a.head("session")
        assert before.size > TINY_END + 20_000
        assert max(sizes(before)) <= TINY.maximum
        store.reset_log()
        again = await write(a, "session", session, before)
        assert again.etag == before.etag
        assert store.count("put") == 0
        assert again.manifest.facts == before.manifest.facts
        # What was added is all that is stored of a longer copy, and messages are counted as ever.
        longer = session + log_lines(3, seed=500)
        after = await write(a, "session", longer, before)
        assert store.bytes_sent() < 20_000
        assert after.manifest.facts.messages == 83
        assert sizes(after)[: len(sizes(before)) - 1] == sizes(before)[:-1]
        assert await read(await hosts.start("b"), "session") == longer
        await a.drain()
        assert (await audit(store.inner)).exact


async def test_a_copy_that_differs_at_its_beginning_is_cut_anew(tmp_path: Path) -> None:
    store = MemoryStore()
    async with tiny_hosts(store, tmp_path) as hosts:
        a = await hosts.start("a")
        session = await grown(a)
        other = session.replace(b"order", b"Order", 1)
        after = await write(a, "session", other, await a.head("session"))
        assert max(sizes(after)) > TINY.maximum
        assert await read(await hosts.start("b"), "session") == other
        await a.drain()
        assert (await audit(store)).exact


async def test_what_is_stored_in_small_segments_is_not_stored_again_in_large_ones(tmp_path: Path) -> None:
    """A session that is copied under another name each day has, of yesterday's end, what it is made of."""
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a = await hosts.start("a")
        session = log_lines(20_000)
        days = [await write(a, f"day{day}", session[: (10 + 2 * day) << 20]) for day in range(3)]
        assert max(sizes(days[0])) >= LARGE_AT_LEAST
        for earlier, later in itertools.pairwise(days):
            kept = set(later.top_references)
            # But for where a large run would end in the middle of a small one.
            assert sum(r.size for r in earlier.top_references if r not in kept) <= DEFAULT_PARAMETERS.maximum
        await a.drain()
        assert await read(await hosts.start("b"), "day2") == session[: 14 << 20]
        assert (await audit(store.inner)).exact


@pytest.mark.parametrize("grown", [False, True])
async def test_an_edit_inside_a_long_conversation_stores_one_run_as_large_as_the_old_one(
    tmp_path: Path, grown: bool
) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a = await hosts.start("a")
        session = log_lines(30_000)
        begun = len(session) if not grown else 0
        await write(a, "session", session[:begun])
        for start in range(begun, len(session), 4 << 20):
            await append(a, "session", session[start : start + (4 << 20)])
        await a.drain()
        middle = (await a.head("session")).size // 3
        store.reset_log()
        before = set((await a.head("session")).top_references)
        after = await edit(a, "session", middle, b"#")
        stored = [reference for reference in after.top_references if reference not in before]
        assert len(stored) <= 2
        assert (stored[0].size < LARGE_AT_LEAST) is grown
        expected = session[:middle] + b"#" + session[middle + 1 :]
        assert await read(await hosts.start("b"), "session") == expected
        await a.drain()
        assert (await audit(store.inner)).exact


async def test_large_segments_are_compressed_without_a_dictionary_and_compacted_once(tmp_path: Path) -> None:
    store = MemoryStore()
    async with Hosts(store, tmp_path) as hosts:
        a = await hosts.start("a")
        made = codec.train([log_lines(20, seed=number) for number in range(100)], 20_000)
        assert made is not None
        assert await a.dictionaries.publish(made, deadline=5.0)
        snapshot = await write(a, "session", log_lines(20_000))
        await a.drain()
        small_with = 0
        for reference in snapshot.top_references:
            found = await store.get(segment_key(reference.digest))
            header = records.decode(reference.digest, found.body).header
            assert header.dictionary == (made.name if reference.size <= codec.TYPICAL else None)
            small_with += header.dictionary is not None
        assert 0 < small_with < len(snapshot.top_references)
        first = await compact_store(store, a, train=False)
        assert first.segments > 0
        again = await compact_store(store, a, train=False)
        assert (again.conversations, again.segments) == (0, 0)
        assert await read(await hosts.start("b"), "session") == log_lines(20_000)


changes = st.lists(
    st.tuples(
        st.sampled_from(["replace", "append", "edit", "truncate", "copy"]),
        st.integers(0, 2**32),
        st.integers(0, 3 * TINY_END),
    ),
    min_size=1,
    max_size=6,
)


@given(changes)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whatever_is_done_to_a_long_conversation_keeps_its_bytes(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    store = MemoryStore()
    async with tiny_hosts(store, tmp_path_factory.mktemp("hosts")) as hosts:
        a = await hosts.start("a")
        expected = log_lines(100)
        await write(a, "x", expected)
        for kind, seed, place in steps:
            rng = random.Random(seed)
            data = log_lines(rng.randint(1, 60), seed) if seed % 3 else noise(rng.randint(1, 2 * TINY_END), seed)
            place = min(place, len(expected))
            base = await a.head("x")
            match kind:
                case "replace":
                    expected = data
                    await write(a, "x", expected, base)
                case "copy":
                    expected = expected[:place] + data + expected[place:]
                    await write(a, "x", expected, base)
                case "append":
                    expected += data
                    await append(a, "x", data)
                case "edit":
                    expected = expected[:place] + data + expected[place + len(data) :]
                    await edit(a, "x", place, data)
                case "truncate":
                    expected = expected[:place]
                    draft = a.draft("x", base, base.attributes)
                    draft.truncate(place)
                    await a.commit(draft)
                    draft.discard()
            assert await read(a, "x") == expected
        await a.drain()
        assert await read(await hosts.start("b"), "x") == expected
        assert (await audit(store)).exact
