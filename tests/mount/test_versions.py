"""Several versions of one name that are open and written to on one mount, since another host has replaced it: what was
closed last is what the name shows, wherever it waits."""

import errno
from functools import partial

import msgspec
import pyfuse3
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from stowfs.locks import Lock
from stowfs.mount.inode import Inode
from stowfs.vault.backlog import Show
from stowfs.vault.draft import Draft
from stowfs.vault.vault import Vault
from tests.support.faults import FaultyStore, Rule, Stall
from tests.support.vaults import ATTRIBUTES, GOES_ON, Hosts, read, write
from tests.support.view import View

WAITING = 10.0


async def two_versions(other: Vault, view: View, path: str = "x") -> tuple[Inode, Inode]:
    """A name that two programs have open for writing: as it was, and as another host has replaced it."""
    await write(other, path, b"old")
    old = await view.open_files.open_path(path, writing=True)
    await write(other, path, b"replaced elsewhere")
    new = await view.open_files.open_path(path, writing=True)
    assert old is not new
    return old, new


async def replace(view: View, inode: Inode, data: bytes) -> None:
    """A program writes the whole file, and closes it."""
    await view.contents.truncate(inode, 0)
    await view.contents.write(inode, 0, data, appending=False)
    await view.commits.commit(inode)


async def shown(view: View, path: str = "x") -> bytes:
    """What a program reads that opens the file now."""
    inode = await view.open_files.open_path(path, writing=False)
    try:
        return bytes(await view.contents.read(inode, 0, 100))
    finally:
        await view.open_files.close(inode, writing=False)


ORDERS = ["old new", "new old", "old new old", "new old new"]


async def close_in_order(view: View, old: Inode, new: Inode, order: str) -> bytes:
    """Both are replaced, in this order; what was written last."""
    written = b""
    for number, which in enumerate(order.split()):
        written = f"{which} {number}".encode()
        await replace(view, old if which == "old" else new, written)
    return written


async def flush(hosts: Hosts, vault: Vault) -> None:
    """Brings everything that waits into the store, as it comes."""
    hosts.start_soon("this", vault.run_flusher)
    assert await vault.flusher.flush(WAITING) == []


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("order", ORDERS)
async def test_what_was_closed_last_is_shown_and_stored(hosts: Hosts, order: str, asynchronous: bool) -> None:
    other, vault = await hosts.start("other"), await hosts.start("this", asynchronous=asynchronous)
    view = View(vault)
    last = await close_in_order(view, *await two_versions(other, view), order)
    assert await shown(view) == last
    await flush(hosts, vault)
    assert await read(other, "x") == last
    assert await shown(view) == last


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("mounted", [True, False], ids=["by the next mount", "by a command"])
async def test_also_after_a_crash(hosts: Hosts, order: str, mounted: bool) -> None:
    other, view = await hosts.start("other"), View(await hosts.start("this", asynchronous=True))
    last = await close_in_order(view, *await two_versions(other, view), order)
    await hosts.crash("this")
    vault = await hosts.start("this", asynchronous=True)
    if mounted:
        view = View(vault)
        view.commits.restore()
        assert await shown(view) == last
    else:
        vault.queue_backlog()
    await flush(hosts, vault)
    assert await read(other, "x") == last


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("renamed", ["d/x", "d"], ids=["the file", "its directory"])
async def test_also_under_another_name(hosts: Hosts, order: str, renamed: str) -> None:
    other, vault = await hosts.start("other"), await hosts.start("this", asynchronous=True)
    await other.make_directory("d", ATTRIBUTES)
    view = View(vault)
    root = view.inodes.conversations
    directory, _ = await view.lookup.find("d")
    directory.lookups += 1
    last = await close_in_order(view, *await two_versions(other, view, "d/x"), order)
    if renamed == "d":
        await view.tree.rename(root, b"d", root, b"e", replace=True)
    else:
        await view.tree.rename(directory, b"x", root, b"y", replace=True)
    await flush(hosts, vault)
    assert await read(other, "e/x" if renamed == "d" else "y") == last


async def test_what_is_closed_while_another_version_is_on_its_way_comes_after_it(
    hosts: Hosts, faulty: FaultyStore
) -> None:
    other, vault = await hosts.start("other"), await hosts.start("this", asynchronous=True)
    view = View(vault)
    old, new = await two_versions(other, view)
    await replace(view, old, b"first")
    stalled = Stall()
    faulty.add(Rule(stalled, "put", "manifests/x.json", nth=1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flush, hosts, vault)
        await stalled.reached.wait()
        await replace(view, new, b"second")
        nursery.start_soon(view.commits.flush, new)
        await wait_all_tasks_blocked(GOES_ON)
        await replace(view, old, b"third")
        stalled.go.set()
    assert await vault.flusher.flush(WAITING) == []
    assert await read(other, "x") == b"third"


async def test_what_cannot_be_stored_holds_up_no_other_version(hosts: Hosts) -> None:
    other, vault = await hosts.start("other"), await hosts.start("this", asynchronous=True)
    view = View(vault)
    old, new = await two_versions(other, view)
    await replace(view, old, b"first")
    await replace(view, new, b"second")
    assert old.draft is not None
    assert old.draft.acknowledged is not None
    old.draft.acknowledged.path = "x" * 10_000
    await view.commits.flush(new)
    assert await read(other, "x") == b"second"


async def test_nor_does_it_after_a_crash(hosts: Hosts) -> None:
    other, view = await hosts.start("other"), View(await hosts.start("this", asynchronous=True))
    await close_in_order(view, *await two_versions(other, view), "old new")
    await hosts.crash("this")
    vault = await hosts.start("this", asynchronous=True)
    first, second = vault.backlog.in_turn
    assert first.acknowledged is not None
    first.acknowledged.path = "x" * 10_000
    vault.queue_backlog()
    hosts.start_soon("this", vault.run_flusher)
    assert [entry.key for entry in await vault.flusher.flush(WAITING)] == [first.id]
    assert await read(other, "x") == b"new 1"
    assert second.acknowledged is None


async def test_nor_does_what_stays_acknowledged_until_it_is_flushed_again(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As what was deleted elsewhere after it was stored, and has been written to since."""
    other, vault = await hosts.start("other"), await hosts.start("this", asynchronous=True)
    view = View(vault)
    old, new = await two_versions(other, view)
    await replace(view, old, b"first")
    await replace(view, new, b"second")
    original = vault.backlog.flush

    async def flush(draft: Draft, lock: Lock, show: Show) -> bool:
        await trio.lowlevel.checkpoint()
        return draft is old.draft or await original(draft, lock, show)

    monkeypatch.setattr(vault.backlog, "flush", flush)
    with trio.fail_after(WAITING):
        await view.commits.flush(new)
    assert await read(other, "x") == b"second"


async def test_who_sets_attributes_only_does_not_write_the_file_once_more(hosts: Hosts) -> None:
    other, vault = await hosts.start("other"), await hosts.start("this", asynchronous=True)
    view = View(vault)
    old, new = await two_versions(other, view)
    last = await close_in_order(view, old, new, "old new")
    await view.contents.change_attributes(old, lambda known: msgspec.structs.replace(known, mode=0o600))
    await view.commits.commit(old)
    assert await shown(view) == last
    await flush(hosts, vault)
    assert await read(other, "x") == last


@pytest.mark.parametrize("at_once", [False, True], ids=["open", "truncate"])
async def test_what_is_emptied_by_its_name_while_an_edit_loses_is_what_has_the_name_then(
    hosts: Hosts, faulty: FaultyStore, at_once: bool
) -> None:
    """It was the edit that was kept beside the file, which stayed what it was."""
    other, view = await hosts.start("other"), View(await hosts.start("this"))
    old, new = await two_versions(other, view)
    await view.open_files.close(new, writing=True)
    view.inodes.show_again(old)
    await view.contents.write(old, 0, b"EDIT", appending=False)
    refused: list[int] = []

    async def empty() -> None:
        await view.open_files.open(old, 7, writing=True)
        try:
            await (view.contents.truncate_at_once if at_once else view.contents.truncate)(old, 0, old.path)
        except pyfuse3.FUSEError as error:
            refused.append(error.errno)
        finally:
            await view.open_files.close(old, writing=True)

    async with trio.open_nursery() as nursery, faulty.held("put", "manifests/x.json", view.commits.commit, old):
        nursery.start_soon(empty)
        await wait_all_tasks_blocked(GOES_ON)
    assert refused == [errno.ESTALE]
    assert old.path.startswith("x.conflict-")
    assert await read(other, old.path) == b"EDIT"
    # The kernel looks the name up again.
    await replace(view, await view.open_files.open_path("x", writing=True), b"whole")
    assert await read(other, "x") == b"whole"


async def test_what_is_emptied_while_it_is_renamed_here_is_the_file_that_was_opened(
    hosts: Hosts, faulty: FaultyStore
) -> None:
    other, view = await hosts.start("other"), View(await hosts.start("this"))
    await write(other, "x", b"old")
    inode = await view.open_files.open_path("x", writing=True)
    root = view.inodes.conversations
    rename = partial(view.tree.rename, root, b"x", root, b"y", replace=True)
    async with trio.open_nursery() as nursery, faulty.held("put", "manifests/y.json", rename):
        nursery.start_soon(view.contents.truncate, inode, 0, inode.path)
        await wait_all_tasks_blocked(GOES_ON)
    await view.commits.commit(inode)
    assert await read(other, "y") == b""
