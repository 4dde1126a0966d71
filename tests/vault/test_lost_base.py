"""What was written to a version that is gone for good, since this host was off for so long: it reaches the store all
the same, and waits only for what may come back."""

import logging
from functools import partial
from pathlib import Path

import pytest

from stowfs.conversation.segmenter import SegmenterParameters
from stowfs.errors import CorruptObject, StoreUnavailable
from stowfs.locks import Lock
from stowfs.store.memory import MemoryStore
from stowfs.vault.backlog import Unshown
from stowfs.vault.collect import collect_garbage
from stowfs.vault.descriptor import create_descriptor
from stowfs.vault.draft import Draft
from stowfs.vault.manifest import Snapshot
from stowfs.vault.naming import segment_key
from stowfs.vault.ring import CAPACITY
from stowfs.vault.vault import Vault
from tests.support.audit import audit
from tests.support.faults import FailAfter, FailBefore, FaultyStore, Rule
from tests.support.vaults import ATTRIBUTES, Hosts, append, flush, read, write
from tests.vault.test_promises import log_lines

LONG = log_lines(1500, 1)
OTHER = log_lines(1500, 2)

SMALL = SegmenterParameters(minimum=4 << 10, target=5 << 10, maximum=6 << 10)


async def names(vault: Vault) -> list[str]:
    return sorted([entry.path async for entry in vault.walk()])


async def waiting(vault: Vault, offset: int | None = None, data: bytes = b"waits\n") -> Draft:
    """Something that waits to be written to `x`, at its end where no offset is given."""
    base = await vault.head("x")
    draft = vault.draft("x", base, base.attributes, appending=offset is None)
    draft.write(base.size if offset is None else offset, data)
    await vault.acknowledge(draft)
    return draft


async def collect(hosts: Hosts, vault: Vault) -> None:
    """What nobody references is gone at once."""
    assert await vault.drain(20) == 0
    await collect_garbage(hosts.store, vault, grace=0)


async def deleted(hosts: Hosts, vault: Vault) -> None:
    await vault.remove("x")
    await collect(hosts, vault)


async def exact(hosts: Hosts, *vaults: Vault) -> None:
    for vault in vaults:
        assert await vault.drain(20) == 0
    result = await audit(hosts.store)
    assert result.exact, result


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("crash", [False, True])
async def test_what_was_appended_to_what_is_gone_is_kept_alone(
    crash: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write(b, "x", LONG)
        await waiting(a)
        await deleted(hosts, b)
        if crash:
            await hosts.crash("a")
            a = await hosts.start("a")
        await flush(a)
        (kept,) = await names(b)
        assert kept.startswith("x.conflict-")
        assert await read(b, kept) == b"waits\n"
        (said,) = errors(caplog)
        assert "x was deleted or replaced elsewhere" in said
        assert kept in said
        assert a.backlog.drafts == []
        await exact(hosts, a, b)
        await hosts.crash("a")
        assert (await hosts.start("a")).backlog.drafts == []


@pytest.mark.parametrize("crash", [False, True])
async def test_what_is_gone_from_the_store_and_cached_here_comes_back(crash: bool, tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path, asynchronous=True) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write(a, "x", LONG)
        await waiting(a)
        await deleted(hosts, b)
        if crash:
            await hosts.crash("a")
            a = await hosts.start("a")
        await flush(a)
        assert await names(b) == ["x"]
        assert await read(await hosts.start("c"), "x") == LONG + b"waits\n"
        await exact(hosts, a, b)


async def test_pages_that_are_cached_here_come_back(tmp_path: Path) -> None:
    store = MemoryStore()
    text = log_lines(9000, 3)
    descriptor = await create_descriptor(store, trash_seconds=0, training=False, segmenter=SMALL)
    async with Hosts(store, tmp_path, asynchronous=True, descriptor=descriptor) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        base = await write(a, "x", text)
        assert any(reference.level for reference in base.top_references)
        await waiting(a)
        await deleted(hosts, b)
        await flush(a)
        assert await read(await hosts.start("c"), "x") == text + b"waits\n"
        await exact(hosts, a, b)


async def test_an_append_goes_to_what_replaced_its_base(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write(b, "x", LONG)
        await waiting(a)
        await write(b, "x", OTHER, await b.head("x"))
        await collect(hosts, b)
        await flush(a)
        assert await names(b) == ["x"]
        assert await read(b, "x") == OTHER + b"waits\n"
        assert errors(caplog) == []
        await exact(hosts, a, b)


async def test_an_edit_of_what_is_gone_keeps_what_was_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write(b, "x", LONG)
        draft = await waiting(a, 1000, b"in the middle\n")
        draft.write(len(LONG) + 3, b"at the end\n")
        await a.acknowledge(draft)
        await write(b, "x", OTHER, await b.head("x"))
        await collect(hosts, b)
        await flush(a)
        first, kept = await names(b)
        assert (first, await read(b, "x")) == ("x", OTHER)
        assert await read(b, kept) == b"in the middle\n\0\0\0at the end\n"
        assert len(errors(caplog)) == 1
        await exact(hosts, a, b)


async def test_what_changed_no_bytes_of_what_is_gone_has_gone_with_it(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        base = await write(b, "x", LONG)
        draft = a.draft("x", base, ATTRIBUTES)
        draft.truncate(base.size - 1)
        await a.acknowledge(draft)
        await deleted(hosts, b)
        await flush(a)
        assert a.backlog.drafts == []
        assert await names(b) == []
        await exact(hosts, a, b)


@pytest.mark.parametrize("more", ["acknowledged", "written"])
async def test_what_is_written_meanwhile_goes_to_what_is_kept(more: str, tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write(b, "x", LONG)
        draft = await waiting(a)
        await deleted(hosts, b)
        lock = Lock()
        commit = partial(a.backlog.flush, draft, lock, Unshown)
        async with store.held("put", "manifests/x.conflict*", commit), lock:
            draft.write(draft.size, b"more\n")
            if more == "acknowledged":
                await a.acknowledge(draft)
        if more == "acknowledged":
            await hosts.crash("a")
            a = await hosts.start("a")
        else:
            await a.acknowledge(draft)
        await flush(a)
        (kept,) = await names(b)
        assert await read(b, kept) == b"waits\nmore\n"


@pytest.mark.parametrize("after", [False, True])
async def test_it_is_kept_once_whatever_a_crash_leaves(after: bool, tmp_path: Path) -> None:
    inner = MemoryStore()
    async with Hosts(inner, tmp_path, deadline=0.5) as hosts:
        store = FaultyStore(inner)
        a, b = await hosts.start("a", store), await hosts.start("b")
        await write(b, "x", LONG)
        await waiting(a)
        await deleted(hosts, b)
        draft = a.backlog.drafts[0]
        if after:
            # It is there, and nobody here has heard of it.
            store.add(Rule(FailBefore(), "get", "manifests/x.conflict*", times=None))
            store.add(Rule(FailAfter(), "put", "manifests/x.conflict*", nth=1))
        else:
            store.add(Rule(FailBefore(), key="manifests/x.conflict*", times=None))
        with pytest.raises(StoreUnavailable):
            await a.backlog.flush(draft, Lock(), Unshown)
        await hosts.crash("a")
        a = await hosts.start("a")
        await flush(a)
        (kept,) = await names(b)
        assert await read(b, kept) == b"waits\n"
        await exact(hosts, a, b)


async def test_an_append_in_doubt_is_kept_alone_where_its_base_is_gone(tmp_path: Path) -> None:
    inner = MemoryStore()
    async with Hosts(inner, tmp_path, deadline=0.5) as hosts:
        store = FaultyStore(inner)
        a, b = await hosts.start("a", store), await hosts.start("b")
        await write(b, "x", LONG)
        await waiting(a)
        store.add(Rule(FailBefore(), key="manifests/*", times=None))
        with pytest.raises(StoreUnavailable):
            await flush(a)
        store.rules.clear()
        await write(b, "x", OTHER, await b.head("x"))
        for _ in range(2 * CAPACITY):
            await append(b, "x", b"theirs\n")
        await collect(hosts, b)
        await flush(a)
        first, kept = await names(b)
        assert (first, await read(b, "x")) == ("x", OTHER + b"theirs\n" * 2 * CAPACITY)
        assert await read(b, kept) == b"waits\n"


async def test_it_waits_for_a_store_that_does_not_answer(tmp_path: Path) -> None:
    inner = MemoryStore()
    async with Hosts(inner, tmp_path, deadline=0.5) as hosts:
        store = FaultyStore(inner)
        a, b = await hosts.start("a", store), await hosts.start("b")
        await write(b, "x", LONG)
        await waiting(a)
        await deleted(hosts, b)
        store.add(Rule(FailBefore(), "get", "manifests/*", times=None))
        with pytest.raises(StoreUnavailable):
            await flush(a)
        assert len(a.backlog.drafts) == 1
        assert await names(b) == []
        store.rules.clear()
        await flush(a)
        assert len(await names(b)) == 1


async def lost(store: MemoryStore, snapshot: Snapshot) -> dict[str, bytes]:
    """Damages a version: the segments that it refers to are not there any more. What they were, by key."""
    bodies = {}
    for reference in snapshot.top_references:
        key = segment_key(reference.digest)
        bodies[key] = (await store.get(key)).body
        await store.delete(key)
    return bodies


@pytest.mark.parametrize("where", ["live", "attributes changed", "in the trash"])
async def test_it_waits_for_segments_that_are_lost_and_referenced(where: str, tmp_path: Path) -> None:
    store = MemoryStore()
    descriptor = await create_descriptor(store, trash_seconds=3600, training=False)
    async with Hosts(store, tmp_path, descriptor=descriptor) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        base = await write(b, "x", LONG)
        await waiting(a, 1000)
        if where == "attributes changed":
            await b.set_attributes("x", mode=0o600)
        if where == "in the trash":
            await b.remove("x")
        bodies = await lost(store, base)
        for _ in range(2):
            with pytest.raises(CorruptObject):
                await flush(a)
        assert len(a.backlog.drafts) == 1
        assert await names(b) == ([] if where == "in the trash" else ["x"])
        for key, body in bodies.items():
            await store.put(key, body)
        await flush(a)
        assert await names(b) == ["x"]
        assert await read(b, "x") == LONG[:1000] + b"waits\n" + LONG[1006:]


async def test_a_commit_at_once_keeps_it_beside_too(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        base = await write(b, "x", LONG)
        draft = a.draft("x", base, base.attributes, appending=True)
        draft.write(base.size, b"written\n")
        await deleted(hosts, b)
        committed = await a.commit(draft)
        assert await names(b) == [committed.path]
        assert await read(b, committed.path) == b"written\n"
        await exact(hosts, a, b)
