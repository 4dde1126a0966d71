"""What is created in a directory that another host has just removed is seen on the mount it was created on at once, and
so is the directory; or creating it fails."""

import pytest

from stowfs.errors import NoSuchPath
from stowfs.mount.inode import Inode
from stowfs.vault import created as module
from stowfs.vault.naming import children_prefix
from stowfs.vault.vault import Vault
from tests.support.faults import FaultyStore
from tests.support.vaults import ATTRIBUTES, Hosts, read, write
from tests.support.view import View


async def known(view: View, path: str) -> Inode:
    """What is under `path`, as the kernel has looked it up."""
    inode, _ = await view.lookup.find(path)
    inode.lookups += 1
    return inode


async def names(view: View, path: str) -> list[str]:
    """What a program sees that lists a directory."""
    return [name for name, _ in await view.listed(await known(view, path) if path else None)]


async def created(view: View, directory: Inode, name: bytes, data: bytes = b"text") -> Inode:
    """A new file that is open still."""
    inode = await view.tree.create(directory, name, ATTRIBUTES, exclusive=False, appending=False, at_once=False)
    inode.lookups += 1
    await view.contents.write(inode, 0, data, appending=False)
    return inode


async def close(view: View, inode: Inode) -> None:
    await view.commits.commit(inode)
    await view.open_files.close(inode, writing=True)


async def removed_elsewhere(hosts: Hosts, vault: Vault, path: str = "d") -> tuple[Vault, View, Inode]:
    """A directory that the kernel knows still: it has looked it up, and listed what it is in, before and after."""
    other = await hosts.start("other")
    view = View(vault)
    parts = path.split("/")
    for depth in range(len(parts)):
        await other.make_directory("/".join(parts[: depth + 1]), ATTRIBUTES)
    directory = [await known(view, "/".join(parts[: depth + 1])) for depth in range(len(parts))][-1]
    await write(other, f"{path}/before", b"")
    assert await names(view, "") == ["d"]
    await other.remove(f"{path}/before")
    for depth in reversed(range(len(parts))):
        await other.remove_directory("/".join(parts[: depth + 1]))
    # It is believed for a minute that nothing is in there.
    assert await names(view, "") == []
    return other, view, directory


@pytest.mark.parametrize("path", ["d", "d/e"])
@pytest.mark.parametrize("first", ["listed", "looked up"])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
async def test_what_was_created_is_seen_with_its_directory(
    hosts: Hosts, path: str, first: str, asynchronous: bool
) -> None:
    vault = await hosts.start("this", asynchronous=asynchronous)
    other, view, directory = await removed_elsewhere(hosts, vault, path)
    file = await created(view, directory, b"x")

    async def look() -> None:
        if first == "listed":
            assert await names(view, "") == ["d"]
        assert (await view.lookup.find(path))[0] is directory
        assert await names(view, path) == ["x"]
        assert await names(view, "") == ["d"]
        assert (await view.lookup.find(f"{path}/x"))[0] is file

    await look()
    await close(view, file)
    await look()
    if asynchronous:
        await view.commits.flush(file)
        await look()
    assert await read(other, f"{path}/x") == b"text"
    assert (await other.head(path)).is_directory


async def test_creating_fails_where_this_host_knows_that_the_directory_is_gone(hosts: Hosts) -> None:
    """A program is in there still, or has it open."""
    other, view, directory = await removed_elsewhere(hosts, await hosts.start("this"))
    await write(other, "f", b"")
    with pytest.raises(NoSuchPath):
        await view.lookup.find("d")
    with pytest.raises(NoSuchPath):
        await created(view, directory, b"x")
    root = view.inodes.conversations
    with pytest.raises(NoSuchPath):
        await view.tree.rename(root, b"f", directory, b"f", replace=True)
    assert await names(view, "") == ["f"]
    await other.make_directory("d", ATTRIBUTES)
    await close(view, await created(view, directory, b"x"))
    assert await names(view, "d") == ["x"]


async def test_what_was_renamed_into_it_is_seen_with_it(hosts: Hosts) -> None:
    other, view, directory = await removed_elsewhere(hosts, await hosts.start("this"))
    await write(other, "f", b"text")
    await view.tree.rename(view.inodes.conversations, b"f", directory, b"x", replace=True)
    assert await names(view, "") == ["d"]
    assert await names(view, "d") == ["x"]


async def test_it_has_the_permissions_that_it_had(hosts: Hosts) -> None:
    _, view, directory = await removed_elsewhere(hosts, await hosts.start("this"))
    await close(view, await created(view, directory, b"x"))
    assert (await view.lookup.find("d"))[0].attributes.mode == ATTRIBUTES.mode


async def test_what_was_removed_with_all_that_was_created_in_it_costs_no_listing(
    hosts: Hosts, faulty: FaultyStore
) -> None:
    vault = await hosts.start("this")
    view = View(vault)
    directory = await view.tree.make_directory(view.inodes.conversations, b"d", ATTRIBUTES)
    await close(view, await created(view, directory, b"x"))
    await view.tree.remove(directory, b"x")
    await view.tree.remove_directory(view.inodes.conversations, b"d")
    faulty.reset_log()
    with pytest.raises(NoSuchPath):
        await view.lookup.find("d")
    assert (faulty.count(), faulty.count("list")) == (1, 0)


async def test_what_others_removed_with_all_that_was_created_in_it_is_looked_for_once(
    hosts: Hosts, faulty: FaultyStore
) -> None:
    other, vault = await hosts.start("other"), await hosts.start("this")
    await vault.make_directory("d", ATTRIBUTES)
    await write(vault, "d/x", b"text")
    await other.remove("d/x")
    await other.remove_directory("d")
    for listings in (1, 0):
        faulty.reset_log()
        with pytest.raises(NoSuchPath):
            await vault.head("d")
        assert faulty.count("list") == listings


async def test_only_a_bounded_number_of_directories_is_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 3)
    created = module.Created()
    for path in ("a/x", "b/c/x", "a/y", "d/x"):
        created.note(path)
    remembered = [path for path in ("a", "b/c", "b", "d") if created.last(children_prefix(path)) is not None]
    assert remembered == ["a", "b", "d"]
