"""What was compressed with a dictionary is read wherever that is needed, and a dictionary that cannot be had is an
error that names it."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import trio

from stowfs import codec
from stowfs.codec import Dictionary
from stowfs.errors import CorruptObject, StoreUnavailable
from stowfs.store.base import Found
from stowfs.store.memory import MemoryStore
from stowfs.store.retry import guarded
from stowfs.vault import dictionaries as module
from stowfs.vault.descriptor import create_descriptor, read_descriptor
from stowfs.vault.dictionaries import Dictionaries
from stowfs.vault.naming import DESCRIPTOR, DICTIONARIES, MANIFESTS, dictionary_key, manifest_key, segment_key
from stowfs.vault.vault import Vault
from tests.support.audit import audit
from tests.support.dictionaries import conversation, dictionary, keys, use
from tests.support.faults import FailAfter, FailBefore, FaultyStore, Rule, Stall
from tests.support.vaults import Hosts, append, flush, read, write

SMALL = conversation(1)
"""One object."""

LONG = conversation(2, messages=2500)
"""With segments."""

CHANGED = conversation(3, messages=2500)


@pytest.fixture(scope="module")
def first() -> Dictionary:
    return dictionary()


@pytest.fixture(scope="module")
def second() -> Dictionary:
    return dictionary(7)


async def using(hosts: Hosts, made: Dictionary) -> None:
    """The store has the dictionary, and every host that is started now knows it."""
    await use(hosts.store, made)
    hosts.descriptor = await read_descriptor(hosts.store)


async def body(store: FaultyStore, key: str) -> bytes:
    found = await store.inner.get(key)
    assert isinstance(found, Found)
    return found.body


async def segments(vault: Vault, path: str) -> list[str]:
    return sorted(await vault.digests(await vault.head(path)))


# Reading


async def test_another_host_reads_what_was_compressed_with_a_dictionary(
    hosts: Hosts, faulty: FaultyStore, first: Dictionary
) -> None:
    await using(hosts, first)
    one = await hosts.start("one")
    await write(one, "small", SMALL)
    await write(one, "long", LONG)
    # It is what it is said to be.
    assert codec.dictionary_number(await body(faulty, manifest_key("small"))) == first.number
    digests = await segments(one, "long")
    assert digests
    for digest in digests:
        header, _, payload = (await body(faulty, segment_key(digest))).partition(b"\n")
        assert f'"dictionary":"{first.name}"'.encode() in header
        assert codec.dictionary_number(payload) == first.number
    other = await hosts.start("other")
    assert [await read(other, name) for name in ("small", "long")] == [SMALL, LONG]
    assert (await audit(faulty)).exact


async def test_it_is_smaller_with_a_dictionary(hosts: Hosts, faulty: FaultyStore, first: Dictionary) -> None:
    plain = await hosts.start("one")
    await write(plain, "plain", SMALL)
    await using(hosts, first)
    await write(await hosts.start("other"), "small", SMALL)
    assert len(await body(faulty, manifest_key("small"))) < 0.7 * len(await body(faulty, manifest_key("plain")))


async def test_a_dictionary_is_fetched_once(hosts: Hosts, faulty: FaultyStore, first: Dictionary) -> None:
    await using(hosts, first)
    one = await hosts.start("one")
    for number in range(20):
        await write(one, f"d{number}", conversation(number))
    other = await hosts.start("other")
    faulty.reset_log()
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(read, other, f"d{number}")
    # The descriptor has named it: it is not looked for.
    assert {key: n for key, n in faulty.counts().items() if key[1] == "dictionaries"} == {("get", "dictionaries"): 1}


async def test_a_host_reads_what_a_dictionary_made_that_came_later(
    hosts: Hosts, faulty: FaultyStore, first: Dictionary
) -> None:
    early = await hosts.start("early")
    await write(early, "own", SMALL)
    await using(hosts, first)
    late = await hosts.start("late")
    await write(late, "small", SMALL)
    await append(late, "own", b"more\n")
    assert await read(early, "small") == SMALL
    assert await read(early, "own") == SMALL + b"more\n"
    # From then on it uses it itself.
    await write(early, "next", SMALL)
    assert codec.dictionary_number(await body(faulty, manifest_key("next"))) == first.number


async def test_several_dictionaries_of_one_store(hosts: Hosts, first: Dictionary, second: Dictionary) -> None:
    await using(hosts, first)
    await write(await hosts.start("one"), "a", LONG)
    await use(hosts.store, second, instead_of=first.id)
    hosts.descriptor = await read_descriptor(hosts.store)
    two = await hosts.start("two")
    await append(two, "a", SMALL)
    await write(two, "b", LONG)
    three = await hosts.start("three")
    assert (await read(three, "a"), await read(three, "b")) == (LONG + SMALL, LONG)
    assert len(await keys(hosts.store)) == 2
    assert (await audit(hosts.store)).exact


async def test_what_is_cached_is_read_without_the_store(hosts: Hosts, faulty: FaultyStore, first: Dictionary) -> None:
    await using(hosts, first)
    await write(await hosts.start("one"), "f", LONG)
    assert await read(await hosts.start("other", deadline=0.01), "f") == LONG
    await hosts.crash("other")
    faulty.down = True
    other = await hosts.start("other", deadline=0.01)
    snapshot = await other.head("f", stale_ok=True)
    assert await other.read(snapshot, 0, snapshot.size) == LONG


async def test_what_was_acknowledged_is_stored_and_read_after_a_crash(
    hosts: Hosts, faulty: FaultyStore, first: Dictionary
) -> None:
    await using(hosts, first)
    one = await hosts.start("one", asynchronous=True)
    await write(one, "f", LONG)
    draft = one.draft("f", base := await one.head("f"), base.attributes, appending=True)
    draft.write(base.size, SMALL)
    await one.acknowledge(draft)
    await hosts.crash("one")
    one = await hosts.start("one", asynchronous=True)
    await flush(one)
    assert await read(await hosts.start("other"), "f") == LONG + SMALL
    assert (await audit(faulty)).exact


@pytest.mark.parametrize("phase", ["before", "after"])
async def test_a_commit_in_doubt_is_settled_with_a_dictionary(
    hosts: Hosts, faulty: FaultyStore, first: Dictionary, phase: str
) -> None:
    await using(hosts, first)
    one = await hosts.start("one")
    await write(one, "f", LONG)
    base = await one.head("f")
    again = Stall()
    faulty.add(Rule(FailAfter() if phase == "after" else FailBefore(), "put", MANIFESTS + "*", nth=1))
    faulty.add(Rule(again, "put", MANIFESTS + "*", nth=2))
    faulty.add(Rule(FailBefore(), "get", MANIFESTS + "*", nth=1, times=None))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, one, "f", CHANGED, base)
        await again.reached.wait()
        nursery.cancel_scope.cancel()
    await hosts.crash("one")
    faulty.rules.clear()
    one = await hosts.start("one")
    assert await one.drain() == 0
    assert await read(one, "f") == (CHANGED if phase == "after" else LONG)
    assert (await audit(faulty)).exact


# Damage


async def test_a_missing_dictionary_is_an_error_that_names_it(
    hosts: Hosts, faulty: FaultyStore, first: Dictionary
) -> None:
    await using(hosts, first)
    await write(await hosts.start("one"), "f", SMALL)
    await faulty.inner.delete(dictionary_key(first.id))
    other = await hosts.start("other")
    with pytest.raises(CorruptObject, match=first.name):
        await read(other, "f")
    # One that knows no id finds it by its name.
    hosts.descriptor = await create_descriptor(MemoryStore())
    with pytest.raises(CorruptObject, match=first.name):
        await read(await hosts.start("third"), "f")


@pytest.mark.parametrize("damage", ["cut", "other", "nothing", "huge"])
async def test_a_damaged_dictionary_is_an_error_that_names_it(
    hosts: Hosts, faulty: FaultyStore, first: Dictionary, second: Dictionary, damage: str
) -> None:
    await using(hosts, first)
    await write(await hosts.start("one"), "f", SMALL)
    key = dictionary_key(first.id)
    good = await body(faulty, key)
    bad = {"cut": good[:-20], "other": module.encode(second), "nothing": b"", "huge": codec.compress(bytes(9 << 20))}
    await faulty.inner.put(key, bad[damage])
    other = await hosts.start("other")
    with pytest.raises(CorruptObject, match=first.id):
        await read(other, "f")
    # What is written goes without, and everybody can read it.
    await write(other, "new", SMALL)
    assert codec.dictionary_number(await body(faulty, manifest_key("new"))) == 0
    await faulty.inner.put(key, good)
    await trio.sleep(module.LOST_FOR)
    assert await read(other, "f") == SMALL


async def test_an_active_dictionary_that_is_lost_can_be_replaced(
    hosts: Hosts, faulty: FaultyStore, first: Dictionary, second: Dictionary
) -> None:
    await using(hosts, first)
    await faulty.inner.delete(dictionary_key(first.id))
    one = await hosts.start("one")
    await write(one, "f", SMALL)
    assert await one.dictionaries.publish(second, deadline=5.0)
    await write(one, "g", SMALL)
    assert codec.dictionary_number(await body(faulty, manifest_key("g"))) == second.number
    other = await hosts.start("other")
    assert [await read(other, name) for name in ("f", "g")] == [SMALL, SMALL]


async def test_a_damaged_copy_on_the_local_disk_is_fetched_again(
    hosts: Hosts, faulty: FaultyStore, first: Dictionary, tmp_path: Path
) -> None:
    await using(hosts, first)
    await write(await hosts.start("one"), "f", SMALL)
    await hosts.crash("one")
    (copy,) = list(tmp_path.rglob(f"dictionaries/{first.name}"))  # noqa: ASYNC240
    copy.write_bytes(copy.read_bytes()[:-1])
    assert await read(await hosts.start("one"), "f") == SMALL
    assert copy.read_bytes() == await body(faulty, dictionary_key(first.id))


async def test_a_store_that_is_away_is_no_damage(hosts: Hosts, faulty: FaultyStore, first: Dictionary) -> None:
    await using(hosts, first)
    await write(await hosts.start("one"), "f", SMALL)
    other = await hosts.start("other")
    faulty.add(Rule(FailBefore(), "get", DICTIONARIES + "*", nth=1))
    with pytest.raises(StoreUnavailable):
        await read(other, "f")
    assert await read(other, "f") == SMALL


async def test_a_segment_whose_dictionary_is_lost_is_mended_by_whoever_stores_it_again(
    hosts: Hosts, faulty: FaultyStore, first: Dictionary
) -> None:
    await using(hosts, first)
    one = await hosts.start("one")
    await write(one, "f", LONG)
    (digest, *_) = await segments(one, "f")
    await faulty.inner.delete(dictionary_key(first.id))
    hosts.descriptor = await create_descriptor(MemoryStore())
    await write(await hosts.start("other"), "g", LONG)
    assert b'"dictionary"' not in (await body(faulty, segment_key(digest))).partition(b"\n")[0]
    assert await read(await hosts.start("third"), "g") == LONG


# Publishing


@pytest.mark.parametrize("request_number", range(1, 7))
@pytest.mark.parametrize("fault", [FailBefore(), FailAfter()], ids=["lost", "answer-lost"])
async def test_published_before_it_is_used_whatever_fails(
    hosts: Hosts, faulty: FaultyStore, first: Dictionary, request_number: int, fault: FailBefore | FailAfter
) -> None:
    """From some request of a publication on, all are lost, or their answers are. What is written then can be read by
    everybody, and a second attempt succeeds."""
    one = await hosts.start("one")
    faulty.add(Rule(fault, nth=request_number, times=None))
    # Put, list (and its end), get and put the descriptor.
    with nullcontext() if request_number > 5 else pytest.raises(StoreUnavailable):
        await one.dictionaries.publish(first, deadline=0.01)
    faulty.rules.clear()
    await write(one, "f", SMALL)
    assert await read(await hosts.start("other"), "f") == SMALL
    assert await one.dictionaries.publish(first, deadline=5.0)
    await write(one, "g", SMALL)
    assert codec.dictionary_number(await body(faulty, manifest_key("g"))) == first.number
    assert await read(await hosts.start("third"), "g") == SMALL
    assert (await read_descriptor(faulty)).dictionary == first.id


@pytest.mark.parametrize("request_number", range(1, 6))
@pytest.mark.parametrize("fault", [FailBefore(), FailAfter()], ids=["lost", "answer-lost"])
async def test_published_in_spite_of_a_lost_request(
    faulty: FaultyStore, first: Dictionary, request_number: int, fault: FailBefore | FailAfter
) -> None:
    await create_descriptor(faulty)
    faulty.add(Rule(fault, nth=request_number))
    async with guarded(faulty, 5.0, trial=DESCRIPTOR) as patient:
        assert await Dictionaries(patient).publish(first, deadline=5.0)
    assert await keys(faulty) == [dictionary_key(first.id)]
    assert (await read_descriptor(faulty)).dictionary == first.id


async def test_of_two_hosts_that_publish_at_once_one_wins_and_both_use_that(
    hosts: Hosts, faulty: FaultyStore, first: Dictionary, second: Dictionary
) -> None:
    one, two = await hosts.start("one"), await hosts.start("two")
    won: dict[str, bool] = {}

    async def publish(vault: Vault, made: Dictionary) -> None:
        won[made.id] = await vault.dictionaries.publish(made, deadline=5.0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(publish, one, first)
        nursery.start_soon(publish, two, second)
    assert sorted(won.values()) == [False, True]
    (winner,) = [made for made in (first, second) if won[made.id]]
    assert (await read_descriptor(faulty)).dictionary == winner.id
    for vault, name in ((one, "a"), (two, "b")):
        await write(vault, name, SMALL)
        assert codec.dictionary_number(await body(faulty, manifest_key(name))) == winner.number
    assert len(await keys(faulty)) == 2


async def test_two_hosts_that_make_the_same_dictionary_both_win(
    hosts: Hosts, faulty: FaultyStore, first: Dictionary
) -> None:
    one, two = await hosts.start("one"), await hosts.start("two")
    assert await one.dictionaries.publish(first, deadline=5.0)
    assert await two.dictionaries.publish(first, deadline=5.0)
    assert await keys(faulty) == [dictionary_key(first.id)]


async def test_a_dictionary_is_not_used_where_something_else_has_its_place(
    hosts: Hosts, faulty: FaultyStore, first: Dictionary
) -> None:
    await faulty.inner.put(dictionary_key(first.id), b"something else")
    one = await hosts.start("one")
    with pytest.raises(CorruptObject, match=first.id):
        await one.dictionaries.publish(first, deadline=5.0)
    assert (await read_descriptor(faulty)).dictionary == ""
    await write(one, "f", SMALL)
    assert await read(await hosts.start("other"), "f") == SMALL


async def test_a_dictionary_is_not_used_where_another_has_its_number(
    hosts: Hosts, faulty: FaultyStore, first: Dictionary
) -> None:
    twin = first.name + "0" * 56
    await faulty.inner.put(dictionary_key(twin), b"")
    one = await hosts.start("one")
    with pytest.raises(CorruptObject, match="number"):
        await one.dictionaries.publish(first, deadline=5.0)
    await write(one, "f", SMALL)
    assert codec.dictionary_number(await body(faulty, manifest_key("f"))) == 0


async def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    await create_descriptor(store)
    monkeypatch.setattr(module, "MEMORY", 2)
    known = Dictionaries(store)
    frames = {}
    for seed in range(4):
        made = dictionary(seed)
        await use(store, made, instead_of=(await read_descriptor(store)).dictionary)
        frames[made.number] = codec.compress(SMALL, dictionary=made)
    for frame in frames.values():
        assert codec.decompress(frame, expected=len(SMALL), dictionary=await known.of(frame)) == SMALL
    numbers = list(frames)
    for number in numbers[:2]:
        with pytest.raises(CorruptObject, match="not loaded"):
            known.loaded(frames[number])
    assert {known.loaded(frames[number]) is not None for number in numbers[2:]} == {True}


async def test_of_several_dictionaries_only_the_active_one_takes_memory_to_compress_with(
    monkeypatch: pytest.MonkeyPatch, first: Dictionary, second: Dictionary
) -> None:
    store = MemoryStore()
    await create_descriptor(store)
    dictionaries = Dictionaries(store)
    resting: list[str] = []
    monkeypatch.setattr(Dictionary, "rest", lambda self: resting.append(self.id))
    for made in (first, second):
        assert await dictionaries.publish(made, deadline=5.0)
        for _ in range(2):
            active = await dictionaries.active()
            assert active is not None
            assert active.id == made.id
    assert resting == [first.id]
