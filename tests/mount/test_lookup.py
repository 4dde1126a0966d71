"""What the kernel still knows of a version that was replaced answers as what its path shows now: ESTALE would cost the
program one of the two attempts that the kernel makes. And whoever looks at a path while this host changes it does not
take that for the work of another host."""

import errno
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import msgspec
import pyfuse3
import pytest
import trio

from stowfs.errors import NoSuchPath
from stowfs.mount.inode import Inode
from stowfs.mount.lookup import child_path
from stowfs.vault.manifest import Attributes
from tests.support.faults import FailBefore, FaultyStore, Rule, Stall, StallAfter
from tests.support.vaults import ATTRIBUTES, GOES_ON, Hosts, append, read, write
from tests.support.view import View

T = TypeVar("T")


async def view_of(hosts: Hosts, path: str) -> tuple[View, Inode]:
    """A mount, and the inode of the version that was under `path` before this host gave the name to "new"."""
    view = View(await hosts.start("this"))
    inode, _ = await view.lookup.find(path)
    inode.lookups += 1
    root = view.inodes.conversations
    await view.tree.rename(root, b"new", root, path.encode(), replace=True)
    return view, inode


async def test_a_file_that_was_replaced_tells_of_what_replaced_it(hosts: Hosts) -> None:
    other = await hosts.start("other")
    await write(other, "x", b"1")
    await write(other, "new", b"123")
    view, inode = await view_of(hosts, "x")
    assert (await view.lookup.shown(inode, recently=True)).size == 3


async def test_a_link_that_was_replaced_leads_where_its_name_does(hosts: Hosts) -> None:
    other = await hosts.start("other")
    await other.make_symlink("x", b"before", ATTRIBUTES)
    await other.make_symlink("new", b"after", ATTRIBUTES)
    view, inode = await view_of(hosts, "x")
    assert await view.lookup.target(inode) == b"after"


async def test_a_file_that_was_opened_while_the_store_was_asked_tells_of_itself(
    hosts: Hosts, faulty: FaultyStore
) -> None:
    other = await hosts.start("other")
    await write(other, "x", b"1")
    view = View(await hosts.start("this"))
    inode, snapshot = await view.lookup.find("x")
    shown: list[Inode] = []

    async def stat() -> None:
        shown.append(await view.lookup.shown(inode))

    async with faulty.held("get", "manifests/x.json", stat):
        inode.snapshot = snapshot
        view.open_files.count_handle(inode, writing=False)
        await append(other, "x", b"23")
    assert [found.size for found in shown] == [1]


@pytest.mark.parametrize("by", ["a directory", "nothing"])
async def test_what_a_file_cannot_answer_for_is_looked_up_again(hosts: Hosts, by: str) -> None:
    other = await hosts.start("other")
    await write(other, "x", b"1")
    view = View(await hosts.start("this"))
    inode, _ = await view.lookup.find("x")
    inode.lookups += 1
    await other.remove("x")
    if by == "a directory":
        await other.make_directory("x", ATTRIBUTES)
    with pytest.raises(pyfuse3.FUSEError) as refused:
        await view.lookup.shown(inode)
    assert refused.value.errno == errno.ESTALE


async def test_what_somebody_was_quicker_to_create_is_opened_as_it_was_found(hosts: Hosts, faulty: FaultyStore) -> None:
    """The kernel has used up both attempts by then, perhaps."""
    await write(await hosts.start("other"), "x", b"1")
    view = View(await hosts.start("this"))
    faulty.reset_log()
    inode = await view.open_files.open_path("x", writing=True)
    assert (inode.writers, faulty.count()) == (1, 1)
    assert await view.contents.read(inode, 0, 10) == b"1"


async def opened(view: View, path: str) -> Inode:
    """A file that a program has open for writing."""
    inode = await view.open_files.open_path(path, writing=True)
    inode.lookups += 1
    return inode


async def beside(
    faulty: FaultyStore, key: str, change: Callable[[], Awaitable[object]], work: Callable[[], Awaitable[T]]
) -> T:
    """What comes of `work` that begins when the store has what `change` puts there, under a key, and this host does not
    know yet. It goes on when that has ended, if it waits for it."""
    stalled = StallAfter()
    faulty.add(Rule(stalled, "put", key, nth=1))
    results: list[T] = []

    async def do() -> None:
        results.append(await work())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(change)
        await stalled.reached.wait()
        nursery.start_soon(do)
        await trio.testing.wait_all_tasks_blocked(GOES_ON)
        stalled.go.set()
    return results[0]


def with_other_mode(attributes: Attributes) -> Attributes:
    return msgspec.structs.replace(attributes, mode=0o640)


@pytest.mark.parametrize("key", ["x", "new"])
async def test_what_is_opened_while_a_rename_replaces_it_is_the_new_file_with_all_that_is_written(
    hosts: Hosts, faulty: FaultyStore, key: str
) -> None:
    """It showed what was new, and lost its name as what was replaced: nothing of what was appended was kept."""
    other = await hosts.start("other")
    await write(other, "x", b"old")
    await write(other, "new", b"new")
    view = View(await hosts.start("this"))
    for path in ("x", "new"):
        (await view.lookup.find(path))[0].lookups += 1
    root = view.inodes.conversations
    rename = partial(view.tree.rename, root, b"new", root, b"x", replace=True)
    inode = await beside(faulty, f"manifests/{key}.json", rename, partial(opened, view, "x"))
    await view.contents.write(inode, 3, b" and more", appending=True)
    await view.commits.commit(inode)
    assert await read(other, "x") == b"new and more"


async def test_what_another_host_puts_in_the_place_of_what_is_removed_here_keeps_its_name(
    hosts: Hosts, faulty: FaultyStore
) -> None:
    other = await hosts.start("other")
    await write(other, "x", b"1")
    view = View(await hosts.start("this"))
    (await view.lookup.find("x"))[0].lookups += 1

    async def open_theirs() -> Inode:
        await write(other, "x", b"theirs")
        return await opened(view, "x")

    remove = partial(view.tree.remove, view.inodes.conversations, b"x")
    inode = await beside(faulty, "manifests/x.json", remove, open_theirs)
    await view.contents.write(inode, 6, b" and ours", appending=True)
    await view.commits.commit(inode)
    assert await read(other, "x") == b"theirs and ours"


@pytest.mark.parametrize("renamed", ["d/x", "d"], ids=["the file", "its directory"])
async def test_an_open_file_keeps_its_name_whoever_looks_for_it_during_its_rename(
    hosts: Hosts, faulty: FaultyStore, renamed: str
) -> None:
    """Who looked for the old name took it to be deleted elsewhere, and whoever opened the new one got another file."""
    other = await hosts.start("other")
    await other.make_directory("d", ATTRIBUTES)
    await write(other, "d/x", b"1")
    view = View(await hosts.start("this"))
    directory, _ = await view.lookup.find("d")
    directory.lookups += 1
    inode = await opened(view, "d/x")

    async def look() -> bool:
        try:
            await view.lookup.find("d/x")
        except NoSuchPath:
            return False
        return True

    root = view.inodes.conversations
    if renamed == "d":
        rename = partial(view.tree.rename, root, b"d", root, b"e", replace=True)
    else:
        rename = partial(view.tree.rename, directory, b"x", root, b"y", replace=True)
    assert not await beside(faulty, "manifests/d/x.json", rename, look)
    assert await opened(view, inode.path) is inode
    assert inode.path == ("e/x" if renamed == "d" else "y")


@pytest.mark.parametrize("do", ["open", "stat", "rename"])
async def test_what_is_in_a_directory_is_found_where_it_is_after_a_rename_that_was_waited_for(
    hosts: Hosts, faulty: FaultyStore, do: str
) -> None:
    """Who was in the directory, or had it open, was told that it had gone, or that a file in it had."""
    other = await hosts.start("other")
    for path in ("d", "d/sub"):
        await other.make_directory(path, ATTRIBUTES)
    await write(other, "d/sub/x", b"1")
    view = View(await hosts.start("this"))
    root = view.inodes.conversations
    for path in ("d", "d/sub"):
        (await view.lookup.find(path))[0].lookups += 1
    directory = view.inodes.at("d/sub")
    assert directory is not None

    async def work() -> str:
        match do:
            case "open":
                return (await view.lookup.find_where(lambda: child_path(directory, b"x")))[0].path
            case "stat":
                return (await view.lookup.shown(directory)).path
        await view.tree.rename(directory, b"x", directory, b"y", replace=True)
        return (await view.lookup.find("e/sub/y"))[0].path

    rename = partial(view.tree.rename, root, b"d", root, b"e", replace=True)
    expected = {"open": "e/sub/x", "stat": "e/sub", "rename": "e/sub/y"}[do]
    assert await beside(faulty, "manifests/d/sub/x.json", rename, work) == expected


@pytest.mark.parametrize("look", ["at the file", "at its directory"])
async def test_an_open_file_keeps_its_name_whoever_looks_at_it_during_a_chmod(
    hosts: Hosts, faulty: FaultyStore, look: str
) -> None:
    """The version with the other mode was taken for that of another host, and two programs had two files."""
    await write(await hosts.start("other"), "x", b"1")
    view = View(await hosts.start("this"))
    inode = await opened(view, "x")

    async def find() -> Inode:
        return (await view.lookup.find("x"))[0]

    async def listed() -> Inode:
        [(_, inode)] = await view.listed()
        return inode

    chmod = partial(view.contents.change_attributes, inode, with_other_mode)
    work = find if look == "at the file" else listed
    assert await beside(faulty, "manifests/x.json", chmod, work) is inode
    assert (await find(), inode.attributes.mode) == (inode, 0o640)


async def test_an_open_file_whose_attributes_are_set_elsewhere_is_the_one_that_others_open(hosts: Hosts) -> None:
    """Each had a file of its own, and the second to close it found its work beside that of the first."""
    other = await hosts.start("other")
    await write(other, "x", b"1")
    view = View(await hosts.start("this"))
    inode = await opened(view, "x")
    inode.cached = inode.content
    await other.change_attributes("x", with_other_mode)
    assert await opened(view, "x") is inode
    assert (inode.attributes.mode, inode.cached) == (0o640, inode.content)
    await view.contents.write(inode, 0, b"2", appending=False)
    await view.commits.commit(inode)
    assert await read(other, "x") == b"2"
    assert [name for name, _ in (await other.listing("")).entries] == ["x"]


async def test_an_open_file_whose_attributes_are_set_elsewhere_is_the_one_that_is_listed(
    hosts: Hosts, faulty: FaultyStore
) -> None:
    """Whoever opened it then had another file, and the second to close it found its work beside that of the first."""
    other = await hosts.start("other")
    await write(other, "x", b"1")
    view = View(await hosts.start("this"))
    inode = await opened(view, "x")
    await other.change_attributes("x", with_other_mode)
    assert await view.listed() == [("x", inode)]
    assert inode.attributes.mode == 0o640
    assert await opened(view, "x") is inode
    # Once that is known, a listing is all that it takes.
    faulty.reset_log()
    assert await view.listed() == [("x", inode)]
    assert faulty.count("get", "manifests") == 0
    await append(other, "x", b"2")
    [(_, newer)] = await view.listed()
    assert (newer is inode, newer.size, inode.size) == (False, 2, 1)


async def test_an_open_file_is_listed_as_it_is_known_where_the_store_fails_meanwhile(
    hosts: Hosts, faulty: FaultyStore
) -> None:
    other = await hosts.start("other")
    await write(other, "x", b"1")
    view = View(await hosts.start("this", deadline=0.2))
    inode = await opened(view, "x")
    await other.change_attributes("x", with_other_mode)
    # The first one is for the listing.
    failing = faulty.add(Rule(FailBefore(), "get", "manifests/x.json", nth=2, times=None))
    assert await view.listed() == [("x", inode)]
    assert failing.seen > 1


async def test_an_open_file_that_is_removed_while_it_is_listed_is_not_shown(hosts: Hosts, faulty: FaultyStore) -> None:
    other = await hosts.start("other")
    await write(other, "x", b"1")
    view = View(await hosts.start("this"))
    await opened(view, "x")
    await other.change_attributes("x", with_other_mode)
    found: list[list[tuple[str, Inode]]] = []

    async def listing() -> None:
        found.append(await view.listed())

    stalled = Stall()
    faulty.add(Rule(stalled, "get", "manifests/x.json", nth=2))
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listing)
            await stalled.reached.wait()
            await other.remove("x")
            stalled.go.set()
    assert found == [[]]


async def test_what_was_renamed_with_its_directory_is_not_taken_for_the_work_of_another_host(hosts: Hosts) -> None:
    """For an hour, whatever was appended to could not be mapped."""
    view = View(await hosts.start("this"))
    root = view.inodes.conversations
    directory = await view.tree.make_directory(root, b"d", ATTRIBUTES)
    file = await view.tree.create(directory, b"x", ATTRIBUTES, exclusive=False, appending=False, at_once=True)
    await view.open_files.close(file, writing=True)
    (await view.lookup.find("d"))[0].lookups += 1
    inode, _ = await view.lookup.find("d/x")
    inode.lookups += 1
    view.inodes.contention.committed("log", appended=True)
    await view.tree.rename(root, b"d", root, b"e", replace=True)
    assert (await view.lookup.find("e"))[0] is directory
    found, snapshot = await view.lookup.find("e/x")
    assert snapshot is not None
    assert (found, found.content) == (inode, snapshot.manifest.commit)
    assert not view.inodes.contention.moves("log", appending=True)
