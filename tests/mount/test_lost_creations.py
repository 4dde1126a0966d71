"""A file whose exclusive creation lost against another host: whoever has it open learns it when it is closed, and
nobody else is refused anything for it."""

import pytest

from stowfs.errors import PathExists
from stowfs.mount.inode import Inode
from tests.support.vaults import ATTRIBUTES, Hosts, read, write
from tests.support.view import View


async def lost_creation(hosts: Hosts, path: str = "x") -> tuple[View, Inode]:
    """A file that is open still, and its name another host's by now."""
    other, view = await hosts.start("other"), View(await hosts.start("this"))
    directory = view.inodes.conversations
    if "/" in path:
        await other.make_directory("d", ATTRIBUTES)
        directory, _ = await view.lookup.find("d")
        directory.lookups += 1
    name = path.rpartition("/")[2].encode()
    inode = await view.tree.create(directory, name, ATTRIBUTES, exclusive=True, appending=False, at_once=False)
    inode.lookups += 1
    await view.contents.write(inode, 0, b"lost", appending=False)
    await write(other, path, b"won")
    return view, inode


async def test_another_file_can_be_renamed_over_it(hosts: Hosts) -> None:
    view, inode = await lost_creation(hosts)
    other, root = await hosts.start("third"), view.inodes.conversations
    await write(other, "new", b"new")
    await view.tree.rename(root, b"new", root, b"x", replace=True)
    assert await read(other, "x") == b"new"
    await view.commits.commit(inode)
    await view.open_files.close(inode, writing=True)
    assert await read(other, "x") == b"new"


async def test_but_not_by_who_asks_for_a_free_name(hosts: Hosts) -> None:
    view, _ = await lost_creation(hosts)
    root = view.inodes.conversations
    await write(await hosts.start("third"), "new", b"new")
    with pytest.raises(PathExists):
        await view.tree.rename(root, b"new", root, b"x", replace=False)


async def test_its_directory_can_be_renamed(hosts: Hosts) -> None:
    view, inode = await lost_creation(hosts, "d/x")
    other, root = await hosts.start("third"), view.inodes.conversations
    await view.tree.rename(root, b"d", root, b"e", replace=True)
    assert await read(other, "e/x") == b"won"
    with pytest.raises(PathExists):
        await view.commits.commit(inode)
    await view.open_files.close(inode, writing=True)
    assert (await view.lookup.find("e/x"))[0] is not inode
    assert await read(other, "e/x") == b"won"


@pytest.mark.parametrize("done", ["removed", "renamed"])
async def test_what_is_done_to_it_by_who_was_told_so_spares_the_file_that_won(hosts: Hosts, done: str) -> None:
    """Programs that are told of an error remove what they have made, before they close it."""
    view, inode = await lost_creation(hosts)
    other, root = await hosts.start("third"), view.inodes.conversations
    with pytest.raises(PathExists):
        await view.commits.commit(inode)
    if done == "removed":
        await view.tree.remove(root, b"x")
    else:
        await view.tree.rename(root, b"x", root, b"y", replace=True)
        assert await read(other, "y") == b"lost"
    await view.open_files.close(inode, writing=True)
    assert await read(other, "x") == b"won"
