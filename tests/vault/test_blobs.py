"""Where large segments are: what a manifest says of it spares requests, and is never relied on."""

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from stowfs import codec
from stowfs.errors import CorruptObject
from stowfs.store.base import Found
from stowfs.store.memory import MemoryStore
from stowfs.vault import manifest as manifests
from stowfs.vault import pages
from stowfs.vault.check import Checker
from stowfs.vault.collect import collect_garbage
from stowfs.vault.compact import compact_store
from stowfs.vault.manifest import Manifest, Reference, Snapshot
from stowfs.vault.naming import blob_key, manifest_key
from stowfs.vault.ring import new_id
from tests.support.audit import audit
from tests.support.dictionaries import dictionary
from tests.support.faults import FaultyStore
from tests.support.vaults import Hosts, append, edit, read, write
from tests.vault.test_promises import log_lines

SESSION = log_lines(4_000, 3)
"""Some runs, each of which is a large segment here, and an end that is not sealed."""


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stowfs.vault.record.REDIRECT_ABOVE", 1024)


def large(snapshot: Snapshot) -> list[Reference]:
    """The segments of a version that stand in its manifest, all of which are in blobs."""
    return [piece for piece in snapshot.top_references if piece.level == 0]


async def cold_read(hosts: Hosts, faulty: FaultyStore, path: str, data: bytes) -> tuple[int, int]:
    """Reads on a host that has nothing yet; how many records and blobs were asked for."""
    host = await hosts.start(new_id())
    faulty.reset_log()
    assert await read(host, path) == data
    return faulty.count("get", "segments"), faulty.count("get", "blobs")


async def stored(faulty: FaultyStore, path: str) -> Snapshot:
    found = await faulty.inner.get(manifest_key(path))
    assert isinstance(found, Found)
    return manifests.decode(path, found.etag, found.body)


async def rewritten(faulty: FaultyStore, path: str, **changes: Any) -> None:
    """Changes the manifest as it lies in the store."""
    snapshot = await stored(faulty, path)
    manifest: Manifest = replace(snapshot.manifest, **changes)
    await faulty.inner.put(manifest_key(path), manifests.encode(manifest, snapshot.inline))


async def test_a_large_segment_is_read_with_one_request(hosts: Hosts, faulty: FaultyStore) -> None:
    written = await write(await hosts.start("a"), "x", SESSION)
    assert len(large(written)) > 2
    assert await cold_read(hosts, faulty, "x", SESSION) == (0, len(large(written)))


async def test_it_stays_known_whatever_is_done_to_the_conversation(hosts: Hosts, faulty: FaultyStore) -> None:
    a = await hosts.start("a")
    await write(a, "x", SESSION)
    line = log_lines(1, 77)
    data = SESSION + line
    await append(a, "x", line)
    await a.rename("x", "y")
    await a.change_attributes("y", lambda attributes: replace(attributes, mode=0o600))
    data = line + data[len(line) :]
    await edit(a, "y", 0, line)
    await a.drain()
    # As a program that writes all of it again.
    data += line
    version = await write(a, "y", data, await a.head("y"))
    assert await cold_read(hosts, faulty, "y", data) == (0, len(large(version)))
    assert (await audit(hosts.store)).exact


async def test_who_stores_what_is_there_learns_where_it_is(hosts: Hosts, faulty: FaultyStore) -> None:
    await write(await hosts.start("a"), "x", SESSION)
    faulty.reset_log()
    copy = await write(await hosts.start("b"), "copy", SESSION)
    assert faulty.count("put", "blobs") == 0
    assert await cold_read(hosts, faulty, "copy", SESSION) == (0, len(large(copy)))


async def test_what_is_on_a_page_is_asked_of_its_record(
    hosts: Hosts, faulty: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages are the same whoever makes them, and where a segment is may change."""
    monkeypatch.setattr(pages, "PAGE", 4)
    monkeypatch.setattr(pages, "FANOUT_LIMIT", 6)
    data = log_lines(16_000, 5)
    version = await write(await hosts.start("a"), "x", data)
    paged = [piece for piece in version.top_references if piece.level > 0]
    assert paged
    records, blobs = await cold_read(hosts, faulty, "x", data)
    segments = [info.key async for page in faulty.inner.list("segments/") for info in page.objects]
    assert blobs > len(large(version)) > 0
    assert records == len(segments) - len(large(version))


async def test_a_manifest_that_does_not_say_it_is_read_as_well(hosts: Hosts, faulty: FaultyStore) -> None:
    """As those of older versions."""
    version = await write(await hosts.start("a"), "x", SESSION)
    await rewritten(faulty, "x", blobs=())
    assert await cold_read(hosts, faulty, "x", SESSION) == (len(large(version)), len(large(version)))
    await rewritten(faulty, "x", blobs=("", version.manifest.blobs[1]))
    assert await cold_read(hosts, faulty, "x", SESSION) == (len(large(version)) - 1, len(large(version)))


@pytest.mark.parametrize("there", ["nothing", "noise", "other bytes", "made with a dictionary"])
async def test_what_is_not_where_a_manifest_says_is_asked_of_its_record(
    there: str, hosts: Hosts, faulty: FaultyStore
) -> None:
    a = await hosts.start("a")
    version = await write(a, "x", SESSION)
    first = large(version)[0]
    revision = new_id()
    body = {
        "nothing": None,
        "noise": b"noise",
        "other bytes": codec.compress(b"x" * first.size),
        "made with a dictionary": codec.compress(SESSION[: first.size], dictionary=dictionary()),
    }[there]
    if body is not None:
        await faulty.inner.put(blob_key(first.digest, revision), body)
    await rewritten(faulty, "x", blobs=(revision, *version.manifest.blobs[1:]))
    assert await cold_read(hosts, faulty, "x", SESSION) == (1, len(large(version)) + 1)


async def test_damage_is_an_error_wherever_a_manifest_leads(hosts: Hosts, faulty: FaultyStore) -> None:
    version = await write(await hosts.start("a"), "x", SESSION)
    digest = large(version)[1].digest
    await faulty.inner.put(blob_key(digest, version.blobs[digest]), codec.compress(b"x" * 1000))
    with pytest.raises(CorruptObject, match=digest):
        await cold_read(hosts, faulty, "x", SESSION)


async def test_compaction_says_where_everything_is_then(hosts: Hosts, faulty: FaultyStore) -> None:
    a = await hosts.start("a")
    version = await write(a, "x", SESSION)
    compacted = await compact_store(faulty, await hosts.start("compactor"), train=False)
    assert compacted.segments == len(large(version))
    assert (await stored(faulty, "x")).manifest.commit == version.manifest.commit
    await collect_garbage(faulty, a, grace=-1)
    assert await cold_read(hosts, faulty, "x", SESSION) == (0, len(large(version)))
    # Who had the version before it was compacted is led astray, and finds it all the same.
    assert await a.read(version, 0, version.size) == SESSION
    b = await hosts.start("b")
    assert await b.read(version, 0, version.size) == SESSION
    line = log_lines(1, 78)
    await append(a, "x", line)
    assert await cold_read(hosts, faulty, "x", SESSION + line) == (0, len(large(version)))
    assert (await audit(hosts.store)).exact
    assert (await Checker(hosts.store, a.descriptor, grace=0, exclusive=True).run()).findings == []


async def test_a_compaction_tells_manifests_what_an_interrupted_one_did(hosts: Hosts, faulty: FaultyStore) -> None:
    a = await hosts.start("a")
    version = await write(a, "x", SESSION)
    await compact_store(faulty, await hosts.start("compactor"), train=False)
    # As if it had ended before it came to the manifests.
    await rewritten(faulty, "x", blobs=version.manifest.blobs)
    dry = await compact_store(faulty, await hosts.start("another"), train=False, dry_run=True)
    assert (await stored(faulty, "x")).manifest.blobs == version.manifest.blobs
    again = await compact_store(faulty, await hosts.start("third"), train=False)
    assert (again.segments, again.conversations) == (dry.segments, dry.conversations) == (0, 1)
    assert set((await stored(faulty, "x")).manifest.blobs).isdisjoint(version.manifest.blobs)
    assert await cold_read(hosts, faulty, "x", SESSION) == (0, len(large(version)))


async def test_small_conversations_say_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        version = await write(await hosts.start("a"), "x", SESSION)
        assert large(version)
        assert version.manifest.blobs == ()
        assert b"blobs" not in manifests.encode_header(version.manifest)
