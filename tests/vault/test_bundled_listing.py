"""Listings of what is in bundles: the same as if each manifest had a key of its own, and what they cost."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass

import pytest
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from stowfs.errors import StoreUnavailable
from stowfs.store.base import IF_ABSENT, ObjectInfo, ObjectStore, Page
from stowfs.store.memory import MemoryStore
from stowfs.vault import bundle as bundles
from stowfs.vault import bundled_listing
from stowfs.vault.bundle import is_token
from stowfs.vault.bundled_listing import FRESH_FOR
from stowfs.vault.bundled_store import BundledStore
from stowfs.vault.bundling import Manifest
from stowfs.vault.naming import MANIFESTS, children_prefix, manifest_key, may_be_bundled, place_of, split
from stowfs.vault.stretch import past
from tests.support.faults import FailBefore, FaultyStore, Rule

DIRECTORY = children_prefix("d")

COMPONENTS = st.text("!%+-.0ab", min_size=1, max_size=3).filter(lambda name: name not in (".", ".."))
PATHS = st.lists(COMPONENTS, min_size=1, max_size=3).map("/".join)


def commit_of(number: int) -> str:
    return f"{number:032x}"


async def put_bundle(store: ObjectStore, prefix: str, number: int, names: Iterable[str], state: str = "") -> str:
    """A bundle of manifests in a directory, by their names in keys; `state`: one that is not committed."""
    key = bundles.key_of(prefix, commit_of(number))
    if state == "void":
        body = bundles.void()
    elif state == "pending":
        body = bundles.pending((name, commit_of(number)) for name in names)
    else:
        body = bundles.committed([(name, commit_of(number), b"content of " + name.encode()) for name in names])
    await store.put(key, body)
    return key


def bundled(store: ObjectStore) -> BundledStore:
    return BundledStore(store, deadline=1.0)


async def lines(store: ObjectStore, prefix: str = DIRECTORY, **how: str) -> list[ObjectInfo]:
    return [info async for page in store.list(prefix, **how) for info in page.objects]


async def names(store: ObjectStore, prefix: str = DIRECTORY, **how: str) -> list[str]:
    return [info.key.removeprefix(prefix).removesuffix(".json") for info in await lines(store, prefix, **how)]


def numbered(start: int, end: int) -> list[str]:
    return [f"{number:05}" for number in range(start, end)]


# The same as without bundles


@dataclass
class Tree:
    """What is in a store: paths with an object of their own, and those that a bundle of their directory holds, by its
    number; `claims`: directories with a bundle that holds nothing."""

    own: set[str]
    held: Mapping[str, int]
    claims: Sequence[tuple[str, str]] = ()

    async def put(self, store: ObjectStore) -> None:
        in_bundles: dict[tuple[str, int], list[str]] = {}
        for path, number in self.held.items():
            prefix, name = place_of(manifest_key(path))
            in_bundles.setdefault((prefix, number), []).append(name)
        for (prefix, number), held in in_bundles.items():
            await put_bundle(store, prefix, number, held)
        for number, (path, state) in enumerate(self.claims):
            prefix, name = place_of(manifest_key(path))
            await put_bundle(store, prefix, 100 + number, [name], state)
        for path in self.own:
            await store.put(manifest_key(path), b"own")

    async def put_flat(self, store: ObjectStore) -> None:
        for path in {*self.own, *self.held}:
            await store.put(manifest_key(path), b"flat")

    def directories(self) -> list[str]:
        found = {""}
        for path in {*self.own, *self.held}:
            while path := split(path)[0]:
                found.add(path)
        return sorted(found)


def may_hold(path: str) -> bool:
    return may_be_bundled(manifest_key(path))


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    own = draw(st.sets(PATHS, max_size=12))
    held = draw(st.dictionaries(PATHS.filter(may_hold), st.integers(0, 3), max_size=20))
    # Some have both.
    own |= set(draw(st.lists(st.sampled_from(sorted(held)), max_size=3))) if held else set()
    claims = draw(st.lists(st.tuples(PATHS.filter(may_hold), st.sampled_from(["pending", "void"])), max_size=3))
    return Tree(own, held, claims)


def told(pages: Sequence[Page], flat: Sequence[ObjectInfo], after: str) -> tuple[list[str], list[str]]:
    """Keys and prefixes of a listing; without prefixes below which there are only bundles that hold nothing."""
    prefixes = [prefix for page in pages for prefix in page.prefixes]
    real = [prefix for prefix in prefixes if any(info.key.startswith(prefix) and info.key > after for info in flat)]
    return [info.key for page in pages for info in page.objects], sorted(real)


@given(trees(), st.integers(1, 5), st.integers(1, 5), st.data())
async def test_it_tells_what_a_listing_without_bundles_tells(
    tree: Tree, page_size: int, size: int, data: st.DataObject
) -> None:
    inner, flat = MemoryStore(page_size=page_size), MemoryStore(page_size=page_size)
    await tree.put(inner)
    await tree.put_flat(flat)
    every, stored = await lines(flat, MANIFESTS), await lines(inner, MANIFESTS)
    directories = [children_prefix(directory) for directory in tree.directories()]
    keys = [info.key for info in [*every, *stored]]
    places = [
        "",
        *keys,
        *directories,
        *map(past, directories),
        *(key[:-1] for key in keys),
        *(key + "0" for key in keys),
    ]
    store = bundled(inner)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundled_listing, "PAGE_SIZE", size)
        # What was kept of a listing must not change another one.
        for _ in range(4):
            prefix = data.draw(st.sampled_from([MANIFESTS, *directories]))
            delimiter = data.draw(st.sampled_from([None, "/"]))
            after = data.draw(st.sampled_from(places))
            pages = [page async for page in store.list(prefix, delimiter=delimiter, start_after=after)]
            expected = [page async for page in flat.list(prefix, delimiter=delimiter, start_after=after)]
            assert told(pages, every, after) == told(expected, every, after)
            assert all(len(page.objects) <= size for page in pages)
            own = {manifest_key(path) for path in tree.own}
            assert all(is_token(info.etag) == (info.key not in own) for page in pages for info in page.objects)


@given(trees(), st.integers(1, 5), st.integers(1, 5), st.lists(st.integers(1, 3), min_size=1))
async def test_who_goes_on_page_by_page_is_told_the_same(
    tree: Tree, page_size: int, size: int, steps: Sequence[int]
) -> None:
    inner, flat = MemoryStore(page_size=page_size), MemoryStore(page_size=page_size)
    await tree.put(inner)
    await tree.put_flat(flat)
    store = bundled(inner)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundled_listing, "PAGE_SIZE", size)
        found: list[str] = []
        while True:
            before = len(found)
            # Each goes on for some pages, and is not asked again.
            pages = store.list(MANIFESTS, start_after=found[-1] if found else "")
            for _ in range(steps[before % len(steps)]):
                found += [info.key for info in (await anext(pages, Page((), last=True))).objects]
            if len(found) == before:
                break
    assert found == [info.key for info in await lines(flat, MANIFESTS)]


# One by one


@pytest.fixture
def faulty() -> FaultyStore:
    return FaultyStore(MemoryStore(page_size=1000))


@pytest.fixture
def store(faulty: FaultyStore) -> BundledStore:
    return bundled(faulty)


async def put_own(store: ObjectStore, names: Iterable[str]) -> None:
    for name in names:
        await store.put(f"{DIRECTORY}{name}.json", b"own")


async def pages_of(store: ObjectStore) -> AsyncIterator[Page]:
    """A listing by somebody who asks for each page anew."""
    after = ""
    while (page := await anext(store.list(DIRECTORY, start_after=after), None)) is not None:
        yield page
        after = page.objects[-1].key


async def test_names_before_those_of_bundles_come_first(faulty: FaultyStore, store: BundledStore) -> None:
    await put_own(faulty, ["!", "$9", "~"])
    await put_bundle(faulty, DIRECTORY, 1, ["%25", "b", "c"])
    await put_bundle(faulty, DIRECTORY, 2, ["a", "d"])
    assert await names(store) == ["!", "$9", "%25", "a", "b", "c", "d", "~"]
    assert await names(store, start_after=f"{DIRECTORY}!.json") == ["$9", "%25", "a", "b", "c", "d", "~"]


async def test_what_an_object_hides_is_told_beside_the_listing(faulty: FaultyStore, store: BundledStore) -> None:
    key = await put_bundle(faulty, DIRECTORY, 1, ["a", "b", "c"])
    await put_own(faulty, ["b"])
    [expanded] = [page async for page in store.expanded(DIRECTORY)]
    assert [info.key for info in expanded.bundles] == [key]
    tokens = {info.key: info.etag for info in [*expanded.page.objects, *expanded.hidden]}
    [hidden] = expanded.hidden
    assert hidden.key == f"{DIRECTORY}b.json"
    assert hidden.etag == bundles.token(key, commit_of(1))
    assert tokens[f"{DIRECTORY}a.json"] == hidden.etag
    assert [is_token(info.etag) for info in expanded.page.objects] == [True, False, True]
    assert (await store.read(expanded.page.objects[0])).body == b"content of a"


async def test_what_is_not_committed_shows_nothing(faulty: FaultyStore, store: BundledStore) -> None:
    await put_bundle(faulty, DIRECTORY, 1, ["a"], "pending")
    await put_bundle(faulty, DIRECTORY, 2, ["b"], "void")
    await put_bundle(faulty, DIRECTORY, 3, ["c"])
    assert await names(store) == ["c"]


@pytest.mark.parametrize("body", [b"", b"garbage", bundles.committed([("x/y", commit_of(1), b"")])])
async def test_a_bundle_that_cannot_be_read_stands_there_itself(
    faulty: FaultyStore, store: BundledStore, body: bytes
) -> None:
    await put_bundle(faulty, DIRECTORY, 2, ["a"])
    keys = [bundles.key_of(DIRECTORY, commit_of(number)) for number in (1, 3)]
    # Below another directory, so that what its bundle holds comes later.
    keys.append(bundles.key_of(f"{DIRECTORY}m/", commit_of(1)))
    for key in (*keys, f"{DIRECTORY}%+no id"):
        await faulty.put(key, body)
    await put_bundle(faulty, DIRECTORY, 4, ["b", "z"])
    assert [info.key for info in await lines(store)] == [
        *keys[:2],
        f"{DIRECTORY}%+no id",
        f"{DIRECTORY}a.json",
        f"{DIRECTORY}b.json",
        keys[2],
        f"{DIRECTORY}z.json",
    ]


async def test_a_listing_that_fails_is_an_error(faulty: FaultyStore, store: BundledStore) -> None:
    await put_bundle(faulty, DIRECTORY, 1, ["a"])
    for operation, key in (("get", f"{DIRECTORY}*"), ("list", "manifests/*")):
        rule = faulty.add(Rule(FailBefore(), operation, key))  # type: ignore[arg-type]
        with pytest.raises(StoreUnavailable):
            await lines(store)
        rule.key = "nothing"
    assert await names(store) == ["a"]


MANY = 2500
"""Bundles of which there are more than a page."""


async def put_many(store: ObjectStore) -> list[str]:
    """More bundles than a page has, with two names in each, and objects between these; returns all names."""
    for number in range(MANY):
        await put_bundle(store, DIRECTORY, number, [f"{number:05}", f"{MANY - number:05}-x"])
    own = [f"{number:05}-own" for number in range(0, MANY, 500)]
    await put_own(store, own)
    return sorted(
        [*numbered(0, MANY), *(f"{number + 1:05}-x" for number in range(MANY)), *own], key=lambda n: n + ".json"
    )


async def test_more_bundles_than_a_page(faulty: FaultyStore, store: BundledStore) -> None:
    expected = await put_many(faulty)
    faulty.reset_log()
    assert await names(store) == expected
    assert faulty.counts() == {("list", "manifests"): 3, ("get", "manifests"): MANY}
    # They are known now, and each page brings as many as it can.
    faulty.reset_log()
    pages = [page async for page in store.list(DIRECTORY)]
    assert [len(page.objects) for page in pages] == [1000] * 5 + [5]
    assert [page.last for page in pages] == [False] * 5 + [True]
    assert faulty.counts() == {("list", "manifests"): 3}


async def test_who_goes_on_asks_for_nothing_twice(faulty: FaultyStore, store: BundledStore) -> None:
    expected = await put_many(faulty)
    faulty.reset_log()
    pages = [page async for page in pages_of(store)]
    assert [info.key for page in pages for info in page.objects] == [f"{DIRECTORY}{name}.json" for name in expected]
    assert faulty.counts() == {("list", "manifests"): 3, ("get", "manifests"): MANY}


async def test_who_goes_on_later_is_told_what_has_changed(
    faulty: FaultyStore, store: BundledStore, autojump_clock: MockClock
) -> None:
    for number in range(3):
        await put_bundle(faulty, DIRECTORY, number, numbered(number * 500, number * 500 + 500))
    first = await anext(store.list(DIRECTORY))
    await put_bundle(faulty, DIRECTORY, 3, numbered(1500, 1600))
    after = first.objects[-1].key
    assert await names(store, start_after=after) == numbered(1000, 1500)
    autojump_clock.jump(FRESH_FOR)
    faulty.reset_log()
    assert await names(store, start_after=after) == numbered(1000, 1600)
    # The bundles of the directory, the listing, and the bundle that is new.
    assert faulty.counts() == {("list", "manifests"): 2, ("get", "manifests"): 1}


async def test_what_this_host_has_changed_shows_at_once(faulty: FaultyStore, store: BundledStore) -> None:
    for number in range(3):
        await put_bundle(faulty, DIRECTORY, number, numbered(number * 500, number * 500 + 500))
    expected = numbered(1000, 1500)
    for new in ("z0", "z1"):
        # As in a listing that goes on meanwhile.
        listing = store.list(DIRECTORY)
        after = (await anext(listing)).objects[999].key
        assert await names(store, start_after=after) == expected
        await store.put(f"{DIRECTORY}{new}.json", b"own", IF_ABSENT)
        expected.append(new)
        async for _ in listing:
            pass
        for delimiter in ({}, {"delimiter": "/"}):
            assert await names(store, start_after=after, **delimiter) == expected
    manifests = [Manifest(f"z{number}", commit_of(9), b"new") for number in (2, 3)]
    assert len(await store.put_together(DIRECTORY, manifests)) == 2
    for delimiter in ({}, {"delimiter": "/"}):
        assert await names(store, start_after=after, **delimiter) == [*expected, "z2", "z3"]
    await store.delete(f"{DIRECTORY}z0.json")
    assert await names(store, start_after=after) == [*numbered(1000, 1500), "z1", "z2", "z3"]


async def test_a_listing_that_begins_in_a_directory_goes_by_what_was_told_of_it(
    faulty: FaultyStore, store: BundledStore, autojump_clock: MockClock
) -> None:
    await put_bundle(faulty, DIRECTORY, 1, numbered(0, 50))
    assert await names(store, delimiter="/") == numbered(0, 50)
    for _ in range(3):
        faulty.reset_log()
        assert await names(store, delimiter="/", start_after=f"{DIRECTORY}00040") == numbered(40, 50)
        assert faulty.counts() == {("list", "manifests"): 1}
        assert await names(store) == numbered(0, 50)
    # However often it is listed again.
    await faulty.delete(bundles.key_of(DIRECTORY, commit_of(1)))
    await put_bundle(faulty, DIRECTORY, 2, numbered(45, 55))
    assert await names(store) == numbered(45, 55)
    assert await names(store, delimiter="/", start_after=f"{DIRECTORY}00040") == numbered(45, 55)
    autojump_clock.jump(FRESH_FOR)
    assert await names(store, delimiter="/", start_after=f"{DIRECTORY}00050") == numbered(50, 55)


async def test_bundles_of_which_some_are_told_are_not_taken_for_all(faulty: FaultyStore, store: BundledStore) -> None:
    """Who stops in the middle of the bundles has not learnt which there are."""
    await put_own(faulty, [f"!{number:03}" for number in range(995)])
    for number in range(10):
        await put_bundle(faulty, DIRECTORY, number, [f"{number:05}"])
    for pages in (1, 2):
        listing = store.list(DIRECTORY)
        for _ in range(pages):
            await anext(listing)
        assert await names(store, start_after=f"{DIRECTORY}0") == numbered(0, 10)


async def test_who_begins_in_the_middle_of_the_bundles_has_not_learnt_which_there_are(
    faulty: FaultyStore, store: BundledStore
) -> None:
    for number in range(10):
        await put_bundle(faulty, DIRECTORY, number, [f"{number:05}"])
    for after in (bundles.key_of(DIRECTORY, commit_of(4)), f"{DIRECTORY}0"):
        assert await names(store, start_after=after) == numbered(0, 10)


async def test_a_prefix_that_was_told_is_told_whoever_begins_before_it(
    faulty: FaultyStore, store: BundledStore
) -> None:
    await put_bundle(faulty, DIRECTORY, 1, ["a", "b"])
    await put_bundle(faulty, f"{DIRECTORY}c/", 1, ["x"])
    for after in ("", f"{DIRECTORY}b.json", f"{DIRECTORY}b.json"):
        pages = [page async for page in store.list(DIRECTORY, delimiter="/", start_after=after)]
        assert [prefix for page in pages for prefix in page.prefixes] == [f"{DIRECTORY}c/"]


async def test_bundles_of_many_directories_are_read_at_once(faulty: FaultyStore, store: BundledStore) -> None:
    for number in range(100):
        await put_bundle(faulty, f"{DIRECTORY}{number:02}/", 1, ["a", "b"])
    faulty.reset_log()
    at_once = await most_at_once(faulty, store)
    assert len(await lines(store)) == 200
    assert faulty.count("get") == 100
    assert at_once > 8


async def most_at_once(faulty: FaultyStore, store: BundledStore) -> int:
    """Lists all; returns how many objects were being read at once."""
    reading = most = 0
    get = faulty.inner.get

    async def counted(key: str, **how: str) -> object:
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        await trio.testing.wait_all_tasks_blocked()
        try:
            return await get(key, **how)  # type: ignore[arg-type]
        finally:
            reading -= 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faulty.inner, "get", counted)
        await lines(store)
    return most
