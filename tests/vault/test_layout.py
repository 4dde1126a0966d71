"""What is fetched ahead of readers, and what is not: of versions with many segments."""

import itertools
import random
import tracemalloc
from pathlib import Path

import pytest
import trio

from stowfs.config import KIB, MIB
from stowfs.conversation.segmenter import DEFAULT_PARAMETERS
from stowfs.store.memory import MemoryStore
from stowfs.vault import manifest as manifests
from stowfs.vault.layout import AHEAD, NEAR, STREAMS, Layout
from stowfs.vault.manifest import Attributes, Manifest, Piece, Reference, Snapshot
from stowfs.vault.ring import Ring, new_id
from stowfs.vault.run_sizes import LARGER
from stowfs.vault.runs import sha256
from tests.support.faults import FaultyStore, Rule, Stall
from tests.support.vaults import Hosts, read_in_steps, write
from tests.vault.test_promises import log_lines, noise

BLOCK = 128 * KIB
"""What the kernel asks for at a time."""

LIMIT = 32

LARGEST_RUN = LARGER * DEFAULT_PARAMETERS.maximum


def layout_of(sizes: list[int]) -> Layout:
    pieces: list[Piece] = [Reference(f"{number:064x}", size) for number, size in enumerate(sizes)]
    manifest = Manifest("c", (), Attributes(0o644, 0, 0, 0, 0), size=sum(sizes), pieces=tuple(pieces))  # type: ignore[arg-type]
    return Layout(Snapshot("x", "e", manifest, b""), pieces)


def ahead(layout: Layout, start: int, size: int) -> list[int]:
    """The numbers of the segments that are fetched ahead after a read."""
    end = min(start + size, layout.starts[-1])
    return [int(piece.digest, 16) for piece in layout.ahead(start, end, layout.covering(start, end)[-1], LIMIT)]


def test_the_window_of_a_sequential_reader_doubles_up_to_its_limit() -> None:
    layout = layout_of([16 * KIB] * 1000)
    windows = [ahead(layout, start, 16 * KIB) for start in range(0, 10 * 16 * KIB, 16 * KIB)]
    assert [len(window) for window in windows] == [2, 4, 8, 16, *[LIMIT] * 6]
    assert [window[0] for window in windows] == list(range(1, 11))
    assert all(window == list(range(window[0], window[0] + len(window))) for window in windows)


@pytest.mark.parametrize(("size", "segments"), [(100, 0), (9000, 0), (100, 500)])
def test_a_version_costs_as_much_as_it_takes(size: int, segments: int) -> None:
    """So that the memory for versions holds no more than that, however small they are."""
    ring = Ring(tuple(new_id() for _ in range(3)))
    pieces = [Reference(f"{number:064x}", 1 << 20) for number in range(segments)]
    inline = random.Random(1).randbytes(size)
    manifest = Manifest(
        ring.recent[-1],
        ring,
        Attributes(0o644, 0, 0, 1, 1),
        size=size + segments * (1 << 20),
        pieces=(*pieces, size),
        inline=size,
        inline_digest=sha256(inline),
    )
    body = manifests.encode(manifest, inline)
    tracemalloc.start()
    try:
        layouts = []
        for number in range(200):
            snapshot = manifests.decode(f"path/{number}", "etag", bytes(bytearray(body)))
            layouts.append(Layout(snapshot, list(snapshot.manifest.pieces)))
            assert layouts[-1].inline_bytes(segments) == inline
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.5 < taken / sum(layout.cost for layout in layouts) < 1.6


def test_no_more_than_so_many_bytes_are_fetched_ahead() -> None:
    layout = layout_of([3 * MIB // 2] * 100)
    position = 0
    for start in range(0, 50 * MIB, BLOCK):
        position = start + BLOCK
        for number in ahead(layout, start, BLOCK):
            assert layout.starts[number + 1] <= position + AHEAD


def test_reads_that_come_in_any_order_are_one_reader() -> None:
    """As from a kernel that has four of them under way."""
    layout = layout_of([150 * KIB] * 1000)
    rng = random.Random(1)
    fetched: set[int] = set()
    for start in range(0, 100 * MIB, 4 * BLOCK):
        blocks = [start + number * BLOCK for number in range(4)]
        rng.shuffle(blocks)
        for block in blocks:
            asked = set(layout.covering(block, block + BLOCK))
            # Far behind the first few reads, all that is asked for is under way already.
            assert start < 4 * MIB or asked <= fetched
            fetched |= asked | set(ahead(layout, block, BLOCK))
    assert max(fetched) * 150 * KIB <= 100 * MIB + AHEAD


def test_readers_at_several_places_do_not_disturb_each_other() -> None:
    layout = layout_of([150 * KIB] * 1000)
    places = [number * 15 * MIB for number in range(STREAMS)]
    windows = []
    for step in range(8):
        windows = [ahead(layout, place + step * BLOCK, BLOCK) for place in places]
    assert all(len(window) >= min(AHEAD // (150 * KIB) - 2, LIMIT) for window in windows)


def test_nothing_is_fetched_ahead_of_reads_all_over_a_version() -> None:
    layout = layout_of([150 * KIB] * 1000)
    pages = list(range(1, 35_000, 2))  # None is next to another one.
    random.Random(2).shuffle(pages)
    for page in pages[:2000]:
        assert ahead(layout, page * 4096, 4096) == []
    for start in (10 * MIB, 10 * MIB + NEAR + 2 * BLOCK, 20 * MIB):
        assert ahead(layout, start, BLOCK) == []


async def test_random_cold_reads_fetch_nothing_that_was_not_asked_for(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        data = log_lines(10_000)
        snapshot = await write(await hosts.start("a"), "x", data)
        sizes = [piece if isinstance(piece, int) else piece.size for piece in snapshot.manifest.pieces]
        ends = list(itertools.accumulate(sizes))
        b = await hosts.start("b")
        opened = await b.head("x")
        store.reset_log()
        touched = set()
        rng = random.Random(3)
        for _ in range(40):
            start = rng.randrange(1, len(data) - 5000)
            assert await b.read(opened, start, start + 4096) == data[start : start + 4096]
            first = next(number for number, end in enumerate(ends) if end > start)
            last = next(number for number, end in enumerate(ends) if end >= start + 4096)
            touched |= {number for number in (first, last) if isinstance(snapshot.manifest.pieces[number], Reference)}
        assert store.count("get") == store.count("get", "segments") == len(touched)


async def test_segments_ahead_of_a_cold_sequential_read_are_asked_for_together(tmp_path: Path) -> None:
    """While the store answers nothing: what a reader waits for, and what it will need next."""
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        data = noise(10 << 20).hex().encode()
        await write(await hosts.start("a"), "x", data)
        b = await hosts.start("b")
        opened = await b.head("x")
        stall = Stall()
        rule = store.add(Rule(stall, "get", "blobs/*", times=None))
        got: dict[int, bytes] = {}

        async def read(start: int) -> None:
            got[start] = await b.read(opened, start, start + BLOCK)

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(read, number * BLOCK)
            with trio.fail_after(30):
                while rule.seen < AHEAD // LARGEST_RUN:  # noqa: ASYNC110 - the rule only counts
                    await trio.sleep(0.01)
            assert not got
            stall.go.set()
        assert all(part == data[start : start + BLOCK] for start, part in got.items())
        assert len(got) == 8


@pytest.mark.parametrize(
    ("size", "memory"), [(100_000, 64 * MIB), (BLOCK, 64 * MIB), (1 << 20, 64 * MIB), (BLOCK, MIB)]
)
async def test_a_cold_sequential_read_costs_one_request_for_each_segment(
    tmp_path: Path, size: int, memory: int
) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        data = log_lines(10_000)
        snapshot = await write(await hosts.start("a"), "x", data)
        b = await hosts.start("b", memory_cache_size=memory)
        store.reset_log()
        assert await read_in_steps(b, "x", size) == data
        assert store.counts() == {
            ("get", "manifests"): 1,
            ("get", "segments"): len({reference.digest for reference in snapshot.top_references}),
        }
        assert b.segments.counts.disk_hits == 0  # Nothing was driven out of memory before it was read.


async def test_what_lies_in_one_segment_is_shown_without_a_copy(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        data = noise(1 << 20).hex().encode()
        vault = await hosts.start("a")
        await write(vault, "x", data)
        opened = await vault.head("x")
        views = [await vault.view(opened, start, start + 10) for start in (10, 30)]
        assert views == [data[10:20], data[30:40]]
        first, second = views
        assert isinstance(first, memoryview)
        assert isinstance(second, memoryview)
        assert first.obj is second.obj
        assert await vault.view(opened, 10, len(data)) == data[10:]
