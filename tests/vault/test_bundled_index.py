"""What bundles hold is in the index of the store: what that spares a new host, and that it can be wrong in any way."""

from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import msgspec
import pytest
import trio.testing

from stowfs import codec
from stowfs.errors import CorruptObject
from stowfs.store.memory import MemoryStore
from stowfs.vault import indexing, shared_index
from stowfs.vault.bundle import Member, committed, decode, token
from stowfs.vault.naming import INDEX_POINTER, children_prefix, is_bundle, join, manifest_key, shard_key
from stowfs.vault.shards import (
    Pointer,
    Row,
    bundle_row,
    decode_members,
    decode_pointer,
    decode_shard,
    encode_pointer,
    encode_shard,
)
from stowfs.vault.shared_index import LEAST
from stowfs.vault.vault import Vault
from stowfs.vault.version import Version
from stowfs.vault.version import decode as decode_version
from tests.support.faults import FaultyStore, Rule, Stall
from tests.support.together import patient, write_together
from tests.support.vaults import ATTRIBUTES, Hosts, append

__all__ = ["patient"]

BELIEVED = 100.0

IN_A_BUNDLE = 32


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of a hundred, and twenty missing are too many."""
    monkeypatch.setattr(indexing, "ENTRIES", 100)
    monkeypatch.setattr(shared_index, "ENTRIES", 100)
    monkeypatch.setattr(shared_index, "MISSING", 20)


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore(MemoryStore())


@pytest.fixture
async def hosts(store: FaultyStore, tmp_path: Path) -> AsyncIterator[Hosts]:
    async with Hosts(store, tmp_path, bundles=True, revalidate=BELIEVED) as hosts:
        yield hosts


async def make(vault: Vault, directories: Mapping[str, int], *, first: int = 0) -> None:
    """Directories, each after its parent, with so many conversations in them, all in bundles."""
    for directory, count in directories.items():
        if not first:
            await vault.make_directory(directory, ATTRIBUTES)
        for start in range(first, first + count, IN_A_BUNDLE):
            numbers = range(start, min(start + IN_A_BUNDLE, first + count))
            await write_together(vault, {f"{directory}/{number:05}": b"" for number in numbers})


async def bundles_in(store: FaultyStore) -> list[str]:
    return [info.key async for page in store.inner.list("manifests/") for info in page.objects if is_bundle(info.key)]


async def go_through(vault: Vault, directory: str) -> dict[str, Version]:
    """What is in a directory and all below it, listed as programs do."""
    found = {}
    for name, packed in (await vault.listing(directory)).entries:
        path, version = join(directory, name), decode_version(packed)
        found[path] = version
        if version.is_directory:
            found |= await go_through(vault, path)
    return found


async def truth(vault: Vault) -> dict[str, Version]:
    """The same by way of the manifests."""
    return {snapshot.path: Version.of(snapshot) async for snapshot in vault.walk("")}


def siblings(count: int, names: int) -> dict[str, int]:
    return {"d": 0} | {f"d/{number:03}": names for number in range(count)}


async def indexed(hosts: Hosts, directories: Mapping[str, int]) -> tuple[Vault, dict[str, Version]]:
    """A host that has made and listed directories, and written the index; and what it has listed."""
    a = await hosts.start("a")
    await make(a, directories)
    found = await go_through(a, "")
    assert await a.write_index()
    return a, found


SHAPES = {
    "as large as a page": siblings(4, 1000),
    "small ones": siblings(60, 20),
    "one": {"d": 3000},
    "nested": siblings(3, 80) | {"d/001/x": 80, "d/001/x/y": 80, "d/002-": 80},
}


LISTINGS = {"as large as a page": 3 + 1, "small ones": 3 + 1, "one": 2, "nested": 4}


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_new_host_reads_no_bundle(hosts: Hosts, store: FaultyStore, shape: str) -> None:
    _, expected = await indexed(hosts, SHAPES[shape])
    assert len(await bundles_in(store)) > 5
    b = await hosts.start("b")
    store.reset_log()
    assert await go_through(b, "") == expected
    # The pointer and the shard; and a few directories are not worth these.
    assert store.count("get", "index") == 2
    read = {request.key for request in store.log if request.operation == "get"}
    assert {key for key in read if key.startswith("manifests/")} <= {manifest_key(path) for path in SHAPES[shape]}
    assert store.count("get", "manifests") < LEAST
    # As many as if there were nothing but directories, since their bundles come with them.
    # But whether a bundle has the names of those that were fetched is asked.
    listed = [request.key for request in store.log if request.operation == "list"]
    assert len([key for key in listed if not is_bundle(key)]) <= LISTINGS[shape]
    assert len(listed) <= LISTINGS[shape] + 2


@pytest.mark.parametrize("shape", SHAPES)
async def test_without_an_index_each_bundle_is_read_once(hosts: Hosts, store: FaultyStore, shape: str) -> None:
    a = await hosts.start("a")
    await make(a, SHAPES[shape])
    expected = await go_through(a, "")
    read = await bundles_in(store)
    b = await hosts.start("b")
    store.reset_log()
    assert await go_through(b, "") == expected
    below = [request.key for request in store.log if request.operation == "get" and is_bundle(request.key)]
    assert sorted(below) == sorted(read)
    # Directories have no bundle in the root.
    assert store.count("get", "manifests") <= len(read) + len(SHAPES[shape])


async def test_who_lists_again_needs_no_index(hosts: Hosts, store: FaultyStore) -> None:
    _, expected = await indexed(hosts, SHAPES["as large as a page"])
    b = await hosts.start("b", revalidate=0.0)
    assert await go_through(b, "") == expected
    store.reset_log()
    assert await go_through(b, "") == expected
    assert store.count("list") == len(store.log) - store.count("get", "manifests/d.json")


async def test_few_bundles_are_read_as_fast(hosts: Hosts, store: FaultyStore) -> None:
    """Where little is wanted the index is not asked for it; but it is where it was read anyway."""
    await indexed(hosts, siblings(20, 40))
    b = await hosts.start("b", revalidate=0.0)
    store.reset_log()
    assert len(await b.list_versions("d/003")) == 40
    read = [request.key for request in store.log if is_bundle(request.key) and request.operation == "get"]
    assert sorted(read) == [key for key in await bundles_in(store) if key.startswith(children_prefix("d/003"))]
    assert store.count("get", "index") == 2
    store.reset_log()
    assert len(await b.list_versions("d/004")) == 40
    assert store.counts() == {("list", "manifests"): 1}


@pytest.mark.usefixtures("small")
async def test_bundles_of_a_directory_that_many_shards_have(hosts: Hosts, store: FaultyStore) -> None:
    """What is hidden, new, or in a bundle that was written anew: listings are the same, and the index is mended."""
    a, _ = await indexed(hosts, {"d": 700})
    assert len((await pointer(store)).shards) > 5
    await make(a, {"d": 64}, first=700)
    for number in (3, 100, 101, 699):
        await append(a, f"d/{number:05}", b"more")
    await a.remove("d/00300")
    for key in (await bundles_in(store))[3:5]:
        await write_anew(store, key)
    b = await hosts.start("b")
    assert await go_through(b, "") == await truth(b)
    assert await b.write_index()
    c = await hosts.start("c")
    store.reset_log()
    assert await go_through(c, "") == await truth(b)
    assert [request.key for request in store.log if request.operation == "get" and is_bundle(request.key)] == []


async def write_anew(store: FaultyStore, key: str) -> None:
    """The same manifests in another version of a bundle, as after a recompression."""
    found = await store.inner.get(key)
    whole = decode(key, found.etag, found.body)  # type: ignore[union-attr]
    names = [(member.name, member.commit) for member in whole.bundle.header.members]
    body = committed([(name, commit, whole.bundle.manifest(name, whole.payload)) for name, commit in names])
    await store.inner.put(key, body)


async def test_bundles_that_are_written_anew_are_indexed_anew(hosts: Hosts, store: FaultyStore) -> None:
    """Though all that is shown of the manifests is in the index."""
    _, expected = await indexed(hosts, {"d": 3000})
    for key in await bundles_in(store):
        await write_anew(store, key)
    b = await hosts.start("b")
    store.reset_log()
    assert await go_through(b, "") == expected
    assert store.count("get", "manifests") >= len(await bundles_in(store))
    assert await b.write_index()
    assert not await b.write_index()
    c = await hosts.start("c")
    store.reset_log()
    assert await go_through(c, "") == expected
    assert store.count("get", "manifests") == 1


async def test_to_write_the_index_is_not_due_again(hosts: Hosts, store: FaultyStore) -> None:
    a, expected = await indexed(hosts, SHAPES["small ones"])
    assert not await a.write_index()
    b = await hosts.start("b")
    assert await go_through(b, "") == expected
    assert not await b.write_index()


# Damage


async def pointer(store: FaultyStore) -> Pointer:
    found = await store.inner.get(INDEX_POINTER)
    return decode_pointer(found.body)  # type: ignore[union-attr]


async def rows(store: FaultyStore) -> list[Row]:
    found: list[Row] = []
    for info in (await pointer(store)).shards:
        body = (await store.inner.get(shard_key(info.id))).body  # type: ignore[union-attr]
        decode_shard(info, body)
        found += msgspec.msgpack.decode(codec.decompress_first(body, limit=1 << 24)[0], type=list[Row])
    return found


async def change(store: FaultyStore, to: Callable[[Row], Row]) -> None:
    """An index in which the rows of bundles are others."""
    changed = [to(row) if is_bundle(row[0]) else row for row in await rows(store)]
    info, body = encode_shard(changed, "", "")
    await store.inner.put(shard_key(info.id), body)
    await store.inner.put(INDEX_POINTER, encode_pointer(Pointer("0", (info,))))


DAMAGE: dict[str, Callable[[Row], Row]] = {
    "of another ETag": lambda row: (row[0], "another", row[2]),
    "no members": lambda row: (row[0], row[1], msgspec.Raw(msgspec.msgpack.encode(7))),
    "members of other types": lambda row: (row[0], row[1], msgspec.Raw(msgspec.msgpack.encode([[1, 2]]))),
    "a version": lambda row: (row[0], row[1], msgspec.Raw(msgspec.msgpack.encode(Version("0", ATTRIBUTES, 1)))),
    "names with slashes": lambda row: bundle_row(row[0], row[1], [Member("x/y", "0" * 32)]),
    "names that none may have": lambda row: bundle_row(row[0], row[1], [Member("!", "0" * 32)]),
    "too many": lambda row: bundle_row(row[0], row[1], [Member(f"{n}", "0" * 32) for n in range(1001)]),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_damage_costs_requests_and_is_mended(hosts: Hosts, store: FaultyStore, damage: str) -> None:
    _, expected = await indexed(hosts, {"d": 9000})
    await change(store, DAMAGE[damage])
    b = await hosts.start("b")
    store.reset_log()
    assert await go_through(b, "") == expected
    assert store.count("get", "manifests") >= len(await bundles_in(store))
    assert await b.write_index()
    c = await hosts.start("c")
    store.reset_log()
    assert await go_through(c, "") == expected
    assert store.count("get", "manifests") == 1


async def test_rows_have_all_that_bundles_hold_in_the_order_of_the_keys(hosts: Hosts, store: FaultyStore) -> None:
    await indexed(hosts, SHAPES["nested"])
    found = await rows(store)
    assert [row[0] for row in found] == sorted(row[0] for row in found)
    etags = {row[0]: row[1] for row in found}
    told = {
        f"{key[: key.rindex('/')]}/{member.name}.json": token(key, member.commit)
        for key, _, packed in found
        if is_bundle(key)
        for member in decode_members(key, bytes(packed))
    }
    assert len(told) == sum(SHAPES["nested"].values())
    assert told.items() <= etags.items()


async def test_a_bundle_is_read_once_for_all_who_want_what_it_holds(hosts: Hosts, store: FaultyStore) -> None:
    await indexed(hosts, SHAPES["as large as a page"])
    b = await hosts.start("b")
    await go_through(b, "")
    store.reset_log()
    stall = Stall()
    store.add(Rule(stall, "get", "*/%+*", nth=1))
    async with trio.open_nursery() as nursery:
        for number in range(IN_A_BUNDLE):
            nursery.start_soon(b.head, f"d/002/{number:05}")
        await stall.reached.wait()
        await trio.testing.wait_all_tasks_blocked(0.05)
        stall.go.set()
    assert len([request for request in store.log if is_bundle(request.key)]) == 1


async def test_one_name_in_a_large_directory_is_found_by_the_index(hosts: Hosts, store: FaultyStore) -> None:
    await indexed(hosts, {"d": 2 * LEAST * IN_A_BUNDLE})
    b = await hosts.start("b")
    store.reset_log()
    assert (await b.head("d/00777")).path == "d/00777"
    read = [request.key for request in store.log if request.operation == "get"]
    assert len([key for key in read if is_bundle(key)]) == 1
    assert len(read) <= 5


async def test_a_name_is_not_said_to_be_absent_where_a_bundle_cannot_be_read(hosts: Hosts, store: FaultyStore) -> None:
    await indexed(hosts, {"d": 2 * LEAST * IN_A_BUNDLE})
    await store.inner.put((await bundles_in(store))[7], b"damaged")
    b = await hosts.start("b")
    with pytest.raises(CorruptObject):
        await b.head("d/other")
