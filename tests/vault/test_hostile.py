"""A store whose objects were damaged, or made to do harm: an error for what they belong to, and for nothing else.

Whatever is done to the conversations that are hit ends, with an error of stowfs or without one; the others are read
and listed as they were, whatever is collected, checked, repaired and written meanwhile; no request leaves the names
that a store has, and no object costs much memory. The environment variable STOWFS_EXAMPLES sets how many stores are
damaged.
"""

import os
import re
import tempfile
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache, partial
from pathlib import Path
from unittest.mock import patch

import msgspec
import pytest
import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from stowfs.errors import CorruptObject, NoSuchPath, NotDirectory, StoreUnavailable, StowError, UnsupportedVersion
from stowfs.store.base import Found
from stowfs.store.memory import MemoryStore
from stowfs.vault import manifest as manifests
from stowfs.vault import pages, run_sizes
from stowfs.vault import record as records
from stowfs.vault.check import Checker
from stowfs.vault.collect import collect_garbage
from stowfs.vault.descriptor import Descriptor, create_descriptor, read_descriptor
from stowfs.vault.findings import CountTooLow
from stowfs.vault.manifest import Reference, Snapshot
from stowfs.vault.naming import DESCRIPTOR, manifest_key, segment_key
from stowfs.vault.repair import repair
from stowfs.vault.vault import Vault
from tests.support.faults import FailBefore, FaultyStore, Late, Rule
from tests.support.hostile import BOMBS, GIANT, KEYS, mutated
from tests.support.vaults import ATTRIBUTES, Hosts, append, edit, read, write
from tests.vault.test_promises import log_lines, noise
from tests.vault.test_state_machine import MEMORY, PARAMETERS

EXAMPLES = int(os.environ.get("STOWFS_EXAMPLES", "30"))
"""Stores that are damaged; a quarter of a second each."""

SECONDS = 60.0
"""In which everything ends that is tried with one store, on a slow machine, too."""

DEADLINE = 0.1
"""Seconds for which a conflict is retried: what is damaged does not become good."""

SHARED = noise(60_000)
CONTENT = {
    "good": SHARED + log_lines(30, 1),
    "d/good": SHARED,
    "d/logs": log_lines(200, 2),
    "d/shares": SHARED + log_lines(40, 3),
    "d/small": b"a few words",
    "d/e/paged": noise(400_000, 4),
    "gone": SHARED + log_lines(50, 5),
}
TRASHED = "gone"
SMALL = manifest_key("d/small")
KEY = re.compile(
    r"stowfs\.json|manifests/(?!(.*/)?\.\.?(/|\Z)).*|segments/|segments/[0-9a-f]{2}/[0-9a-f]{64}"
    r"|blobs/|blobs/[0-9a-f]{2}/[0-9a-f]{64}/[0-9a-f]{32}|[a-z]*/?"
    r"|index/current|index/shards/([0-9a-f]{32})?|dictionaries/[0-9a-f]{8}"
)
"""What a request may be about: an object that stowfs writes, or a listing; of the dictionaries with a number, too: a
damaged frame may name any."""


@cache
def good_store() -> tuple[Descriptor, dict[str, bytes], dict[str, frozenset[str]]]:
    """A store with conversations of every kind: its objects, and by path the keys that a conversation needs."""

    async def make() -> tuple[Descriptor, dict[str, bytes], dict[str, frozenset[str]]]:
        store = MemoryStore()
        descriptor = await create_descriptor(store, segmenter=PARAMETERS, trash_seconds=86400.0)
        with (
            tempfile.TemporaryDirectory(dir=MEMORY) as directory,
            patch.object(records, "REDIRECT_ABOVE", 16 << 10),
            patch.object(pages, "PAGE", 4),
            patch.object(pages, "FANOUT_LIMIT", 6),
        ):
            async with Hosts(store, Path(directory), descriptor=descriptor) as hosts:
                vault = await hosts.start("a")
                for path in ("d", "d/e"):
                    await vault.make_directory(path, ATTRIBUTES)
                needed = {}
                for path, data in CONTENT.items():
                    needed[path] = await _keys(vault, await write(vault, path, data))
                await vault.remove(TRASHED)
                assert await vault.drain() == 0
        return descriptor, {key: await _body(store, key) for key in await _all_keys(store)}, needed

    return trio.run(make)


@pytest.fixture(autouse=True, scope="module")
def _made() -> None:
    """No test can make it: they run in an event loop already."""
    good_store()


async def _keys(vault: Vault, snapshot: Snapshot) -> frozenset[str]:
    async def fetch(reference: Reference) -> bytes:
        return await vault.segments.fetch(reference)

    keys = {manifest_key(snapshot.path)}
    for digest in await pages.digests(snapshot.manifest.pieces, fetch):
        keys.add(segment_key(digest))
        record = await vault.counts.read(digest)
        assert record is not None
        if record.header.redirect is not None:
            keys.add(f"blobs/{digest[:2]}/{digest}/{record.header.redirect}")
    return frozenset(keys)


async def _all_keys(store: MemoryStore) -> list[str]:
    return [info.key async for page in store.list("") for info in page.objects]


async def _body(store: MemoryStore, key: str) -> bytes:
    found = await store.get(key)
    assert isinstance(found, Found)
    return found.body


def test_the_good_store_has_objects_of_every_kind() -> None:
    _, objects, needed = good_store()
    kinds = [records.decode(key[-64:], body).header for key, body in objects.items() if key.startswith("segments/")]
    assert {header.type for header in kinds} == {"data", "page"}
    assert {header.redirect is None for header in kinds} == {True, False}
    assert max(header.ref_count for header in kinds) > 2
    assert len(needed["d/small"]) == 1


@st.composite
def damages(draw: st.DrawFn) -> dict[str, bytes | None]:
    """Up to three objects replaced, removed, or put where none belongs."""
    _, objects, _ = good_store()
    bodies = sorted({*objects.values()})
    damage: dict[str, bytes | None] = {}
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.sampled_from([key for key in objects if key != DESCRIPTOR]))
        if draw(st.integers(0, 9)):
            damage[key] = draw(mutated(key, objects[key], bodies))
        else:
            damage[key] = None
    for key in draw(st.lists(st.sampled_from(KEYS), max_size=2)):
        damage[key] = draw(st.sampled_from(bodies))
    return damage


class Tried:
    """Does things to a store, and holds what they end with against what is allowed."""

    def __init__(self, damage: dict[str, bytes | None]) -> None:
        self.damage = damage
        _, self.objects, self.needed = good_store()
        self.unharmed = {path for path, keys in self.needed.items() if not keys & damage.keys()} - {TRASHED}
        # Those whose manifests are what they were, so that nobody may read anything else.
        self.intact = {path for path in CONTENT if manifest_key(path) not in damage}
        self.unreadable: set[str] = set()

    async def attempt(self, operation: Callable[[], Awaitable[object]]) -> bool:
        """Whether it was done. An error that is none of stowfs, or no end, fails the test."""
        with trio.fail_after(SECONDS):
            try:
                await operation()
            except StowError:
                return False
        return True

    async def read_all(self, vault: Vault) -> None:
        """Reads everything: what is unharmed is what it was."""
        for path, data in CONTENT.items():
            if path in self.unharmed:
                assert await read(vault, path) == data
                continue
            try:
                found = await read(vault, path)
                assert path not in self.intact or found == data
            except CorruptObject:
                self.unreadable.add(path)
            except StowError:
                pass

    async def list_all(self, vault: Vault) -> None:
        """Lists everything: what is unharmed is there, and no path leads out of the tree."""
        found = {snapshot.path async for snapshot in vault.walk()}
        assert found >= self.unharmed
        for directory in ("", "d", "d/e"):
            below = {path for path in self.unharmed if path.rpartition("/")[0] == directory}
            try:
                found = {snapshot.path for snapshot in await vault.list_directory(directory)}
            except (NotDirectory, NoSuchPath):
                assert self.damage.get(manifest_key(directory)) is not None, directory
            except (CorruptObject, UnsupportedVersion):
                # What cannot be read is a directory as long as there is something in it.
                assert self.damage.get(manifest_key(directory)) is not None, directory
                assert not below
            else:
                assert found >= below
        assert not any(part in ("", ".", "..") for path in found for part in path.split("/"))

    async def write_all(self, vault: Vault) -> None:
        """Changes what is harmed in every way."""
        self.intact = set(self.unharmed)
        for path in self.needed.keys() - self.unharmed:
            for operation in (
                partial(append, vault, path, b"more\n" * 9000),
                partial(edit, vault, path, 5, b"changed"),
                partial(vault.set_attributes, path, mode=0o600),
                partial(vault.rename, path, path + "-2"),
                partial(vault.rename, path + "-2", path),
                partial(vault.undelete, path),
                partial(vault.remove, path),
                partial(vault.undelete, path),
                partial(write, vault, path, SHARED[:50_000]),
            ):
                await self.attempt(operation)


@pytest.mark.timeout(120 + 4 * EXAMPLES)
@settings(
    max_examples=EXAMPLES,
    phases=[phase for phase in Phase if phase is not Phase.explain],
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
@given(damages())
async def test_what_is_harmed_is_an_error_and_nothing_else_is(damage: dict[str, bytes | None]) -> None:
    descriptor, objects, _ = good_store()
    inner = MemoryStore(page_size=7)
    for key, body in ({**objects, **damage}).items():
        if body is not None:
            await inner.put(key, body)
    tried = Tried(damage)
    store = FaultyStore(inner)
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        async with Hosts(store, Path(directory), descriptor=descriptor, deadline=DEADLINE) as hosts:
            vault = await hosts.start("a")
            await tried.read_all(vault)
            await tried.list_all(vault)
            checked = await Checker(store, descriptor, exclusive=True).run()
            named = {path for finding in checked.findings for path in finding.conversations}
            assert tried.unreadable <= named
            for trash in (None, 0.0):
                with trio.move_on_after(2.0):  # It waits for releases that a damaged record does not take.
                    await tried.attempt(partial(collect_garbage, store, vault, grace=0.0, trash=trash))
                await tried.read_all(await hosts.start(f"after {trash}"))
            await tried.attempt(partial(repair, store, descriptor, checked, deadline=DEADLINE))
            await tried.read_all(await hosts.start("repaired"))
            await tried.write_all(vault)
            await tried.list_all(await hosts.start("written"))
            await tried.read_all(await hosts.start("read"))
            await tried.attempt(partial(vault.rename_directory, "d", "f"))
    strange = {request.key for request in store.log if not KEY.fullmatch(request.key)}
    assert not strange


@asynccontextmanager
async def damaged(
    damage: dict[str, bytes | None], *, trash_seconds: float = 86400.0
) -> AsyncIterator[tuple[FaultyStore, Vault]]:
    """A host on the good store with some objects replaced or removed."""
    descriptor, objects, _ = good_store()
    descriptor = msgspec.structs.replace(descriptor, trash_seconds=trash_seconds)
    store = FaultyStore(MemoryStore())
    for key, body in ({**objects, **damage}).items():
        if body is not None:
            await store.put(key, body)
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        async with Hosts(store, Path(directory), descriptor=descriptor, deadline=DEADLINE) as hosts:
            yield store, await hosts.start("a")


@pytest.mark.parametrize("body", [*BOMBS, GIANT], ids=[*(f"bomb {n}" for n in range(len(BOMBS))), "giant"])
async def test_bombs_and_giants_cost_little_memory(body: bytes) -> None:
    _, objects, needed = good_store()
    (redirected,) = [key for key in needed["d/good"] if key.startswith("blobs/")][:1]
    record = next(key for key in sorted(needed["d/e/paged"]) if key.startswith("segments/"))
    header = objects[record].partition(b"\n")[0]
    damage: dict[str, bytes | None] = {
        redirected: body,
        record: header + b"\n" + body,
        manifest_key("d/small"): body,
        manifest_key("d/logs"): manifests.encode(
            manifests.decode("", "", objects[manifest_key("d/logs")]).manifest, b""
        )
        + body,
    }
    async with damaged(damage) as (store, vault):
        tracemalloc.start()
        try:
            for path in ("d/good", "d/e/paged", "d/small", "d/logs"):
                with pytest.raises(CorruptObject):
                    await read(vault, path)
            assert {snapshot.path for snapshot in await vault.list_directory("d")} >= {"d/good", "d/shares", "d/e"}
            await collect_garbage(store, vault, grace=0.0)
            descriptor, _, _ = good_store()
            checked = await Checker(store, descriptor, exclusive=True).run()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 96 << 20, peak
        named = {path for finding in checked.findings for path in finding.conversations}
        assert named >= {"d/good", "d/e/paged", "d/small", "d/logs"}


async def test_a_directory_is_there_though_its_manifest_is_not(caplog: pytest.LogCaptureFixture) -> None:
    async with damaged({manifest_key("d"): b"nothing", manifest_key("d/e"): b"nothing"}) as (_, vault):
        for _ in range(2):
            assert {snapshot.path for snapshot in await vault.list_directory("")} == {"d", "good"}
            assert (await vault.head("d/e")).is_directory
            assert "d/e" in {snapshot.path for snapshot in await vault.list_directory("d")}
            assert await read(vault, "d/e/paged") == CONTENT["d/e/paged"]
    assert sorted(record.message.split(":")[1] for record in caplog.records) == [" d", " d/e"]


async def test_what_cannot_be_read_is_said_once_and_not_fetched_again(caplog: pytest.LogCaptureFixture) -> None:
    async with damaged({manifest_key("d/small"): b"nothing", "manifests/d/%zz.json": b"x"}) as (store, vault):
        for _ in range(3):
            listed = {snapshot.path for snapshot in await vault.list_directory("d")}
            assert listed == {path for path in CONTENT if path.count("/") == 1} - {"d/small"} | {"d/e"}
        assert len(caplog.records) == 2
        assert len([request for request in store.log if (request.operation, request.key) == ("get", SMALL)]) == 1
        with pytest.raises(CorruptObject, match="d/small"):
            await vault.head("d/small")


@pytest.mark.parametrize("key", ["segments/", "manifests/"])
async def test_what_is_damaged_keeps_no_commit_from_coming_to_its_end(key: str) -> None:
    """The references that cannot be given up stay counted, and are given up by nobody else."""
    _, _, needed = good_store()
    victims = {one: b"damaged" for one in needed["d/shares"] if one.startswith(key)} if key == "segments/" else {}
    async with damaged({**victims}) as (store, vault):
        if victims:
            await vault.remove("d/shares")
            await vault.empty_trash("d/shares", before=float("inf"))
        else:
            store.add(Rule(Late(), "put", manifest_key("d/shares")))
            store.add(Rule(FailBefore(), "put", manifest_key("d/shares"), times=None))
            with pytest.raises(StoreUnavailable):
                await write(vault, "d/shares", CONTENT["d/e/paged"], await vault.head("d/shares"))
            store.rules.clear()
            await store.put(manifest_key("d/shares"), b"damaged")
        assert await vault.drain(20) == 0


@pytest.mark.parametrize("lost", [True, False])
@pytest.mark.parametrize("trash", [0.0, 86400.0])
@pytest.mark.parametrize("how", ["replaced", "put back", "renamed over", "linked over", "removed", "removed, put back"])
async def test_a_name_stays_of_use_though_a_page_of_what_has_it_is_damaged(
    how: str, trash: float, lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can be read of it stays counted, and nothing is counted too low."""
    monkeypatch.setattr(run_sizes, "END", 1)  # So short a conversation is cut like a long one.
    _, objects, needed = good_store()
    path = "d/e/paged"
    (page, *_) = sorted(key for key in needed[path] if b'"type":"page"' in objects[key].partition(b"\n")[0])
    async with damaged({page: None if lost else objects[page][:-1] + b"?"}, trash_seconds=trash) as (store, vault):
        for change in (append(vault, path, b"more"), edit(vault, path, 0, b"other")):
            with pytest.raises(CorruptObject):
                await change
        content = b"other" if how == "replaced" else CONTENT["good" if how == "renamed over" else path]
        if how in ("replaced", "put back"):
            await write(vault, path, content, await vault.head(path))
        elif how == "renamed over":
            await vault.rename("good", path)
        elif how == "linked over":
            await vault.make_symlink(path, b"elsewhere", ATTRIBUTES, replace=True)
        else:
            await vault.remove(path)
            if how == "removed, put back":
                await write(vault, path, content)
        if how == "removed":
            with pytest.raises(NoSuchPath):
                await read(vault, path)
        elif how != "linked over":
            assert await read(vault, path) == content
        assert await vault.drain(20) == 0
        checked = await Checker(store, await read_descriptor(store), exclusive=True).run()
        assert not [finding for finding in checked.findings if isinstance(finding, CountTooLow)]


@pytest.mark.parametrize(
    "changes",
    [
        {"many": 0},
        {"many": -1},
        {"trash_seconds": -1.0},
        {"trash_seconds": 1e300},
        {"store_id": "../../elsewhere"},
        {"segmenter": {"minimum": 64, "target": 256, "maximum": 1 << 40}},
        {"segmenter": {"minimum": 0, "target": 0, "maximum": 0}},
        {"created_at": "now"},
        {"v": None},
    ],
)
async def test_a_descriptor_that_makes_no_sense(changes: dict[str, object]) -> None:
    _, objects, _ = good_store()
    store = MemoryStore()
    await store.put(DESCRIPTOR, msgspec.json.encode(msgspec.json.decode(objects[DESCRIPTOR]) | changes))
    with pytest.raises(CorruptObject):
        await read_descriptor(store)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_descriptor_is_read_or_refused(data: st.DataObject) -> None:
    _, objects, _ = good_store()
    body = data.draw(mutated(DESCRIPTOR, objects[DESCRIPTOR], sorted({*objects.values()})))

    async def attempt() -> None:
        store = MemoryStore()
        await store.put(DESCRIPTOR, body)
        try:
            descriptor = await read_descriptor(store)
        except StowError:
            return
        assert descriptor.segmenter.maximum <= records.RAW_LIMIT
        assert descriptor.many > 0

    trio.run(attempt)
