"""Renames of directories: the crash matrix, what others do meanwhile, and what cannot be moved.

Afterwards, once recovery has drained, everything is under the new name exactly once, or everything under the old one
where nothing had been changed yet; and no reference is counted wrongly.
"""

from functools import partial
from pathlib import Path

import pytest
import trio

from stowfs.errors import CorruptObject, DirectoryNotEmpty, NoSuchPath, NotDirectory, StoreUnavailable
from stowfs.store.memory import MemoryStore
from stowfs.vault.naming import join
from stowfs.vault.vault import Vault
from tests.support.audit import audit
from tests.support.faults import TROUBLE, FailBefore, FaultyStore, Rule, Stall, StallAfter
from tests.support.vaults import ATTRIBUTES, Hosts, append, read, write
from tests.vault.test_promises import log_lines

BIG = log_lines(300, 1)
CONTENT: dict[str, bytes | None] = {"big": BIG, "small": b"few", "sub": None, "sub/again": BIG}
"""What is in the directory; None for directories. One symbolic link besides, "sub/link"."""

LINK = b"../big"

BYSTANDER = BIG


async def _fill(vault: Vault, directory: str) -> None:
    await vault.make_directory(directory, ATTRIBUTES)
    for name, data in CONTENT.items():
        if data is None:
            await vault.make_directory(join(directory, name), ATTRIBUTES)
        else:
            await write(vault, join(directory, name), data)
    await vault.make_symlink(join(directory, "sub/link"), LINK, ATTRIBUTES)


async def _everything(vault: Vault) -> dict[str, bytes | None]:
    found: dict[str, bytes | None] = {}
    async for snapshot in vault.walk():
        if snapshot.is_symlink:
            found[snapshot.path] = b"-> " + snapshot.target
        else:
            found[snapshot.path] = None if snapshot.is_directory else await read(vault, snapshot.path)
    return found


def _under(directory: str) -> dict[str, bytes | None]:
    inside = {**CONTENT, "sub/link": b"-> " + LINK}
    return {directory: None, **{join(directory, name): data for name, data in inside.items()}}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("trouble", TROUBLE)
async def test_a_directory_is_under_one_name_whatever_happens(trouble: str, tmp_path: Path) -> None:
    for nth in range(1, 200):
        store = FaultyStore(MemoryStore())
        if not await _troubled(trouble, nth, store, tmp_path / str(nth)):
            assert nth > 20
            return
    raise AssertionError("a rename makes no end of requests")


@pytest.mark.parametrize("trouble", TROUBLE)
async def test_also_where_it_takes_the_place_of_an_empty_one(trouble: str, tmp_path: Path) -> None:
    """Which makes a difference to the first requests only."""
    for nth in range(1, 9):
        store = FaultyStore(MemoryStore())
        assert await _troubled(trouble, nth, store, tmp_path / str(nth), empty=True)


async def _troubled(trouble: str, nth: int, store: FaultyStore, directory: Path, *, empty: bool = False) -> bool:
    """One rename with trouble at its `nth` request; whether it had that many."""
    async with Hosts(store, directory) as hosts:
        vault = await hosts.start("a")
        await _fill(vault, "old")
        await write(vault, "bystander", BYSTANDER)
        if empty:
            await vault.make_directory("new", ATTRIBUTES)
        await vault.drain()
        action = TROUBLE[trouble]()
        rule = store.add(Rule(action, nth=nth))
        acknowledged = await hosts.attempt("a", partial(vault.rename_directory, "old", "new"), action)
        begun = await _is_begun(vault)
        await hosts.crash("a")
        happened = rule.seen >= nth
        store.rules.clear()
        vault = await hosts.start("a")
        assert await vault.drain(10) == 0
        await store.carry_out_late()
        assert not await vault.under_way()
        untouched = {**_under("old"), **({"new": None} if empty else {})}
        found = await _everything(vault)
        assert found.pop("bystander") == BYSTANDER
        if acknowledged or begun:
            assert found == _under("new"), (trouble, nth)
        else:
            assert found in (_under("new"), untouched), (trouble, nth, [*found])
        assert (await audit(store.inner)).exact, (trouble, nth)
        # Life goes on under the name it has.
        where = "new" if found == _under("new") else "old"
        await append(vault, f"{where}/sub/again", b"more")
        await vault.rename_directory(where, "third")
        other = await hosts.start("b")
        assert await read(other, "third/sub/again") == BIG + b"more"
        assert {path.partition("/")[0] for path in await _everything(other)} <= {"third", "bystander", "new"}
        return happened


async def _is_begun(vault: Vault) -> bool:
    """Whether the new directory is known to be there, so that the rename is not given up any more."""
    return any(row.kind == "move" and phase == "updated" for phase, row in await vault.under_way())


async def test_there_is_one_row_for_a_whole_tree_and_none_in_the_end(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        vault = await hosts.start("a")
        await _fill(vault, "old")
        await vault.drain()
        async with store.held("put", "manifests/new/sub/again.json", vault.rename_directory, "old", "new"):
            rows = [(phase, row) for phase, row in await vault.under_way() if row.kind == "move"]
            assert [(phase, row.path) for phase, row in rows] == [("updated", "new")]
        assert await vault.drain() == 0
        assert not await vault.under_way()


async def test_what_is_refused_changes_nothing_and_leaves_no_row(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        vault = await hosts.start("a")
        await _fill(vault, "old")
        await _fill(vault, "full")
        await write(vault, "file", b"x")
        before = await _everything(vault)
        for target, error in (("full", DirectoryNotEmpty), ("file", NotDirectory), ("nowhere/new", NoSuchPath)):
            with pytest.raises(error):
                await vault.rename_directory("old", target)
            assert not [row for _, row in await vault.under_way() if row.kind == "move"]
        assert await _everything(vault) == before


async def test_a_rename_that_failed_goes_on_when_the_store_is_back(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path, deadline=0.3) as hosts:
        vault = await hosts.start("a")
        await _fill(vault, "old")
        await vault.drain()
        rule = store.add(Rule(FailBefore(), "put", "manifests/new/sub/*", times=None))
        ended: list[bool] = []

        async def note(done: bool) -> None:
            ended.append(done)

        assert not vault.when_renamed("old", "new", note)
        with pytest.raises(StoreUnavailable):
            await vault.rename_directory("old", "new")
        assert vault.when_renamed("old", "new", note)
        assert not ended
        store.rules.remove(rule)
        assert await vault.drain(20) == 0
        assert ended == [True]
        assert not vault.when_renamed("old", "new", note)
        assert await _everything(await hosts.start("b")) == _under("new")
        assert (await audit(store.inner)).exact


async def _begun_and_crashed(hosts: Hosts, store: FaultyStore, action: type[Stall | StallAfter] = Stall) -> None:
    """Host "a" has ended in the middle of a rename: "old/big" is not moved, and all the rest of the top level is. With
    `StallAfter`, "old/big" has both names."""
    vault = await hosts.start("a")
    await _fill(vault, "old")
    await vault.drain()
    stall = action()
    store.add(Rule(stall, "put", "manifests/new/big.json"))

    async def rename() -> None:
        await vault.rename_directory("old", "new")

    hosts.start_soon("a", rename)
    await stall.reached.wait()
    await trio.sleep(0.05)
    await hosts.crash("a")
    store.rules.clear()


async def _recovered(hosts: Hosts) -> dict[str, bytes | None]:
    vault = await hosts.start("a")
    assert await vault.drain(10) == 0
    return await _everything(vault)


async def test_what_others_create_under_the_new_name_keeps_it(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        await _begun_and_crashed(hosts, store)
        other = await hosts.start("b")
        await write(other, "new/big", b"of another host")
        await write(other, "new/sub", b"where a directory is to be")
        found = await _recovered(hosts)
        assert not [path for path in found if path.startswith("old")]
        assert found.pop("new/big") == b"of another host"
        assert found.pop("new/sub") == b"where a directory is to be"
        beside = [path for path in found if path.startswith("new/big.conflict-")]
        assert [found.pop(path) for path in beside] == [BIG]
        (directory,) = [path for path in found if path.startswith("new/sub.conflict-") and path.count("/") == 1]
        moved = {path.replace(directory, "new/sub"): data for path, data in found.items()}
        expected = _under("new")
        del expected["new/big"]
        assert moved == expected
        assert (await audit(store.inner)).exact


async def test_what_others_remove_while_it_has_both_names_is_moved_again(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        await _begun_and_crashed(hosts, store, StallAfter)
        other = await hosts.start("b")
        await other.remove("new/big")
        assert await other.drain() == 0
        assert await _recovered(hosts) == _under("new")
        assert (await audit(store.inner)).exact


async def test_what_others_append_to_while_it_has_both_names_keeps_the_new_one(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        await _begun_and_crashed(hosts, store, StallAfter)
        other = await hosts.start("b")
        await append(other, "new/big", b" and more")
        found = await _recovered(hosts)
        beside = [path for path in found if path.startswith("new/big.conflict-")]
        assert [found.pop(path) for path in beside] == [BIG]
        assert found == {**_under("new"), "new/big": BIG + b" and more"}
        assert (await audit(store.inner)).exact


async def test_what_others_create_in_the_old_directory_is_moved_too(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        await _begun_and_crashed(hosts, store)
        other = await hosts.start("b")
        await write(other, "old/late", b"late")
        await write(other, "old/small", b"anew, after it was moved")
        await append(other, "old/big", b" and more")
        await write(other, "new/mine", b"mine")
        found = await _recovered(hosts)
        expected = {**_under("new"), "new/late": b"late", "new/mine": b"mine", "new/big": BIG + b" and more"}
        beside = [path for path in found if ".conflict-" in path]
        assert [found.pop(path) for path in beside] == [b"anew, after it was moved"]
        assert found == expected
        assert (await audit(store.inner)).exact


async def test_who_goes_on_writing_to_the_old_directory_keeps_it(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        vault, other = await hosts.start("a"), await hosts.start("b")
        await _fill(vault, "old")
        written = 0
        stop = trio.Event()

        async def keep_writing() -> None:
            nonlocal written
            while not stop.is_set():
                written += 1
                await write(other, f"old/{written}", b"%d" % written)
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_writing)
            await vault.rename_directory("old", "new")
            stop.set()
        await vault.drain()
        found = await _everything(await hosts.start("c"))
        names = {path.partition("/")[2]: data for path, data in found.items() if "/" in path}
        expected = {name: data for name, data in _under("new").items() if name != "new"}
        assert {f"new/{name}": data for name, data in names.items() if not name.isdigit()} == expected
        assert {name: data for name, data in names.items() if name.isdigit()} == {
            str(number): b"%d" % number for number in range(1, written + 1)
        }
        assert len(names) == len([path for path in found if "/" in path])
        assert (await audit(store.inner)).exact


async def test_appends_of_another_host_during_the_rename_are_kept(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        vault, other = await hosts.start("a"), await hosts.start("b")
        await _fill(vault, "old")
        # The version that was read is the one that is committed under the new name; the old one has changed by then.
        async with store.held("put", "manifests/new/big.json", vault.rename_directory, "old", "new"):
            await append(other, "old/big", b" and more")
        await vault.drain()
        assert await _everything(other) == {**_under("new"), "new/big": BIG + b" and more"}
        assert (await audit(store.inner)).exact


async def test_what_cannot_be_moved_does_not_keep_the_rest(tmp_path: Path) -> None:
    store = MemoryStore()
    async with Hosts(store, tmp_path) as hosts:
        vault = await hosts.start("a")
        await _fill(vault, "old")
        await store.put("manifests/old/sub/broken.json", b"no manifest")
        with pytest.raises(CorruptObject):
            await vault.rename_directory("old", "new")
        assert await vault.drain() == 0
        assert not await vault.under_way()
        assert await _everything(vault) == {**_under("new"), "old": None, "old/sub": None}
