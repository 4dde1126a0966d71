"""What a directory shows while files go to the store: in process, to hold a listing back at the worst moment."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from stowfs.mount.inode import Inode
from stowfs.store.memory import MemoryStore
from tests.support.faults import FaultyStore, Rule, StallAfter
from tests.support.vaults import ATTRIBUTES, Hosts
from tests.support.view import View


class WatchedView(View):
    """A view whose directory is read while something happens."""

    async def create(self, name: str, data: bytes) -> Inode:
        """A new file, written and closed."""
        root = self.inodes.conversations
        inode = await self.tree.create(root, name.encode(), ATTRIBUTES, exclusive=False, appending=False, at_once=False)
        await self.contents.write(inode, 0, data, appending=False)
        await self.commits.commit(inode)
        await self.open_files.close(inode, writing=True)
        return inode

    async def names(self) -> list[str]:
        """What a program sees that reads the directory, looking at each entry."""
        return sorted(name for name, _ in await self.listed())

    async def names_beside(self, store: FaultyStore, change: Callable[[], Awaitable[None]]) -> list[str]:
        """The same, where `change` happens after the store has listed, and before its answer is here."""
        stalled = StallAfter()
        store.add(Rule(stalled, "list", "manifests/*"))
        seen: list[str] = []

        async def list_names() -> None:
            seen.extend(await self.names())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(list_names)
            await stalled.reached.wait()
            await change()
            stalled.go.set()
        return seen


@pytest.mark.parametrize("known", [True, False], ids=["the kernel knows it", "the kernel has forgotten it"])
async def test_a_file_that_reaches_the_store_during_a_listing_is_in_it(tmp_path: Path, known: bool) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path, asynchronous=True) as hosts:
        view = WatchedView(await hosts.start("a"))
        inode = await view.create("c", b"data")
        inode.lookups = int(known)

        async def flush() -> None:
            await view.commits.flush(inode)
            assert (view.inodes.at("c") is None) is not known

        assert await view.names_beside(store, flush) == ["c"]
        assert await view.names() == ["c"]


async def test_a_file_that_is_removed_during_a_listing_is_not_in_it(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path, asynchronous=True) as hosts:
        view = WatchedView(await hosts.start("a"))
        inode = await view.create("c", b"data")
        inode.lookups = 1

        async def flush_and_remove() -> None:
            await view.commits.flush(inode)
            await view.tree.remove(view.inodes.conversations, b"c")

        assert await view.names_beside(store, flush_and_remove) == []
