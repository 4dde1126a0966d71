"""What the kernel is told outside of replies."""

import threading
from mmap import PAGESIZE
from pathlib import Path

import pyfuse3
import pytest
import trio

from stowfs.mount.attributes import answered
from stowfs.mount.inode import Inode
from stowfs.mount.kernel import tell_once
from stowfs.store.memory import MemoryStore
from stowfs.vault.version import Version
from tests.support.vaults import ATTRIBUTES, Hosts, append, read, write
from tests.support.view import View


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> "Kernel":
    kernel = Kernel()
    monkeypatch.setattr(pyfuse3, "invalidate_inode", kernel.invalidate)
    return kernel


class Kernel:
    """Is told of inodes, and takes its time."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.reached, self.go = threading.Event(), threading.Event()

    def invalidate(self, number: int, attr_only: bool) -> None:
        self.numbers.append(number)
        self.reached.set()
        self.go.wait()


async def test_of_programs_that_open_a_new_version_at_once_all_wait_and_one_tells_the_kernel(told: Kernel) -> None:
    """Told again, the kernel would pass over the size that it asks for, and read the new bytes with the old one."""
    inode = Inode(7, "x", Version("1", ATTRIBUTES, 3))
    done = []

    async def open_file() -> None:
        await tell_once(inode)
        done.append(inode.kernel_size)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(open_file)
        await trio.to_thread.run_sync(told.reached.wait)
        await trio.testing.wait_all_tasks_blocked()
        assert done == []
        told.go.set()
    assert (told.numbers, done) == ([7], [3, 3, 3])


async def test_a_version_that_took_the_place_of_another_is_told_of_whatever_the_kernel_was_answered(
    told: Kernel, tmp_path: Path
) -> None:
    """It passes over an answer with the new version where one with the old version reached it later."""
    told.go.set()
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        other, vault = await hosts.start("other"), await hosts.start("this")
        await write(other, "x", b"1")
        view = View(vault)
        inode, _ = await view.lookup.find("x")
        for expected in (0, 1):
            # As after a reply.
            inode.told, inode.kernel_size = inode.packed, inode.size
            await tell_once(inode)
            assert len(told.numbers) == expected
            await append(other, "x", b"2")
            assert (await view.lookup.find("x"))[0] is inode


async def test_pages_that_are_appended_at_an_old_end_are_no_pages_of_a_mapping(tmp_path: Path) -> None:
    """They were on their way when the kernel was told of another end, as it had asked for somebody else."""
    theirs, first, second, mapped = (letter * PAGESIZE for letter in (b"t", b"1", b"2", b"m"))
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        other, view = await hosts.start("other"), View(await hosts.start("this"))
        await write(other, "x", b"")
        inode = await view.open_files.open_path("x", writing=True)
        inode.mappers = 1
        await view.contents.write(inode, 0, first, appending=True)
        await append(other, "x", theirs)
        await view.commits.commit(inode)
        answer = pyfuse3.EntryAttributes()
        answer.st_size = inode.size
        answered(inode, answer, inode)
        await view.contents.write(inode, PAGESIZE, second, appending=True)
        # What the kernel has read may be mapped.
        await view.contents.read(inode, 0, 3 * PAGESIZE)
        await view.contents.write(inode, PAGESIZE, mapped, appending=True)
        await view.commits.commit(inode)
        assert await read(other, "x") == theirs + mapped + second
