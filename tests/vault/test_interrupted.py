"""What waits and was interrupted: a commit at once, in the middle of which the process ended or got no answer; a PUT
that is carried out late; a removal. What is written afterwards, here and by others, is there in the end."""

from functools import partial
from pathlib import Path
from random import Random
from uuid import UUID

import pytest
import trio
from uuid_utils import uuid7

from stowfs.errors import StoreUnavailable
from stowfs.locks import Lock
from stowfs.store.memory import MemoryStore
from stowfs.vault.backlog import Unshown
from stowfs.vault.descriptor import create_descriptor
from stowfs.vault.draft import Draft
from stowfs.vault.ring import CAPACITY
from stowfs.vault.vault import Vault
from tests.support.audit import audit
from tests.support.faults import FailAfter, FailBefore, FaultyStore, Late, Rule, Stall, StallAfter
from tests.support.vaults import ATTRIBUTES, DEADLINE, GOES_ON, Hosts, append, edit, flush, read, write
from tests.vault.test_backlog import acknowledged, appended, flush_without_answer, names

SECONDS = 1000 << 80
"""By how much a uuid7 made a second later is greater."""


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("spool_short", [0, 1 << 16])
async def test_what_is_written_after_a_commit_that_a_restart_ended_is_kept(
    new: bool, spool_short: int, tmp_path: Path
) -> None:
    """Each attempt of a commit at once seals the log once more; what comes after the restart was in none of them."""
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path, deadline=0.5, spool_short=spool_short) as hosts:
        a = await hosts.start("a")
        start = b"" if new else b"start\n"
        draft = await appended(a, None if new else await write(a, "x", start), b"one\n")
        for trouble in FailBefore, FailAfter:
            store.add(Rule(trouble(StoreUnavailable("no answer")), "put", "manifests/x.json"))
            store.add(Rule(FailBefore(StoreUnavailable("away")), key="manifests/x.json", times=None))
            with pytest.raises(StoreUnavailable):
                await a.commit(draft)
            store.rules.clear()
        await hosts.crash("a")
        a = await hosts.start("a")
        [draft] = a.backlog.drafts
        draft.write(draft.size, b"two\n")
        await a.acknowledge(draft)
        await flush(a)
        assert a.backlog.drafts == []
        assert await read(a, "x") == start + b"one\ntwo\n"


async def test_an_edit_after_a_commit_that_a_restart_ended_spares_what_others_appended(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        draft = await appended(a, await write(a, "x", b"start\n"), b"mine\n")
        await append(b, "x", b"theirs\n")
        # The first PUT is refused, the second one takes effect.
        stalled = StallAfter()
        store.add(Rule(stalled, "put", "manifests/x.json", nth=2))
        hosts.start_soon("a", partial(a.commit, draft))
        await stalled.reached.wait()
        await hosts.crash("a")
        store.rules.clear()
        a = await hosts.start("a")
        [draft] = a.backlog.drafts
        draft.write(6, b"MINE")
        await a.acknowledge(draft)
        await flush(a)
        x, beside = await names(b)
        assert (x, await read(b, x)) == ("x", b"start\ntheirs\nmine\n")
        assert await read(b, beside) == b"start\nMINE\n"


async def make_something_else(vault: Vault, kind: str) -> None:
    """A directory or symbolic link with the name `x`."""
    if kind == "directory":
        await vault.make_directory("x", ATTRIBUTES)
        await write(vault, "x/child", b"of b")
    else:
        await vault.make_symlink("x", b"/target", ATTRIBUTES)


async def is_kept_beside(hosts: Hosts, kind: str, *contents: bytes) -> None:
    """Whether `x` is what was made, and these are beside it."""
    c = await hosts.start("c")
    assert (await c.head("x")).manifest.kind == kind
    found = [await read(c, name) for name in await names(c) if name.startswith("x.conflict-")]
    assert sorted(found) == sorted(contents)
    assert kind != "directory" or await read(c, "x/child") == b"of b"


@pytest.mark.parametrize("kind", ["directory", "symlink"])
@pytest.mark.parametrize("crashed", [False, True])
async def test_what_has_the_name_of_a_file_by_now_survives_a_commit_of_it(
    kind: str, crashed: bool, tmp_path: Path
) -> None:
    """Also where an earlier state of the file was a version."""
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path, deadline=0.5) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        draft = await acknowledged(a, "x", b"one ")
        await flush_without_answer(store, a)
        draft.write(4, b"two")
        await a.acknowledge(draft)
        await b.remove("x")
        await make_something_else(b, kind)
        if crashed:
            await hosts.crash("a")
            a = await hosts.start("a")
        await flush(a)
        await is_kept_beside(hosts, kind, b"one two")


@pytest.mark.parametrize("kind", ["directory", "symlink"])
async def test_what_has_the_name_of_a_file_survives_what_was_written_while_that_was_kept_beside(
    kind: str, tmp_path: Path
) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        draft = await appended(a, None, b"one ")
        await make_something_else(b, kind)
        lock = Lock()
        commit = partial(a.backlog.flush, draft, lock, Unshown)
        async with store.held("put", "manifests/x.conflict*", commit), lock:
            draft.write(4, b"two")
            await a.acknowledge(draft)
        await flush(a)
        await is_kept_beside(hosts, kind, b"one two")


@pytest.mark.parametrize("removed", [False, True])
async def test_what_is_carried_out_late_does_not_replace_what_was_acknowledged_since(
    removed: bool, tmp_path: Path
) -> None:
    """The file was made what it had been before, so that there is nothing to store; or was new, and removed."""
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path, deadline=0.5) as hosts:
        a = await hosts.start("a")
        base = None if removed else await write(a, "x", b"old\n")
        draft = a.draft("x", base, base.attributes if base else ATTRIBUTES)
        draft.truncate(0)
        draft.write(0, b"new\n")
        await a.acknowledge(draft)
        store.add(Rule(Late(), "put", "manifests/x.json", times=None))
        with pytest.raises(StoreUnavailable):
            await flush(a)
        store.rules.clear()
        if removed:
            await remove(a, draft)
        else:
            draft.truncate(0)
            draft.write(0, b"old\n")
            await a.acknowledge(draft)
            await flush(a)
        assert a.backlog.drafts == []
        await store.carry_out_late()
        b = await hosts.start("b")
        assert await names(b) == ([] if removed else ["x"])
        assert removed or await read(b, "x") == b"old\n"


async def keep_without_answer(store: FaultyStore, vault: Vault) -> None:
    """What lost against `x` is kept beside it, which nobody here hears of."""
    store.add(Rule(FailAfter(StoreUnavailable("no answer")), "put", "manifests/x.conflict*"))
    store.add(Rule(FailBefore(StoreUnavailable("away")), "get", "manifests/x.conflict*", times=None))
    with pytest.raises(StoreUnavailable):
        await flush(vault)
    store.rules.clear()


@pytest.mark.parametrize("crashed", [False, True])
async def test_what_lost_is_kept_beside_once(crashed: bool, tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path, deadline=0.5) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        base = await write(a, "x", b"start of it\n")
        draft = a.draft("x", base, base.attributes)
        draft.write(0, b"S")
        await a.acknowledge(draft)
        await edit(b, "x", 6, b"O")
        for _ in range(2):
            await keep_without_answer(store, a)
            if crashed:
                await hosts.crash("a")
                a = await hosts.start("a")
        await flush(a)
        assert a.backlog.drafts == []
        x, beside = await names(b)
        assert (await read(b, x), await read(b, beside)) == (b"start Of it\n", b"Start of it\n")
        await a.drain()
        assert (await audit(store.inner)).exact


@pytest.mark.parametrize("how", ["edited", "removed"])
async def test_what_is_written_after_an_edit_lost_does_not_go_to_what_others_made_of_the_kept_one(
    how: str, tmp_path: Path
) -> None:
    """Where it was kept, but nobody answered; and the next attempt looks at what became of it."""
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path, deadline=0.5) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        base = await write(a, "x", b"start of it\n")
        draft = a.draft("x", base, base.attributes)
        draft.write(0, b"S")
        await a.acknowledge(draft)
        await edit(b, "x", 6, b"O")
        await keep_without_answer(store, a)
        _, kept = await names(b)
        # The first look is why the PUT was refused.
        stalled, lock = Stall(), Lock()
        store.add(Rule(stalled, "get", f"manifests/{kept}.json", nth=2))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.backlog.flush, draft, lock, Unshown)
            await stalled.reached.wait()
            async with lock:
                draft.write(9, b"I")
                await a.acknowledge(draft)
            await (edit(b, kept, 0, b"THEIRS") if how == "edited" else b.remove(kept))
            stalled.go.set()
        await flush(a)
        assert a.backlog.drafts == []
        found = {name: await read(b, name) for name in await names(b)}
        assert found.pop("x") == b"start Of it\n"
        assert found.pop(kept, None) == (b"THEIRSof it\n" if how == "edited" else None)
        assert list(found.values()) == [b"Start of It\n"]


async def test_what_lost_is_kept_once_more_where_what_was_kept_is_damaged(tmp_path: Path) -> None:
    store, contents = MemoryStore(), Random(1).randbytes(600_000)
    faulty = FaultyStore(store)
    async with Hosts(faulty, tmp_path, deadline=0.5) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        base = await write(a, "x", contents)
        draft = a.draft("x", base, base.attributes)
        draft.write(0, b"A")
        await a.acknowledge(draft)
        await edit(b, "x", 6, b"B")
        await keep_without_answer(faulty, a)
        _, kept = await names(b)
        there = {info.key async for page in store.list("") for info in page.objects}
        # Bytes that this host has not cached.
        await edit(b, kept, 300_000, b"C" * 300_000)
        async for page in store.list(""):
            for info in page.objects:
                if info.key not in there and not info.key.startswith("manifests/"):
                    await store.delete(info.key)
        await flush(a)
        assert a.backlog.drafts == []
        assert (await names(b))[:2] == ["x", kept]
        [again] = (await names(b))[2:]
        assert await read(b, again) == b"A" + contents[1:]


async def remove(vault: Vault, draft: Draft) -> None:
    """As a mount does."""
    async with vault.backlog.removing(draft) as commit:
        await vault.remove(draft.path, commit=commit, doubtful=bool(draft.attempts))
    await vault.backlog.withdraw(draft)


async def crash_after_removal(hosts: Hosts, vault: Vault, draft: Draft, *, removed: bool = True) -> None:
    """The process of host `a` ends when it has `removed` what waits from the store, and before it knows."""
    reached = trio.Event()

    async def removing() -> None:
        async with vault.backlog.removing(draft) as commit:
            if removed:
                await vault.remove(draft.path, commit=commit, doubtful=bool(draft.attempts))
            reached.set()
            await trio.sleep_forever()

    hosts.start_soon("a", removing)
    await reached.wait()
    await hosts.crash("a")


async def removals_finished(hosts: Hosts) -> None:
    """Host `a` is started again, and finishes what it was doing."""
    a = await hosts.start("a")
    hosts.start_soon("a", a.run_flusher)
    assert await a.flusher.flush(10) == []
    assert a.backlog.removals == []


@pytest.mark.parametrize("removed", [False, True])
async def test_an_interrupted_removal_of_what_was_a_version_spares_what_was_written_since(
    removed: bool, tmp_path: Path
) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path, deadline=0.5) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        draft = await acknowledged(a, "x", b"waits")
        await flush_without_answer(store, a)
        await crash_after_removal(hosts, a, draft, removed=removed)
        if not removed:
            await b.remove("x")
        await write(b, "x", b"of another host")
        await removals_finished(hosts)
        assert await read(b, "x") == b"of another host"


@pytest.mark.parametrize("deleted_before", [False, True])
async def test_an_interrupted_removal_keeps_out_a_commit_that_is_still_on_its_way(
    deleted_before: bool, tmp_path: Path
) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path, deadline=0.5) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        if deleted_before:
            await write(b, "x", b"deleted before")
            await b.remove("x")
        draft = await acknowledged(a, "x", b"waits")
        store.add(Rule(Late(), "put", "manifests/x.json", times=None))
        with pytest.raises(StoreUnavailable):
            await flush(a)
        store.rules.clear()
        await crash_after_removal(hosts, a, draft, removed=False)
        await removals_finished(hosts)
        assert None not in await store.carry_out_late()
        assert await names(b) == []


async def test_an_interrupted_removal_spares_the_same_bytes_written_again(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        draft = await appended(a, await write(a, "x", b"old"), b" and new")
        await crash_after_removal(hosts, a, draft)
        await write(b, "x", b"old")
        await removals_finished(hosts)
        assert await read(b, "x") == b"old"


async def test_an_interrupted_removal_spares_what_a_host_writes_whose_clock_is_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        draft = await acknowledged(a, "x", b"waits")
        await write(b, "x", b"seen by both")
        await crash_after_removal(hosts, a, draft)
        with monkeypatch.context() as behind:
            behind.setattr("stowfs.vault.ring.uuid7", lambda: UUID(int=uuid7().int - 2 * SECONDS))
            await write(b, "x", b"of another host")
        await removals_finished(hosts)
        assert await read(b, "x") == b"of another host"


async def test_an_interrupted_removal_is_finished_where_the_clocks_of_those_who_wrote_before_were_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ring does not tell whether it was done; nor has what was to be removed with it become a version."""
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write(b, "x", b"start")
        with monkeypatch.context() as ahead:
            ahead.setattr("stowfs.vault.ring.uuid7", lambda: UUID(int=uuid7().int + 3600 * SECONDS))
            for _ in range(CAPACITY + 1):
                await append(b, "x", b".")
        draft = await appended(a, await a.head("x"), b"waits")
        await crash_after_removal(hosts, a, draft, removed=False)
        await removals_finished(hosts)
        assert await names(b) == []


async def test_removing_what_may_have_been_stored_leaves_in_the_trash_what_was_deleted_before(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    descriptor = await create_descriptor(store, trash_seconds=86400, training=False)
    async with Hosts(store, tmp_path, deadline=0.5, descriptor=descriptor) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write(b, "x", b"deleted before")
        await b.remove("x")
        draft = await acknowledged(a, "x", b"waits")
        store.add(Rule(Late(), "put", "manifests/x.json", times=None))
        with pytest.raises(StoreUnavailable):
            await flush(a)
        store.rules.clear()
        await remove(a, draft)
        assert None not in await store.carry_out_late()
        assert await names(b) == []
        await b.undelete("x")
        assert await read(b, "x") == b"deleted before"


async def test_an_append_is_stored_once_though_the_clock_was_set_back_between_its_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path, deadline=0.5) as hosts:
        a = await hosts.start("a")
        await appended(a, await write(a, "x", b"start\n"), b"one\n")
        await flush_without_answer(store, a)
        await hosts.crash("a")
        monkeypatch.setattr("stowfs.vault.ring.uuid7", lambda: UUID(int=uuid7().int - 3600 * SECONDS))
        a = await hosts.start("a")
        [draft] = a.backlog.drafts
        draft.write(draft.size, b"two\n")
        await a.acknowledge(draft)
        # The first PUT is refused: "one" is there already.
        stalled = StallAfter()
        store.add(Rule(stalled, "put", "manifests/x.json", nth=2))
        hosts.start_soon("a", partial(flush, a))
        await stalled.reached.wait()
        await hosts.crash("a")
        store.rules.clear()
        a = await hosts.start("a")
        await flush(a)
        assert await read(a, "x") == b"start\none\ntwo\n"


@pytest.mark.parametrize("others", [b"", b"theirs\n"])
async def test_what_was_stored_unanswered_is_not_appended_again_by_undoing_what_failed_after_it(
    others: bytes, tmp_path: Path
) -> None:
    """As a mount does where a file that is open is extended by its path."""
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path, deadline=0.5) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        base = await write(a, "x", b"start\n")
        draft = a.draft("x", base, base.attributes, appending=True)
        draft.write(draft.size, b"one\n")
        store.add(Rule(FailAfter(StoreUnavailable("no answer")), "put", "manifests/x.json"))
        store.add(Rule(FailBefore(StoreUnavailable("away")), "get", "manifests/x.json"))
        with pytest.raises(StoreUnavailable):
            await a.commit(draft)
        store.rules.clear()
        if others:
            await append(b, "x", others)
        draft.write(draft.size, b"two\n")
        before, tried = draft.freeze(), draft.attempts.copy()
        draft.truncate(draft.size + 4)
        # The first PUT is refused: "one" is there already.
        store.add(Rule(FailBefore(StoreUnavailable("away")), "put", "manifests/x.json", nth=2, times=None))
        with pytest.raises(StoreUnavailable):
            await a.commit(draft)
        store.rules.clear()
        draft.undo(before, tried)
        expected = b"start\none\n" + others + b"two\n"
        assert await draft.read(0, draft.size) == expected
        await a.commit(draft)
        assert await read(a, "x") == expected
        draft.discard()


async def test_undoing_what_could_not_be_acknowledged_spares_what_is_being_stored_meanwhile(tmp_path: Path) -> None:
    """It is tried under an id that nobody had when it was changed; and is there once, though nobody answers."""
    store = FaultyStore(MemoryStore())
    large = Random(1).randbytes(300_000)
    async with Hosts(store, tmp_path, deadline=0.5) as hosts:
        a = await hosts.start("a")
        draft = await appended(a, await write(a, "x", b"start\n"), large)
        stalled, lock = Stall(), Lock()
        store.add(Rule(stalled, "put", "segments/*"))
        store.add(Rule(FailAfter(StoreUnavailable("no answer")), "put", "manifests/x.json"))
        store.add(Rule(FailBefore(StoreUnavailable("away")), "get", "manifests/x.json", times=None))

        async def flush_in_vain() -> None:
            with pytest.raises(StoreUnavailable):
                await a.backlog.flush(draft, lock, Unshown)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flush_in_vain)
            await stalled.reached.wait()
            async with lock:
                before, tried = draft.freeze(), draft.attempts.copy()
                draft.truncate(draft.size + 4)
                stalled.go.set()
                with trio.fail_after(DEADLINE):
                    while not draft.attempts:  # noqa: ASYNC110 - nobody tells
                        await trio.sleep(GOES_ON)
                draft.undo(before, tried)
        store.rules.clear()
        await flush(a)
        assert await read(a, "x") == b"start\n" + large


async def test_undoing_does_not_forget_what_is_on_its_way_to_what_others_wrote_since(tmp_path: Path) -> None:
    """Which the base cannot tell anything of."""
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path, deadline=0.5) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        draft = await appended(a, await write(a, "x", b"start\n"), b"mine\n")
        await append(b, "x", b"theirs\n")
        # The first PUT is refused.
        store.add(Rule(Late(), "put", "manifests/x.json", nth=2, times=None))
        with pytest.raises(StoreUnavailable):
            await flush(a)
        store.rules.clear()
        before, tried = draft.freeze(), draft.attempts.copy()
        draft.truncate(draft.size + 4)
        draft.undo(before, tried)
        assert None in await store.carry_out_late()
        await append(b, "x", b"more\n")
        await flush(a)
        assert await read(a, "x") == b"start\ntheirs\nmine\nmore\n"


async def test_an_edit_that_lost_is_kept_once_though_something_after_it_was_undone(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path, deadline=0.5) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        base = await write(a, "x", b"start of it\n")
        draft = a.draft("x", base, base.attributes)
        draft.write(0, b"S")
        await a.acknowledge(draft)
        await edit(b, "x", 6, b"O")
        await keep_without_answer(store, a)
        before, tried = draft.freeze(), draft.attempts.copy()
        draft.truncate(3)
        draft.undo(before, tried)
        await flush(a)
        x, kept = await names(b)
        assert (await read(b, x), await read(b, kept)) == (b"start Of it\n", b"Start of it\n")
