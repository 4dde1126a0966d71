"""What the kernel still knows of a version that was replaced answers as what its path shows now: ESTALE would cost the
program one of the two attempts that the kernel makes."""

import errno

import pyfuse3
import pytest

from stowfs.mount.inodes import Inode
from tests.support.faults import FaultyStore
from tests.support.vaults import ATTRIBUTES, Hosts, append, write
from tests.support.view import View


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
