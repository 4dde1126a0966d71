"""Listings that are shown again: never without what this host has done or learnt since."""

import os
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from trio.testing import MockClock

from stowfs.errors import NoSuchPath
from stowfs.store.memory import MemoryStore
from stowfs.vault import recent_listings
from stowfs.vault.listing_ahead import DirectoryRead
from stowfs.vault.manifest import Attributes
from stowfs.vault.recent_listings import RecentListings
from stowfs.vault.vault import Vault
from stowfs.vault.version import Version, encode
from tests.support.faults import FaultyStore
from tests.support.vaults import Hosts, append, read, write

BELIEVED = 100.0
ATTRIBUTES = Attributes(0o755, 0, 0, 0, 0)


@pytest.fixture
def options() -> Mapping[str, Any]:
    return {"revalidate": BELIEVED}


async def made(hosts: Hosts) -> Vault:
    a = await hosts.start("a")
    await a.make_directory("d", ATTRIBUTES)
    for name in ("x", "y", "z"):
        await write(a, f"d/{name}", name.encode())
    await a.listing("d")
    # The first one after a change may notice that.
    await a.listing("d")
    return a


async def test_a_directory_is_listed_once_in_half_the_revalidation_time(
    hosts: Hosts, faulty: FaultyStore, mock_clock: MockClock
) -> None:
    a = await made(hosts)
    faulty.reset_log()
    first = await a.listing("d")
    assert [name for name, _ in first.entries] == ["x", "y", "z"]
    assert faulty.log == []
    mock_clock.jump(BELIEVED / 2)
    second = await a.listing("d")
    assert second.entries == first.entries
    assert second.asked > first.asked
    assert faulty.counts()["list", "manifests"] == 1
    # Who goes through it has the other half for that.
    mock_clock.jump(BELIEVED / 2 - 1)
    faulty.reset_log()
    assert await read(a, "d/x") == b"x"
    assert faulty.log == []


async def test_where_everything_has_to_be_asked_for_it_is(hosts: Hosts, faulty: FaultyStore) -> None:
    await made(hosts)
    b = await hosts.start("b", revalidate=0.0)
    await b.listing("d")
    faulty.reset_log()
    await b.listing("d")
    assert faulty.counts()["list", "manifests"] == 1


CHANGES: list[Callable[[Vault], Awaitable[object]]] = [
    lambda a: write(a, "d/new", b"new"),
    lambda a: write(a, "d/x", b"written anew"),
    lambda a: append(a, "d/x", b" and more"),
    lambda a: a.remove("d/x"),
    lambda a: a.rename("d/x", "d/y"),
    lambda a: a.rename("d/x", "d/other"),
    lambda a: a.rename("d/x", "moved away"),
    lambda a: a.make_directory("d/directory", ATTRIBUTES),
    lambda a: a.make_symlink("d/link", b"x", ATTRIBUTES),
]


@pytest.mark.parametrize("change", CHANGES)
async def test_what_this_host_does_shows_at_once(hosts: Hosts, change: Callable[[Vault], Awaitable[object]]) -> None:
    a = await made(hosts)
    before = (await a.listing("d")).entries
    await change(a)
    after = (await a.listing("d")).entries
    assert after != before
    assert after == await a.list_versions("d") == (await a.listing("d")).entries


async def test_a_directory_that_was_removed_is_not_shown_again(hosts: Hosts) -> None:
    a = await made(hosts)
    await a.make_directory("d/e", ATTRIBUTES)
    for _ in range(2):
        assert (await a.listing("d/e")).entries == []
    await a.remove_directory("d/e")
    with pytest.raises(NoSuchPath):
        await a.listing("d/e")


async def test_what_is_done_while_a_directory_is_listed_is_not_missed_afterwards(
    hosts: Hosts, faulty: FaultyStore, mock_clock: MockClock
) -> None:
    a = await made(hosts)
    mock_clock.jump(BELIEVED / 2)
    async with faulty.held("list", "manifests/d/*", a.listing, "d"):
        await write(a, "d/new", b"new")
    assert [name for name, _ in (await a.listing("d")).entries] == ["new", "x", "y", "z"]


async def test_what_is_learnt_of_others_shows_in_the_listing(hosts: Hosts) -> None:
    a = await made(hosts)
    b = await hosts.start("b")
    await write(b, "d/new", b"new")
    await write(b, "d/x", b"changed")
    assert [name for name, _ in (await a.listing("d")).entries] == ["x", "y", "z"]
    assert await read(a, "d/new") == b"new"
    listed = dict((await a.listing("d")).entries)
    assert listed == dict(await b.list_versions("d"))


async def test_only_so_much_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_listings, "MEMORY", 3 * recent_listings.OVERHEAD)
    listings = RecentListings(MemoryStore(), revalidate=BELIEVED)
    version = encode(Version("commit", ATTRIBUTES, 0))
    asked: list[str] = []

    async def read(directory: str, names: int) -> None:
        async def ask(read: DirectoryRead) -> recent_listings.Entries:
            asked.append(directory)
            return [(secrets.token_hex(20), version) for _ in range(names)]

        await listings.read(directory, ask)

    for directory in ("a", "b", "a", "c", "a", "b"):
        await read(directory, 2)
    # One that is too large drives out no other.
    for _ in range(2):
        await read("large", 60)
        await read("b", 2)
    assert asked == ["a", "b", "c", "b", "large", "large"]
    assert listings._listings.used <= recent_listings.MEMORY


@pytest.mark.parametrize("count", [0, 1, recent_listings.SMALL, 3 * recent_listings.SMALL])
async def test_what_is_shown_again_is_what_was_listed(count: int) -> None:
    listings = RecentListings(MemoryStore(), revalidate=BELIEVED)
    names = sorted(os.fsdecode(b"\xff%d \n\xc3\xa9" % number) for number in range(count))
    entries = [(name, encode(Version(str(number), ATTRIBUTES, number))) for number, name in enumerate(names)]

    async def ask(read: DirectoryRead) -> recent_listings.Entries:
        return entries

    async def ask_again(read: DirectoryRead) -> recent_listings.Entries:
        raise AssertionError("it was listed just now")

    first = await listings.read("d", ask)
    assert await listings.read("d", ask_again) == first
    assert first.entries == entries
