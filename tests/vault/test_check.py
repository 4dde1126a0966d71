"""Checking and repairing a store: every kind of damage is found, named, and repaired where that takes no guess."""

import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import trio

from stowfs import codec
from stowfs.errors import StoreUnavailable
from stowfs.store.base import Found, ObjectStore
from stowfs.store.memory import MemoryStore
from stowfs.vault import manifest as manifests
from stowfs.vault import record as records
from stowfs.vault.check import UPLOAD_AGE, Checked, Checker
from stowfs.vault.descriptor import Descriptor, create_descriptor
from stowfs.vault.findings import (
    Corrupt,
    CountTooHigh,
    CountTooLow,
    Dangling,
    Finding,
    MissingBlob,
    OrphanBlob,
    StrayObject,
    Undecodable,
    UnfinishedUpload,
)
from stowfs.vault.manifest import Manifest, Reference
from stowfs.vault.naming import blob_key, digest_of_segment, manifest_key, revision_of_blob, segment_key
from stowfs.vault.record import Operation, Payload, Record
from stowfs.vault.repair import FOREIGN, LOST, NEEDS_EXCLUSIVE, OVERTAKEN, UNCLEAR, Outcome, repair
from stowfs.vault.ring import Ring, first_ring, new_id
from stowfs.vault.vault import Vault
from tests.support.audit import audit
from tests.support.faults import FailBefore, FaultyStore, Rule, Stall
from tests.support.vaults import ATTRIBUTES, DEADLINE, Hosts, append, read, write
from tests.vault.test_collect import collect, contents
from tests.vault.test_promises import log_lines, noise
from tests.vault.test_undelete import WEEK

SHARED = log_lines(700, 1)
CONTENT = SHARED + log_lines(600, 2)
BULKY = noise(600_000, 1)
TRASHED = SHARED + log_lines(600, 3)


class Subject:
    """A store with the conversations `one`, `two` (which share segments), `bulky` (with redirected payloads) and
    `gone` (deleted, in the trash), in which a test then damages something."""

    def __init__(self, store: ObjectStore, descriptor: Descriptor, hosts: Hosts, vault: Vault) -> None:
        self.store = store
        self.descriptor = descriptor
        self.hosts = hosts
        self.vault = vault

    async def check(self, *, exclusive: bool = True, grace: float = 0.0) -> Checked:
        return await Checker(self.store, self.descriptor, exclusive=exclusive, grace=grace).run()

    async def repair(self, *, exclusive: bool = True) -> list[Outcome]:
        checked = await self.check(exclusive=exclusive)
        return await repair(self.store, self.descriptor, checked, exclusive=exclusive, deadline=DEADLINE)

    async def only(self, *, exclusive: bool = True) -> Finding:
        """The one thing that is wrong."""
        found = (await self.check(exclusive=exclusive)).findings
        assert len(found) == 1, found
        return found[0]

    async def body(self, key: str) -> bytes:
        found = await self.store.get(key)
        assert isinstance(found, Found)
        return found.body

    async def record(self, digest: str) -> Record:
        return records.decode(digest, await self.body(segment_key(digest)))

    async def change(self, digest: str, **fields: object) -> None:
        """Changes what the header of a record says."""
        record = await self.record(digest)
        header = msgspec.structs.replace(record.header, **fields)
        payload = b"" if header.state == "dead" else record.payload
        await self.store.put(segment_key(digest), records.encode(Record(header, payload)))

    async def change_manifest(self, path: str, **fields: object) -> None:
        key = manifest_key(path)
        snapshot = manifests.decode(path, "", await self.body(key))
        changed = msgspec.structs.replace(snapshot.manifest, **fields)
        await self.store.put(key, manifests.encode(changed, snapshot.inline))

    async def digests(self, path: str) -> list[str]:
        snapshot = manifests.decode(path, "", await self.body(manifest_key(path)))
        return [reference.digest for reference in snapshot.top_references]

    async def shared(self) -> str:
        """A segment that `one`, `two` and `gone` share."""
        (digest, *_) = [d for d in await self.digests("one") if d in await self.digests("two")]
        assert digest in await self.digests("gone")
        return digest

    async def alone(self) -> str:
        """A segment of `one` alone."""
        (digest, *_) = [d for d in await self.digests("one") if d not in await self.digests("two")]
        return digest

    async def blob(self) -> tuple[str, str]:
        """A segment of `bulky` whose payload is redirected, and the key of the payload."""
        (key, *_) = await contents(self.store, "blobs/")
        return revision_of_blob(key)[0], key


@pytest.fixture
async def subject(tmp_path: Path) -> AsyncIterator[Subject]:
    store = MemoryStore()
    descriptor = await create_descriptor(store, trash_seconds=WEEK)
    async with Hosts(store, tmp_path, descriptor=descriptor) as hosts:
        vault = await hosts.start("a")
        for path, data in {"one": CONTENT, "two": SHARED, "bulky": BULKY, "gone": TRASHED}.items():
            await write(vault, path, data)
        await vault.remove("gone")
        await vault.drain()
        yield Subject(store, descriptor, hosts, vault)


HOLDERS = ("gone", "one", "two")


async def test_a_sound_store_is_clean(subject: Subject) -> None:
    checked = await subject.check()
    assert checked.findings == []
    assert checked.complete
    assert (checked.conversations, checked.deleted) == (3, 1)
    assert checked.segments == len(await contents(subject.store, "segments/")) > 6
    for exclusive in (False, True):
        assert await subject.repair(exclusive=exclusive) == []
    assert (await audit(subject.store)).exact


async def test_garbage_is_no_damage(subject: Subject) -> None:
    await subject.vault.remove("bulky")
    assert await subject.vault.empty_trash("bulky", before=time.time())
    await subject.vault.drain()
    assert (await subject.check()).findings == []
    await collect(subject.hosts, subject.vault)
    assert (await subject.check()).findings == []


async def test_a_corrupt_payload(subject: Subject) -> None:
    digest = await subject.shared()
    body = await subject.body(segment_key(digest))
    await subject.store.put(segment_key(digest), body[:-9] + bytes(9))
    found = await subject.only()
    assert isinstance(found, Corrupt)
    assert (found.key, found.conversations) == (segment_key(digest), HOLDERS)
    (outcome,) = await subject.repair()
    assert outcome.left == LOST
    # Whoever stores the same content again mends it.
    await write(await subject.hosts.start("b"), "again", SHARED)
    assert (await subject.check()).findings == []
    assert await read(await subject.hosts.start("c"), "one") == CONTENT


async def test_a_payload_that_is_another_segment(subject: Subject) -> None:
    """Every checksum of the frame holds; only the hash tells."""
    digest = await subject.alone()
    raw = noise(20_000)
    compressed = codec.compress(raw)
    record = await subject.record(digest)
    header = msgspec.structs.replace(record.header, raw_size=len(raw), stored_size=len(compressed))
    await subject.store.put(segment_key(digest), records.encode(Record(header, compressed)))
    found = await subject.only()
    assert isinstance(found, Corrupt)
    assert "SHA-256" in found.reason
    assert found.conversations == ("one",)


async def test_a_corrupt_blob(subject: Subject) -> None:
    digest, key = await subject.blob()
    await subject.store.put(key, (await subject.body(key))[:-5])
    found = await subject.only()
    assert isinstance(found, Corrupt)
    assert (found.digest, found.conversations) == (digest, ("bulky",))


async def test_a_missing_record(subject: Subject) -> None:
    digest = await subject.shared()
    await subject.store.delete(segment_key(digest))
    for exclusive in (False, True):
        found = await subject.only(exclusive=exclusive)
        assert found == Dangling(
            key=segment_key(digest), conversations=HOLDERS, digest=digest, collected=False, references=3
        )
        (outcome,) = await subject.repair(exclusive=exclusive)
        assert outcome.left == LOST


async def test_a_record_that_was_collected(subject: Subject) -> None:
    digest = await subject.alone()
    await subject.change(digest, state="dead", ref_count=0, stored_size=0)
    found = await subject.only()
    assert isinstance(found, Dangling)
    assert found.collected
    assert found.conversations == ("one",)


async def test_a_missing_blob(subject: Subject) -> None:
    digest, key = await subject.blob()
    await subject.store.delete(key)
    found = await subject.only()
    assert found == MissingBlob(key=key, conversations=("bulky",), digest=digest)
    assert (await subject.repair())[0].left == LOST


async def test_a_count_that_is_too_low(subject: Subject) -> None:
    digest = await subject.shared()
    await subject.change(digest, ref_count=1)
    found = await subject.only(exclusive=False)
    assert isinstance(found, CountTooLow)
    assert (found.key, found.conversations) == (segment_key(digest), HOLDERS)
    assert (found.counted, found.references) == (1, 3)
    # Beside live mounts, too.
    (outcome,) = await subject.repair(exclusive=False)
    assert outcome.left is None
    assert (await audit(subject.store)).exact
    assert (await subject.check()).findings == []


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


async def test_a_segment_that_leaked(subject: Subject) -> None:
    await subject.vault.counts.acquire(new_id(), "ab" * 32, _payload("ab" * 32))
    digest = hashlib.sha256(b"leaked").hexdigest()
    await subject.vault.counts.acquire(new_id(), digest, _payload(digest, b"leaked"))
    kinds = {type(finding) for finding in (await subject.check()).findings}
    assert kinds == {CountTooHigh, Corrupt}
    await subject.repair()
    record = await subject.record(digest)
    assert record.header.ref_count == 0
    assert record.header.zero_since is not None
    assert (await collect(subject.hosts, subject.vault)).segments == 2
    assert (await subject.check()).findings == []


def _payload(digest: str, raw: bytes = b"other") -> Payload:
    return Payload(digest, codec.compress(raw), len(raw))


async def test_a_count_that_is_saturated_is_neither(subject: Subject) -> None:
    digest = await subject.shared()
    await subject.change(digest, ref_count=subject.descriptor.many)
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


async def test_a_blob_that_was_just_written_may_be_about_to_be_named(subject: Subject) -> None:
    await subject.store.put(blob_key("cd" * 32, new_id()), b"x" * 1000)
    assert (await subject.check(exclusive=False, grace=3600)).findings == []


@pytest.mark.parametrize("path", ["one", "gone"])
async def test_a_damaged_manifest_or_tombstone(path: str, subject: Subject) -> None:
    key = manifest_key(path)
    await subject.store.put(key, (await subject.body(key))[:-7])
    checked = await subject.check()
    (found,) = checked.findings
    assert isinstance(found, Undecodable)
    assert (found.key, found.conversations) == (key, (path,))
    # What it references is not known, so nothing may be given up: its segments still count.
    assert not checked.complete
    before = await contents(subject.store)
    (outcome,) = await subject.repair()
    assert outcome.left == UNCLEAR
    assert await contents(subject.store) == before


async def test_a_manifest_of_a_later_version(subject: Subject) -> None:
    await subject.change_manifest("two", v=99)
    checked = await subject.check()
    (found,) = checked.findings
    assert isinstance(found, Undecodable)
    assert "upgrade" in found.reason
    assert not checked.complete


async def test_a_damaged_record(subject: Subject) -> None:
    digest = await subject.shared()
    await subject.store.put(segment_key(digest), b"{}\n")
    found = await subject.only()
    assert isinstance(found, Undecodable)
    assert (found.key, found.conversations, found.digest) == (segment_key(digest), HOLDERS, digest)
    assert (await subject.repair())[0].left == LOST


async def _lose(subject: Subject, digest: str) -> None:
    await subject.store.delete(segment_key(digest))


async def _damage(subject: Subject, digest: str) -> None:
    await subject.store.put(segment_key(digest), b"damaged")


async def _bury(subject: Subject, digest: str) -> None:
    await subject.change(digest, state="dead", ref_count=0, stored_size=0, redirect=None)


async def _mislead(subject: Subject, digest: str) -> None:
    await subject.change(digest, redirect=new_id())


@pytest.mark.parametrize("harm", [_lose, _damage, _bury, _mislead])
async def test_a_record_is_put_back_from_its_payload(
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


async def test_a_reference_that_lies_about_its_size(subject: Subject) -> None:
    snapshot = manifests.decode("two", "", await subject.body(manifest_key("two")))
    pieces = list(snapshot.manifest.pieces)
    first, second = pieces[0], pieces[1]
    assert isinstance(first, Reference)
    assert isinstance(second, Reference)
    pieces[:2] = [
        msgspec.structs.replace(first, size=first.size + 1),
        msgspec.structs.replace(second, size=second.size - 1),
    ]
    await subject.change_manifest("two", pieces=tuple(pieces))
    checked = await subject.check()
    assert len(checked.findings) == 2
    assert {finding.key for finding in checked.findings} == {manifest_key("two")}
    assert all(isinstance(f, Corrupt) and f.conversations == ("two",) for f in checked.findings)


@pytest.mark.parametrize("digest", ["", "../../escape", "AB" * 32, "zz" * 32])
async def test_a_reference_that_is_no_hash(digest: str, subject: Subject) -> None:
    await _store_manifest(subject, "odd", Reference(digest, 10))
    found = await subject.only()
    assert isinstance(found, Undecodable)
    assert found.conversations == ("odd",)


async def _store_manifest(subject: Subject, path: str, *pieces: Reference) -> None:
    manifest = Manifest(new_id(), Ring(), ATTRIBUTES, size=sum(piece.size for piece in pieces), pieces=tuple(pieces))
    await subject.store.put(manifest_key(path), manifests.encode(manifest, b""))


async def _store_page(subject: Subject, raw: bytes) -> str:
    digest = hashlib.sha256(raw).hexdigest()
    record = records.acquire(None, [Operation(new_id())], _payload(digest, raw))
    await subject.store.put(segment_key(digest), records.encode(record))
    return digest


@pytest.mark.parametrize(
    "raw", [b"no list", b"[]", b"[[1, 2, 3]]", b'[["' + b"ab" * 32 + b'", 11, 0]]', b'[["' + b"ab" * 32 + b'", 10, 1]]']
)
async def test_a_hostile_page(raw: bytes, subject: Subject) -> None:
    """Each is stored well, and is not what the reference to it says."""
    digest = await _store_page(subject, raw)
    await _store_manifest(subject, "one more", Reference(digest, 10, 1))
    await _store_manifest(subject, "two more", Reference(digest, 10, 1))
    checked = await subject.check()
    (page, *rest) = [finding for finding in checked.findings if isinstance(finding, Undecodable)]
    assert rest == []
    assert (page.key, page.conversations) == (segment_key(digest), ("one more", "two more"))
    assert not checked.complete


async def test_pages_that_list_each_other_without_end(subject: Subject) -> None:
    """A page cannot list itself, since it is named by its hash: four levels that repeat one page are the worst."""
    bottom = await subject.alone()
    size = 1
    reference = Reference(bottom, size)
    for level in range(1, 5):
        raw = msgspec.json.encode([reference] * 256)
        size *= 256
        reference = Reference(await _store_page(subject, raw), size, level)
    await _store_manifest(subject, "endless", reference)
    found = [finding for finding in (await subject.check()).findings if isinstance(finding, Undecodable)]
    assert any(finding.conversations == ("endless",) and "4,294,967,296" in finding.reason for finding in found)


async def test_a_level_that_no_page_has(subject: Subject) -> None:
    digest = await _store_page(subject, b"[]")
    for path, level in (("deep", 5), ("negative", -1)):
        await _store_manifest(subject, path, Reference(digest, 10, level))
    found = [finding for finding in (await subject.check()).findings if isinstance(finding, Undecodable)]
    assert {finding.conversations for finding in found} == {("deep",), ("negative",)}


async def test_a_damaged_page_names_its_conversation(subject: Subject) -> None:
    raw = msgspec.json.encode([Reference(await subject.alone(), 10)])
    digest = await _store_page(subject, raw)
    await _store_manifest(subject, "paged", Reference(digest, 10, 1))
    body = await subject.body(segment_key(digest))
    await subject.store.put(segment_key(digest), body[:-1] + b"?")
    checked = await subject.check()
    (found,) = checked.findings
    assert isinstance(found, Corrupt)
    assert (found.key, found.conversations) == (segment_key(digest), ("paged",))
    assert not checked.complete


async def test_bombs_cost_no_memory(subject: Subject) -> None:
    bomb = bytes.fromhex("28b52ffde0") + (1 << 40).to_bytes(8, "little") + b"\x01\x00\x00"
    await subject.store.put(manifest_key("bomb"), bomb)
    digest = await subject.alone()
    record = await subject.record(digest)
    header = msgspec.structs.replace(record.header, raw_size=1 << 22, stored_size=len(bomb))
    await subject.store.put(segment_key(digest), records.encode(Record(header, bomb)))
    found = (await subject.check()).findings
    assert {type(finding) for finding in found} == {Undecodable, Corrupt}
    assert {finding.conversations for finding in found} == {("bomb",), ("one",)}


async def test_objects_that_are_none_of_the_stores(subject: Subject) -> None:
    strays = {"README", "other/thing", "manifests/one.txt", "segments/aa/short", f"blobs/ab/{'ab' * 32}/x"}
    for key in strays | {"probe/left"}:
        await subject.store.put(key, b"12345")
    checked = await subject.check()
    assert {finding.key for finding in checked.findings} == strays | {"probe/left"}
    assert all(isinstance(finding, StrayObject) and finding.size == 5 for finding in checked.findings)
    left = {outcome.finding.key: outcome.left for outcome in await subject.repair(exclusive=False)}
    assert left == {**dict.fromkeys(strays, FOREIGN), "probe/left": None}
    assert "probe/left" not in await contents(subject.store)


async def test_an_upload_that_was_never_finished(subject: Subject) -> None:
    upload = await subject.store.multipart("blobs/x")
    await upload.part(1, b"part")
    assert (await subject.check()).findings == []  # it may still be under way
    checker = Checker(subject.store, subject.descriptor, now=lambda: time.time() + UPLOAD_AGE + 60)
    checked = await checker.run()
    (found,) = checked.findings
    assert isinstance(found, UnfinishedUpload)
    assert found.upload_id == upload.upload_id
    (outcome,) = await repair(subject.store, subject.descriptor, checked, deadline=DEADLINE)
    assert outcome.left is None
    assert [pending async for pending in subject.store.pending_uploads("")] == []


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


@pytest.mark.parametrize("prefix", ["", "manifests/", "segments/", "blobs/"])
async def test_a_listing_that_fails_is_no_check(prefix: str, subject: Subject) -> None:
    faulty = FaultyStore(subject.store)
    faulty.add(Rule(FailBefore(), "list", prefix))
    with pytest.raises(StoreUnavailable):
        await Checker(faulty, subject.descriptor).run()


@pytest.mark.parametrize("key", ["manifests/*", "segments/*", "blobs/*"])
async def test_an_object_that_does_not_answer_is_no_finding(key: str, subject: Subject) -> None:
    faulty = FaultyStore(subject.store)
    faulty.add(Rule(FailBefore(), "get", key, nth=2))
    with pytest.raises(StoreUnavailable):
        await Checker(faulty, subject.descriptor).run()


async def test_a_repair_of_what_has_changed_meanwhile_is_none(subject: Subject) -> None:
    digest = await subject.shared()
    await subject.change(digest, ref_count=1)
    checked = await subject.check()
    await subject.change(digest, ref_count=2)
    (outcome,) = await repair(subject.store, subject.descriptor, checked, exclusive=True, deadline=DEADLINE)
    assert outcome.left == OVERTAKEN
    assert (await subject.record(digest)).header.ref_count == 2


async def test_commits_under_way_are_no_findings(subject: Subject) -> None:
    """A writer between acquire and commit, and one between commit and release."""
    store = FaultyStore(subject.store)
    committing, releasing = Stall(), Stall()
    b = await subject.hosts.start("b", store)
    c = await subject.hosts.start("c", store)
    store.add(Rule(committing, "put", manifest_key("new")))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, b, "new", CONTENT)
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
            waiting.append(await subject.check(exclusive=False, grace=0.3))

        nursery.start_soon(check)
        await trio.sleep(0.1)
        committing.go.set()
        store.rules.clear()
        releasing.go.set()
    assert [checked.findings for checked in waiting] == [[]]
    assert (await subject.check()).findings == []


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


async def test_a_host_that_comes_back_does_not_release_what_was_lowered(tmp_path: Path) -> None:
    """It crashed after its commit, before it released. The repair did that for it; doing it again would lose data."""
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        assert hosts.descriptor is not None
        a = await hosts.start("a")
        await write(a, "x", CONTENT)
        await write(a, "y", SHARED)
        stall = Stall()
        store.add(Rule(stall, "put", "segments/*", times=None, nth=1))
        await write(a, "x", b"something else", await a.head("x"))
        await stall.reached.wait()
        await hosts.crash("a")
        store.rules.clear()
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


def test_a_closed_ring_settles_what_came_before() -> None:
    before = [new_id() for _ in range(3)]
    ring = first_ring().add(before[0], before[1])
    closed = ring.closed(mine := new_id(), time.time() + 60)
    assert closed.verdict(mine).name == "HAPPENED"
    for op in [*before, new_id()]:
        assert closed.verdict(op).name == "UNKNOWN"
        assert closed.verdict(op, since=ring.generation).name == "UNKNOWN"
        assert closed.verdict(op, since=closed.generation).name == "DID_NOT_HAPPEN"


def test_findings_describe_themselves() -> None:
    sample: list[Finding] = [
        Dangling(key="k", digest="d", collected=True, references=1),
        Corrupt(key="k", digest="d", reason="the reason"),
        MissingBlob(key="k", digest="d"),
        Undecodable(key="k", reason="the reason"),
        CountTooLow(key="k", digest="d", counted=0, references=2, revision="r"),
        CountTooHigh(key="k", digest="d", counted=1_000, references=2, revision="r"),
        OrphanBlob(key="k", size=1_000),
        StrayObject(key="k", size=1, temporary=False),
        StrayObject(key="k", size=1, temporary=True),
        UnfinishedUpload(key="k", upload_id="u", started=0.0),
    ]
    texts = [finding.describe() for finding in sample]
    assert len({*texts}) == len(sample) - 1  # the reason is one and the same
    assert texts[0] == "the segment was collected, and is referenced once"
    assert replace(sample[0], conversations=("c",)).describe() == texts[0]
    assert texts[5] == "counted 1,000 times, referenced 2 times: it wastes space"


def test_keys_of_segments_are_recognised() -> None:
    assert digest_of_segment(segment_key("ab" * 32)) == "ab" * 32
    assert revision_of_blob(blob_key("ab" * 32, "0" * 32)) == ("ab" * 32, "0" * 32)
