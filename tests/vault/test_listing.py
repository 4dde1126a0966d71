"""Listings of names and versions: the same as those of whole manifests, and what they cost."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from stowfs.store.memory import MemoryStore
from stowfs.vault.naming import split
from stowfs.vault.vault import Vault
from stowfs.vault.version import Version, decode
from tests.support.faults import FaultyStore
from tests.support.vaults import ATTRIBUTES, Hosts, append, write


async def listed(vault: Vault, directory: str) -> Sequence[tuple[str, Version]]:
    return [(name, decode(packed)) for name, packed in await vault.list_versions(directory)]


async def expected(vault: Vault, directory: str) -> Sequence[tuple[str, Version]]:
    """The same by way of the manifests."""
    return [(split(entry.path)[1], Version.of(entry)) for entry in await vault.list_directory(directory)]


async def make_some(vault: Vault) -> None:
    """Of everything that can be in a directory."""
    await vault.make_directory("d", ATTRIBUTES)
    for number in range(30):
        await write(vault, f"d/{number:02d}", b"x" * number)
    await write(vault, "d/not utf-8 \udcff", b"odd")
    await write(vault, "d/gone", b"gone")
    await vault.remove("d/gone")
    await vault.make_directory("d/e", ATTRIBUTES)
    await write(vault, "d/e/deeper", b"not in d")
    await vault.make_symlink("d/link", b"e/deeper", ATTRIBUTES)


async def test_versions_are_those_of_the_manifests(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore(page_size=7))
    async with Hosts(store, tmp_path) as hosts:
        a = await hosts.start("a")
        await make_some(a)
        b, c = await hosts.start("b"), await hosts.start("c")
        for directory in ("", "d", "d/e"):
            for vault in (a, b):
                assert await listed(vault, directory) == await expected(c, directory), directory
        names = [name for name, _ in await listed(b, "d")]
        assert (len(names), names[0], names[-1]) == (33, "00", "not utf-8 \udcff")


async def test_each_version_is_fetched_once_whatever_happens_to_the_process(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a = await hosts.start("a")
        await make_some(a)
        b = await hosts.start("b")
        store.reset_log()
        first = await listed(b, "d")
        # 33 entries and a tombstone; and whether there is an index.
        assert store.counts() == {("list", "manifests"): 1, ("get", "manifests"): 34, ("get", "index"): 1}
        await append(a, "d/03", b"more")
        for attempt in range(2):
            store.reset_log()
            again = await listed(b, "d")
            # What has changed is fetched.
            fetched = {("get", "manifests"): 1} if attempt == 0 else {}
            assert store.counts() == {("list", "manifests"): 1} | fetched
            await hosts.crash("b")
            b = await hosts.start("b")
        changed = {name for (name, version), (_, before) in zip(again, first, strict=True) if version != before}
        assert changed == {"03"}


async def test_what_is_cached_under_another_etag_or_damaged_is_not_shown(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        await make_some(await hosts.start("a"))
        b = await hosts.start("b")
        first = await listed(b, "d")
        await hosts.crash("b")
        [index] = (tmp_path / "b" / "cache").rglob("index.db")
        with sqlite3.connect(index) as database:
            database.execute("DELETE FROM manifests")
            database.execute("DELETE FROM uses")
            body = "(SELECT body FROM versions WHERE id = CAST('d/29' AS BLOB))"
            database.execute(f"UPDATE versions SET body = {body} WHERE id < CAST('d/10' AS BLOB)")
            database.execute("UPDATE versions SET etag = etag || 'x' WHERE id > CAST('d/20' AS BLOB)")
        database.close()
        b = await hosts.start("b")
        store.reset_log()
        assert await listed(b, "d") == first
        # Ten that are damaged, nine and four others with another ETag.
        assert store.count("get", "manifests") >= 10 + 9 + 4
        store.reset_log()
        assert await listed(b, "d") == first
        assert store.count("get", "manifests") == 0
