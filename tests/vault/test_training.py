"""Dictionaries come by themselves, where they gain anything, and whatever becomes of a training, nothing fails."""

import random
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import trio
import trio.testing

from stowfs import codec
from stowfs.config import KIB
from stowfs.conversation.segmenter import DEFAULT_PARAMETERS
from stowfs.errors import CorruptObject
from stowfs.store.base import Found
from stowfs.store.memory import MemoryStore
from stowfs.vault import samples as sampling
from stowfs.vault import training
from stowfs.vault.descriptor import create_descriptor, read_descriptor
from stowfs.vault.naming import DICTIONARIES, dictionary_key, manifest_key
from stowfs.vault.samples import Sample, Samples
from stowfs.vault.training import Collector, Outcome
from stowfs.vault.vault import Vault
from tests.support.audit import audit, snapshots
from tests.support.dictionaries import conversation, keys
from tests.support.faults import FailBefore, FaultyStore, Rule, StallAfter
from tests.support.vaults import ATTRIBUTES, Hosts, flush, read, write

COUNT = 90
"""Conversations that are enough to train on: some 1.3 MB."""

SMALL_COUNT = 700


@pytest.fixture
async def options(faulty: FaultyStore) -> Mapping[str, Any]:
    return {"descriptor": await create_descriptor(faulty, trash_seconds=0)}


async def store_many(vault: Vault, *, first: int = 0, count: int = COUNT) -> None:
    for number in range(first, first + count):
        await write(vault, f"c{number}", conversation(number, messages=30))


async def acknowledge_many(vault: Vault) -> None:
    """As much, in smaller conversations."""
    for number in range(SMALL_COUNT):
        draft = vault.draft(f"c{number}", None, ATTRIBUTES)
        draft.write(0, conversation(number))
        await vault.acknowledge(draft)


async def number_of(store: FaultyStore, path: str) -> int:
    """The dictionary of a conversation as it is stored."""
    found = await store.inner.get(manifest_key(path))
    assert isinstance(found, Found)
    return codec.dictionary_number(found.body)


async def trained(vault: Vault) -> None:
    """Waits for a training in the background, and that it was of use."""
    with trio.fail_after(60):
        while not vault.dictionaries.active_id:  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_a_dictionary_is_made_of_what_is_stored(hosts: Hosts, faulty: FaultyStore) -> None:
    vault = await hosts.start("one")
    await store_many(vault)
    await trained(vault)
    assert await keys(faulty) == [dictionary_key(vault.dictionaries.active_id)]
    assert (await read_descriptor(faulty)).dictionary == vault.dictionaries.active_id
    await write(vault, "later", conversation(1000))
    assert await number_of(faulty, "c0") == 0
    assert await number_of(faulty, "later") != 0
    other = await hosts.start("other")
    for number in range(COUNT):
        assert await read(other, f"c{number}") == conversation(number, messages=30)
    assert await read(other, "later") == conversation(1000)
    assert (await audit(faulty)).exact


async def test_a_backlog_is_trained_on_before_it_is_stored(hosts: Hosts, faulty: FaultyStore) -> None:
    vault = await hosts.start("one", asynchronous=True)
    await acknowledge_many(vault)
    await flush(vault)
    found = await snapshots(faulty)
    (key,) = await keys(faulty)
    assert {snapshot.dictionary and snapshot.dictionary.id for snapshot in found} == {key.removeprefix(DICTIONARIES)}
    assert len(found) == SMALL_COUNT
    other = await hosts.start("other")
    assert await read(other, "c7") == conversation(7)


async def test_what_is_copied_in_is_trained_on_before(hosts: Hosts, faulty: FaultyStore) -> None:
    vault = await hosts.start("one")

    async def contents() -> AsyncIterator[bytes]:
        for number in range(SMALL_COUNT):
            yield conversation(number)

    await vault.trainer.train_first(contents(), SMALL_COUNT * 1800)
    await write(vault, "first", conversation(5))
    assert await number_of(faulty, "first") != 0


async def test_what_was_sampled_beforehand_is_not_trained_on_again(
    hosts: Hosts, faulty: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A random selection of what is to come is a better sample than what of it came first."""
    monkeypatch.setattr(training, "REPLACED_FROM", 256 * KIB)
    again: list[int] = []

    async def count(self: training.Trainer, samples: Samples, expected: float) -> None:
        again.append(samples.seen)

    monkeypatch.setattr(training.Trainer, "_train_in_background", count)
    contents = [conversation(number, messages=30) for number in range(COUNT)]
    total = sum(map(len, contents))
    assert total > 4 * training.REPLACED_FROM

    async def selection() -> AsyncIterator[bytes]:
        for content in contents:
            yield content

    vault = await hosts.start("one")
    await vault.trainer.train_first(selection(), total)
    assert len(await keys(faulty)) == 1
    for number in range(COUNT):
        await write(vault, f"c{number}", contents[number])
    await trio.testing.wait_all_tasks_blocked()
    assert again == []
    while not again:
        vault.trainer.observe([random.randbytes(256 * KIB) for _ in range(4)])
        await trio.testing.wait_all_tasks_blocked()
    assert again[0] >= training.AGAIN * total / 2


async def test_little_is_not_trained_on(hosts: Hosts, faulty: FaultyStore) -> None:
    vault = await hosts.start("one", asynchronous=True)
    draft = vault.draft("f", None, ATTRIBUTES)
    draft.write(0, conversation(1, messages=300))
    await vault.acknowledge(draft)
    await flush(vault)
    assert vault.trainer.wants_first
    assert await keys(faulty) == []


@pytest.mark.parametrize("kind", ["random", "alike"])
async def test_no_dictionary_where_it_gains_nothing(hosts: Hosts, faulty: FaultyStore, kind: str) -> None:
    vault = await hosts.start("one")

    async def contents() -> AsyncIterator[bytes]:
        for number in range(40):
            yield random.Random(number).randbytes(40 * KIB) if kind == "random" else conversation(1, messages=90)

    await vault.trainer.train_first(contents(), 40 * 40 * KIB)
    assert not vault.trainer.wants_first
    assert await keys(faulty) == []
    await write(vault, "f", conversation(1))
    assert await read(await hosts.start("other"), "f") == conversation(1)


async def test_no_dictionary_where_nobody_wants_one(hosts: Hosts, faulty: FaultyStore) -> None:
    hosts.descriptor = await create_descriptor(MemoryStore(), training=False)
    vault = await hosts.start("one")
    await store_many(vault)
    await vault.trainer.train_first(_never(), 1 << 30)
    await trio.testing.wait_all_tasks_blocked()
    assert await keys(faulty) == []


async def _never() -> AsyncIterator[bytes]:
    pytest.fail("nobody asks")
    yield b""


@pytest.mark.parametrize("operation", ["put", "list"])
async def test_a_training_that_fails_keeps_nobody_from_storing(
    hosts: Hosts, faulty: FaultyStore, operation: str
) -> None:
    faulty.add(Rule(FailBefore(CorruptObject("injected")), operation, DICTIONARIES + "*"))  # type: ignore[arg-type]
    vault = await hosts.start("one", asynchronous=True)
    await acknowledge_many(vault)
    await flush(vault)
    assert await number_of(faulty, "c1") == 0
    assert await read(await hosts.start("other"), "c1") == conversation(1)
    assert (await read_descriptor(faulty)).dictionary == ""


async def test_two_hosts_that_train_at_once_use_one_dictionary(hosts: Hosts, faulty: FaultyStore) -> None:
    one, two = await hosts.start("one"), await hosts.start("two")
    # The first is held up right before it would tell the others.
    stalled = StallAfter()
    faulty.add(Rule(stalled, "put", DICTIONARIES + "*", nth=1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store_many, one)
        await stalled.reached.wait()
        await store_many(two, first=500)
        await trained(two)
        stalled.go.set()
    await trained(one)
    assert one.dictionaries.active_id == two.dictionaries.active_id
    await write(one, "late", conversation(1))
    assert await number_of(faulty, "late") == int(two.dictionaries.active_id[:8], 16)
    third = await hosts.start("third")
    for path in ("c3", "c503", "late"):
        assert await read(third, path) == await read(one, path)


async def test_another_dictionary_where_it_gains(
    hosts: Hosts, faulty: FaultyStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # It is tried again after the same amount, in the hope of ten times as much.
    monkeypatch.setattr(training, "REPLACED_FROM", training.FIRST)
    monkeypatch.setattr(training, "AGAIN", 10)
    caplog.set_level("INFO", "stowfs")
    first = await hosts.start("first")
    await store_many(first)
    await trained(first)
    before = first.dictionaries.active_id
    hosts.descriptor = await read_descriptor(faulty)
    vault = await hosts.start("one")
    # Of the same kind: nothing to gain.
    await store_many(vault, first=500)
    with trio.fail_after(60):
        while Outcome.NO_GAIN.value not in caplog.text:  # noqa: ASYNC110
            await trio.sleep(0.01)
    assert vault.dictionaries.active_id == before
    # Something else, on a host that has not tried yet.
    vault = await hosts.start("two")
    for number in range(2 * COUNT):
        await write(vault, f"else{number}", conversation(number, messages=30).swapcase().replace(b" ", b"--"))
    with trio.fail_after(60):
        while vault.dictionaries.active_id == before:  # noqa: ASYNC110
            await trio.sleep(0.01)
    assert len(await keys(faulty)) == 2
    other = await hosts.start("other")
    assert await read(other, "else3") == conversation(3, messages=30).swapcase().replace(b" ", b"--")
    assert await read(other, "c3") == conversation(3, messages=30)


# Sampling


def test_a_sample_is_bounded_and_fair() -> None:
    counts = [0] * 100
    for seed in range(200):
        sample = Sample(1000, random.Random(seed))
        for number in range(100):
            sample.offer(number.to_bytes(1, "big") * 50)
        assert sum(map(len, sample)) == 1000
        for piece in sample:
            counts[piece[0]] += 1
    assert sum(counts) == 200 * 20
    # 40 each, with a deviation of 5.7.
    assert 15 < min(counts) <= max(counts) < 65


def test_samples_are_bounded_whatever_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "TRAINING_LIMIT", 100 * KIB)
    monkeypatch.setattr(sampling, "HELD_OUT_LIMIT", 50 * KIB)
    samples = Samples(random.Random(0))
    for number in range(100):
        samples.offer([bytes([number]) * (1 + 997 * number), b"x" * number])
    assert 0 < sum(map(len, samples.training)) <= 100 * KIB
    assert 0 < sum(map(len, samples.held_out)) <= 50 * KIB
    assert max(map(len, samples.training)) <= sampling.PIECE
    assert samples.seen == sum(1 + 997 * number + number for number in range(100))


def test_what_conversations_share_is_sampled_once() -> None:
    collector = Collector(DEFAULT_PARAMETERS)
    shared = conversation(1, messages=3000)
    collector.add([shared])
    alone = collector.samples.seen
    collector.add([shared + conversation(2)])
    assert alone > len(shared)
    # The last runs differ, and the header comes in addition.
    assert collector.samples.seen - alone < len(shared) / 3
    assert collector.read == 2 * len(shared) + len(conversation(2))
