"""Compaction: everything takes less space, and is what it was, whatever happens meanwhile."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from stowfs.conversation.segmenter import SegmenterParameters
from stowfs.errors import StoreError
from stowfs.store.memory import MemoryStore
from stowfs.vault import compact as module
from stowfs.vault.check import Checker
from stowfs.vault.collect import collect_garbage
from stowfs.vault.compact import Compacted, compact_store
from stowfs.vault.descriptor import create_descriptor
from stowfs.vault.draft import Draft
from stowfs.vault.naming import SEGMENTS, manifest_key
from stowfs.vault.record import REDIRECT_ABOVE
from stowfs.vault.vault import Vault
from tests.support.audit import audit, contents
from tests.support.dictionaries import conversation
from tests.support.faults import Action, FailAfter, FailBefore, FaultyStore, Late, Rule, Stall
from tests.support.vaults import Hosts, append, edit, flush, read, write
from tests.vault.test_promises import log_lines

SEGMENTER = SegmenterParameters(minimum=16 << 10, target=48 << 10, maximum=64 << 10)
"""Small ones, so that a few conversations have some segments."""

FILES = {f"small/{n}": conversation(n, messages=20) for n in range(12)}
FILES["long"] = conversation(100, messages=600)
FILES["again"] = conversation(100, messages=600) + conversation(101, messages=60)
FILES["empty"] = b""


@pytest.fixture
async def options(faulty: FaultyStore) -> Mapping[str, Any]:
    return {"descriptor": await create_descriptor(faulty, segmenter=SEGMENTER, trash_seconds=0)}


async def filled(hosts: Hosts, name: str = "writer") -> Vault:
    vault = await hosts.start(name)
    for path, data in FILES.items():
        await write(vault, path, data)
    await vault.drain()
    return vault


async def waiting(hosts: Hosts) -> tuple[Vault, Draft]:
    """A host on which a line that is appended to `small/3` waits for the store."""
    writer = await hosts.start("async", asynchronous=True)
    base = await writer.head("small/3")
    draft = writer.draft("small/3", base, base.attributes, appending=True)
    draft.write(base.size, b"a line\n")
    await writer.acknowledge(draft)
    return writer, draft


async def compact(hosts: Hosts, vault: Vault, *, train: bool = False, dry_run: bool = False) -> Compacted:
    return await compact_store(hosts.store, vault, train=train, dry_run=dry_run)


def size(objects: dict[str, bytes]) -> int:
    return sum(map(len, objects.values()))


async def check(hosts: Hosts, expected: dict[str, bytes], host: str) -> None:
    """Another host reads everything as it should be, and all counts are right."""
    other = await hosts.start(host)
    for path, data in expected.items():
        assert await read(other, path) == data, path
    assert (await audit(hosts.store)).exact


async def test_everything_takes_less_space_and_is_what_it_was(hosts: Hosts, faulty: FaultyStore) -> None:
    writer = await filled(hosts)
    versions = {path: await writer.head(path) for path in FILES}
    before = await contents(faulty.inner)
    assert any(key.startswith(SEGMENTS) for key in before)
    compacted = await compact(hosts, await hosts.start("compactor"), train=True)
    after = await contents(faulty.inner)
    assert compacted.trained is not None
    assert compacted.trained.used
    assert compacted.conversations >= 12
    assert compacted.segments >= 1
    assert compacted.unread == ()
    dictionary = size({key: body for key, body in after.items() if key.startswith("dictionaries/")})
    assert dictionary == compacted.trained.cost
    assert size(after) < 0.85 * size(before)
    assert size(after) - dictionary < 0.75 * size(before)
    for path, version in versions.items():
        now = await writer.head(path)
        # The same version with the same history, so whoever has it open goes on.
        assert (now.manifest.commit, now.manifest.ring) == (version.manifest.commit, version.manifest.ring)
        assert now.attributes == version.attributes
        assert now.has_content_of(version)
    await check(hosts, FILES, "other")
    checked = await Checker(hosts.store, writer.descriptor, grace=0).run()
    assert checked.findings == []


async def test_a_second_compaction_finds_nothing_to_do(hosts: Hosts, faulty: FaultyStore) -> None:
    await filled(hosts)
    await compact(hosts, await hosts.start("compactor"), train=True)
    before = await contents(faulty.inner)
    faulty.reset_log()
    again = await compact(hosts, await hosts.start("another"), train=True)
    assert (again.conversations, again.segments) == (0, 0)
    assert again.trained is not None
    assert not again.trained.used
    assert again.bytes_before == again.bytes_after
    assert [request for request in faulty.log if request.operation in ("put", "delete")] == []
    assert await contents(faulty.inner) == before


async def test_a_dry_run_changes_nothing_and_tells_the_same(hosts: Hosts, faulty: FaultyStore) -> None:
    vault = await filled(hosts)
    before = await contents(faulty.inner)
    dry = await compact(hosts, vault, dry_run=True)
    assert await contents(faulty.inner) == before
    done = await compact(hosts, vault)
    assert (dry.conversations, dry.segments, dry.bytes_after) == (done.conversations, done.segments, done.bytes_after)
    assert dry.bytes_after < dry.bytes_before


async def test_what_was_compacted_goes_on_being_written_to(hosts: Hosts, faulty: FaultyStore) -> None:
    """Also by who had it open before."""
    vault = await filled(hosts)
    base = await vault.head("long")
    draft = vault.draft("long", base, base.attributes)
    draft.write(5, b"EDITED")
    await compact(hosts, await hosts.start("compactor"), train=True)
    await vault.commit(draft)
    await append(vault, "again", b"one more line\n")
    await vault.rename("small/1", "renamed")
    await vault.remove("small/2")
    await vault.drain()
    expected = {path: data for path, data in FILES.items() if path not in ("small/1", "small/2")}
    expected |= {
        "long": FILES["long"][:5] + b"EDITED" + FILES["long"][11:],
        "again": FILES["again"] + b"one more line\n",
        "renamed": FILES["small/1"],
    }
    assert {snapshot.path async for snapshot in vault.walk() if snapshot.is_conversation} == set(expected)
    await check(hosts, expected, "other")
    # What was changed since is compressed again by the next one, and only that.
    again = await compact(hosts, await hosts.start("later"))
    assert again.conversations + again.segments <= 6


async def test_what_waits_for_the_store_is_appended_to_what_was_compacted(hosts: Hosts) -> None:
    vault = await filled(hosts)
    writer, _ = await waiting(hosts)
    await compact(hosts, vault, train=True)
    await flush(writer)
    await check(hosts, FILES | {"small/3": FILES["small/3"] + b"a line\n"}, "other")


async def test_a_removal_that_a_crash_interrupts_is_finished_after_a_compaction(
    hosts: Hosts, faulty: FaultyStore
) -> None:
    """It is of the version that was there when it began, and that is still there."""
    vault = await filled(hosts)
    writer, draft = await waiting(hosts)
    stall = Stall()
    rule = faulty.add(Rule(stall, "put", manifest_key("small/3")))

    async def remove() -> None:
        async with writer.backlog.removing(draft):
            await writer.remove("small/3")

    hosts.start_soon("async", remove)
    await stall.reached.wait()
    await hosts.crash("async")
    faulty.rules.remove(rule)
    compacted = await compact(hosts, vault, train=True)
    assert compacted.conversations >= 12
    writer = await hosts.start("async", asynchronous=True)
    assert writer.backlog.drafts == []
    (removal,) = writer.backlog.removals
    await writer.backlog.finish_removal(removal)
    await check(hosts, {path: data for path, data in FILES.items() if path != "small/3"}, "other")
    assert "small/3" not in {snapshot.path async for snapshot in writer.walk()}


# Troubles


async def requests_of(tmp_path: Path) -> int:
    """How many requests a compaction makes."""
    faulty = FaultyStore(MemoryStore())
    descriptor = await create_descriptor(faulty, segmenter=SEGMENTER)
    async with Hosts(faulty, tmp_path / "clean", descriptor=descriptor) as hosts:
        vault = await hosts.start("a")
        await write(vault, "small", FILES["small/1"])
        await write(vault, "long", SESSION)
        other = await hosts.start("compactor")
        faulty.reset_log()
        await compact(hosts, other)
        return len(faulty.log)


SESSION = conversation(7, messages=300)
"""Long enough for a segment."""


@pytest.mark.parametrize("action", [FailBefore(), FailAfter(), Late()], ids=["lost", "unanswered", "late"])
async def test_any_request_may_fail(action: Action, autojump_clock: trio.testing.MockClock, tmp_path: Path) -> None:
    total = await requests_of(tmp_path)
    assert total >= 6
    for nth in range(1, total + 1):
        faulty = FaultyStore(MemoryStore())
        descriptor = await create_descriptor(faulty, segmenter=SEGMENTER)
        async with Hosts(faulty, tmp_path / f"{nth}", descriptor=descriptor) as hosts:
            vault = await hosts.start("a")
            await write(vault, "small", FILES["small/1"])
            await write(vault, "long", SESSION)
            other = await hosts.start("compactor")
            rule = Rule(action, nth=nth)
            faulty.add(rule)
            try:
                await compact(hosts, other)
            except StoreError:
                assert nth <= total
            assert rule.seen >= nth
            faulty.rules.clear()
            await faulty.carry_out_late()
            expected = {"small": FILES["small/1"], "long": SESSION}
            await check(hosts, expected, "reader")
            await compact(hosts, await hosts.start("again"))
            done = await contents(faulty.inner)
            await compact(hosts, await hosts.start("third"))
            assert await contents(faulty.inner) == done
            await append(vault, "long", b"more\n")
            await check(hosts, expected | {"long": SESSION + b"more\n"}, "last")


async def test_an_interrupted_compaction_goes_on_where_it_was(
    hosts: Hosts, faulty: FaultyStore, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(hosts)
    monkeypatch.setattr(module, "REQUESTS", 1)
    vault = await hosts.start("compactor")
    stall = Stall()
    faulty.add(Rule(stall, "put", "manifests/*", nth=6))
    hosts.start_soon("compactor", lambda: _quietly(compact(hosts, vault, train=True)))
    await stall.reached.wait()
    await hosts.crash("compactor")
    faulty.rules.clear()
    half = await contents(faulty.inner)
    faulty.reset_log()
    await compact(hosts, await hosts.start("next"), train=True)
    written = [request.key for request in faulty.log if request.operation == "put"]
    assert len(written) == len(set(written))
    done = await contents(faulty.inner)
    untouched = [key for key in half if key.startswith("manifests/") and half[key] == done[key]]
    # Five of the first run, and what had nothing to gain.
    assert len(untouched) >= 5
    assert not set(untouched) & set(written)
    await check(hosts, FILES, "other")


async def _quietly(work: Awaitable[object]) -> None:
    await work


CHANGES: dict[str, Callable[[Vault], Awaitable[object]]] = {
    "append": lambda vault: append(vault, "long", b"a line\n"),
    "edit": lambda vault: edit(vault, "long", 3, b"xyz"),
    "attributes": lambda vault: vault.set_attributes("long", mode=0o600),
    "rename": lambda vault: vault.rename("long", "moved"),
    "remove": lambda vault: vault.remove("long"),
    "replace": lambda vault: write(vault, "long", b"new"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("key", ["manifests/*", "segments/*"])
async def test_changes_of_others_win(change: str, key: str, hosts: Hosts, faulty: FaultyStore) -> None:
    """While a write of the compaction is under way, somebody else changes the conversation."""
    vault = await hosts.start("a")
    await write(vault, "long", FILES["long"])
    compactor = await hosts.start("compactor")
    async with faulty.held("put", key, compact, hosts, compactor):
        if change == "replace":
            await vault.remove("long")
        await CHANGES[change](vault)
        await vault.drain()
        if change in ("remove", "replace"):
            await collect_garbage(faulty, vault, grace=-1)
    content = FILES["long"]
    expected = {
        "append": {"long": content + b"a line\n"},
        "edit": {"long": content[:3] + b"xyz" + content[6:]},
        "attributes": {"long": content},
        "rename": {"moved": content},
        "remove": {},
        "replace": {"long": b"new"},
    }[change]
    assert {snapshot.path async for snapshot in vault.walk()} == set(expected)
    await check(hosts, expected, "other")
    if change == "attributes":
        assert (await vault.head("long")).attributes.mode == 0o600


async def test_two_compactions_at_once(hosts: Hosts, faulty: FaultyStore) -> None:
    await filled(hosts)
    one, other = await hosts.start("one"), await hosts.start("other")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(compact, hosts, one)
        nursery.start_soon(compact, hosts, other)
    await check(hosts, FILES, "reader")
    done = await contents(faulty.inner)
    await compact(hosts, await hosts.start("third"))
    assert await contents(faulty.inner) == done


# What is left as it is


async def test_what_cannot_be_read_is_named_and_left(hosts: Hosts, faulty: FaultyStore) -> None:
    vault = await filled(hosts)
    key, body = next(iter((await contents(faulty.inner, SEGMENTS)).items()))
    damaged = {key: body[:-5] + b"wrong", manifest_key("small/2"): b"no manifest"}
    for key, body in damaged.items():
        await faulty.inner.put(key, body)
    compacted = await compact(hosts, await hosts.start("compactor"), train=True)
    assert {unread.key for unread in compacted.unread} == set(damaged)
    assert (await contents(faulty.inner)).items() >= damaged.items()
    assert await read(vault, "small/1") == FILES["small/1"]


async def test_a_tombstone_stays_as_it_is(hosts: Hosts, faulty: FaultyStore) -> None:
    vault = await filled(hosts)
    await vault.remove("small/1")
    before = (await contents(faulty.inner))[manifest_key("small/1")]
    await compact(hosts, vault, train=True)
    assert (await contents(faulty.inner))[manifest_key("small/1")] == before


# Large payloads

BULKY = log_lines(REDIRECT_ABOVE // 40, 3)


async def test_a_replaced_payload_is_deleted_after_the_grace_period(
    hosts: Hosts, faulty: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stowfs.vault.record.REDIRECT_ABOVE", 1024)
    vault = await hosts.start("a")
    await write(vault, "bulky", BULKY)
    blobs = set(await contents(faulty.inner, "blobs/"))
    assert blobs
    # As if it had been compressed badly.
    compacted = await compact(hosts, vault)
    assert compacted.segments == len(blobs)
    both = set(await contents(faulty.inner, "blobs/"))
    assert both > blobs
    assert (await Checker(hosts.store, vault.descriptor, grace=0, exclusive=True).run()).findings == []
    kept = await collect_garbage(faulty, vault)
    assert kept.replaced == 0
    assert set(await contents(faulty.inner, "blobs/")) == both
    dry = await collect_garbage(faulty, vault, grace=-1, dry_run=True)
    assert dry.replaced == len(blobs)
    collected = await collect_garbage(faulty, vault, grace=-1)
    assert collected.replaced == len(blobs)
    assert set(await contents(faulty.inner, "blobs/")) == both - blobs
    await check(hosts, {"bulky": BULKY}, "other")
    assert (await Checker(hosts.store, vault.descriptor, grace=0, exclusive=True).run()).findings == []
