"""Symbolic links in a store: one object each, treated like conversations in everything but what they hold."""

import hashlib
import time
from pathlib import Path

import msgspec
import pytest

from stowfs import codec
from stowfs.errors import CorruptObject, IsDirectory, NameTooLong, NotDirectory, PathExists, UsageError
from stowfs.store.memory import MemoryStore
from stowfs.vault.check import Checker
from stowfs.vault.descriptor import create_descriptor
from stowfs.vault.manifest import TARGET_LIMIT, Attributes, Snapshot
from stowfs.vault.naming import manifest_key
from stowfs.vault.vault import Vault
from tests.support.audit import audit
from tests.support.vaults import ATTRIBUTES, Hosts, read, write
from tests.vault.test_promises import log_lines, noise

LINK = Attributes(0o777, 1, 2, 3, 4)
WEEK = 7 * 86400.0

TARGETS = [b"x", b"../a b/\xc3\xbc.json", b"/not/\xff text", b"t" * TARGET_LIMIT]


async def names(vault: Vault, directory: str = "") -> list[str]:
    return [snapshot.path for snapshot in await vault.list_directory(directory)]


@pytest.mark.parametrize("target", TARGETS)
async def test_a_link_is_what_it_was_made_on_every_host(tmp_path: Path, target: bytes) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        made = await a.make_symlink("link", target, LINK)
        for vault in (a, b):
            found = await vault.head("link")
            assert (found.is_symlink, found.is_directory, found.is_conversation) == (True, False, False)
            assert (found.target, found.size, found.attributes) == (target, len(target), LINK)
            assert found.manifest == made.manifest
        assert (await a.head("")).target == b""
        (listed,) = await b.list_directory("")
        assert listed.target == target


async def test_a_link_is_one_object_and_one_request(tmp_path: Path) -> None:
    store = MemoryStore()
    async with Hosts(store, tmp_path) as hosts:
        await (await hosts.start("a")).make_symlink("link", b"target", LINK)
        keys = [info.key async for page in store.list("") for info in page.objects]
        assert keys == [manifest_key("link"), "stowfs.json"]


async def test_what_no_kernel_takes_is_refused(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        with pytest.raises(NameTooLong, match="4095 bytes"):
            await a.make_symlink("link", b"t" * (TARGET_LIMIT + 1), LINK)
        for target in (b"", b"a\0b"):
            with pytest.raises(UsageError):
                await a.make_symlink("link", target, LINK)
        assert await names(a) == []


async def test_a_name_is_taken_only_with_replace_and_never_a_directory(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        await write(a, "x", log_lines(1400, 1))
        await a.make_directory("d", ATTRIBUTES)
        for name in ("x", "d"):
            with pytest.raises(PathExists):
                await a.make_symlink(name, b"t", LINK)
        with pytest.raises(IsDirectory):
            await a.make_symlink("d", b"t", LINK, replace=True)
        with pytest.raises(NotDirectory):
            await a.make_symlink("x/y", b"t", LINK)
        assert (await a.make_symlink("x", b"one", LINK, replace=True)).target == b"one"
        assert (await a.make_symlink("x", b"another", LINK, replace=True)).target == b"another"
        await a.drain()
        # What the conversation referenced was released.
        assert (await audit(hosts.store)).exact
        assert await names(a) == ["d", "x"]


async def test_rename_of_and_over_links(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write(a, "file", noise(50_000))
        await a.make_symlink("link", b"target", LINK)
        await a.make_directory("d", ATTRIBUTES)
        await a.rename("link", "d/link")
        await a.rename_directory("d", "e")
        assert (await b.head("e/link")).target == b"target"
        await a.rename("e/link", "file")
        assert (await b.head("file")).target == b"target"
        await write(a, "other", b"text")
        await a.rename("other", "file")
        assert await read(b, "file") == b"text"
        await a.drain()
        assert (await audit(hosts.store)).exact


async def test_its_owner_and_times_change_and_its_target_stays(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        await a.make_symlink("link", b"target", LINK)
        changed = await a.set_attributes("link", uid=7, mtime_ns=8)
        assert (changed.target, changed.attributes.uid, changed.attributes.mtime_ns) == (b"target", 7, 8)


async def test_a_deleted_link_comes_back(tmp_path: Path) -> None:
    store = MemoryStore()
    async with Hosts(store, tmp_path, descriptor=await create_descriptor(store, trash_seconds=WEEK)) as hosts:
        a = await hosts.start("a")
        await a.make_symlink("link", b"target", LINK)
        await a.remove("link")
        assert [snapshot.path async for snapshot in a.deleted()] == ["link"]
        assert (await a.undelete("link")).target == b"target"
        await a.remove("link")
        assert await a.empty_trash("link", before=time.time() + 1)
        assert [snapshot.path async for snapshot in a.deleted()] == []
        assert await names(a) == []


async def test_a_check_finds_nothing_wrong_with_links(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        await write(a, "x", noise(50_000))
        await a.make_symlink("link", b"x", LINK)
        await a.drain()
        assert hosts.descriptor is not None
        checked = await Checker(hosts.store, hosts.descriptor, exclusive=True).run()
        assert (checked.findings, checked.conversations) == ([], 1)


async def test_a_whole_new_content_replaces_a_link_that_came_in_between(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        await a.make_symlink("x", b"target", LINK)
        await write(a, "x", b"text")
        assert (await a.head("x")).is_conversation
        assert await read(a, "x") == b"text"


@pytest.mark.parametrize("appending", [True, False], ids=["append", "edit"])
async def test_a_part_of_a_file_is_not_put_into_a_link(tmp_path: Path, appending: bool) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        base = await write(a, "x", b"first\n")
        draft = a.draft("x", base, base.attributes, appending=appending)
        draft.write(base.size if appending else 0, b"more")
        await b.make_symlink("x", b"target", LINK, replace=True)
        with pytest.raises(PathExists, match="has become a symbolic link"):
            await a.commit(draft)
        draft.discard()
        assert (await b.head("x")).target == b"target"
        assert await names(b) == ["x"]


async def rewritten(store: MemoryStore, snapshot: Snapshot, inline: bytes, /, **changes: object) -> None:
    """Puts the manifest of a link back with other fields and bytes, as somebody hostile would."""
    header = msgspec.to_builtins(snapshot.manifest) | changes
    await store.put(manifest_key(snapshot.path), codec.compress(msgspec.json.encode(header)) + codec.compress(inline))


@pytest.mark.parametrize(
    ("inline", "changes"),
    [
        (b"targe\0", {}),
        (b"t" * 4096, {"size": 4096, "inline": 4096, "pieces": [4096]}),
        (b"target", {"pieces": [3, 3]}),
    ],
    ids=["nul", "too long", "two pieces"],
)
async def test_a_target_that_no_kernel_takes_is_corrupt(
    tmp_path: Path, inline: bytes, changes: dict[str, object]
) -> None:
    store = MemoryStore()
    async with Hosts(store, tmp_path) as hosts:
        made = await (await hosts.start("a")).make_symlink("link", b"target", LINK)
        await rewritten(store, made, inline, inline_digest=hashlib.sha256(inline).hexdigest(), **changes)
        with pytest.raises(CorruptObject, match="the target of the symbolic link makes no sense"):
            await (await hosts.start("b")).head("link")


async def test_a_kind_of_the_future_is_an_error_of_its_path_alone(tmp_path: Path) -> None:
    store = MemoryStore()
    async with Hosts(store, tmp_path) as hosts:
        a = await hosts.start("a")
        await write(a, "x", b"text")
        made = await a.make_symlink("link", b"target", LINK)
        await rewritten(store, made, b"target", kind="device")
        b = await hosts.start("b")
        assert await names(b) == ["x"]
        assert await read(b, "x") == b"text"
        with pytest.raises(CorruptObject, match="link: "):
            await b.head("link")
