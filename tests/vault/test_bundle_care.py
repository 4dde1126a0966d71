"""Bundles are collected, compacted and checked: what nobody needs of them goes, and never what anybody does."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import pytest
import trio

from stowfs import codec
from stowfs.cli.inventory import part_of_store, whole_store
from stowfs.codec import Dictionary
from stowfs.errors import CorruptObject, NoSuchPath, PreconditionFailed
from stowfs.store.base import IF_ABSENT, Found, IfMatch
from stowfs.vault import bundle as bundles_format
from stowfs.vault import compact as compaction
from stowfs.vault.bundle import FRESH, Whole, decode, is_token
from stowfs.vault.bundle_care import SETTLED, walk
from stowfs.vault.bundled_store import BundledStore
from stowfs.vault.check import Checker
from stowfs.vault.collect import CLOCK_ALLOWANCE, Collected, collect_garbage
from stowfs.vault.compact import Compacted, compact_store
from stowfs.vault.findings import Undecodable
from stowfs.vault.naming import children_prefix, is_bundle, manifest_key
from stowfs.vault.repair import UNCLEAR, repair
from stowfs.vault.ring import FORGOTTEN_AFTER, new_id
from stowfs.vault.vault import Vault
from tests.support.audit import audit, contents
from tests.support.dictionaries import conversation, dictionary, keys, use
from tests.support.faults import FaultyStore, Rule, Stall
from tests.support.together import patient, write_together
from tests.support.vaults import ATTRIBUTES, DEADLINE, Hosts, append, read, write
from tests.vault.test_expiry import write_until
from tests.vault.test_promises import log_lines
from tests.vault.test_undelete import WEEK, deleted, trash_hosts

__all__ = ["patient"]

NAMES = [f"d/{n}" for n in range(6)]
LATER = SETTLED + CLOCK_ALLOWANCE + 60
CONTENT = log_lines(1400, 1)
"""Of some segments."""

PREFIX = children_prefix("d")


def later(seconds: float) -> Callable[[], float]:
    return lambda: time.time() + seconds


async def filled(hosts: Hosts, files: dict[str, bytes]) -> Vault:
    """A host that has put them into one bundle."""
    vault = await hosts.start("a", bundles=True)
    await vault.make_directory("d", ATTRIBUTES)
    await write_together(vault, files)
    assert len((await only_bundle(hosts)).bundle.header.members) == len(files)
    return vault


async def bundles(hosts: Hosts) -> list[Whole]:
    objects = await contents(hosts.store, "manifests/")
    return [decode(key, "", body) for key, body in objects.items() if is_bundle(key)]


async def only_bundle(hosts: Hosts) -> Whole:
    (whole,) = await bundles(hosts)
    return whole


async def held(hosts: Hosts) -> set[str]:
    """The paths of what is in the bundle, in the one directory that has any."""
    return {f"d/{member.name}" for member in (await only_bundle(hosts)).bundle.header.members}


async def collect(
    hosts: Hosts, vault: Vault, after: float = LATER, *, exclusive: bool = False, dry_run: bool = False
) -> Collected:
    return await collect_garbage(hosts.store, vault, grace=0, exclusive=exclusive, dry_run=dry_run, now=later(after))


async def with_dictionary(hosts: Hosts, name: str, used: Dictionary) -> Vault:
    """A host that has seen that this is the active one."""
    vault = await hosts.start(name)
    vault.dictionaries.active_id = used.id
    return vault


async def compact(hosts: Hosts, vault: Vault, *, dry_run: bool = False) -> Compacted:
    return await compact_store(hosts.store, vault, train=False, dry_run=dry_run)


async def check(hosts: Hosts, vault: Vault, expected: dict[str, bytes]) -> None:
    """This host and one that is new have all this, and nothing else; all counts are right."""
    other = await hosts.start(f"other {new_id()}")
    for host in (vault, other):
        listed = {entry.path async for entry in host.walk() if not entry.is_directory}
        assert listed == set(expected)
        for path, data in expected.items():
            assert await read(host, path) == data, path
    await vault.drain()
    assert (await audit(hosts.store)).exact
    assert (await Checker(hosts.store, vault.descriptor, exclusive=True).run()).findings == []


def numbered(paths: Iterable[str] = NAMES) -> dict[str, bytes]:
    return {path: path.encode() * 20 for path in paths}


# Collection


@pytest.mark.parametrize("state", ["pending", "void"])
async def test_a_bundle_that_was_given_up_is_removed_after_a_while(hosts: Hosts, state: str) -> None:
    files = numbered()
    vault = await filled(hosts, files)
    key = bundles_format.key_of(PREFIX, new_id())
    body = bundles_format.pending([("name", new_id())]) if state == "pending" else bundles_format.void()
    await hosts.store.put(key, body)
    before = await contents(hosts.store)
    assert (await collect(hosts, vault, SETTLED)).removed == 0
    dry = await collect(hosts, vault, dry_run=True)
    assert await contents(hosts.store) == before
    collected = await collect(hosts, vault)
    assert collected == dry
    assert (collected.removed, collected.removed_bytes) == (1, len(body))
    after = await contents(hosts.store)
    assert before.keys() - after.keys() == {key}
    assert {k: v for k, v in after.items() if k.startswith("manifests/")} == {
        k: v for k, v in before.items() if k.startswith("manifests/") and k != key
    }
    await check(hosts, vault, files)


async def test_who_commits_a_bundle_after_it_was_collected_creates_one_by_one(
    hosts: Hosts, faulty: FaultyStore
) -> None:
    vault = await hosts.start("a", bundles=True)
    await vault.make_directory("d", ATTRIBUTES)
    files = numbered()
    stall = Stall()
    # The second time it is written, it is committed.
    rule = faulty.add(Rule(stall, "put", f"{PREFIX}%+*", nth=2))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write_together, vault, files)
        await stall.reached.wait()
        faulty.rules.remove(rule)
        collected = await collect(hosts, await hosts.start("gc"))
        assert collected.removed == 1
        assert await bundles(hosts) == []
        stall.go.set()
    assert await bundles(hosts) == []
    await check(hosts, vault, files)


async def test_a_bundle_that_is_committed_meanwhile_stays(hosts: Hosts, faulty: FaultyStore) -> None:
    vault = await hosts.start("a", bundles=True)
    await vault.make_directory("d", ATTRIBUTES)
    files = numbered()
    of_owner, of_collection = Stall(), Stall()
    faulty.add(Rule(of_owner, "put", f"{PREFIX}%+*", nth=2))
    collecting = FaultyStore(faulty.inner)
    collecting.add(Rule(of_collection, "put", f"{PREFIX}%+*"))
    results: list[Collected] = []

    async def collect_meanwhile() -> None:
        collector = await hosts.start("gc")
        results.append(await collect_garbage(collecting, collector, grace=0, now=later(LATER)))

    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as owner:
            owner.start_soon(write_together, vault, files)
            await of_owner.reached.wait()
            nursery.start_soon(collect_meanwhile)
            await of_collection.reached.wait()
            of_owner.go.set()
        of_collection.go.set()
    assert [collected.removed for collected in results] == [0]
    assert await held(hosts) == set(NAMES)
    await check(hosts, vault, files)


async def test_it_is_the_object_that_has_to_be_there_for_a_while(hosts: Hosts) -> None:
    vault = await filled(hosts, numbered())
    await trio.sleep(0.02)
    between = time.time()
    await append(vault, NAMES[0], b"more")
    store = BundledStore(hosts.store, deadline=DEADLINE)
    for before, hidden in ((between, set()), (between + 60, {"0"})):
        passed = [bundle for _, part in [item async for item in walk(store, before=before)] for bundle in part]
        assert [bundle.hidden for bundle in passed] == [hidden]


async def test_what_has_a_key_of_its_own_is_left_out(hosts: Hosts) -> None:
    files = numbered()
    vault = await filled(hosts, files)
    other = await hosts.start("b")
    for path in NAMES[:2]:
        files[path] += b"more"
        await append(other, path, b"more")
    # Somebody may just have asked for what was not there yet.
    assert (await collect(hosts, vault, SETTLED)).removed == 0
    assert await held(hosts) == set(NAMES)
    before = await contents(hosts.store)
    dry = await collect(hosts, vault, dry_run=True)
    assert await contents(hosts.store) == before
    assert (dry.removed, dry.removed_bytes > 0) == (2, True)
    assert await collect(hosts, vault) == dry
    assert await held(hosts) == set(NAMES[2:])
    assert (await collect(hosts, vault)).removed == 0
    await check(hosts, vault, files)
    # What is in a bundle that was written again can be written.
    await append(vault, NAMES[3], b"more")
    files[NAMES[3]] += b"more"
    await check(hosts, vault, files)


async def test_what_is_given_up_is_left_out_at_once(hosts: Hosts) -> None:
    files = numbered()
    vault = await filled(hosts, files)
    await vault.remove(NAMES[2])
    del files[NAMES[2]]
    dry = await collect(hosts, vault, 0, dry_run=True)
    assert await held(hosts) == set(NAMES)
    assert await collect(hosts, vault, 0) == dry
    assert dry.removed == 1
    assert await held(hosts) == set(NAMES) - {NAMES[2]}
    await check(hosts, vault, files)


async def test_what_is_in_the_trash_stays_until_that_is_emptied(hosts: Hosts) -> None:
    assert hosts.descriptor is not None
    hosts.descriptor = msgspec.structs.replace(hosts.descriptor, trash_seconds=3600.0)
    vault = await filled(hosts, numbered())
    await vault.remove(NAMES[2])
    assert (await collect(hosts, vault, 0)).removed == 0
    assert await held(hosts) == set(NAMES)
    emptied = await collect(hosts, vault, 2 * 3600.0)
    assert (emptied.emptied, emptied.removed) == (1, 1)
    assert await held(hosts) == set(NAMES) - {NAMES[2]}


@pytest.mark.parametrize("exclusive", [False, True])
async def test_a_fresh_object_is_no_reason_to_leave_anything_out(hosts: Hosts, exclusive: bool) -> None:
    """Whoever created it was told that somebody else has the name."""
    files = numbered()
    vault = await filled(hosts, files)
    stranger = await write(vault, "stranger", b"a stranger")
    for path in NAMES[:3]:
        await hosts.store.put(manifest_key(path), FRESH + stranger.body, IF_ABSENT)
    for path in NAMES[3:]:
        await append(vault, path, b"more")
        files[path] += b"more"
    await collect(hosts, vault, exclusive=exclusive)
    assert await held(hosts) == set(NAMES[:3])
    await check(hosts, vault, files | {"stranger": b"a stranger"})


async def test_a_bundle_that_holds_nothing_is_removed_and_then_what_it_was_hidden_by(hosts: Hosts) -> None:
    vault = await filled(hosts, numbered())
    for path in NAMES:
        await vault.remove(path)
    await vault.remove_directory("d")
    size = len(next(body for key, body in (await contents(hosts.store)).items() if is_bundle(key)))
    collected = await collect(hosts, vault)
    assert (collected.removed, collected.removed_bytes) == (1, size)
    assert await bundles(hosts) == []
    assert manifest_key(NAMES[0]) in await contents(hosts.store)
    assert (await collect(hosts, vault, 2 * FORGOTTEN_AFTER, exclusive=True)).removed == len(NAMES)
    # But the directory has to say for good that it may have bundles.
    assert list(await contents(hosts.store, "manifests/")) == [manifest_key("d")]
    await check(hosts, vault, {})
    await vault.make_directory("d", ATTRIBUTES)
    await write_together(vault, numbered())
    assert await held(hosts) == set(NAMES)
    await check(hosts, vault, numbered())


async def test_a_tombstone_stays_as_long_as_it_hides_something(hosts: Hosts) -> None:
    files = numbered()
    vault = await filled(hosts, files)
    await vault.remove(NAMES[0])
    del files[NAMES[0]]
    store = BundledStore(hosts.store, deadline=DEADLINE)
    with pytest.raises(PreconditionFailed):
        await store.delete(manifest_key(NAMES[0]))
    dry = await collect(hosts, vault, 2 * FORGOTTEN_AFTER, exclusive=True, dry_run=True)
    collected = await collect(hosts, vault, 2 * FORGOTTEN_AFTER, exclusive=True)
    assert collected == dry
    assert collected.removed == 2
    assert await held(hosts) == set(NAMES[1:])
    assert manifest_key(NAMES[0]) not in await contents(hosts.store)
    with pytest.raises(NoSuchPath):
        await vault.head(NAMES[0])
    await check(hosts, vault, files)


async def test_nothing_is_written_in_the_place_of_what_is_gone_for_good(hosts: Hosts) -> None:
    """Somebody who comes back after all of this must not bring it back: what it referenced is released."""
    vault = await filled(hosts, numbered())
    store = BundledStore(hosts.store, deadline=DEADLINE)
    key = manifest_key(NAMES[0])
    found = await store.get(key)
    assert isinstance(found, Found)
    assert is_token(found.etag)
    await vault.remove(NAMES[0])
    await collect(hosts, vault, 2 * FORGOTTEN_AFTER, exclusive=True)
    with pytest.raises(PreconditionFailed):
        await BundledStore(hosts.store, deadline=DEADLINE).put(key, b"late", IfMatch(found.etag))
    assert key not in await contents(hosts.store)


async def test_what_expires_in_a_bundle_is_given_up(hosts: Hosts) -> None:
    vault = await hosts.start("a", bundles=True)
    await vault.make_directory("d", ATTRIBUTES)
    soon = time.time_ns() + 3600 * 10**9
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write_until, vault, "d/expires", CONTENT, soon)
        nursery.start_soon(write, vault, "d/stays", b"stays")
    assert await held(hosts) == {"d/expires", "d/stays"}
    collected = await collect(hosts, vault)
    assert (collected.expired, collected.expired_size) == (1, len(CONTENT))
    assert (await collect(hosts, vault)).segments + collected.segments > 0
    await vault.drain()
    assert manifest_key("d/expires") in await contents(hosts.store)
    assert await read(await hosts.start("b"), "d/stays") == b"stays"
    assert (await audit(hosts.store)).exact
    with pytest.raises(NoSuchPath):
        await vault.set_deadline("d/expires", None)


async def test_a_dry_run_counts_what_is_hidden_once(hosts: Hosts) -> None:
    """Though it goes through the bundles twice, where something in them has expired."""
    vault = await hosts.start("a", bundles=True)
    await vault.make_directory("d", ATTRIBUTES)
    soon = time.time_ns() + 3600 * 10**9
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write_until, vault, "d/expires", b"expires", soon)
        for name in ("d/replaced", "d/stays"):
            nursery.start_soon(write, vault, name, name.encode())
    size = next(member.size for member in (await only_bundle(hosts)).bundle.held if member.name == "replaced")
    await write(vault, "d/replaced", b"again", await vault.head("d/replaced"))
    dry = await collect(hosts, vault, exclusive=True, dry_run=True)
    assert (dry.expired, dry.removed, dry.removed_bytes) == (1, 1, size)
    assert len(await held(hosts)) == 3
    await collect(hosts, vault, exclusive=True)
    assert await held(hosts) == {"d/stays"}


async def test_what_was_in_a_bundle_comes_back_from_the_trash_until_its_time_is_over(
    faulty: FaultyStore, tmp_path: Path
) -> None:
    async with await trash_hosts(faulty, tmp_path) as hosts:
        vault = await filled(hosts, {"d/x": CONTENT, "d/y": CONTENT[1000:], "d/z": b"z"})
        for path in ("d/x", "d/y"):
            await vault.remove(path)
        # It is left out of the bundle: what is in the trash has keys of its own.
        assert (await collect(hosts, vault)).removed == 2
        assert await held(hosts) == {"d/z"}
        await vault.undelete("d/x")
        assert await deleted(vault) == ["d/y"]
        collected = await collect(hosts, vault, WEEK + 60)
        assert collected.emptied == 1
        await check(hosts, vault, {"d/x": CONTENT, "d/z": b"z"})


async def test_a_dictionary_that_something_in_a_bundle_needs_stays(hosts: Hosts, faulty: FaultyStore) -> None:
    """The hosts remember what is in it as it was before it was compressed again, by the same ETag."""
    files = {path: conversation(n, messages=20) for n, path in enumerate(NAMES)}
    vault = await filled(hosts, files)
    for path in files:
        await read(vault, path)
    used = dictionary()
    await use(faulty, used)
    compactor = await with_dictionary(hosts, "compactor", used)
    assert (await compact(hosts, compactor)).conversations == len(files)
    numbers = {codec.dictionary_number(body) for _, body in (await only_bundle(hosts)).manifests()}
    assert numbers == {used.number}
    await use(faulty, dictionary(1), instead_of=used.id)
    await collect(hosts, vault, 2 * FORGOTTEN_AFTER, exclusive=True)
    assert [key for key in await keys(faulty) if used.name in key]
    # Nothing needs it any more when it is all compressed again.
    newest = dictionary(1)
    compactor.dictionaries.active_id = newest.id
    await compact(hosts, compactor)
    await check(hosts, vault, files)


# Compaction


async def test_a_bundle_is_compacted_as_a_whole(hosts: Hosts, faulty: FaultyStore) -> None:
    files = {path: conversation(n, messages=20) for n, path in enumerate(NAMES)}
    vault = await filled(hosts, files)
    made = dictionary()
    await use(faulty, made)
    compactor = await with_dictionary(hosts, "compactor", made)
    before = await contents(faulty.inner, "manifests/")
    tokens = {path: (await vault.head(path)).etag for path in files}
    dry = await compact(hosts, compactor, dry_run=True)
    assert await contents(faulty.inner, "manifests/") == before
    compacted = await compact(hosts, compactor)
    assert compacted == dry
    assert (compacted.conversations, compacted.unread) == (len(files), ())
    after = await contents(faulty.inner, "manifests/")
    assert after.keys() == before.keys()
    saved = sum(map(len, before.values())) - sum(map(len, after.values()))
    assert saved > 0.2 * compacted.bytes_before
    assert abs(saved - (compacted.bytes_before - compacted.bytes_after)) < 100
    other = await hosts.start("b")
    assert {path: (await other.head(path)).etag for path in files} == tokens
    await check(hosts, vault, files)
    # It says that it is done.
    faulty.reset_log()
    again = await compact(hosts, await with_dictionary(hosts, "again", made))
    assert (again.conversations, again.looked_at) == (0, compacted.looked_at)
    assert not [request for request in faulty.log if request.operation == "put"]
    await append(other, NAMES[0], b"more")
    await check(hosts, vault, files | {NAMES[0]: files[NAMES[0]] + b"more"})


async def test_compaction_leaves_out_what_is_hidden(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "SETTLED", -CLOCK_ALLOWANCE - 60)
    files = {path: conversation(n, messages=20) for n, path in enumerate(NAMES)}
    vault = await filled(hosts, files)
    await append(vault, NAMES[0], b"more")
    files[NAMES[0]] += b"more"
    await hosts.store.put(manifest_key(NAMES[1]), FRESH + (await vault.head("d")).body, IF_ABSENT)
    compacted = await compact(hosts, await hosts.start("compactor"))
    assert await held(hosts) == set(NAMES[1:])
    assert compacted.unread == ()
    await check(hosts, vault, files)


async def test_what_is_written_while_its_bundle_is_compacted_stays(hosts: Hosts, faulty: FaultyStore) -> None:
    files = {path: conversation(n, messages=20) for n, path in enumerate(NAMES)}
    vault = await filled(hosts, files)
    await use(faulty, dictionary())
    stall = Stall()
    rule = faulty.add(Rule(stall, "put", f"{PREFIX}%+*"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(compact, hosts, await with_dictionary(hosts, "compactor", dictionary()))
        await stall.reached.wait()
        faulty.rules.remove(rule)
        await append(vault, NAMES[0], b"more")
        await vault.remove(NAMES[1])
        # Another one is quicker.
        assert (await compact(hosts, await with_dictionary(hosts, "quicker", dictionary()))).conversations >= len(
            files
        ) - 2
        stall.go.set()
    files[NAMES[0]] += b"more"
    del files[NAMES[1]]
    assert await held(hosts) == set(NAMES)
    await check(hosts, vault, files)


async def test_what_cannot_be_read_in_a_bundle_is_named_and_stays(hosts: Hosts, faulty: FaultyStore) -> None:
    files = {path: conversation(n, messages=20) for n, path in enumerate(NAMES)}
    await filled(hosts, files)
    whole = await only_bundle(hosts)
    manifests = [
        (member.name, member.commit, b"nonsense" if member.name == "3" else body) for member, body in whole.manifests()
    ]
    await hosts.store.put(whole.bundle.key, bundles_format.committed(manifests))
    await use(faulty, dictionary())
    compactor = await with_dictionary(hosts, "compactor", dictionary())
    for conversations in (len(files) - 1, 0):
        # It is named each time.
        compacted = await compact(hosts, compactor)
        assert compacted.conversations == conversations
        assert [kept.key for kept in compacted.unread] == [manifest_key("d/3")]
    assert {member.name: body for member, body in (await only_bundle(hosts)).manifests()}["3"] == b"nonsense"
    del files["d/3"]
    for path, data in files.items():
        assert await read(compactor, path) == data


# Checking


async def damage(hosts: Hosts, place: int) -> str:
    """Makes the bundle one that cannot be read; its key."""
    key = (await only_bundle(hosts)).bundle.key
    body = bytearray((await contents(hosts.store))[key])
    body[place] ^= 1
    await hosts.store.put(key, bytes(body))
    return key


@pytest.mark.parametrize("place", [0, -1], ids=["the names", "what it holds"])
async def test_a_damaged_bundle_is_reported_and_hides_nothing_else(hosts: Hosts, place: int) -> None:
    await filled(hosts, numbered())
    single = await hosts.start("single")
    await write(single, "d/single", b"single")
    if place == 0:
        # As long as it was created only, nobody can tell whether the bundle has that name.
        await append(single, "d/single", b" again")
    key = await damage(hosts, place)
    assert hosts.descriptor is not None
    checked = await Checker(hosts.store, hosts.descriptor, exclusive=True).run()
    assert not checked.complete
    (finding,) = checked.findings
    assert isinstance(finding, Undecodable)
    assert finding.key == key
    outcomes = await repair(hosts.store, hosts.descriptor, checked, exclusive=True, deadline=DEADLINE)
    assert [outcome.left for outcome in outcomes] == [UNCLEAR]
    vault = await hosts.start("b")
    assert [entry.path for entry in await vault.list_directory("d")] == ["d/single"]
    assert (await read(vault, "d/single")).startswith(b"single")
    with pytest.raises(CorruptObject):
        await vault.head(NAMES[0])
    with pytest.raises(CorruptObject):
        await write(vault, NAMES[0], b"another")
    if place == 0:
        with pytest.raises(CorruptObject):
            await write(vault, "d/new", b"new")
    await vault.remove("d/single")
    with pytest.raises(CorruptObject):
        await vault.remove_directory("d")
    await vault.head("d")
    for result in (await collect(hosts, vault), await collect(hosts, vault, exclusive=True)):
        assert {kept.key for kept in result.kept} >= {key}
    assert key in [kept.key for kept in (await compact(hosts, vault)).unread]
    assert key in await contents(hosts.store)


@pytest.mark.parametrize("place", [0, -1], ids=["the names", "what it holds"])
async def test_a_directory_with_nothing_but_a_damaged_bundle_is_not_removed(hosts: Hosts, place: int) -> None:
    await filled(hosts, numbered())
    await damage(hosts, place)
    vault = await hosts.start("b")
    assert await vault.list_directory("d") == []
    with pytest.raises(CorruptObject):
        await vault.remove_directory("d")
    assert (await vault.head("d")).is_directory


async def test_a_bundle_that_is_void_keeps_no_directory(hosts: Hosts) -> None:
    vault = await hosts.start("a", bundles=True)
    await vault.make_directory("d", ATTRIBUTES)
    for body in (bundles_format.void(), bundles_format.pending([("name", new_id())])):
        await hosts.store.put(bundles_format.key_of(PREFIX, new_id()), body)
    await vault.remove_directory("d")
    with pytest.raises(NoSuchPath):
        await vault.head("d")


async def test_what_bundles_take_is_counted_as_objects(hosts: Hosts) -> None:
    files = numbered()
    vault = await filled(hosts, files)
    objects = await contents(hosts.store, "manifests/")
    inventory = await whole_store(hosts.store, vault)
    assert (inventory.conversations, inventory.directories) == (len(files), 1)
    assert inventory.stored["manifests"].objects == len(objects) == 2
    assert inventory.stored["manifests"].bytes == sum(map(len, objects.values()))
    part = await part_of_store(hosts.store, vault, await vault.head("d"))
    assert part.stored["manifests"].bytes == inventory.stored["manifests"].bytes
    one = await part_of_store(hosts.store, vault, await vault.head(NAMES[0]))
    assert one.conversations == 1
    assert 0 < one.stored["manifests"].bytes < sum(len(body) for key, body in objects.items() if is_bundle(key))
