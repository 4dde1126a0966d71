"""Bringing deleted conversations back."""

import time
from pathlib import Path

import pytest
import trio

from stowfs.errors import NoSuchPath, NotDirectory, PathExists, ReadOnly
from stowfs.store.memory import MemoryStore
from stowfs.vault.descriptor import create_descriptor
from stowfs.vault.manifest import Attributes
from stowfs.vault.vault import Vault
from tests.support.audit import audit
from tests.support.faults import FailAfter, FaultyStore, Rule
from tests.support.vaults import Hosts, append, read, write
from tests.vault.test_promises import log_lines

CONTENT = log_lines(1400, 1)
WEEK = 7 * 86400.0


async def trash_hosts(store: MemoryStore | FaultyStore, directory: Path, **options: object) -> Hosts:
    return Hosts(store, directory, descriptor=await create_descriptor(store, trash_seconds=WEEK), **options)


async def deleted(vault: Vault, directory: str = "") -> list[str]:
    return [snapshot.path async for snapshot in vault.deleted(directory)]


async def test_a_deleted_conversation_comes_back_as_it_was(tmp_path: Path) -> None:
    async with await trash_hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        before = await write(a, "x", CONTENT)
        await a.remove("x")
        restored = await (await hosts.start("b")).undelete("x")
        assert restored.manifest.pieces == before.manifest.pieces
        assert restored.attributes.mtime_ns == before.attributes.mtime_ns
        assert restored.attributes.ctime_ns > before.attributes.ctime_ns
        assert await read(a, "x") == CONTENT
        await append(a, "x", b"more")
        assert await read(a, "x") == CONTENT + b"more"
        await a.drain()
        assert (await audit(hosts.store)).exact


async def test_its_directories_come_back_with_it(tmp_path: Path) -> None:
    async with await trash_hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        private = Attributes(0o700, 7, 8, 1, 1)
        await a.make_directory("d", private)
        await a.make_directory("d/e", private)
        await write(a, "d/e/x", b"small")
        await a.remove("d/e/x")
        await a.remove_directory("d/e")
        await a.remove_directory("d")
        await a.undelete("d/e/x")
        assert [entry.path for entry in await a.list_directory("d/e")] == ["d/e/x"]
        assert (await a.head("d")).attributes.mode == 0o700
        assert (await a.head("d/e")).attributes.uid == 7


async def test_the_name_may_be_taken_again(tmp_path: Path) -> None:
    async with await trash_hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        await write(a, "x", CONTENT)
        await a.remove("x")
        await write(a, "x", b"another")
        with pytest.raises(PathExists):
            await a.undelete("x")
        assert await read(a, "x") == b"another"
        await a.drain()
        assert (await audit(hosts.store)).exact


async def test_a_directory_may_have_become_a_conversation(tmp_path: Path) -> None:
    async with await trash_hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        await a.make_directory("d", Attributes(0o700, 0, 0, 1, 1))
        await write(a, "d/x", CONTENT)
        await a.remove("d/x")
        await a.remove_directory("d")
        await write(a, "d", b"a conversation")
        with pytest.raises(NotDirectory):
            await a.undelete("d/x")
        assert await deleted(a) == ["d/x"]


async def test_what_was_never_there_or_is_gone_cannot_come_back(tmp_path: Path) -> None:
    async with await trash_hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        with pytest.raises(NoSuchPath):
            await a.undelete("never")
        await write(a, "x", CONTENT)
        await a.rename("x", "y")
        with pytest.raises(NoSuchPath):
            await a.undelete("x")  # what it was is y now
        await a.remove("y")
        assert await a.empty_trash("y", before=time.time())
        assert not await a.empty_trash("y", before=time.time())
        with pytest.raises(NoSuchPath):
            await a.undelete("y")
        with pytest.raises(NoSuchPath):
            await a.head("y")


async def test_the_trash_is_listed(tmp_path: Path) -> None:
    async with await trash_hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        await a.make_directory("d", Attributes(0o700, 0, 0, 1, 1))
        for path in ("d/x", "d/y", "z", "kept"):
            await write(a, path, path.encode())
        await a.rename("kept", "kept still")
        for path in ("d/x", "z"):
            await a.remove(path)
        assert await deleted(await hosts.start("b")) == ["d/x", "z"]
        assert await deleted(a, "d") == ["d/x"]
        await a.undelete("z")
        assert await deleted(a) == ["d/x"]


async def test_bringing_back_and_giving_up_at_once_has_one_winner(tmp_path: Path) -> None:
    async with await trash_hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        for number in range(20):
            path = f"x{number}"
            await write(a, path, CONTENT)
            await a.remove(path)
            outcome: dict[str, bool] = {}

            async def restore(path: str = path, outcome: dict[str, bool] = outcome) -> None:
                try:
                    await a.undelete(path)
                    outcome["restored"] = True
                except NoSuchPath:
                    outcome["restored"] = False

            async def empty(path: str = path, outcome: dict[str, bool] = outcome) -> None:
                outcome["emptied"] = await b.empty_trash(path, before=time.time())

            async with trio.open_nursery() as nursery:
                nursery.start_soon(restore)
                nursery.start_soon(empty)
            assert outcome["restored"] is not outcome["emptied"]
            if outcome["restored"]:
                assert await read(b, path) == CONTENT
        await a.drain()
        await b.drain()
        assert (await audit(hosts.store)).exact


async def test_a_lost_response_is_no_error(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with await trash_hosts(store, tmp_path) as hosts:
        a = await hosts.start("a")
        await write(a, "x", CONTENT)
        await a.remove("x")
        store.add(Rule(FailAfter(), "put", "manifests/*"))
        await a.undelete("x")
        assert await read(a, "x") == CONTENT


async def test_a_read_only_vault_changes_nothing(tmp_path: Path) -> None:
    async with await trash_hosts(MemoryStore(), tmp_path, read_only=True) as hosts:
        a = await hosts.start("a")
        with pytest.raises(ReadOnly):
            await a.undelete("x")
        with pytest.raises(ReadOnly):
            await a.empty_trash("x", before=time.time())
