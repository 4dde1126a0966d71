"""The second open of a thread whose first one was answered ESTALE, which the kernel hides: it succeeds whatever becomes
of the file meanwhile, since a second ESTALE would reach the program."""

import errno

import pyfuse3
import pytest
from trio.testing import MockClock

from stowfs.mount.inode import Inode
from stowfs.mount.inodes import Inodes
from stowfs.mount.readers import Contention
from stowfs.mount.reopening import AT_ONCE, REMEMBERED, Reopening
from stowfs.vault.vault import Vault
from stowfs.vault.version import Version
from tests.support.faults import FaultyStore
from tests.support.vaults import ATTRIBUTES, Hosts, append, write
from tests.support.view import View

THREAD = 7


class TwoHosts:
    """A file that another host changes while a thread of this one opens it."""

    def __init__(self, other: Vault, vault: Vault) -> None:
        self.other = other
        self.view = View(vault)

    async def lookup(self, thread: int = THREAD) -> Inode:
        """As the kernel does when it resolves the path."""
        inode, snapshot = await self.view.lookup.find("x")
        self.view.open_files.reopening.looked_up(thread, "x", inode, snapshot)
        inode.lookups += 1
        return inode

    async def opened(self, thread: int = 1, *, writing: bool = False) -> Inode:
        """What a program opens that has come in time."""
        inode = await self.lookup(thread)
        await self.view.open_files.open(inode, thread, writing=writing)
        return inode

    async def come_too_late(self, thread: int = THREAD) -> None:
        """The first open of the thread: of a version that a program here has open, and that another host replaces."""
        inode = await self.opened()
        await append(self.other, "x", b"2")
        with pytest.raises(pyfuse3.FUSEError) as refused:
            await self.view.open_files.open(inode, thread, writing=False)
        assert refused.value.errno == errno.ESTALE

    async def read(self, inode: Inode) -> bytes:
        """What the second open of the thread reads."""
        await self.view.open_files.open(inode, THREAD, writing=False)
        return await self.view.contents.read(inode, 0, 100)

    async def append_here(self, inode: Inode, data: bytes) -> None:
        """A program of this host appends, and closes."""
        await self.view.open_files.open(inode, 2, writing=True)
        await self.view.contents.write(inode, inode.size, data, appending=True)
        await self.view.commits.commit(inode)
        await self.view.open_files.close(inode, writing=True)

    async def replace_at_path(self, data: bytes) -> None:
        """Another host appends, and a program here opens that."""
        await append(self.other, "x", data)
        inode = await self.opened()
        await self.view.open_files.close(inode, writing=False)


@pytest.fixture
async def files(hosts: Hosts) -> TwoHosts:
    other = await hosts.start("other")
    await write(other, "x", b"1")
    return TwoHosts(other, await hosts.start("this"))


async def test_it_opens_what_it_found_though_another_host_appended_since(files: TwoHosts) -> None:
    await files.come_too_late()
    found = await files.lookup()
    await files.replace_at_path(b"3")
    assert await files.read(found) == b"12"
    assert await files.view.contents.read(await files.opened(), 0, 100) == b"123"


async def test_it_opens_what_another_program_here_opened_and_closed_since(files: TwoHosts) -> None:
    await files.come_too_late()
    found = await files.lookup()
    await files.view.open_files.open(found, 1, writing=False)
    await files.replace_at_path(b"3")
    await files.view.open_files.close(found, writing=False)
    assert await files.read(found) == b"12"


async def test_it_opens_what_was_written_here_and_closed_since(files: TwoHosts) -> None:
    """Its lookup asked nobody, since a program here was writing; then that was committed, and replaced elsewhere."""
    await files.come_too_late()
    writer = await files.opened(2, writing=True)
    await files.view.contents.write(writer, writer.size, b"3", appending=True)
    found = await files.lookup()
    assert found is writer
    await files.view.commits.commit(writer)
    await files.view.open_files.close(writer, writing=True)
    await files.replace_at_path(b"4")
    assert await files.read(found) == b"123"


async def test_it_opens_what_this_host_has_made_of_it_since(files: TwoHosts) -> None:
    await files.come_too_late()
    found = await files.lookup()
    await files.append_here(found, b"3")
    assert await files.read(found) == b"123"


async def test_it_opens_what_was_replaced_by_a_rename_here_since(files: TwoHosts) -> None:
    tree, root = files.view.tree, files.view.inodes.conversations
    await files.come_too_late()
    found = await files.lookup()
    await write(files.other, "new", b"new")
    await tree.rename(root, b"new", root, b"x", replace=True)
    assert await files.read(found) == b"12"


async def test_a_program_can_append_to_it(files: TwoHosts) -> None:
    await files.come_too_late()
    found = await files.lookup()
    await files.replace_at_path(b"3")
    await files.view.open_files.open(found, THREAD, writing=True)
    await files.view.contents.write(found, found.size, b"4", appending=True)
    await files.view.commits.commit(found)
    await files.view.open_files.close(found, writing=True)
    assert await files.view.contents.read(await files.opened(), 0, 100) == b"1234"


async def test_it_costs_no_further_request(files: TwoHosts, faulty: FaultyStore) -> None:
    await files.come_too_late()
    found = await files.lookup()
    faulty.reset_log()
    await files.view.open_files.open(found, THREAD, writing=False)
    assert faulty.count() == 0


async def test_what_nobody_opened_is_not_kept_open(files: TwoHosts, mock_clock: MockClock) -> None:
    """The second open may never come: the thread may have ended."""
    await files.come_too_late()
    found = await files.lookup()
    assert not found.is_open
    await files.lookup()
    assert found.handles == 1
    mock_clock.jump(AT_ONCE)
    await files.lookup(THREAD + 1)
    assert (found.handles, found.snapshot) == (0, None)


async def test_a_stat_meanwhile_tells_what_the_path_shows(files: TwoHosts) -> None:
    await files.come_too_late()
    found = await files.lookup()
    await append(files.other, "x", b"3")
    assert (await files.view.lookup.shown(found)).size == 3


def inode_of(inodes: Inodes) -> Inode:
    return inodes.add("log", Version("1", ATTRIBUTES, 0))


async def test_only_threads_that_came_too_late_are_remembered_and_not_all_of_them() -> None:
    closed: list[Inode] = []
    reopening = Reopening(closed.append)
    inode = inode_of(Inodes(Version("", ATTRIBUTES, 0, "directory"), Contention()))
    reopening.looked_up(THREAD, "log", inode, None)
    assert not reopening.take(THREAD, inode)
    for thread in range(100, 100 + REMEMBERED + 1):
        reopening.too_late(thread, "log")
        reopening.looked_up(thread, "log", inode, None)
    assert closed == [inode]
    assert not reopening.take(100, inode)
    assert not reopening.take(THREAD, inode)
    assert reopening.take(101, inode)
    assert not reopening.take(101, inode)


async def test_it_opens_what_it_found_last() -> None:
    """The kernel looks up twice: another host may have written in between."""
    closed: list[Inode] = []
    reopening = Reopening(closed.append)
    inodes = Inodes(Version("", ATTRIBUTES, 0, "directory"), Contention())
    first, last = inode_of(inodes), inode_of(inodes)
    reopening.too_late(THREAD, "log")
    reopening.looked_up(THREAD, "log", first, None)
    reopening.looked_up(THREAD, "log", last, None)
    assert closed == [first]
    assert not reopening.take(THREAD, first)
    assert reopening.take(THREAD, last)


async def test_what_was_looked_up_long_after_is_no_second_open(files: TwoHosts, mock_clock: MockClock) -> None:
    await files.come_too_late()
    found = await files.lookup()
    mock_clock.jump(AT_ONCE)
    await append(files.other, "x", b"3")
    assert await files.read(found) == b"123"
