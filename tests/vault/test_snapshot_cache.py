"""What is kept of versions in memory: the same bytes as were stored, in no more than so many."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from stowfs import codec
from stowfs.codec import Dictionary
from stowfs.errors import CorruptObject
from stowfs.hot.buffer import BufferedIndex
from stowfs.hot.index import CachedManifest
from stowfs.store.memory import MemoryStore
from stowfs.vault import manifest as manifests
from stowfs.vault import snapshot_cache
from stowfs.vault.manifest import Attributes, Manifest, Snapshot
from stowfs.vault.ring import Ring
from stowfs.vault.snapshot_cache import SnapshotCache
from tests.support.faults import FaultyStore
from tests.support.vaults import Hosts, append, read, write

SIZE = 1000
CONTENTS = {f"{number:03d}": random.Random(number).randbytes(SIZE) for number in range(100)}


def version(path: str, content: bytes = b"", dictionary: Dictionary | None = None) -> Snapshot:
    manifest = Manifest(
        "commit",
        Ring(),
        Attributes(0o644, 0, 0, 0, 0),
        size=len(content),
        pieces=(len(content),) if content else (),
        inline=len(content),
        inline_digest=hashlib.sha256(content).hexdigest() if content else "",
    )
    return manifests.decode(path, "etag", manifests.encode(manifest, content, dictionary), dictionary)


def filled(paths: Sequence[str]) -> SnapshotCache:
    cache = SnapshotCache()
    for path in paths:
        cache.put(version(path, CONTENTS[path]), 0.0)
    return cache


def kept(cache: SnapshotCache) -> dict[str, Snapshot]:
    return {path: entry.snapshot for path in CONTENTS if (entry := cache.get(path)) is not None}


async def test_a_walk_over_more_than_is_kept_decompressed_asks_neither_store_nor_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_cache, "UNPACKED", 10 * SIZE)
    asked: list[str] = []
    manifests_of = BufferedIndex.manifests

    async def counted(index: BufferedIndex, ids: Sequence[str]) -> dict[str, CachedManifest]:
        asked.extend(ids)
        return await manifests_of(index, ids)

    monkeypatch.setattr(BufferedIndex, "manifests", counted)
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path, revalidate=3600.0) as hosts:
        vault = await hosts.start("a")
        for path, content in CONTENTS.items():
            await write(vault, path, content)
        for path, content in CONTENTS.items():
            assert await read(vault, path) == content
        store.reset_log()
        asked.clear()
        for path, content in CONTENTS.items():
            assert await read(vault, path) == content
        assert (store.log, asked) == ([], [])
        # What is appended to has lost its bytes, too.
        await append(vault, "000", b" and more")
        assert await read(vault, "000") == CONTENTS["000"] + b" and more"


def test_only_the_inline_bytes_of_what_came_last_are_kept_decompressed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_cache, "UNPACKED", 10 * SIZE)
    cache = filled(list(CONTENTS))
    found = kept(cache)
    assert [path for path, snapshot in found.items() if snapshot.unpacked is not None] == list(CONTENTS)[-10:]
    assert {path: snapshot.inline for path, snapshot in found.items()} == CONTENTS
    assert [path for path, snapshot in found.items() if snapshot.unpacked is not None] == list(CONTENTS)[-10:]
    for path in CONTENTS:
        cache.drop(path)
    assert (cache._size, cache._unpacked_size, len(cache._unpacked)) == (0, 0, 0)
    assert found["099"].unpacked is None


def test_memory_that_went_bad_is_an_error_and_no_other_bytes() -> None:
    good = version("d/x", CONTENTS["000"])
    body = good.body[:-100] + bytes([good.body[-100] ^ 1]) + good.body[-99:]
    bad = replace(good, body=body, unpacked=None)
    with pytest.raises(CorruptObject, match="d/x: "):
        bad.inline  # noqa: B018 - reading it raises
    other = version("d/y", CONTENTS["001"])
    with pytest.raises(CorruptObject, match=r"d/x: .* SHA-256"):
        replace(good, body=other.body, unpacked=None).inline  # noqa: B018 - the same


async def test_a_manifest_that_went_bad_in_the_index_is_fetched_again(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        await write(await hosts.start("a"), "x", CONTENTS["000"])
        b = await hosts.start("b")
        good = await b.head("x")
        body = good.body[:-100] + bytes([good.body[-100] ^ 1]) + good.body[-99:]
        await b._hot.index.put_manifests({"x": CachedManifest(good.etag, body)})
        b._catalog._memory.drop("x")
        store.reset_log()
        assert await read(b, "x") == CONTENTS["000"]
        assert store.counts() == {("get", "manifests"): 1}


def test_a_walk_over_more_than_fits_still_finds_some_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = snapshot_cache._cost(version("000", CONTENTS["000"]))
    monkeypatch.setattr(snapshot_cache, "MEMORY", 80 * cost)
    monkeypatch.setattr(snapshot_cache, "random", random.Random(1))
    cache = filled(list(CONTENTS))
    assert 70 <= len(kept(cache)) <= 80
    for _ in range(5):
        hits = 0
        for path, content in CONTENTS.items():
            if cache.get(path) is not None:
                hits += 1
            else:
                cache.put(version(path, content), 0.0)
            assert cache._size <= 80 * cost
        assert hits >= 25
    # What came last is there for whoever it was fetched for.
    assert set(list(CONTENTS)[-30:]) <= kept(cache).keys()


def test_a_dictionary_is_counted_once_and_as_long_as_something_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [b'{"role": "user", "content": "%d"}' % (number * 7919) * 20 for number in range(500)]
    dictionary = codec.train(samples, 4096)
    assert dictionary is not None
    cache = SnapshotCache()
    one, two = (version(path, samples[0], dictionary) for path in "ab")
    cache.put(one, 0.0)
    cache.put(two, 0.0)
    shared = snapshot_cache.DICTIONARY * len(dictionary.data)
    costs = [snapshot_cache._cost(one), snapshot_cache._cost(two)]
    assert cache._size == sum(costs) + shared
    cache.drop("a")
    assert cache._size == costs[1] + shared
    one.pack()
    assert one.inline == samples[0]
    cache.drop("b")
    assert cache._size == 0
