"""Listing ahead of programs that go through a tree: what it costs, and that it shows what listings show."""

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from stowfs.errors import StoreUnavailable
from stowfs.store.base import ObjectStore, Page
from stowfs.store.memory import MemoryStore
from stowfs.vault import listing_ahead
from stowfs.vault.listing_ahead import CHANGES, STEADY, ListingAhead
from stowfs.vault.manifest import Attributes
from stowfs.vault.naming import children_prefix, is_cut, join, manifest_key, split
from stowfs.vault.vault import Vault
from stowfs.vault.version import decode
from tests.support.faults import FailBefore, FaultyStore, Rule, Stall
from tests.support.vaults import Hosts, write
from tests.vault.test_naming import PATHS

BELIEVED = 100.0
"""The revalidation time: listings are believed half as long."""

DIRECTORY = Attributes(0o755, 0, 0, 0, 0)


@pytest.fixture
def options() -> Mapping[str, Any]:
    return {"revalidate": BELIEVED}


async def make(vault: Vault, directories: Mapping[str, int]) -> None:
    """Directories, each after its parent, with so many conversations in them."""
    async with trio.open_nursery() as nursery:
        for directory, count in directories.items():
            await vault.make_directory(directory, DIRECTORY)
            for number in range(count):
                nursery.start_soon(write, vault, f"{directory}/{number:05}", b"")


async def go_through(vault: Vault, directory: str) -> dict[str, list[str]]:
    """The names in a directory and all below it, listed as programs do."""
    entries = (await vault.listing(directory)).entries
    found = {directory: [name for name, _ in entries]}
    for name, packed in entries:
        if decode(packed).is_directory:
            found |= await go_through(vault, join(directory, name))
    return found


def siblings(count: int, names: int, parent: str = "d") -> dict[str, int]:
    """A directory with `count` others in it, each with so many conversations."""
    return {parent: 0} | {f"{parent}/{number:04}": names for number in range(count)}


NESTED = {f"d{one}{two}": 3 for one in ("", "/0", "/1", "/2") for two in ("", "/a", "/b", "/c") if one or not two}
SHAPES: dict[str, tuple[Mapping[str, int], int]] = {
    # The directory and the first one in it; all the others come with the second.
    "many small ones": (siblings(150, 5), 2 + 1),
    "empty ones": (siblings(50, 0), 2 + 1),
    "as large as a page": (siblings(4, 1000), 1 + 2 + 3),
    "one": ({"d": 2500}, 3),
    "a chain": ({"/".join("d" * depth): 1 for depth in range(1, 12)}, 2 + 1),
    "nested": (NESTED, 2 + 1),
    # What comes with the third one ends in the middle of something that is read on from there.
    "more than a page": (siblings(100, 5) | siblings(3, 1500, "d/9"), 2 + 1 + 6),
    # In the order of the keys each of them comes before the one that its name begins with.
    "beginning with another name": ({"d": 0} | {f"d/{n:02}{end}": 5 for n in range(50) for end in ("", "-x")}, 3 + 1),
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_tree_costs_a_listing_for_each_thousand_names(hosts: Hosts, faulty: FaultyStore, shape: str) -> None:
    directories, budget = SHAPES[shape]
    a = await hosts.start("a")
    await make(a, directories)
    every_time = await hosts.start("every time", revalidate=0.0)
    faulty.reset_log()
    expected = await go_through(every_time, "d")
    assert faulty.counts()["list", "manifests"] >= len(directories)
    b = await hosts.start("b")
    faulty.reset_log()
    assert await go_through(b, "d") == expected
    assert faulty.counts()["list", "manifests"] <= budget


async def test_the_first_page_of_a_new_host_asks_the_index_for_few_names_too(hosts: Hosts, faulty: FaultyStore) -> None:
    a = await hosts.start("a")
    await make(a, siblings(150, 5))
    await go_through(a, "d")
    assert await a.write_index()
    b = await hosts.start("b")
    faulty.reset_log()
    await go_through(b, "d")
    # The pointer and a shard; the directory it begins with, which is not in one that was listed.
    assert faulty.counts() == {("list", "manifests"): 3, ("get", "index"): 2}


async def test_no_more_is_listed_than_what_is_below_is_worth(hosts: Hosts, faulty: FaultyStore) -> None:
    """Of directories with much below them only what they show is read."""
    a = await hosts.start("a")
    await make(a, {"d": 1, "d/0": 1, "d/1": 1, "d/1/large": 4000, "d/2": 1})
    b = await hosts.start("b")
    for directory in ("d", "d/0"):
        await b.listing(directory)
    faulty.reset_log()
    assert [name for name, _ in (await b.listing("d/1")).entries] == ["00000", "large"]
    assert [request.key for request in faulty.log if request.operation == "list"] == [
        *("manifests/d/",) * 2,
        "manifests/d/1/",
    ]
    # The beginning of this one is there.
    faulty.reset_log()
    assert len((await b.listing("d/1/large")).entries) == 4000
    assert faulty.count("list") == 3


@pytest.mark.parametrize("order", [(9, 3, 7, 1, 8, 0, 6, 2, 5, 4), range(9, -1, -1)])
async def test_who_lists_in_any_other_order_pays_what_it_costs(
    hosts: Hosts, faulty: FaultyStore, order: Sequence[int]
) -> None:
    await make(await hosts.start("a"), siblings(10, 1))
    b = await hosts.start("b")
    for number in order:
        faulty.reset_log()
        await b.listing(f"d/{number:04}")
        assert [request.key for request in faulty.log if request.operation == "list"] == [f"manifests/d/{number:04}/"]


async def test_who_goes_through_a_large_tree_in_no_order_soon_lists_nothing_ahead() -> None:
    store = FaultyStore(MemoryStore())
    directories = [f"d/{number:04}" for number in range(1000)]
    for directory in directories:
        for name in range(20):
            await store.put(manifest_key(f"{directory}/{name}"), b"")
    random.Random(1).shuffle(directories)
    walks = ListingAhead(store, believed=BELIEVED)
    store.reset_log()
    for directory in directories:
        async for page in walks.begin(directory).pages(children_prefix(directory)):
            assert len(page.objects) == 20
    listed = [request.key for request in store.log]
    assert len(listed) <= len(directories)
    assert sum(key in ("manifests/", "manifests/d/") for key in listed) < len(directories) / 50


async def test_two_programs_are_told_apart(hosts: Hosts, faulty: FaultyStore) -> None:
    await make(await hosts.start("a"), siblings(20, 1, "d") | siblings(20, 1, "e"))
    b = await hosts.start("b")
    faulty.reset_log()
    for number in range(20):
        for parent in ("d", "e"):
            await b.listing(f"{parent}/{number:04}")
    assert faulty.count("list") == 2 * STEADY


async def test_programs_that_list_at_the_same_time_do_not_wait_for_each_other(
    hosts: Hosts, faulty: FaultyStore
) -> None:
    await make(await hosts.start("a"), siblings(10, 1))
    b = await hosts.start("b")
    for number in range(STEADY - 1):
        await b.listing(f"d/{number:04}")
    async with faulty.held("list", "manifests/d/", b.listing, f"d/{STEADY:04}"):
        with trio.fail_after(5):
            assert len((await b.listing(f"d/{STEADY + 1:04}")).entries) == 1


async def test_what_somebody_else_has_gone_past_is_not_missed() -> None:
    store = FaultyStore(MemoryStore(page_size=4))
    for number in range(10):
        for name in range(10):
            await store.put(manifest_key(f"d/{number}/{name}"), b"")
    walks = ListingAhead(store, believed=BELIEVED)
    for number in range(STEADY - 1):
        await found(f"manifests/d/{number}/", walks.begin(f"d/{number}").pages)
    stall = Stall()
    store.add(Rule(stall, "list", "manifests/d/", nth=3))
    listed = []

    async def list_slowly() -> None:
        listed.append(await found("manifests/d/2/", walks.begin("d/2").pages))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(list_slowly)
        await stall.reached.wait()
        assert len((await found("manifests/d/9/", walks.begin("d/9").pages))[0]) == 10
        stall.go.set()
    assert len(listed[0][0]) == 10


@given(st.lists(PATHS, max_size=20), st.integers(1, 4), st.integers(1, 8), st.booleans(), st.randoms())
async def test_it_tells_what_a_listing_with_a_delimiter_tells(
    paths: list[str], page_size: int, ahead: int, at_random: bool, rng: random.Random
) -> None:
    store = MemoryStore(page_size=page_size)
    directories = {"", "empty"}
    for path in paths:
        await store.put(manifest_key(path), b"")
        while path := split(path)[0]:
            directories.add(path)
    order = sorted(directories, key=children_prefix)
    if at_random:
        rng.shuffle(order)
    walks = ListingAhead(store, believed=BELIEVED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing_ahead, "AHEAD", ahead)
        for directory in order:
            prefix = children_prefix(directory)
            read = walks.begin(directory)
            assert await found(prefix, read.pages) == await found(prefix, lambda one: store.list(one, delimiter="/"))


async def found(prefix: str, pages: Callable[[str], Any]) -> tuple[list[str], list[str]]:
    """The keys and prefixes directly in a directory, and in what long names in it go on with."""
    objects: list[str] = []
    prefixes: list[str] = []
    cut = [prefix]
    while cut:
        page: Page
        async for page in pages(cut.pop()):
            objects += [info.key for info in page.objects]
            prefixes += page.prefixes
            cut += filter(is_cut, page.prefixes)
    return sorted(objects), sorted(prefixes)


CHANGED: list[tuple[Callable[[Vault], Awaitable[object]], str]] = [
    (lambda a: write(a, "d/0005/new", b""), "d/0005"),
    (lambda a: a.remove("d/0005/00000"), "d/0005"),
    (lambda a: a.rename("d/0005/00000", "d/0005/other"), "d/0005"),
    (lambda a: a.rename("d/0004/00000", "d/0005/moved here"), "d/0005"),
    (lambda a: a.make_directory("d/0005/directory", DIRECTORY), "d/0005"),
    (lambda a: a.rename_directory("d/0005", "d/0007/moved away"), "d/0007"),
    (lambda a: a.set_attributes("d/0005/00000", mode=0o600), "d/0005"),
]


async def listed_ahead(hosts: Hosts) -> Vault:
    """A vault that has listed directories ahead of a walk, from 'd/0002' on."""
    a = await hosts.start("a")
    await make(a, siblings(10, 2))
    # What is to be changed is known, so that the changes themselves list nothing.
    for number in range(STEADY):
        await a.listing(f"d/{number:04}")
    return a


@pytest.mark.parametrize(("change", "directory"), CHANGED)
async def test_what_this_host_does_meanwhile_shows_at_once(
    hosts: Hosts, change: Callable[[Vault], Awaitable[object]], directory: str
) -> None:
    a = await listed_ahead(hosts)
    await change(a)
    assert (await a.listing(directory)).entries == await a.list_versions(directory)


@pytest.mark.parametrize(("change", "directory"), CHANGED)
async def test_what_this_host_does_while_it_lists_ahead_shows_at_once(
    hosts: Hosts, faulty: FaultyStore, change: Callable[[Vault], Awaitable[object]], directory: str
) -> None:
    a = await hosts.start("a")
    await make(a, siblings(10, 2))
    for number in range(STEADY - 1):
        await a.listing(f"d/{number:04}")
    async with faulty.held("list", "manifests/d/", a.listing, f"d/{STEADY - 1:04}"):
        await change(a)
    assert (await a.listing(directory)).entries == await a.list_versions(directory)


async def test_where_very_much_changes_nothing_listed_ahead_is_believed(hosts: Hosts, faulty: FaultyStore) -> None:
    a = await listed_ahead(hosts)
    await a.listing(f"d/{STEADY:04}")
    faulty.reset_log()
    for number in range(CHANGES + 1):
        a._catalog.listings.changed(f"d/0004/{number}/x")
    for number in range(STEADY + 1, 10):
        assert len((await a.listing(f"d/{number:04}")).entries) == 2
    assert faulty.count("list") == 1


async def test_what_other_hosts_do_shows_after_half_the_time(
    hosts: Hosts, faulty: FaultyStore, mock_clock: MockClock
) -> None:
    a = await listed_ahead(hosts)
    b = await hosts.start("b")
    await write(b, "d/0005/new", b"")
    await write(b, "d/0006/new", b"")
    mock_clock.jump(BELIEVED / 2 - 1)
    faulty.reset_log()
    listing = await a.listing("d/0005")
    assert [name for name, _ in listing.entries] == ["00000", "00001"]
    assert faulty.count("list") == 0
    # And no longer for having been looked at late.
    assert listing.answered < trio.current_time() - BELIEVED / 2 + 2
    mock_clock.jump(1)
    for directory in ("d/0005", "d/0006"):
        assert [name for name, _ in (await a.listing(directory)).entries] == ["00000", "00001", "new"]


async def test_what_is_learnt_of_others_meanwhile_shows(hosts: Hosts) -> None:
    a = await listed_ahead(hosts)
    b = await hosts.start("b")
    await write(b, "d/0005/new", b"")
    await a.head("d/0005/new")
    assert (await a.listing("d/0005")).entries == await b.list_versions("d/0005")


async def test_what_could_not_be_listed_is_an_error_of_who_lists_it(hosts: Hosts, faulty: FaultyStore) -> None:
    await make(await hosts.start("a"), siblings(6, 400))
    b = await hosts.start("b")
    every_time = await go_through(await hosts.start("every time", revalidate=0.0), "d")
    for number in range(STEADY):
        await b.listing(f"d/{number:04}")
    faulty.add(Rule(FailBefore(), "list", "manifests/*", nth=1))
    failed = []
    for number in range(STEADY, 6):
        directory = f"d/{number:04}"
        try:
            entries = (await b.listing(directory)).entries
        except StoreUnavailable:
            failed.append(directory)
            entries = (await b.listing(directory)).entries
        assert [name for name, _ in entries] == every_time[directory]
    assert len(failed) == 1


async def test_what_is_removed_damaged_or_without_a_manifest_is_shown_as_ever(tmp_path: Path) -> None:
    inner = MemoryStore(page_size=5)
    async with Hosts(inner, tmp_path, revalidate=BELIEVED) as hosts:
        a = await hosts.start("a")
        await make(a, siblings(8, 2))
        await a.remove("d/0003/00000")
        for number in range(2):
            await a.remove(f"d/0004/0000{number}")
        await a.remove_directory("d/0004")
        await inner.put(manifest_key("d/0005/00000"), b"damaged")
        await inner.put("manifests/d/0005/of nobody", b"")
        await inner.put(manifest_key("d/0006"), b"damaged")
        await inner.delete(manifest_key("d/0007"))
        await write(a, "d/0007/long " + "\udcff" * 200, b"")
        await make(a, {"d/0007/long " + "\udcfe" * 200: 3})
        b, every_time = await hosts.start("b"), await hosts.start("every time", revalidate=0.0)
        assert await go_through(b, "d") == (expected := await go_through(every_time, "d"))
        assert "d/0004" not in expected
        assert len(expected["d/0007"]) == 4


async def test_where_every_listing_has_to_ask_nothing_is_listed_ahead(hosts: Hosts, faulty: FaultyStore) -> None:
    await make(await hosts.start("a"), siblings(10, 1))
    b = await hosts.start("b", revalidate=0.0)
    faulty.reset_log()
    expected = sorted(map(children_prefix, await go_through(b, "d")))
    assert [request.key for request in faulty.log if request.operation == "list"] == expected


async def test_it_takes_little_memory_however_far_a_walk_goes() -> None:
    store: ObjectStore = MemoryStore()
    for number in range(2000):
        for name in range(5):
            await store.put(manifest_key(f"{number:04}/{name}"), b"")
    walks = ListingAhead(store, believed=BELIEVED)
    for number in range(2000):
        async for _ in walks.begin(f"{number:04}").pages(children_prefix(f"{number:04}")):
            pass
        [walk] = walks._walks
        assert walk.stretch is None or walk.stretch.count_from("") <= 3000
