"""Renames that a crash cut off between their two names: the old one goes later, if the new one has its content."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from stowfs.store.memory import MemoryStore
from stowfs.vault.naming import manifest_key
from stowfs.vault.vault import Vault
from tests.support.audit import audit
from tests.support.faults import FaultyStore, Rule, StallAfter
from tests.support.vaults import Hosts, append, read, write
from tests.vault.test_collect import collect
from tests.vault.test_conflicts import names
from tests.vault.test_promises import log_lines

CONTENT = log_lines(700, 1)
FEW = b"few"


async def _replace(vault: Vault) -> None:
    await write(vault, "y", b"something else", await vault.head("y"))


KEPT: dict[str, Callable[[Vault], Awaitable[object]]] = {
    "removed": lambda vault: vault.remove("y"),
    "replaced": _replace,
    "appended to": lambda vault: append(vault, "y", b"more"),
    "moved on": lambda vault: vault.rename("y", "z"),
}
"""What another host does to the new name, seeing that the old one is still there."""


async def _cut_off(hosts: Hosts, store: FaultyStore, content: bytes) -> None:
    """Host "a" crashes when it has renamed "x" to "y", before it removes the old name."""
    a = await hosts.start("a")
    await write(a, "x", content)
    stall = StallAfter()
    store.add(Rule(stall, "put", manifest_key("y"), nth=1))

    async def rename() -> None:
        await a.rename("x", "y")

    hosts.start_soon("a", rename)
    await stall.reached.wait()
    await hosts.crash("a")
    store.rules.clear()


@pytest.mark.parametrize("content", [CONTENT, FEW])
@pytest.mark.parametrize("change", KEPT)
async def test_the_old_name_stays_where_the_new_one_was_changed(change: str, content: bytes, tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        await _cut_off(hosts, store, content)
        b = await hosts.start("b")
        await KEPT[change](b)
        assert await b.drain() == 0
        await collect(hosts, b)
        a = await hosts.start("a")
        assert await a.drain(10) == 0
        await collect(hosts, a)
        assert await read(await hosts.start("c"), "x") == content
        assert (await audit(store.inner)).exact


async def test_the_old_name_goes_where_only_attributes_of_the_new_one_changed(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        await _cut_off(hosts, store, CONTENT)
        b = await hosts.start("b")
        await b.set_attributes("y", mode=0o600)
        a = await hosts.start("a")
        assert await a.drain(10) == 0
        assert await names(b) == ["y"]
        assert await read(b, "y") == CONTENT
        assert (await audit(store.inner)).exact


async def test_the_old_name_stays_where_the_new_one_is_damaged(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        await _cut_off(hosts, store, CONTENT)
        await store.put(manifest_key("y"), b"damaged")
        a = await hosts.start("a")
        assert await a.drain(10) == 0
        assert await read(await hosts.start("b"), "x") == CONTENT
