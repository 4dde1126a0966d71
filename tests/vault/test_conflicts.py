"""Two hosts that write the same conversation: no append is lost, the last replacement wins, an edit that lost is kept
beside the winner."""

import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from stowfs.errors import NameTooLong, NoSuchPath, PathExists, RetriesExhausted, StoreUnavailable
from stowfs.store.memory import MemoryStore
from stowfs.vault.draft import Draft
from stowfs.vault.manifest import Snapshot
from stowfs.vault.naming import NAME_LIMIT
from stowfs.vault.ring import CAPACITY
from stowfs.vault.vault import Vault
from tests.support.audit import audit
from tests.support.faults import FailAfter, FailBefore, FaultyStore, Late, Rule, Stall
from tests.support.vaults import ATTRIBUTES, Hosts, append, edit, read, write
from tests.vault.test_promises import log_lines

LONG = log_lines(1500, 1)


async def opened(vault: Vault, path: str, *, appending: bool = False) -> Draft:
    base = await vault.head(path)
    return vault.draft(path, base, base.attributes, appending=appending)


async def commit(vault: Vault, draft: Draft) -> Snapshot:
    try:
        return await vault.commit(draft)
    finally:
        draft.discard()


async def names(vault: Vault) -> list[str]:
    return [entry.path for entry in await vault.list_directory("")]


async def exact(hosts: Hosts, *vaults: Vault) -> None:
    for vault in vaults:
        assert await vault.drain(20) == 0
    store = hosts.store
    result = await audit(store.inner if isinstance(store, FaultyStore) else store)
    assert result.exact, result


# Appends


@pytest.mark.parametrize("start", [b"", LONG], ids=["empty", "long"])
async def test_concurrent_appends_lose_none(start: bytes, tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path, deadline=30.0) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write(a, "log", start)

        async def writer(vault: Vault, name: str) -> None:
            for number in range(20):
                await append(vault, "log", f"{name}{number:02d}\n".encode() * 30)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer, a, "a")
            nursery.start_soon(writer, b, "b")
        content = await read(a, "log")
        assert content == await read(await hosts.start("fresh"), "log")
        assert content.startswith(start)
        lines = content[len(start) :].decode().split()
        turns = lines[::30]
        assert lines == [turn for turn in turns for _ in range(30)]
        for name in "ab":
            # Each writer's turns in their order, each once.
            assert [turn for turn in turns if turn[0] == name] == [f"{name}{number:02d}" for number in range(20)]
        assert len(turns) == 40
        assert await names(a) == ["log"]
        await exact(hosts, a, b)


async def overtaken(hosts: Hosts, store: FaultyStore, stall: Rule, slow: Callable[[Vault], Awaitable[None]]) -> bytes:
    """Lets a host append slowly, and another one many times at the stall on its way; what the other one has written."""
    assert isinstance(stall.action, Stall)
    a, b = await hosts.start("a", store), await hosts.start("b")
    await write(b, "log", b"start\n")
    store.add(stall)
    others = [f"{number}\n".encode() for number in range(2 * CAPACITY)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow, a)
        await stall.action.reached.wait()
        for line in others:
            await append(b, "log", line)
        store.reset_log()
        stall.action.go.set()
    assert await read(a, "log") == await read(b, "log")
    await exact(hosts, a, b)
    return b"".join([b"start\n", *others])


async def test_an_append_refused_behind_more_others_than_a_ring_keeps_goes_to_the_end(tmp_path: Path) -> None:
    async def slow(vault: Vault) -> None:
        await append(vault, "log", b"slow\n")

    inner = MemoryStore()
    async with Hosts(inner, tmp_path) as hosts:
        others = await overtaken(hosts, FaultyStore(inner), Rule(Stall(), "put", "manifests/log.json", nth=1), slow)
        assert await read(await hosts.start("c"), "log") == others + b"slow\n"


async def test_an_append_whose_fate_nobody_can_tell_is_an_error_and_not_repeated(tmp_path: Path) -> None:
    async def slow(vault: Vault) -> None:
        with pytest.raises(RetriesExhausted, match="fate"):
            await append(vault, "log", b"slow\n")

    inner = MemoryStore()
    store = FaultyStore(inner)
    store.add(Rule(FailBefore(), "put", "manifests/log.json", nth=1))
    async with Hosts(inner, tmp_path) as hosts:
        others = await overtaken(hosts, store, Rule(Stall(), "get", "manifests/log.json", nth=2), slow)
        assert await read(await hosts.start("c"), "log") == others
        assert store.count("put") == 0


async def test_appends_that_race_with_the_creation_lose_none(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path, deadline=30.0) as hosts:
        vaults = [await hosts.start(name) for name in "abcdefgh"]

        async def create(vault: Vault, data: bytes) -> None:
            draft = vault.draft("log", None, ATTRIBUTES, appending=True)
            draft.write(0, data)
            await commit(vault, draft)

        turns = [log_lines(100 + 40 * number, number) for number in range(8)]
        async with trio.open_nursery() as nursery:
            for vault, turn in zip(vaults, turns, strict=True):
                nursery.start_soon(create, vault, turn)
        content = await read(vaults[0], "log")
        assert len(content) == sum(map(len, turns))
        assert all(content.count(turn) == 1 for turn in turns)
        await exact(hosts, *vaults)


async def test_an_append_at_the_known_end_goes_to_the_new_end(tmp_path: Path) -> None:
    """Without O_APPEND, too: what was written lies past the end that the writer knew, with a hole even."""
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write(a, "x", b"base")
        draft = await opened(a, "x")
        draft.write(6, b"mine")
        assert await draft.read(0, 100) == b"base\0\0mine"
        await append(b, "x", b", theirs")
        committed = await commit(a, draft)
        assert await read(b, "x") == b"base, theirs\0\0mine"
        assert committed.size == 18
        await exact(hosts, a, b)


async def test_a_draft_goes_on_from_what_was_committed(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write(a, "x", b"0\n")
        draft = await opened(a, "x", appending=True)
        for number in range(1, 6):
            draft.write(draft.size, b"a%d\n" % number)
            await a.commit(draft)
            await append(b, "x", b"b%d\n" % number)
        assert await read(b, "x") == b"0\n" + b"".join(b"a%d\nb%d\n" % (n, n) for n in range(1, 6))


async def test_an_append_to_what_was_deleted_is_not_lost(tmp_path: Path) -> None:
    """Deleting comes first, so the conversation is there again."""
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write(a, "x", LONG)
        draft = await opened(a, "x")
        draft.write(draft.size, b"one more turn\n")
        await b.remove("x")
        await b.drain()
        await commit(a, draft)
        assert await read(b, "x") == LONG + b"one more turn\n"
        await exact(hosts, a, b)


async def test_a_deletion_takes_the_appends_before_it(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write(a, "x", LONG)
        await b.head("x")
        await append(a, "x", b"one more turn\n")
        await b.remove("x")
        with pytest.raises(NoSuchPath):
            await a.head("x")
        await exact(hosts, a, b)


# Replacements


async def test_the_last_close_wins(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write(a, "x", LONG)
        first, last = await opened(a, "x"), await opened(b, "x")
        for draft, seed in ((first, 2), (last, 3)):
            draft.truncate(0)
            draft.write(0, LONG[: 200_000 * seed])
            draft.write(draft.size, log_lines(300, seed))
        await commit(a, first)
        await commit(b, last)
        assert await read(a, "x") == LONG[:600_000] + log_lines(300, 3)
        assert await names(a) == ["x"]
        await exact(hosts, a, b)


async def test_a_new_file_replaces_one_that_was_created_meanwhile_unless_it_is_exclusive(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        for path in ("x", "y"):
            await write(b, path, LONG)
        await write(a, "x", b"mine")
        assert await read(b, "x") == b"mine"
        with pytest.raises(PathExists):
            await write(a, "y", LONG[:900_000], exclusive=True)
        assert await read(a, "y") == LONG
        await exact(hosts, a, b)


# Edits


async def test_an_edit_on_a_stale_base_is_kept_beside_the_winner(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await a.make_directory("dir", ATTRIBUTES)
        await write(a, "dir/x", LONG)
        draft = await opened(a, "dir/x")
        draft.write(1000, b"A" * 100)
        await edit(b, "dir/x", 500_000, b"B" * 100)
        winner = await read(b, "dir/x")
        committed = await commit(a, draft)
        assert committed.etag == (await b.head("dir/x")).etag
        assert await read(a, "dir/x") == winner == LONG[:500_000] + b"B" * 100 + LONG[500_100:]
        [beside] = [entry.path for entry in await b.list_directory("dir") if entry.path != "dir/x"]
        assert re.fullmatch(r"dir/x\.conflict-[\w-]+-\d{8}T\d{6}\.\d{6}Z", beside)
        assert await read(b, beside) == LONG[:1000] + b"A" * 100 + LONG[1100:]
        assert beside in caplog.text
        await exact(hosts, a, b)


async def test_an_edit_that_loses_only_at_its_commit_gives_back_what_it_acquired(tmp_path: Path) -> None:
    """Its segments were stored and counted before the other one's manifest was there."""
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write(a, "x", LONG)
        async with store.held("put", "manifests/x.json", edit, a, "x", 700_000, b"A" * 300_000):
            await edit(b, "x", 0, b"B")
        assert await read(b, "x") == b"B" + LONG[1:]
        [beside] = [path for path in await names(b) if path != "x"]
        assert await read(b, beside) == LONG[:700_000] + b"A" * 300_000 + LONG[1_000_000:]
        await exact(hosts, a, b)
        await b.remove(beside)
        await exact(hosts, a, b)


async def test_a_lost_edit_of_a_file_with_a_long_name_is_kept_too(tmp_path: Path) -> None:
    name = "ü" * (NAME_LIMIT // 2)
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write(a, name, LONG)
        draft = await opened(a, name)
        draft.write(0, b"A")
        await edit(b, name, 1, b"B")
        await commit(a, draft)
        [beside] = [path for path in await names(b) if path != name]
        assert ".conflict-" in beside
        assert name.startswith(beside.partition(".conflict-")[0])
        assert await read(b, beside) == b"A" + LONG[1:]


async def test_an_edit_of_what_was_replaced_or_appended_to_is_a_conflict(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")

        async def replace() -> None:
            await write(b, "x", b"replaced", await b.head("x"))

        changes: list[Callable[[], Awaitable[object]]] = [replace, lambda: append(b, "x", b"+")]
        for kept, change in enumerate(changes, 1):
            await write(a, "x", LONG)
            draft = await opened(a, "x")
            draft.truncate(10)
            await change()
            winner = await read(b, "x")
            await commit(a, draft)
            assert await read(a, "x") == winner
            beside = [path for path in await names(a) if path != "x"]
            assert len(beside) == kept
            assert await read(a, beside[-1]) == LONG[:10]
            await a.remove("x")
        await exact(hosts, a, b)


async def test_a_name_that_is_too_long_is_refused_before_anything_is_stored(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a = await hosts.start("a")
        await write(a, "x", LONG)
        store.reset_log()
        for attempt in (write(a, "y" * 300, LONG), a.rename("x", "y" * 300)):
            with pytest.raises(NameTooLong):
                await attempt
        assert store.log == []
        await exact(hosts, a)


# What is no conflict


async def test_changed_attributes_are_no_conflict_and_stay(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        model = bytearray(LONG)
        await write(a, "x", LONG)
        for mode, change in ((0o600, "edit"), (0o640, "append"), (0o660, "replace")):
            draft = await opened(a, "x")
            await b.set_attributes("x", mode=mode, uid=mode)
            match change:
                case "edit":
                    draft.write(5, b"edited")
                    model[5:11] = b"edited"
                case "append":
                    draft.write(draft.size, b"appended")
                    model += b"appended"
                case _:
                    draft.truncate(0)
                    draft.write(0, b"replaced")
                    model[:] = b"replaced"
            await commit(a, draft)
            assert await read(b, "x") == model
            attributes = (await b.head("x")).attributes
            assert (attributes.mode, attributes.uid) == (mode, mode)
        assert await names(b) == ["x"]
        await exact(hosts, a, b)


async def test_attributes_that_both_changed_are_those_of_the_last_close(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write(a, "x", b"1")
        draft = await opened(a, "x")
        draft.write(1, b"2")
        draft.attributes = type(ATTRIBUTES)(0o400, ATTRIBUTES.uid, 9, 77, 88)
        await b.set_attributes("x", mode=0o777, uid=5)
        await commit(a, draft)
        attributes = (await b.head("x")).attributes
        assert (attributes.mode, attributes.uid, attributes.gid, attributes.mtime_ns) == (0o400, 5, 9, 77)


# Renames


async def test_a_write_to_the_old_name_during_a_rename_is_not_lost(tmp_path: Path) -> None:
    """The rename has committed the new name when the write comes: then both names exist."""
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write(a, "old", LONG)
        async with store.held("put", "manifests/old.json", a.rename, "old", "new"):
            await append(b, "old", b"more")
        assert await read(b, "new") == LONG
        assert await read(a, "old") == LONG + b"more"
        await exact(hosts, a, b)


async def test_changed_attributes_do_not_keep_the_old_name_of_a_rename(tmp_path: Path) -> None:
    """Nor does the fence of another host's recovery, which is the same to a manifest."""
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write(a, "old", LONG)
        async with store.held("put", "manifests/new.json", a.rename, "old", "new"):
            await b.set_attributes("old", mode=0o600)
        assert await names(b) == ["new"]
        assert await read(b, "new") == LONG
        await exact(hosts, a, b)


async def test_a_write_under_the_old_name_after_a_rename_makes_it_again(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write(a, "old", LONG)
        draft = await opened(b, "old")
        draft.write(draft.size, b"more")
        await a.rename("old", "new")
        await commit(b, draft)
        assert await read(a, "new") == LONG
        assert await read(a, "old") == LONG + b"more"
        await exact(hosts, a, b)


async def test_two_renames_to_one_name(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        contents = {"x": LONG, "y": LONG[:800_000] + log_lines(300, 5)}
        for path, data in contents.items():
            await write(a, path, data)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.rename, "x", "z")
            nursery.start_soon(b.rename, "y", "z")
        assert await names(a) == ["z"]
        assert await read(a, "z") in contents.values()
        await exact(hosts, a, b)


async def test_a_rename_beside_a_commit_of_the_target(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write(a, "x", LONG)
        await write(a, "y", b"small")
        async with store.held("put", "manifests/y.json", a.rename, "x", "y"):
            # With segments in common with what is about to take its place.
            await write(b, "y", LONG[:900_000], await b.head("y"))
        assert await names(b) == ["y"]
        assert await read(b, "y") == LONG
        await exact(hosts, a, b)


# Commits of which nobody can tell, tried again


@pytest.mark.parametrize("change", ["append", "edit", "replace", "create", "create exclusively"])
@pytest.mark.parametrize("trouble", [FailAfter, FailBefore, Late])
async def test_a_commit_that_seemed_to_fail_can_be_tried_again(
    change: str, trouble: type[FailAfter | FailBefore | Late], tmp_path: Path
) -> None:
    """Whether it took effect or not, the content is there once, and nothing beside it."""
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path, deadline=0.5) as hosts:
        a = await hosts.start("a")
        created = change.startswith("create")
        if not created:
            await write(a, "x", LONG)
        base = None if created else await a.head("x")
        draft = a.draft("x", base, ATTRIBUTES)
        match change:
            case "append":
                draft.write(draft.size, b"more")
            case "edit":
                draft.write(200_000, b"E" * 200_000)
            case "replace":
                draft.truncate(0)
                draft.write(0, LONG[: 300_000 + 5])
            case _:
                draft.write(0, LONG[: 300_000 + 5])
        expected = await draft.read(0, draft.size)
        put = store.add(Rule(trouble(), "put", "manifests/*", nth=1))
        down = store.add(Rule(FailBefore(), key="manifests/*", nth=2, times=None))
        with pytest.raises(StoreUnavailable):
            await a.commit(draft, exclusive=change == "create exclusively")
        store.rules.remove(put)
        store.rules.remove(down)
        await store.carry_out_late()
        committed = await a.commit(draft, exclusive=change == "create exclusively")
        assert (draft.base, draft.spooled, bool(draft.attempts)) == (committed, 0, False)
        assert draft.base is not None
        assert draft.base.etag == (await a.head("x")).etag
        draft.write(draft.size, b", and on")
        await commit(a, draft)
        assert await read(a, "x") == expected + b", and on"
        assert await names(a) == ["x"]
        await exact(hosts, a)


async def test_a_commit_that_seemed_to_fail_is_tried_again_with_more(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path, deadline=0.5) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write(a, "x", b"base")
        draft = await opened(a, "x")
        draft.write(4, b", first")
        rules = [
            store.add(Rule(FailAfter(), "put", "manifests/*", nth=1)),
            store.add(Rule(FailBefore(), key="manifests/*", nth=2, times=None)),
        ]
        with pytest.raises(StoreUnavailable):
            await a.commit(draft)
        for rule in rules:
            store.rules.remove(rule)
        assert await read(b, "x") == b"base, first"
        draft.write(draft.size, b", second")
        await commit(a, draft)
        assert await read(b, "x") == b"base, first, second"
        assert await names(b) == ["x"]


async def test_a_commit_that_was_overtaken_before_its_answer_goes_on_from_its_own_version(tmp_path: Path) -> None:
    """The response is lost; when the writer looks, another host has deleted what it wrote."""
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write(a, "x", LONG)
        draft = await opened(a, "x")
        draft.write(draft.size, b"first\n")
        stall = Stall()
        rules = [
            store.add(Rule(FailAfter(), "put", "manifests/*", nth=1)),
            store.add(Rule(stall, "get", "manifests/*", nth=1)),
        ]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.commit, draft)
            await stall.reached.wait()
            for rule in rules:
                store.rules.remove(rule)
            await b.remove("x")
            stall.go.set()
        assert draft.size == len(LONG) + 6
        draft.write(draft.size, b"second\n")
        await commit(a, draft)
        assert await read(b, "x") == LONG + b"first\nsecond\n"
        await exact(hosts, a, b)
