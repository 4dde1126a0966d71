"""Repairing a store: what takes no guess, what needs to be alone, and what is left to live writers."""

import hashlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
import trio

from stowfs.errors import PathExists
from stowfs.store.memory import MemoryStore
from stowfs.vault.check import Checked, Checker
from stowfs.vault.descriptor import read_descriptor
from stowfs.vault.findings import (
    Corrupt,
    CountTooHigh,
    CountTooLow,
    OrphanBlob,
    Uncounted,
)
from stowfs.vault.naming import blob_key, manifest_key, revision_of_blob, segment_key
from stowfs.vault.repair import LOST, NEEDS_EXCLUSIVE, OVERTAKEN, UNCLEAR, UNREAD, repair
from stowfs.vault.ring import first_ring, new_id
from stowfs.vault.vault import Vault
from tests.support.audit import audit
from tests.support.damaged import BULKY, CONTENT, HOLDERS, SHARED, TRASHED, Subject, payload
from tests.support.faults import FaultyStore, Rule, Stall
from tests.support.vaults import DEADLINE, Hosts, append, read, write
from tests.vault.test_collect import collect, contents
from tests.vault.test_promises import log_lines


async def test_a_count_that_is_too_low(subject: Subject) -> None:
    digest = await subject.shared()
    await subject.change(digest, ref_count=1)
    found = await subject.only(exclusive=False)
    assert isinstance(found, CountTooLow)
    assert (found.key, found.conversations) == (segment_key(digest), HOLDERS)
    assert (found.counted, found.references) == (1, 3)
    # Beside live mounts, too, where nobody can tell what it should be: from then on, nobody counts it.
    (outcome,) = await subject.repair(exclusive=False)
    assert outcome.left is None
    assert (await subject.record(digest)).header.ref_count == subject.descriptor.many
    assert (await subject.check()).findings == []


async def test_a_count_that_is_too_low_is_set_where_nothing_else_uses_the_store(subject: Subject) -> None:
    digest = await subject.shared()
    await subject.change(digest, ref_count=1)
    assert {outcome.left for outcome in await subject.repair()} == {None}
    assert (await subject.record(digest)).header.ref_count == 3
    assert (await audit(subject.store)).exact
    assert (await read_descriptor(subject.store)).recounted_at > 0


async def test_a_count_is_not_set_by_references_that_could_not_all_be_read(subject: Subject) -> None:
    digest = await subject.shared()
    await subject.change(digest, ref_count=1)
    await subject.store.put(manifest_key("two"), b"damaged")
    assert None in {outcome.left for outcome in await subject.repair()}
    assert (await subject.record(digest)).header.ref_count == subject.descriptor.many


async def test_a_count_that_is_too_high(subject: Subject) -> None:
    digest = await subject.alone()
    await subject.change(digest, ref_count=9)
    found = await subject.only(exclusive=False)
    assert isinstance(found, CountTooHigh)
    assert (found.counted, found.references, found.conversations) == (9, 1, ("one",))
    (outcome,) = await subject.repair(exclusive=False)
    assert outcome.left == NEEDS_EXCLUSIVE
    (outcome,) = await subject.repair()
    assert outcome.left is None
    assert (await audit(subject.store)).exact
    # And it is collected when it is not needed any more.
    await subject.vault.remove("one")
    await subject.vault.empty_trash("one", before=time.time())
    await subject.vault.drain()
    assert (await subject.record(digest)).header.ref_count == 0


async def test_a_segment_that_nobody_counts_any_more(subject: Subject) -> None:
    shared, alone, many = await subject.shared(), await subject.alone(), subject.descriptor.many
    for digest in (shared, alone):
        await subject.change(digest, ref_count=many)
    assert (await subject.check()).findings == []
    checked = await subject.check(recount=True)
    found = {finding.digest: finding for finding in checked.findings if isinstance(finding, Uncounted)}
    assert {digest: finding.references for digest, finding in found.items()} == {shared: 3, alone: 1}
    assert found[shared].conversations == HOLDERS
    # Not without being alone, whoever asks.
    left = await repair(subject.store, subject.descriptor, checked, deadline=DEADLINE)
    assert {outcome.left for outcome in left} == {NEEDS_EXCLUSIVE}
    assert (await read_descriptor(subject.store)).recounted_at == 0.0
    assert {outcome.left for outcome in await subject.repair(recount=True)} == {None}
    assert (await subject.record(shared)).header.ref_count == 3
    assert (await audit(subject.store)).exact
    assert (await subject.check(recount=True)).findings == []
    after = await read_descriptor(subject.store)
    assert time.time() - 60 < after.recounted_at <= time.time()
    assert msgspec.structs.replace(after, recounted_at=0.0) == subject.descriptor


async def test_a_segment_that_is_still_needed_too_often_to_be_counted(subject: Subject) -> None:
    shared = await subject.shared()
    subject.descriptor = msgspec.structs.replace(subject.descriptor, many=3)
    assert (await subject.record(shared)).header.ref_count == 3
    assert [f for f in (await subject.check(recount=True)).findings if isinstance(f, Uncounted)] == []


async def test_a_host_does_not_believe_what_it_saw_before_a_recount(subject: Subject) -> None:
    """It remembers that a segment was not counted, and would not count its next reference."""
    await subject.change(await subject.shared(), ref_count=subject.descriptor.many)
    await write(subject.vault, "three", SHARED)
    (shared,) = {await subject.shared()}
    await subject.vault.remove("three")
    await subject.vault.empty_trash("three", before=time.time())
    await subject.vault.drain()
    await subject.hosts.crash("a")
    assert {outcome.left for outcome in await subject.repair(recount=True)} == {None}
    assert (await subject.record(shared)).header.ref_count == 3
    subject.hosts.descriptor = await read_descriptor(subject.store)
    await write(await subject.hosts.start("a"), "four", SHARED)
    assert (await subject.record(shared)).header.ref_count == 4
    assert (await audit(subject.store)).exact


async def test_nor_what_it_saw_of_a_record_that_was_lost_and_put_back(subject: Subject) -> None:
    digest, _ = await subject.blob()
    await subject.change(digest, ref_count=subject.descriptor.many)
    await write(subject.vault, "two", BULKY, await subject.vault.head("two"))
    await subject.hosts.crash("a")
    await subject.store.delete(segment_key(digest))
    assert {outcome.left for outcome in await subject.repair()} == {None}
    assert (await subject.record(digest)).header.ref_count == 2
    subject.hosts.descriptor = await read_descriptor(subject.store)
    await write(await subject.hosts.start("a"), "three", BULKY)
    assert (await subject.record(digest)).header.ref_count == 3


async def test_damage_that_cannot_be_repaired_costs_hosts_nothing_they_saw(subject: Subject) -> None:
    await subject.store.delete(segment_key(await subject.shared()))
    assert {outcome.left for outcome in await subject.repair()} == {LOST}
    assert (await read_descriptor(subject.store)).recounted_at == 0.0


async def test_a_segment_that_leaked(subject: Subject) -> None:
    await subject.vault.counts.acquire(new_id(), "ab" * 32, payload("ab" * 32))
    digest = hashlib.sha256(b"leaked").hexdigest()
    await subject.vault.counts.acquire(new_id(), digest, payload(digest, b"leaked"))
    kinds = {type(finding) for finding in (await subject.check()).findings}
    assert kinds == {CountTooHigh, Corrupt}
    await subject.repair()
    record = await subject.record(digest)
    assert record.header.ref_count == 0
    assert record.header.zero_since is not None
    assert (await collect(subject.hosts, subject.vault)).segments == 2
    assert (await subject.check()).findings == []


async def test_an_orphan_blob(subject: Subject) -> None:
    digest, key = await subject.blob()
    orphans = {blob_key(digest, new_id()), blob_key("cd" * 32, new_id())}
    for orphan in orphans:
        await subject.store.put(orphan, b"x" * 1000)
    checked = await subject.check(exclusive=False)
    assert {finding.key for finding in checked.findings} == orphans
    assert all(isinstance(f, OrphanBlob) and f.size == 1000 and not f.conversations for f in checked.findings)
    assert {outcome.left for outcome in await subject.repair(exclusive=False)} == {NEEDS_EXCLUSIVE}
    assert {outcome.left for outcome in await subject.repair()} == {None}
    assert (await audit(subject.store)).exact
    assert key in await contents(subject.store, "blobs/")


async def test_a_payload_is_no_orphan_before_all_references_are_read(subject: Subject) -> None:
    """Both can be mended, one after the other: the manifest from a copy, and with it the record."""
    digest, key = await subject.blob()
    manifest = await subject.body(manifest_key("bulky"))
    await subject.store.put(manifest_key("bulky"), b"damaged")
    await subject.store.delete(segment_key(digest))
    left = {outcome.finding.key: outcome.left for outcome in await subject.repair()}
    assert left == {key: UNREAD, manifest_key("bulky"): UNCLEAR}
    await subject.store.put(manifest_key("bulky"), manifest)
    assert {outcome.left for outcome in await subject.repair()} == {None}
    assert await read(await subject.hosts.start("b"), "bulky") == BULKY


async def _lose(subject: Subject, digest: str) -> None:
    await subject.store.delete(segment_key(digest))


async def _damage(subject: Subject, digest: str) -> None:
    await subject.store.put(segment_key(digest), b"damaged")


async def _bury(subject: Subject, digest: str) -> None:
    await subject.change(digest, state="dead", ref_count=0, stored_size=0, redirect=None)


async def _mislead(subject: Subject, digest: str) -> None:
    await subject.change(digest, redirect=new_id())


@pytest.mark.parametrize("harm", [_lose, _damage, _bury, _mislead])
async def test_a_record_is_put_back_from_itspayload(
    harm: Callable[[Subject, str], Awaitable[None]], subject: Subject
) -> None:
    digest, key = await subject.blob()
    await subject.store.put(blob_key(digest, "0" * 32), b"not the payload")
    await harm(subject, digest)
    found = [finding for finding in (await subject.check()).findings if not isinstance(finding, OrphanBlob)]
    assert [finding.conversations for finding in found] == [("bulky",)]
    assert (await subject.repair(exclusive=False))[0].left == NEEDS_EXCLUSIVE
    assert (await subject.repair())[0].left is None
    assert (await subject.record(digest)).header.redirect == revision_of_blob(key)[1]
    assert await read(await subject.hosts.start("b"), "bulky") == BULKY
    await subject.repair()  # now the other payload is an orphan for certain
    assert (await audit(subject.store)).exact
    assert (await subject.check()).findings == []


async def test_several_things_at_once(subject: Subject) -> None:
    shared, alone = await subject.shared(), await subject.alone()
    _, blob = await subject.blob()
    await subject.change(shared, ref_count=0, zero_since=1.0)
    await subject.change(alone, ref_count=7)
    await subject.store.put(blob_key("ef" * 32, new_id()), b"x")
    found = (await subject.check()).findings
    assert [type(finding) for finding in found] == [CountTooHigh, CountTooLow, OrphanBlob]
    # Too low is raised before anything can collect it.
    await subject.repair(exclusive=False)
    await collect(subject.hosts, subject.vault)
    assert await read(await subject.hosts.start("b"), "two") == SHARED
    await subject.repair()
    assert (await audit(subject.store)).exact
    assert blob in await contents(subject.store, "blobs/")


async def test_a_repair_of_what_has_changed_meanwhile_is_none(subject: Subject) -> None:
    digest = await subject.shared()
    await subject.change(digest, ref_count=1)
    checked = await subject.check()
    await subject.change(digest, ref_count=2)
    (outcome,) = await repair(subject.store, subject.descriptor, checked, exclusive=True, deadline=DEADLINE)
    assert outcome.left == OVERTAKEN
    assert (await subject.record(digest)).header.ref_count == 2


async def test_commits_under_way_are_no_findings(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer between acquire and commit, and one between commit and release: both end in the grace period."""
    period, sleep = 3600.0, trio.sleep
    begun, over = trio.Event(), trio.Event()

    async def wait(seconds: float) -> None:
        if seconds == period:
            begun.set()
            await over.wait()
        else:
            await sleep(seconds)

    monkeypatch.setattr(trio, "sleep", wait)
    store = FaultyStore(subject.store)
    committing, releasing = Stall(), Stall()
    b = await subject.hosts.start("b", store)
    c = await subject.hosts.start("c", store)
    store.add(Rule(committing, "put", manifest_key("new")))
    async with trio.open_nursery() as checking:
        async with trio.open_nursery() as writing:
            writing.start_soon(write, b, "new", CONTENT)
            await committing.reached.wait()
            store.add(Rule(releasing, "put", "segments/*"))
            await write(c, "two", b"nothing of what it was", await c.head("two"))
            await releasing.reached.wait()
            # Without any grace they look like leaks.
            hasty = (await subject.check(exclusive=False)).findings
            assert len(hasty) > 1
            assert all(isinstance(finding, CountTooHigh) for finding in hasty)
            waiting: list[Checked] = []

            async def check() -> None:
                later = time.time() + 2 * period
                checker = Checker(subject.store, subject.descriptor, grace=period, commit_age=period, now=lambda: later)
                waiting.append(await checker.run())

            checking.start_soon(check)
            await begun.wait()
            committing.go.set()
            store.rules.clear()
            releasing.go.set()
        assert await c.drain() == 0
        over.set()
    assert [checked.findings for checked in waiting] == [[]]
    assert (await subject.check()).findings == []


@pytest.mark.parametrize(("hours", "found"), [(12, set()), (36, {CountTooHigh})])
async def test_a_commit_that_takes_longer_than_the_grace_period_is_no_finding(
    hours: int, found: set[type], subject: Subject
) -> None:
    """It has counted the segments of a large file, and is not at its end for hours."""
    store = FaultyStore(subject.store)
    b = await subject.hosts.start("b", store)
    async with store.held("put", manifest_key("new"), write, b, "new", CONTENT):
        later = time.time() + hours * 3600
        checked = await Checker(subject.store, subject.descriptor, grace=0.0, now=lambda: later).run()
        assert {type(finding) for finding in checked.findings} == found


async def test_beside_writers_nothing_looks_lost(subject: Subject) -> None:
    bodies = [CONTENT, TRASHED, BULKY, SHARED]
    checks = 0

    async def churn(vault: Vault, name: str) -> None:
        for step in range(10):
            await write(vault, name, bodies[step % len(bodies)])
            await append(vault, name, log_lines(50, step))
            await vault.rename(name, name + "'")
            await vault.remove(name + "'")

    async def check_on() -> None:
        nonlocal checks
        while True:
            checked = await subject.check(exclusive=False)
            assert not [f for f in checked.findings if not isinstance(f, CountTooHigh | OrphanBlob)]
            assert checked.complete
            outcomes = await repair(subject.store, subject.descriptor, checked, deadline=DEADLINE)
            assert all(outcome.left == NEEDS_EXCLUSIVE for outcome in outcomes)
            await collect(subject.hosts, subject.vault)
            checks += 1

    others = [await subject.hosts.start(name) for name in "bcd"]
    async with trio.open_nursery() as checking:
        checking.start_soon(check_on)
        async with trio.open_nursery() as nursery:
            for name, vault in zip("xyz", others, strict=True):
                nursery.start_soon(churn, vault, name)
        checking.cancel_scope.cancel()
    assert checks > 2
    for vault in others:
        assert await vault.drain() == 0
    assert (await audit(subject.store)).safe
    assert (await subject.check()).findings == []


async def _stop_before_release(hosts: Hosts, store: FaultyStore, vault: Vault, path: str) -> None:
    """Host "a" crashes when it has replaced a conversation, before it releases what that had."""
    stall = Stall()
    store.add(Rule(stall, "put", "segments/*", times=None, nth=1))
    await write(vault, path, b"something else", await vault.head(path))
    await stall.reached.wait()
    await hosts.crash("a")
    store.rules.clear()


async def test_a_host_that_comes_back_does_not_release_what_was_lowered(tmp_path: Path) -> None:
    """It crashed after its commit, before it released. The repair did that for it; doing it again would lose data."""
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        assert hosts.descriptor is not None
        a = await hosts.start("a")
        await write(a, "x", CONTENT)
        await write(a, "y", SHARED)
        await _stop_before_release(hosts, store, a, "x")
        checked = await Checker(store, hosts.descriptor, exclusive=True).run()
        assert checked.findings
        assert all(isinstance(finding, CountTooHigh) for finding in checked.findings)
        outcomes = await repair(store, hosts.descriptor, checked, exclusive=True, deadline=DEADLINE)
        assert all(outcome.left is None for outcome in outcomes)
        assert (await audit(store.inner)).exact
        a = await hosts.start("a")
        assert await a.drain() == 0
        assert (await audit(store.inner)).exact
        assert await read(await hosts.start("b"), "y") == SHARED


async def _lose_segments(hosts: Hosts, digests: set[str]) -> None:
    for digest in digests:
        await hosts.store.delete(segment_key(digest))


async def _raise_counts(hosts: Hosts, *, exclusive: bool) -> None:
    assert hosts.descriptor is not None
    checked = await Checker(hosts.store, hosts.descriptor, grace=0.0, exclusive=exclusive).run()
    assert checked.findings
    assert {type(finding) for finding in checked.findings} == {CountTooLow}
    outcomes = await repair(hosts.store, hosts.descriptor, checked, exclusive=exclusive, deadline=DEADLINE)
    assert all(outcome.left is None for outcome in outcomes)


@pytest.mark.parametrize("overtaken", [False, True])
async def test_a_commit_under_way_does_not_make_a_raised_count_too_low_again(overtaken: bool, tmp_path: Path) -> None:
    """It is counted, and no manifest says so; when it has ended, one does, or it takes back what it counted."""
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        one = await write(a, "one", CONTENT)
        await write(a, "two", CONTENT)
        await _lose_segments(hosts, await a.digests(one))

        async def store_again() -> None:
            try:
                await write(b, "three", CONTENT, exclusive=True)
            except PathExists:
                assert overtaken

        async with store.held("put", manifest_key("three"), store_again):
            await _raise_counts(hosts, exclusive=False)
            if overtaken:
                await write(a, "three", b"somebody was quicker")
        assert await b.drain() == 0
        assert (await audit(store.inner)).safe
        await a.remove("one")
        if not overtaken:
            await a.remove("two")
        await a.drain()
        await collect(hosts, a)
        assert await read(await hosts.start("c"), "two" if overtaken else "three") == CONTENT


async def test_a_host_that_comes_back_does_not_release_what_was_raised(tmp_path: Path) -> None:
    """It crashed after its commit, before it released: what it gave up is not counted, since the record was lost."""
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        x = await write(a, "x", SHARED)
        await write(a, "y", SHARED)
        await _stop_before_release(hosts, store, a, "x")
        await _lose_segments(hosts, await b.digests(x))
        await write(b, "again", SHARED)
        assert await b.drain() == 0
        await hosts.crash("b")
        await _raise_counts(hosts, exclusive=True)
        assert (await audit(store.inner)).exact
        a = await hosts.start("a")
        assert await a.drain() == 0
        assert (await audit(store.inner)).exact
        assert await read(await hosts.start("b"), "y") == SHARED


def test_a_closed_ring_settles_what_came_before() -> None:
    before = [new_id() for _ in range(3)]
    ring = first_ring().add(before[0], before[1])
    closed = ring.closed(mine := new_id(), time.time() + 60)
    assert closed.verdict(mine).name == "HAPPENED"
    for op in [*before, new_id()]:
        assert closed.verdict(op).name == "UNKNOWN"
        assert closed.verdict(op, since=ring.generation).name == "UNKNOWN"
        assert closed.verdict(op, since=closed.generation).name == "DID_NOT_HAPPEN"
