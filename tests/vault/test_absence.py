"""Names that are not there: asked for one by one where every open asks, else by a listing of their directory."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from stowfs.errors import NoSuchPath
from stowfs.store.memory import MemoryStore
from stowfs.vault import absence
from stowfs.vault.vault import Vault
from tests.support.faults import FailBefore, FaultyStore, Rule, StallAfter
from tests.support.vaults import ATTRIBUTES, Hosts, read, write

LONG = 3600.0
"""Seconds for which answers are believed, where the test is not about their end."""


async def is_there(vault: Vault, path: str) -> bool:
    try:
        await vault.head(path)
    except NoSuchPath:
        return False
    return True


async def test_copying_many_new_files_costs_one_request_each_and_a_few_listings(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore(page_size=10))
    async with Hosts(store, tmp_path, revalidate=LONG) as hosts:
        a = await hosts.start("a")
        await a.make_directory("d", ATTRIBUTES)
        store.reset_log()
        for number in range(100):
            assert not await is_there(a, f"d/{number}")
            await write(a, f"d/{number}", b"new")
        await a.drain()
        assert store.counts() == {("get", "manifests"): 2, ("put", "manifests"): 100, ("list", "manifests"): 1}
        assert all([await is_there(a, f"d/{number}") for number in range(100)])


async def test_where_every_open_asks_so_does_every_look_at_what_is_not_there(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        for number in range(5):
            assert not await is_there(a, f"{number}")
        assert store.count("list") == 0
        await write(b, "4", b"new")
        assert await is_there(a, "4")


async def test_what_another_host_made_is_seen_after_the_revalidation_time(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with Hosts(MemoryStore(), tmp_path, revalidate=10.0) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        for number in range(3):
            assert not await is_there(a, f"{number}")
        await write(b, "2", b"new")
        mock_clock.jump(9.9)
        assert not await is_there(a, "2")
        mock_clock.jump(0.1)
        assert await is_there(a, "2")


async def test_what_was_there_at_the_listing_is_asked_for(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path, revalidate=LONG) as hosts:
        await write(await hosts.start("b"), "there", b"data")
        a = await hosts.start("a")
        for number in range(3):
            assert not await is_there(a, f"{number}")
        assert await read(a, "there") == b"data"


async def test_what_appears_during_the_listing_is_there(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path, revalidate=LONG) as hosts:
        a = await hosts.start("a")
        stalled = StallAfter()
        store.add(Rule(stalled, "list", "manifests/*"))
        assert not await is_there(a, "0")

        async def look() -> None:
            assert not await is_there(a, "1")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            await stalled.reached.wait()
            await write(a, "2", b"new")
            stalled.go.set()
        assert await is_there(a, "2")


async def test_a_directory_that_takes_many_pages_is_not_listed_for_a_few_names(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore(page_size=10))
    async with Hosts(store, tmp_path, revalidate=LONG) as hosts:
        b = await hosts.start("b")
        for number in range(100):
            await write(b, f"old{number}", b"data")
        a = await hosts.start("a")
        store.reset_log()
        for number in range(60):
            assert not await is_there(a, f"new{number}")
            listings = store.count("list")
            assert listings <= store.count("get")
        assert store.count() < 60
        assert not await is_there(a, "another")
        assert await is_there(a, "old99")


async def test_a_directory_with_too_many_names_is_hardly_ever_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(absence, "NAMES", 15)
    store = FaultyStore(MemoryStore(page_size=10))
    async with Hosts(store, tmp_path, revalidate=LONG) as hosts:
        b = await hosts.start("b")
        for number in range(20):
            await write(b, f"old{number}", b"data")
        a = await hosts.start("a")
        store.reset_log()
        for number in range(200):
            assert not await is_there(a, f"new{number}")
        assert store.count("get") == 200
        assert store.count("list") < 20


async def test_a_listing_that_fails_is_nobodys_error(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path, revalidate=LONG, deadline=0.2) as hosts:
        a = await hosts.start("a")
        store.add(Rule(FailBefore(), "list", "manifests/*", nth=1, times=None))
        for number in range(4):
            assert not await is_there(a, f"{number}")
        assert store.count("get") == 4
        store.rules.clear()
        await write(await hosts.start("b"), "1", b"new")
        assert await is_there(a, "1")


async def test_only_so_many_directories_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(absence, "DIRECTORIES", 2)
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path, revalidate=LONG) as hosts:
        a = await hosts.start("a")
        for directory in ("x", "y", "z"):
            await a.make_directory(directory, ATTRIBUTES)
            for number in range(3):
                assert not await is_there(a, f"{directory}/{number}")
        store.reset_log()
        assert not await is_there(a, "z/3")
        assert not await is_there(a, "y/3")
        assert store.log == []
        assert not await is_there(a, "x/3")
        assert store.count("get") == 1


async def test_names_too_long_for_one_component_are_asked_for(tmp_path: Path) -> None:
    long = "%" * 200
    async with Hosts(MemoryStore(), tmp_path, revalidate=LONG) as hosts:
        await write(await hosts.start("b"), long, b"data")
        a = await hosts.start("a")
        for number in range(3):
            assert not await is_there(a, f"{number}")
        assert await is_there(a, long)
