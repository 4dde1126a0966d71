"""The index in the store: what it spares a new host, and that it can be wrong in any way without anybody noticing more
than requests."""

import hashlib
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio

from stowfs import codec
from stowfs.errors import ReadOnly, StoreUnavailable
from stowfs.store.memory import MemoryStore
from stowfs.vault import indexing, shared_index
from stowfs.vault.collect import collect_garbage
from stowfs.vault.naming import INDEX_POINTER, INDEX_SHARDS, manifest_key, shard_key
from stowfs.vault.shards import Pointer, decode_pointer, decode_shard, encode_pointer, encode_shard, row
from stowfs.vault.vault import Vault
from stowfs.vault.version import Version, decode
from tests.support.faults import FailAfter, FailBefore, FaultyStore, Rule, Stall
from tests.support.vaults import ATTRIBUTES, Hosts, append, write

FILES = 300
PAGE = 50

Names = list[str]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of a hundred, and twenty missing are too many."""
    monkeypatch.setattr(indexing, "ENTRIES", 100)
    monkeypatch.setattr(shared_index, "ENTRIES", 100)
    monkeypatch.setattr(shared_index, "MISSING", 20)
    monkeypatch.setattr(shared_index, "LEAST", 4)
    monkeypatch.setattr(shared_index, "POINTER_AGE", 0.0)


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore(MemoryStore(page_size=PAGE))


@pytest.fixture
async def hosts(store: FaultyStore, tmp_path: Path) -> AsyncIterator[Hosts]:
    async with Hosts(store, tmp_path) as hosts:
        yield hosts


async def make(vault: Vault, names: Sequence[str]) -> None:
    await vault.make_directory("d", ATTRIBUTES)
    for name in names:
        await write(vault, f"d/{name}", b"the content of " + name.encode())


def numbered(start: int, end: int) -> Names:
    return [f"{number:04d}" for number in range(start, end)]


async def listed(vault: Vault, directory: str = "d") -> dict[str, Version]:
    return {name: decode(packed) for name, packed in await vault.list_versions(directory)}


async def truth(vault: Vault) -> dict[str, Version]:
    """What is in the directory, by way of the manifests."""
    return {entry.path.removeprefix("d/"): Version.of(entry) for entry in await vault.list_directory("d")}


async def pointer(store: FaultyStore) -> Pointer:
    found = await store.inner.get(INDEX_POINTER)
    return decode_pointer(found.body)  # type: ignore[union-attr]


async def shard_keys(store: FaultyStore) -> Names:
    return [info.key async for page in store.inner.list(INDEX_SHARDS) for info in page.objects]


async def indexed(hosts: Hosts, names: Sequence[str]) -> Vault:
    """A host that has made and listed a directory, and written the index."""
    a = await hosts.start("a")
    await make(a, names)
    await listed(a)
    assert await a.write_index() == len(names)
    return a


class NewHosts:
    """Hosts that know nothing, one after the other."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._number = 0

    async def start(self, **options: object) -> Vault:
        self._number += 1
        return await self._hosts.start(f"new{self._number}", **options)


@pytest.fixture
def new(hosts: Hosts) -> NewHosts:
    return NewHosts(hosts)


async def test_a_new_host_lists_by_the_index(hosts: Hosts, new: NewHosts, store: FaultyStore) -> None:
    a = await indexed(hosts, numbered(0, FILES))
    expected = await truth(a)
    for options in ({}, {"read_only": True}):
        b = await new.start(**options)
        store.reset_log()
        assert await listed(b) == expected
        # The pointer for each page (as it is of no age here), and three shards.
        assert store.count("get", "manifests") == 0
        assert store.count("list", "manifests") == FILES // PAGE
        assert {request.key for request in store.log if request.operation == "get"} >= set(await shard_keys(store))
        assert sum(request.key.startswith(INDEX_SHARDS) for request in store.log) == 3
        # It knows them then: also without the index.
        store.reset_log()
        assert await listed(b) == expected
        assert store.counts() == {("list", "manifests"): FILES // PAGE}


async def test_the_pointer_is_read_once_a_minute(
    hosts: Hosts, new: NewHosts, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_index, "POINTER_AGE", 60.0)
    await indexed(hosts, numbered(0, FILES))
    b = await new.start()
    store.reset_log()
    assert len(await listed(b)) == FILES
    assert store.count("get", "index") == 1 + 3
    assert len(store.log) == FILES // PAGE + 4


async def test_the_index_has_no_content(hosts: Hosts, store: FaultyStore) -> None:
    await indexed(hosts, numbered(0, FILES))
    for key in [INDEX_POINTER, *await shard_keys(store)]:
        body = (await store.inner.get(key)).body  # type: ignore[union-attr]
        raw, rest = codec.decompress_first(body, limit=1 << 20)
        assert b"content" not in raw
        assert not rest


async def test_directories_links_tombstones_and_odd_names_are_in_it(
    hosts: Hosts, new: NewHosts, store: FaultyStore
) -> None:
    a = await hosts.start("a")
    await make(a, numbered(0, 30))
    await a.make_directory("d/e", ATTRIBUTES)
    await write(a, "d/e/deep", b"x")
    await a.make_symlink("d/link", b"0001", ATTRIBUTES)
    await write(a, "d/odd \udcff%\n", b"x")
    for name in numbered(0, 8):
        await a.remove(f"d/{name}")
    await listed(a)
    assert await a.write_index() == 34  # what is deeper, too
    b, expected = await new.start(), await truth(a)
    store.reset_log()
    assert await listed(b) == expected
    assert sum(request.key.startswith("manifests/d/") for request in store.log if request.operation == "get") == 0


async def test_what_has_changed_since_is_fetched(hosts: Hosts, new: NewHosts, store: FaultyStore) -> None:
    a = await indexed(hosts, numbered(0, FILES))
    changed = [f"{number:04d}" for number in (3, 100, 101, 250)]
    for name in changed:
        await append(a, f"d/{name}", b" and more")
    await a.remove("d/0007")
    await write(a, "d/0007a", b"new")
    await a.rename("d/0200", "d/0000a")
    b, expected = await new.start(), await truth(a)
    store.reset_log()
    assert await listed(b) == expected
    # What changed, and two names and two tombstones more.
    assert store.count("get", "manifests") == len(changed) + 4


async def test_only_what_is_out_of_date_is_written_again(hosts: Hosts, store: FaultyStore) -> None:
    a = await indexed(hosts, numbered(0, FILES))
    before = (await pointer(store)).shards
    for name in numbered(100, 119):
        await append(a, f"d/{name}", b" and more")
    await listed(a)
    assert await a.write_index() == 0
    for name in numbered(119, 121):
        await append(a, f"d/{name}", b" and more")
    await listed(a)
    store.reset_log()
    assert await a.write_index() == 100
    after = (await pointer(store)).shards
    assert [one.id == other.id for one, other in zip(before, after, strict=True)] == [True, False, True]
    assert [(shard.after, shard.last) for shard in after] == [(shard.after, shard.last) for shard in before]
    assert store.count("list", "manifests") <= 3
    assert store.count("put", "index") == 2


async def test_names_that_follow_join_the_last_shard_until_it_is_full(
    hosts: Hosts, new: NewHosts, store: FaultyStore
) -> None:
    a = await indexed(hosts, numbered(0, 130))
    counts = []
    for start in (130, 152, 174, 196):
        await make_more(a, numbered(start, start + 22))
        await listed(a)
        assert await a.write_index() > 0
        counts.append([shard.count for shard in (await pointer(store)).shards])
    assert counts == [[100, 52], [100, 52, 22], [100, 52, 44], [100, 52, 66]]
    b, expected = await new.start(), await truth(a)
    store.reset_log()
    assert await listed(b) == expected
    assert store.count("get", "manifests") == 0


async def test_a_walk_reads_each_shard_once_however_often_it_comes_to_it(
    hosts: Hosts, new: NewHosts, store: FaultyStore
) -> None:
    a = await hosts.start("a")
    await make(a, [])
    for directory in numbered(0, 10):
        await a.make_directory(f"d/{directory}", ATTRIBUTES)
        for name in numbered(0, 30):
            await write(a, f"d/{directory}/{name}", b"")
    directories = ["d", *(f"d/{directory}" for directory in numbered(0, 10))]
    for directory in directories:
        await a.list_versions(directory)
    assert await a.write_index()
    # Ten more are not worth one of their own.
    assert [shard.count for shard in (await pointer(store)).shards] == [100, 100, 110]
    b = await new.start()
    store.reset_log()
    for directory in directories:
        await b.list_versions(directory)
    read = [request.key for request in store.log if request.key.startswith(INDEX_SHARDS)]
    assert sorted(read) == await shard_keys(store)
    assert store.count("get", "manifests") == 0


async def make_more(vault: Vault, names: Sequence[str]) -> None:
    for name in names:
        await write(vault, f"d/{name}", b"more")


async def test_a_host_that_may_not_write_does_not(hosts: Hosts, new: NewHosts, store: FaultyStore) -> None:
    await make(await hosts.start("a"), numbered(0, 40))
    b = await new.start(read_only=True)
    await listed(b)
    with pytest.raises(ReadOnly):
        await b.write_index()
    assert await shard_keys(store) == []


# Damage


def of_lies(version: Version) -> Version:
    return msgspec.structs.replace(version, size=1 << 40)


async def put(store: FaultyStore, key: str, body: bytes) -> None:
    await store.inner.put(key, body)


async def damage_pointer(body: bytes, store: FaultyStore) -> None:
    await put(store, INDEX_POINTER, body)


async def no_shards(store: FaultyStore) -> None:
    for key in await shard_keys(store):
        await store.inner.delete(key)


async def exchanged_shards(store: FaultyStore) -> None:
    first, second, *_ = await shard_keys(store)
    bodies = [(await store.inner.get(key)).body for key in (first, second)]  # type: ignore[union-attr]
    await put(store, first, bodies[1])
    await put(store, second, bodies[0])


async def damaged_shards(store: FaultyStore) -> None:
    for key in await shard_keys(store):
        body = bytearray((await store.inner.get(key)).body)  # type: ignore[union-attr]
        body[len(body) // 2] ^= 1
        await put(store, key, bytes(body))


async def shard_of(raw: bytes, store: FaultyStore) -> None:
    """One shard of everything, whose digest is right, and which makes no sense."""
    info, _ = encode_shard([], "", "")
    body = codec.compress(raw)
    await put(store, shard_key(info.id), body)
    info = msgspec.structs.replace(info, digest=hashlib.sha256(body).hexdigest(), count=300)
    await put(store, INDEX_POINTER, encode_pointer(Pointer("0", (info,))))


async def overlapping(store: FaultyStore) -> None:
    current = await pointer(store)
    await put(store, INDEX_POINTER, encode_pointer(Pointer("0", (*current.shards, *current.shards))))


async def exchanged_ranges(store: FaultyStore) -> None:
    first, second, third = (await pointer(store)).shards
    other = msgspec.structs.replace(second, after=first.after, last=first.last)
    another = msgspec.structs.replace(first, after=second.after, last=second.last)
    await put(store, INDEX_POINTER, encode_pointer(Pointer("0", (other, another, third))))


async def other_etags(store: FaultyStore) -> None:
    """What the shard says belongs to other ETags than those of the store."""
    lie = of_lies(Version("0" * 32, ATTRIBUTES, 0))
    rows = [row(manifest_key(f"d/{name}"), "no such etag", lie) for name in numbered(0, FILES)]
    info, body = encode_shard(rows, "", "")
    await put(store, shard_key(info.id), body)
    await put(store, INDEX_POINTER, encode_pointer(Pointer("0", (info,))))


BOMB = codec.compress(bytes(64 << 20))
PACK = msgspec.msgpack.encode

DAMAGE: dict[str, Callable[[FaultyStore], object]] = {
    "pointer-empty": partial(damage_pointer, b""),
    "pointer-garbage": partial(damage_pointer, b"garbage"),
    "pointer-bomb": partial(damage_pointer, BOMB),
    "pointer-huge": partial(damage_pointer, bytes(11 << 20)),
    "pointer-not-json": partial(damage_pointer, codec.compress(b"{")),
    "pointer-of-other-types": partial(damage_pointer, codec.compress(b'{"v":1,"commit":"","shards":[{"id":1}]}')),
    "pointer-overlapping": overlapping,
    "pointer-exchanged-ranges": exchanged_ranges,
    "no-shards": no_shards,
    "exchanged-shards": exchanged_shards,
    "damaged-shards": damaged_shards,
    "shard-bomb": partial(shard_of, bytes(64 << 20)),
    "shard-garbage": partial(shard_of, b"\xc1 garbage"),
    "shard-of-other-types": partial(shard_of, PACK([[1, 2, 3]])),
    "shard-without-versions": partial(shard_of, PACK([[manifest_key(f"d/{n:04d}"), "", 7] for n in range(FILES)])),
    "other-etags": other_etags,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
async def test_damage_costs_requests_and_is_mended(
    hosts: Hosts, new: NewHosts, store: FaultyStore, damage: Callable[[FaultyStore], object]
) -> None:
    a = await indexed(hosts, numbered(0, FILES))
    expected = await truth(a)
    await damage(store)  # type: ignore[misc]
    b = await new.start()
    store.reset_log()
    assert await listed(b) == expected
    assert store.count("get", "manifests") > 0
    assert await b.write_index() > 0
    c = await new.start()
    store.reset_log()
    assert await listed(c) == expected
    assert store.count("get", "manifests") == 0


def test_a_shard_that_is_read_takes_little_more_memory_than_its_rows() -> None:
    names = numbered(0, 10_000)
    rows = [row(name, f"etag {name}", Version(f"{name:>32}", ATTRIBUTES, 1)) for name in names]
    info, body = encode_shard(rows, "", "")
    raw = len(msgspec.msgpack.encode(rows))
    tracemalloc.start()
    try:
        shard = decode_shard(info, body)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < raw + 80 * len(rows)
    # In whatever order it is asked.
    for name in [*names, *reversed(names)]:
        found = shard.version(name, f"etag {name}")
        assert found is not None
        assert found.commit.strip() == name
        assert shard.version(name, "another") is None
    assert [shard.version(name, f"etag {name}") for name in ("", "0000x", "x")] == [None] * 3


async def test_an_index_of_a_later_version_is_left_alone(hosts: Hosts, new: NewHosts, store: FaultyStore) -> None:
    a = await indexed(hosts, numbered(0, FILES))
    body = codec.compress(b'{"v":2,"whatever":"it says"}')
    await put(store, INDEX_POINTER, body)
    kept = set(await shard_keys(store))
    b = await new.start()
    assert await listed(b) == await truth(a)
    await b.write_index()
    await collect_garbage(store, a, now=lambda: 1e11)
    assert (await store.inner.get(INDEX_POINTER)).body == body  # type: ignore[union-attr]
    assert kept <= set(await shard_keys(store))


async def test_an_index_that_cannot_be_read_is_no_error(hosts: Hosts, new: NewHosts, store: FaultyStore) -> None:
    a = await indexed(hosts, numbered(0, FILES))
    for keys in (INDEX_POINTER, f"{INDEX_SHARDS}*"):
        store.add(Rule(FailBefore(StoreUnavailable("away")), "get", keys))
        assert await listed(await new.start()) == await truth(a)


# Faults of writing


@pytest.mark.parametrize("keys", [INDEX_POINTER, f"{INDEX_SHARDS}*"])
async def test_a_write_that_fails_is_tried_again(hosts: Hosts, new: NewHosts, store: FaultyStore, keys: str) -> None:
    a = await hosts.start("a")
    await make(a, numbered(0, 50))
    await listed(a)
    rule = store.add(Rule(FailBefore(StoreUnavailable("away")), "put", keys))
    with pytest.raises(StoreUnavailable):
        await a.write_index()
    rule.key = "nothing"
    assert await listed(await new.start()) == await truth(a)
    assert await a.write_index() == 50
    assert len((await pointer(store)).shards) == 1


async def test_a_lost_response_is_no_second_write(hosts: Hosts, store: FaultyStore) -> None:
    a = await hosts.start("a")
    await make(a, numbered(0, 50))
    await listed(a)
    store.add(Rule(FailAfter(StoreUnavailable("lost")), "put", INDEX_POINTER, nth=1))
    assert await a.write_index() == 50
    assert store.count("put", "index") == 2
    assert len((await pointer(store)).shards) == 1


async def test_two_hosts_that_write_at_once(hosts: Hosts, new: NewHosts, store: FaultyStore) -> None:
    a, b = await hosts.start("a"), await hosts.start("b")
    await make(a, numbered(0, FILES))
    for vault in (a, b):
        await listed(vault)
    await make_more(a, numbered(FILES, FILES + 40))
    await listed(b)
    stall = Stall()
    store.add(Rule(stall, "put", INDEX_POINTER, nth=1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.write_index)
        await stall.reached.wait()
        assert await b.write_index() == FILES + 40
        stall.go.set()
    now = await pointer(store)
    assert sum(shard.count for shard in now.shards) >= FILES + 40
    assert [shard.after for shard in now.shards[1:]] == [shard.last for shard in now.shards[:-1]]
    c, expected = await new.start(), await truth(a)
    store.reset_log()
    assert await listed(c) == expected
    assert store.count("get", "manifests") == 0


async def test_what_a_crash_leaves_and_what_was_replaced_is_removed_after_a_while(
    hosts: Hosts, new: NewHosts, store: FaultyStore
) -> None:
    a = await indexed(hosts, numbered(0, FILES))
    first = set(await shard_keys(store))
    for name in numbered(0, FILES):
        await append(a, f"d/{name}", b" and more")
    await listed(a)
    stall = Stall()
    store.add(Rule(stall, "put", INDEX_POINTER, nth=1))
    hosts.start_soon("a", a.write_index)  # type: ignore[arg-type]
    await stall.reached.wait()
    await hosts.crash("a")
    left = set(await shard_keys(store)) - first
    assert len(left) == 3
    a = await hosts.start("a")
    # Whoever collects compares all there is with the index, whatever is known here.
    await collect_garbage(store, a)
    named = {shard_key(shard.id) for shard in (await pointer(store)).shards}
    assert set(await shard_keys(store)) == first | left | named
    dry = await collect_garbage(store, a, now=lambda: time.time() + 7200, dry_run=True)
    done = await collect_garbage(store, a, now=lambda: time.time() + 7200)
    assert (dry.removed, done.removed) == (6, 6)
    assert set(await shard_keys(store)) == named
    assert len(named) == 3
    b, expected = await new.start(), await truth(a)
    store.reset_log()
    assert await listed(b) == expected
    assert store.count("get", "manifests") == 0
