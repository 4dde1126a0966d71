"""Checking a store: every kind of damage is found, and the conversations it touches are named."""

import hashlib
import time
from dataclasses import replace

import msgspec
import pytest

from stowfs import codec
from stowfs.errors import StoreUnavailable
from stowfs.vault import manifest as manifests
from stowfs.vault import record as records
from stowfs.vault.check import UPLOAD_AGE, Checker
from stowfs.vault.findings import (
    Corrupt,
    CountTooHigh,
    CountTooLow,
    Dangling,
    Finding,
    MissingBlob,
    NewerFormat,
    OrphanBlob,
    StrayObject,
    Undecodable,
    UnfinishedUpload,
)
from stowfs.vault.manifest import Manifest, Reference
from stowfs.vault.naming import blob_key, digest_of_segment, manifest_key, revision_of_blob, segment_key
from stowfs.vault.record import Operation, Record
from stowfs.vault.repair import FOREIGN, LOST, UNCLEAR, UPGRADE, repair
from stowfs.vault.ring import Ring, new_id
from tests.support.audit import audit
from tests.support.damaged import CONTENT, HOLDERS, SHARED, Subject, payload
from tests.support.faults import FailBefore, FaultyStore, Rule
from tests.support.vaults import ATTRIBUTES, DEADLINE, read, write
from tests.vault.test_collect import collect, contents
from tests.vault.test_promises import noise


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


async def test_a_corruptpayload(subject: Subject) -> None:
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


async def test_a_count_that_is_saturated_is_neither(subject: Subject) -> None:
    digest = await subject.shared()
    await subject.change(digest, ref_count=subject.descriptor.many)
    assert (await subject.check()).findings == []


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
    assert isinstance(found, NewerFormat)
    assert (found.key, found.conversations) == (manifest_key("two"), ("two",))
    assert "upgrade" in found.reason
    assert not checked.complete
    # Whoever is told to delete it loses what a later stowfs can read.
    assert (await subject.repair(exclusive=True))[0].left == UPGRADE


async def test_a_record_of_a_later_version_is_left_alone(subject: Subject) -> None:
    """Also where there is a payload from which an older one could be made."""
    digest, _ = await subject.blob()
    await subject.change(digest, v=99)
    before = await contents(subject.store)
    found = await subject.only()
    assert isinstance(found, NewerFormat)
    assert found.conversations == ("bulky",)
    assert (await subject.repair(exclusive=True))[0].left == UPGRADE
    assert await contents(subject.store) == before


async def test_a_damaged_record(subject: Subject) -> None:
    digest = await subject.shared()
    await subject.store.put(segment_key(digest), b"{}\n")
    found = await subject.only()
    assert isinstance(found, Undecodable)
    assert (found.key, found.conversations, found.digest) == (segment_key(digest), HOLDERS, digest)
    assert (await subject.repair())[0].left == LOST


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
    record = records.acquire(None, [Operation(new_id())], payload(digest, raw))
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
