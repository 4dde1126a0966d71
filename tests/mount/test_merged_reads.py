"""Reading a file while what this host writes to it is merged with the work of another host.

The kernel takes the size it knows for the end of what it reads. So it is told to ask for the size again before the
first of the merged bytes can be read; otherwise the old size would cut them anywhere.
"""

from pathlib import Path

import pytest
import trio

from stowfs.mount.inode import Inode
from stowfs.store.memory import MemoryStore
from tests.support.vaults import Hosts, append, write
from tests.support.view import View

OURS, THEIRS = b"a line of this host\n", b"one of another host\n"


class Kernel:
    """Reads the file as soon as it is told that the size may have changed, as any other program may do then."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.view: View | None = None
        self.believed: list[float] = []
        self.read: list[bytes] = []

    async def invalidate(self, inode: Inode) -> None:
        assert self.view is not None
        self.believed.append(self.view.lookup.attribute_timeout(inode))
        self._nursery.start_soon(self._read, inode)
        await trio.testing.wait_all_tasks_blocked()

    async def _read(self, inode: Inode) -> None:
        assert self.view is not None
        self.read.append(await self.view.contents.read(inode, 0, 4096))


async def opened(view: View) -> Inode:
    """A file that a writer and a reader have open, with a line of the writer's."""
    inode, _ = await view.lookup.find("x")
    await view.open_files.open(inode, 1, writing=True)
    await view.open_files.open(inode, 2, writing=False)
    await view.contents.write(inode, inode.size, OURS, appending=True)
    return inode


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_the_kernel_is_told_of_another_size_before_merged_bytes_can_be_read(
    tmp_path: Path, asynchronous: bool
) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts, trio.open_nursery() as nursery:
        other = await hosts.start("other")
        await write(other, "x", b"begin\n")
        kernel = Kernel(nursery)
        view = kernel.view = View(await hosts.start("this", asynchronous=asynchronous), kernel.invalidate)
        inode = await opened(view)
        await append(other, "x", THEIRS)
        await view.commits.commit(inode)
        await view.commits.flush(inode)
        await trio.testing.wait_all_tasks_blocked()
        # Not for a moment, while it is the old size that it is told. And only once: a kernel that is told so while it
        # asks passes over the answer.
        assert kernel.believed == [0.0]
        assert all(got == b"begin\n" + THEIRS + OURS for got in kernel.read)
        assert view.lookup.attribute_timeout(inode) > 0


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_nothing_is_said_where_nothing_was_merged(tmp_path: Path, asynchronous: bool) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts, trio.open_nursery() as nursery:
        vault = await hosts.start("this", asynchronous=asynchronous)
        await write(vault, "x", b"begin\n")
        kernel = Kernel(nursery)
        view = kernel.view = View(vault, kernel.invalidate)
        inode = await opened(view)
        inode.kernel_size = inode.size
        await view.commits.commit(inode)
        await view.commits.flush(inode)
        assert kernel.believed == []
        assert await view.contents.read(inode, 0, 4096) == b"begin\n" + OURS
