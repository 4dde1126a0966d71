"""The backlog: what is acknowledged is kept, committed in groups, merged or kept beside, and given up only on
purpose."""

import logging
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import trio

from stowfs.config import FlushOptions
from stowfs.errors import HotTierFull, NoSuchPath, StoreUnavailable
from stowfs.locks import Lock
from stowfs.store.memory import MemoryStore
from stowfs.vault.backlog import Unshown
from stowfs.vault.draft import Draft
from stowfs.vault.manifest import Snapshot
from stowfs.vault.vault import Vault
from tests.support.audit import audit
from tests.support.faults import FailAfter, FailBefore, FaultyStore, Rule, Stall, StallAfter
from tests.support.vaults import ATTRIBUTES, Hosts, append, flush, read, write
from tests.vault.test_promises import log_lines

LONG = log_lines(400)


async def names(vault: Vault) -> list[str]:
    return sorted([entry.path async for entry in vault.walk()])


async def acknowledged(vault: Vault, path: str, data: bytes) -> Draft:
    """A new conversation that waits."""
    draft = vault.draft(path, None, ATTRIBUTES)
    draft.write(0, data)
    await vault.acknowledge(draft)
    return draft


async def appended(vault: Vault, base: Snapshot | None, data: bytes) -> Draft:
    """Something that waits to be appended to `x`."""
    draft = vault.draft("x", base, base.attributes if base else ATTRIBUTES, appending=True)
    draft.write(draft.size, data)
    await vault.acknowledge(draft)
    return draft


async def flush_without_answer(store: FaultyStore, vault: Vault) -> None:
    """`x` is written to the store, which nobody here hears of."""
    store.add(Rule(FailAfter(StoreUnavailable("no answer")), "put", "manifests/x.json"))
    store.add(Rule(FailBefore(StoreUnavailable("away")), "get", "manifests/x.json"))
    with pytest.raises(StoreUnavailable):
        await flush(vault)
    store.rules.clear()


@pytest.mark.parametrize("spool_short", [0, 20, 1 << 16])
async def test_what_is_not_acknowledged_is_gone_after_a_crash(tmp_path: Path, spool_short: int) -> None:
    async with Hosts(MemoryStore(), tmp_path, spool_short=spool_short) as hosts:
        vault = await hosts.start("a")
        draft = await acknowledged(vault, "x", b"kept")
        draft.write(4, b", and this is not")
        draft.write(0, b"KEPT")
        other = vault.draft("y", None, ATTRIBUTES)
        other.write(0, b"never acknowledged")
        await hosts.crash("a")
        vault = await hosts.start("a")
        (restored,) = vault.backlog.drafts
        assert await restored.read(0, 100) == b"kept"
        await flush(vault)
        assert await read(vault, "x") == b"kept"
        assert await names(vault) == ["x"]
        await hosts.crash("a")
        state = next((tmp_path / "a" / "state").glob("*/test"))
        assert list((state / "spool").iterdir()) == []


async def test_a_group_counts_a_shared_segment_together(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    # Long enough for all of them to be cut on a slow machine.
    options = FlushOptions(gather=2.0)
    async with Hosts(store, tmp_path, asynchronous=True, flush=options) as hosts:
        vault = await hosts.start("a")
        await write(vault, "first", LONG)
        await write(vault, "second", LONG)
        for number in range(40):
            await acknowledged(vault, f"c{number}", LONG)
        vault.queue_backlog()
        store.reset_log()
        hosts.start_soon("a", vault.run_flusher)
        assert await vault.flusher.flush(30) == []
        segments = len([info async for page in store.inner.list("segments/") for info in page.objects])
        assert store.count("put", "manifests") == 40
        assert store.count("put", "segments") <= 4 * segments, "as many as a ring tells apart at a time"
        assert (await audit(store.inner)).exact


async def test_the_row_of_new_content_is_written_once_and_dropped_once(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path, asynchronous=True) as hosts:
        vault = await hosts.start("a")
        journal = vault.backlog._journal
        before = journal.transactions
        draft = await acknowledged(vault, "x", b"new")
        await flush(vault)
        assert journal.transactions == before + 2
        # What it is based on may have moved: what is to be tried is noted first.
        draft.write(3, b" and more")
        await vault.acknowledge(draft)
        await flush(vault)
        assert journal.transactions == before + 5
        assert await read(vault, "x") == b"new and more"


async def test_a_planned_commit_that_was_not_answered_is_recognised_after_a_crash(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path, asynchronous=True, deadline=0.2) as hosts:
        vault = await hosts.start("a")
        draft = await acknowledged(vault, "x", b"one line\n")
        store.add(Rule(FailAfter(), operation="put"))
        store.add(Rule(FailBefore(), operation="get", times=None))
        with pytest.raises(StoreUnavailable):
            await flush(vault)
        await hosts.crash("a")
        store.rules.clear()
        host = await hosts.start("b")
        await append(host, "x", b"another\n")
        vault = await hosts.start("a")
        assert [restored.id for restored in vault.backlog.drafts] == [draft.id]
        await flush(vault)
        assert await read(vault, "x") == b"one line\nanother\n", "not written over"
        assert await names(vault) == ["x"]


async def test_an_edit_that_lost_is_kept_beside_with_all_that_was_acknowledged(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        base = await write(a, "x", LONG)
        draft = a.draft("x", base, base.attributes)
        draft.write(10, b"EDITED")
        await a.acknowledge(draft)
        await write(b, "x", b"replaced by b", await b.head("x"))
        await hosts.crash("a")
        a = await hosts.start("a")
        await flush(a)
        assert await read(a, "x") == b"replaced by b"
        (beside,) = [name for name in await names(a) if name != "x"]
        assert beside.startswith("x.conflict-")
        assert await read(a, beside) == LONG[:10] + b"EDITED" + LONG[16:]


async def test_appends_of_both_hosts_are_kept_in_order(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await appended(a, await write(a, "x", LONG), b"a1\n")
        await append(b, "x", b"b1\n")
        await flush(a)
        await appended(a, await a.head("x"), b"a2\n")
        await append(b, "x", b"b2\n")
        await hosts.crash("a")
        a = await hosts.start("a")
        await flush(a)
        assert await read(b, "x") == LONG + b"b1\na1\nb2\na2\n"
        assert await names(a) == ["x"]


async def test_what_was_made_exclusively_or_where_a_directory_is_now_is_kept_beside(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        for path in ("x", "d"):
            draft = a.draft(path, None, ATTRIBUTES)
            draft.exclusive = path == "x"
            draft.write(0, b"by a")
            await a.acknowledge(draft)
        await write(b, "x", b"by b")
        await b.make_directory("d", ATTRIBUTES)
        await flush(a)
        assert await read(a, "x") == b"by b"
        assert (await a.head("d")).is_directory
        beside = [name for name in await names(a) if "conflict" in name]
        assert [name[:2] for name in beside] == ["d.", "x."]
        assert [await read(a, name) for name in beside] == [b"by a", b"by a"]


async def test_a_draft_that_replaces_another_ends_it_in_the_same_instant(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        replaced = await acknowledged(a, "x", b"old")
        draft = a.draft("x", None, ATTRIBUTES)
        draft.write(0, b"new")
        await a.acknowledge(draft, replacing=replaced)
        assert replaced.acknowledged is None
        await hosts.crash("a")
        a = await hosts.start("a")
        (restored,) = a.backlog.drafts
        assert await restored.read(0, 10) == b"new"


@pytest.mark.parametrize("happened", [False, True])
async def test_a_removal_that_a_crash_interrupts_is_finished(happened: bool, tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a = await hosts.start("a")
        draft = await appended(a, await write(a, "x", LONG), b"waits")
        stalled = Stall()
        if not happened:
            store.add(Rule(stalled, "put", "manifests/*"))

        async def remove() -> None:
            async with a.backlog.removing(draft):
                await a.remove("x")
                stalled.reached.set()
                await trio.sleep_forever()

        hosts.start_soon("a", remove)
        await stalled.reached.wait()
        await hosts.crash("a")
        store.rules.clear()
        a = await hosts.start("a")
        assert a.backlog.drafts == []
        hosts.start_soon("a", a.run_flusher)
        assert await a.flusher.flush(10) == []
        with pytest.raises(NoSuchPath):
            await a.head("x")
        await a.drain()
        assert (await audit(store.inner)).exact


@pytest.mark.parametrize("crashed", [False, True])
@pytest.mark.parametrize("new", [False, True])
async def test_what_was_committed_without_an_answer_and_deleted_elsewhere_stays_deleted(
    new: bool, crashed: bool, tmp_path: Path
) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path, deadline=0.2) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        base = None if new else await write(a, "x", LONG)
        await appended(a, base, b"waits")
        await flush_without_answer(store, a)
        assert await read(b, "x") == (b"" if new else LONG) + b"waits"
        await b.remove("x")
        if crashed:
            await hosts.crash("a")
            a = await hosts.start("a")
        await flush(a)
        assert a.backlog.drafts == []
        with pytest.raises(NoSuchPath):
            await a.head("x")
        await a.drain()
        assert (await audit(store.inner)).exact


@pytest.mark.parametrize("more", [False, True])
async def test_what_waits_is_not_appended_again_after_a_crash_in_a_commit_at_once(more: bool, tmp_path: Path) -> None:
    """As before a rename: the owner commits it, not the flusher."""
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a = await hosts.start("a")
        draft = await appended(a, await write(a, "x", LONG), b"waits\n")
        if more:
            draft.write(draft.size, b"more\n")
        stalled = StallAfter()
        store.add(Rule(stalled, "put", "manifests/x.json"))
        hosts.start_soon("a", partial(a.commit, draft))
        await stalled.reached.wait()
        await hosts.crash("a")
        store.rules.clear()
        a = await hosts.start("a")
        await flush(a)
        assert await read(a, "x") == LONG + b"waits\n" + (b"more\n" if more else b"")
        assert a.backlog.drafts == []
        await a.drain()
        assert (await audit(store.inner)).exact


async def test_what_was_added_since_brings_back_what_was_deleted_elsewhere(tmp_path: Path) -> None:
    """It was not deleted by anybody who knew of it."""
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path, deadline=0.2) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        draft = await acknowledged(a, "x", b"one ")
        await flush_without_answer(store, a)
        await b.remove("x")
        draft.write(4, b"two")
        await a.acknowledge(draft)
        await flush(a)
        assert await read(b, "x") == b"one two"
        await a.drain()
        assert (await audit(store.inner)).exact


async def crash_while_removing(hosts: Hosts, a: Vault, draft: Draft) -> None:
    """The process of host `a` ends when it has noted that it removes what waits, and has done nothing more."""
    reached = trio.Event()

    async def remove() -> None:
        async with a.backlog.removing(draft):
            reached.set()
            await trio.sleep_forever()

    hosts.start_soon("a", remove)
    await reached.wait()
    await hosts.crash("a")


async def test_an_interrupted_removal_spares_what_was_written_since(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await crash_while_removing(hosts, a, await acknowledged(a, "x", b"waits"))
        await write(b, "x", b"another one")
        a = await hosts.start("a")
        hosts.start_soon("a", a.run_flusher)
        assert await a.flusher.flush(10) == []
        assert await read(a, "x") == b"another one"


async def removal_interrupted(hosts: Hosts) -> Vault:
    """A host whose last process ended while it removed what was in the store as it was before it was replaced."""
    a = await hosts.start("a")
    draft = a.draft("x", await write(a, "x", b"old"), ATTRIBUTES)
    draft.truncate(0)
    draft.write(0, b"replaced")
    await a.acknowledge(draft)
    await crash_while_removing(hosts, a, draft)
    return await hosts.start("a")


async def test_what_was_being_removed_in_a_crash_does_not_show_what_it_was_before(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path, deadline=0.2) as hosts:
        a = await removal_interrupted(hosts)
        outage = store.add(Rule(FailBefore(), times=None))
        with pytest.raises(StoreUnavailable):
            await a.head("x", stale_ok=True)
        store.rules.remove(outage)
        with pytest.raises(NoSuchPath):
            await a.head("x", stale_ok=True)
        assert a.backlog.removals == []
        await write(a, "x", b"new")
        # What the flusher was to do is done.
        hosts.start_soon("a", a.run_flusher)
        assert await a.flusher.flush(10) == []
        assert await read(a, "x") == b"new"


@pytest.mark.parametrize("directory", [False, True])
async def test_a_removal_that_is_finished_spares_what_is_written_at_that_moment(
    directory: bool, tmp_path: Path
) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a = await removal_interrupted(hosts)
        b = await hosts.start("b")
        async with store.held("put", "manifests/x.json", a.backlog.finish_removals, "x"):
            await b.remove("x")
            if directory:
                await b.make_directory("x", ATTRIBUTES)
            else:
                await write(b, "x", b"new")
        assert a.backlog.removals == []
        assert (await a.head("x")).is_directory is directory
        assert directory or await read(a, "x") == b"new"


async def test_a_removal_that_fails_leaves_it_acknowledged(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path, deadline=0.2) as hosts:
        a = await hosts.start("a")
        draft = await acknowledged(a, "x", b"waits")
        store.add(Rule(FailBefore(), times=None))
        with pytest.raises(Exception, match="injected"):
            async with a.backlog.removing(draft):
                await a.remove("x")
        store.rules.clear()
        await hosts.crash("a")
        a = await hosts.start("a")
        await flush(a)
        assert await read(a, "x") == b"waits"


def fill_disk(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no room for any change of the journal, from now on."""

    async def refuse(*_: object, **__: object) -> None:
        raise HotTierFull("injected: the local disk is full")

    monkeypatch.setattr(vault.backlog._journal, "change_drafts", refuse)


async def removal_refused(hosts: Hosts, store: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> tuple[Vault, Draft]:
    """What waits for the store is removed while that is away, and the local disk is full by then."""
    a = await hosts.start("a")
    draft = await appended(a, await write(a, "x", LONG), b"waits")
    store.add(Rule(FailBefore(), times=None))
    async with a.backlog.removing(draft):
        fill_disk(a, monkeypatch)
        await a.remove("x")
    return a, draft


@pytest.mark.parametrize("crashed", [False, True])
async def test_a_removal_that_fails_where_that_cannot_be_noted_is_carried_out_as_was_said(
    crashed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who removes it is told of no failure: the journal says that it is removed, whatever happens to this process."""
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path, deadline=0.2) as hosts:
        a, draft = await removal_refused(hosts, store, monkeypatch)
        assert "x is removed as soon as the store answers" in caplog.text
        assert a.backlog.drafts == []
        assert draft.acknowledged is None
        monkeypatch.undo()
        if crashed:
            await hosts.crash("a")
            a = await hosts.start("a")
        else:
            a.queue_removals()
            hosts.start_soon("a", a.run_flusher)
        with pytest.raises(StoreUnavailable):
            await a.head("x", stale_ok=True)
        store.rules.clear()
        if crashed:
            hosts.start_soon("a", a.run_flusher)
        assert await a.flusher.flush(10) == []
        assert a.backlog.removals == []
        with pytest.raises(NoSuchPath):
            await a.head("x")
        assert await a.drain(20) == 0
        assert (await audit(store.inner)).exact
        await hosts.crash("a")
        assert (await hosts.start("a")).backlog.removals == []


async def test_a_removal_that_succeeds_where_that_cannot_be_noted_is_not_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        draft = await appended(a, await write(a, "x", LONG), b"waits")
        async with a.backlog.removing(draft):
            await a.remove("x")
            fill_disk(a, monkeypatch)
        monkeypatch.undo()
        await flush(a)
        with pytest.raises(NoSuchPath):
            await a.head("x")
        assert a.backlog.removals == []


async def test_a_row_whose_bytes_are_gone_is_said_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with Hosts(MemoryStore(), tmp_path, spool_short=0) as hosts:
        a = await hosts.start("a")
        lost, kept = await acknowledged(a, "lost", b"lost"), await acknowledged(a, "kept", b"kept")
        await hosts.crash("a")
        state = next((tmp_path / "a" / "state").glob("*/test"))
        (state / "spool" / lost.id).unlink()
        with caplog.at_level(logging.ERROR):
            a = await hosts.start("a")
        assert f"the acknowledged draft {lost.id} cannot be restored" in caplog.text
        assert [draft.id for draft in a.backlog.drafts] == [kept.id]
        await flush(a)
        assert await names(a) == ["kept"]


@pytest.mark.parametrize(
    ("sound", "bad"), [(b"\xa1x", b"\xa1\xff"), (b"\x93\x00\x05\x00", b"\x93\x09\x05\x00")], ids=["path", "extent"]
)
async def test_a_damaged_row_is_said_and_kept_and_the_others_are_restored(
    sound: bytes, bad: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        damaged, kept = await acknowledged(a, "x", b"bytes"), await acknowledged(a, "kept", b"kept")
        await hosts.crash("a")
        journal = sqlite3.connect(next((tmp_path / "a" / "state").glob("*/test")) / "journal.db")
        with closing(journal), journal:
            row = journal.execute("SELECT payload FROM drafts WHERE draft_id = ?", (damaged.id,)).fetchone()
            assert row[0].count(sound) == 1
            journal.execute(
                "UPDATE drafts SET payload = ? WHERE draft_id = ?", (row[0].replace(sound, bad), damaged.id)
            )
        with caplog.at_level(logging.ERROR):
            a = await hosts.start("a")
        assert f"the acknowledged draft {damaged.id} cannot be restored" in caplog.text
        assert [draft.id for draft in a.backlog.drafts] == [kept.id]
        await flush(a)
        assert await names(a) == ["kept"]


@pytest.mark.parametrize("more", ["acknowledged", "written"])
@pytest.mark.parametrize("replaced", [False, True])
async def test_changes_during_a_commit_that_loses_follow_what_is_kept_unless_they_replace_both(
    replaced: bool, more: str, tmp_path: Path
) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        base = await write(b, "x", b"base text")
        draft = a.draft("x", base, base.attributes)
        draft.write(0, b"edit")
        await a.acknowledge(draft)
        await write(b, "x", b"winner")
        lock = Lock()
        commit = partial(a.backlog.flush, draft, lock, Unshown)
        async with store.held("put", "manifests/x.conflict*", commit), lock:
            if replaced:
                draft.truncate(0)
            draft.write(0, b"EDITED AGAIN")
            if more == "acknowledged":
                await a.acknowledge(draft)
        assert await draft.read(0, 100) == b"EDITED AGAIN"
        if more == "acknowledged":
            # What the journal has of it is under the same name.
            await hosts.crash("a")
            a = await hosts.start("a")
        else:
            await a.acknowledge(draft)
        await flush(a)
        assert await read(b, "x") == (b"EDITED AGAIN" if replaced else b"winner")
        first, beside = await names(b)
        assert first == "x"
        assert await read(b, beside) == (b"edit text" if replaced else b"EDITED AGAIN")
        await hosts.crash("a")


async def test_changes_during_a_commit_follow_it(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a = await hosts.start("a")
        draft = await acknowledged(a, "x", b"one ")
        lock = Lock()
        seen: list[tuple[bytes, bool | None]] = []

        class Reader:
            """Sees what is shown before and after a commit changes it."""

            def __init__(self, acknowledged: Draft) -> None:
                assert acknowledged is draft.acknowledged

            async def about_to_change(self, committed: Snapshot) -> None:
                seen.append((await draft.read(0, 100), None))

            def settled(self, committed: Snapshot, kept: Snapshot | None, *, clean: bool) -> None:
                assert draft.base is committed
                assert kept is None
                seen.append((b"", clean))

        commit = partial(a.backlog.flush, draft, lock, Reader)
        async with store.held("put", "manifests/*", commit), lock:
            draft.write(4, b"two ")
            await a.acknowledge(draft)
            draft.write(8, b"three")
        assert seen == [(b"one two three", None), (b"", False)]
        assert await read(a, "x") == b"one "
        assert await draft.read(0, 100) == b"one two three"
        await commit()
        assert await read(a, "x") == b"one two "
        assert a.backlog.drafts == []
        await a.acknowledge(draft)
        await commit()
        assert [clean for _, clean in seen if clean is not None] == [False, False, True]
        assert await read(a, "x") == b"one two three"
        await hosts.crash("a")
