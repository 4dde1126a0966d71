"""Commits that are gathered: which of them, what they cost, and what becomes of them where that fails."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from stowfs.errors import CorruptObject, NoSuchPath, PathExists, StowError
from stowfs.store.base import IF_ABSENT
from stowfs.vault import bundle as bundles
from stowfs.vault.bundle import BODY_LIMIT, ENOUGH
from stowfs.vault.naming import MANIFESTS
from stowfs.vault.ring import new_id
from stowfs.vault.vault import Vault
from tests.support.audit import audit
from tests.support.faults import FailBefore, FaultyStore, Rule
from tests.support.together import at_once, bundled, patient, write_together
from tests.support.vaults import ATTRIBUTES, Hosts, append, read, write
from tests.vault.test_promises import log_lines, noise

__all__ = ["patient"]

MANY = {f"d/{number:03}": b'{"role":"user","content":"%d"}\n' % number for number in range(100)}
LARGE = noise(2 * BODY_LIMIT)
"""What makes no small manifest: what does not compress lies inline up to a limit, or is a segment of its own."""


@pytest.fixture
def options() -> Mapping[str, Any]:
    return {"bundles": True}


@pytest.fixture
async def vault(hosts: Hosts) -> Vault:
    """A host with a directory d that may have bundles."""
    vault = await hosts.start("a")
    await vault.make_directory("d", ATTRIBUTES)
    return vault


async def contents(vault: Vault, directory: str = "d") -> dict[str, bytes]:
    return {entry.path: await read(vault, entry.path) for entry in await vault.list_directory(directory)}


async def test_many_cost_few_requests(vault: Vault, hosts: Hosts, faulty: FaultyStore) -> None:
    faulty.reset_log()
    await write_together(vault, MANY)
    await vault.drain()
    assert faulty.count() <= 3 * -(-len(MANY) // ENOUGH), faulty.counts()
    assert await bundled(faulty.inner) == {path.removeprefix("d/") for path in MANY}
    assert await contents(vault) == MANY
    assert await contents(await hosts.start("b")) == MANY
    assert (await audit(faulty.inner)).exact


async def test_one_alone_is_not_bundled(vault: Vault, faulty: FaultyStore, autojump_clock: None) -> None:
    faulty.reset_log()
    started = trio.current_time()
    await write(vault, "d/x", b"alone")
    assert trio.current_time() == started, "it waits for nobody"
    assert await bundled(faulty.inner) == set()
    assert faulty.count("put") == 1
    assert await read(vault, "d/x") == b"alone"


async def test_one_after_the_other_are_not_bundled(vault: Vault, faulty: FaultyStore) -> None:
    for number in range(3):
        await write(vault, f"d/{number}", b"alone")
    assert await bundled(faulty.inner) == set()


async def test_the_root_has_no_bundles(vault: Vault, faulty: FaultyStore) -> None:
    await write_together(vault, {"x": b"x", "y": b"y"})
    assert not [key async for page in faulty.inner.list(f"{MANIFESTS}%+") for key in page.objects]
    assert (await read(vault, "x"), await read(vault, "y")) == (b"x", b"y")


async def test_a_directory_without_bundles_gets_none(hosts: Hosts, faulty: FaultyStore) -> None:
    other = await hosts.start("b", bundles=False)
    await other.make_directory("d", ATTRIBUTES)
    await write_together(await hosts.start("a"), {"d/x": b"x", "d/y": b"y"})
    assert await bundled(faulty.inner) == set()


async def test_a_directory_that_was_not_made_gets_none(hosts: Hosts, faulty: FaultyStore) -> None:
    """Whether it is to have any is known from the manifest of a directory, and this one has none."""
    await write_together(await hosts.start("a"), {"d/x": b"x", "d/y": b"y"})
    assert await bundled(faulty.inner) == set()


async def test_a_store_of_the_first_version_gets_none(hosts: Hosts, faulty: FaultyStore) -> None:
    assert hosts.descriptor is not None
    hosts.descriptor = msgspec.structs.replace(hosts.descriptor, v=1)
    vault = await hosts.start("a")
    await vault.make_directory("d", ATTRIBUTES)
    faulty.reset_log()
    await write_together(vault, {"d/x": b"x", "d/y": b"y"})
    assert faulty.counts() == {("put", "manifests"): 2}
    with pytest.raises(NoSuchPath):
        await vault.head("d/z")
    assert faulty.count("list") == 0
    assert await bundled(faulty.inner) == set()


@pytest.mark.parametrize("first", [True, False])
async def test_whatever_comes_after_a_directory_keeps_whether_it_may_have_any(
    hosts: Hosts, faulty: FaultyStore, first: bool
) -> None:
    vault, other = await hosts.start("a", bundles=first), await hosts.start("b", bundles=not first)
    await vault.make_directory("d", ATTRIBUTES)
    await vault.remove_directory("d")
    await write(other, "d", b"a conversation")
    await other.set_attributes("d", mode=0o600)
    await other.remove("d")
    await write(other, "x", b"another")
    await other.rename("x", "d")
    await other.remove("d")
    await other.make_directory("d", ATTRIBUTES)
    for host in (vault, other, await hosts.start("c", bundles=True)):
        assert (await host.head("d")).manifest.bundles is first
    await write_together(await hosts.start("d", bundles=True), {"d/x": b"x", "d/y": b"y"})
    assert await bundled(faulty.inner) == ({"x", "y"} if first else set())


async def test_who_does_not_bundle_reads_and_writes_bundled_directories(
    vault: Vault, hosts: Hosts, faulty: FaultyStore
) -> None:
    await write_together(vault, {"d/x": b"x", "d/y": b"y"})
    other = await hosts.start("b", bundles=False)
    await write_together(other, {"d/v": b"v", "d/w": b"w"})
    await append(other, "d/x", b"!")
    await other.remove("d/y")
    assert await bundled(faulty.inner) == {"x", "y"}
    expected = {"d/v": b"v", "d/w": b"w", "d/x": b"x!"}
    for host in (vault, other, await hosts.start("c")):
        assert await contents(host) == expected
    await vault.drain()
    await other.drain()
    assert (await audit(faulty.inner)).exact


async def test_a_directory_keeps_its_bundles(vault: Vault, hosts: Hosts, faulty: FaultyStore) -> None:
    """A directory that is removed and made again by who does not bundle is what it was."""
    other = await hosts.start("b", bundles=False)
    await other.remove_directory("d")
    await other.make_directory("d", ATTRIBUTES)
    await write_together(vault, {"d/x": b"x", "d/y": b"y"})
    assert await bundled(faulty.inner) == {"x", "y"}
    assert await contents(other) == {"d/x": b"x", "d/y": b"y"}


async def test_each_directory_has_its_own(vault: Vault, hosts: Hosts, faulty: FaultyStore) -> None:
    await vault.make_directory("e", ATTRIBUTES)
    together = {"d/x": b"d", "d/y": b"d", "e/x": b"e", "e/y": b"e"}
    await write_together(vault, together)
    keys = [info.key async for page in faulty.inner.list(MANIFESTS) for info in page.objects]
    assert sorted(key.partition("%+")[0] for key in keys if "%+" in key) == [f"{MANIFESTS}d/", f"{MANIFESTS}e/"]
    other = await hosts.start("b")
    assert await contents(other) | await contents(other, "e") == together


async def test_what_is_large_is_by_itself(vault: Vault, faulty: FaultyStore) -> None:
    """With a lot inline, which does not compress; and with segments, whose manifest is small."""
    together = {"d/x": noise(60_000), "d/y": b"y", "d/z": b"z", "d/long": LARGE, "d/lines": log_lines(700)}
    await write_together(vault, together)
    await vault.drain()
    sizes = {info.key: info.size async for page in faulty.inner.list(f"{MANIFESTS}d/") for info in page.objects}
    in_bundles = await bundled(faulty.inner)
    assert {"y", "z"} <= in_bundles
    by_themselves = {path.removeprefix("d/") for path in together} - in_bundles
    for name in by_themselves:
        assert sizes[f"{MANIFESTS}d/{name}.json"] > BODY_LIMIT
    assert await contents(vault) == together
    assert (await audit(faulty.inner)).exact


async def test_a_name_that_is_taken_is_left_to_who_has_it(vault: Vault, hosts: Hosts, faulty: FaultyStore) -> None:
    other = await hosts.start("b")
    await write(other, "d/x", b"first")
    outcomes: dict[str, str] = {}

    async def create(path: str) -> None:
        try:
            await write(vault, path, b"second", exclusive=True)
            outcomes[path] = "created"
        except PathExists:
            outcomes[path] = "exists"

    await at_once(partial(create, path) for path in ("d/x", "d/y", "d/z"))
    assert outcomes == {"d/x": "exists", "d/y": "created", "d/z": "created"}
    assert await contents(other) == {"d/x": b"first", "d/y": b"second", "d/z": b"second"}
    assert await bundled(faulty.inner) == {"y", "z"}


async def test_one_name_twice_at_once(vault: Vault, faulty: FaultyStore) -> None:
    """A bundle has a name once. Exactly one of those that create it is told so."""
    winners: list[int] = []

    async def create(path: str, number: int) -> None:
        try:
            await write(vault, path, b"%d" % number, exclusive=True)
        except PathExists:
            return
        winners.append(number)

    await at_once(partial(create, "d/x", number) for number in range(4))
    assert len(winners) == 1
    assert await read(vault, "d/x") == b"%d" % winners[0]
    await vault.drain()
    assert (await audit(faulty.inner)).exact


async def test_two_hosts_that_bundle_the_same_names(vault: Vault, hosts: Hosts, faulty: FaultyStore) -> None:
    other = await hosts.start("b")
    winners: dict[str, list[bytes]] = {path: [] for path in MANY}

    async def create(host: Vault, path: str, data: bytes) -> None:
        try:
            await write(host, path, data, exclusive=True)
        except PathExists:
            return
        winners[path].append(data)

    await at_once(partial(create, host, path, name) for path in MANY for host, name in ((vault, b"a"), (other, b"b")))
    assert all(len(found) == 1 for found in winners.values()), winners
    expected = {path: found[0] for path, found in winners.items()}
    for host in (vault, other, await hosts.start("c")):
        assert await contents(host) == expected
    await vault.drain()
    await other.drain()
    assert (await audit(faulty.inner)).exact


async def test_what_is_bundled_is_an_ordinary_conversation(vault: Vault, hosts: Hosts, faulty: FaultyStore) -> None:
    await write_together(vault, {"d/x": log_lines(700, 1), "d/y": log_lines(700, 1), "d/z": b"z"})
    other = await hosts.start("b")
    await append(other, "d/x", b"more")
    await vault.rename("d/y", "d/w")
    await other.remove("d/z")
    with pytest.raises(NoSuchPath):
        await vault.head("d/z")
    await write(vault, "d/z", b"again", exclusive=True)
    assert await read(other, "d/z") == b"again"
    for host in (vault, other, await hosts.start("c")):
        assert await contents(host) == {"d/x": log_lines(700, 1) + b"more", "d/w": log_lines(700, 1), "d/z": b"again"}
    await vault.drain()
    await other.drain()
    assert (await audit(faulty.inner)).exact


@pytest.mark.parametrize("nth", [1, 2])
async def test_an_error_reaches_all_that_wait(hosts: Hosts, faulty: FaultyStore, nth: int) -> None:
    vault = await hosts.start("a", deadline=0.1)
    await vault.make_directory("d", ATTRIBUTES)
    failed: list[str] = []

    async def create(path: str) -> None:
        try:
            await write(vault, path, b"x")
        except StowError:
            failed.append(path)

    rule = faulty.add(Rule(FailBefore(), "put", f"{MANIFESTS}d/*", nth=nth, times=None))
    await at_once(partial(create, path) for path in ("d/x", "d/y", "d/z"))
    assert sorted(failed) == ["d/x", "d/y", "d/z"]
    faulty.rules.remove(rule)
    assert await vault.drain(10) == 0
    assert (await audit(faulty.inner)).exact
    await write_together(vault, {"d/x": b"x", "d/y": b"y", "d/z": b"z"})
    assert await contents(vault) == {"d/x": b"x", "d/y": b"y", "d/z": b"z"}


async def test_a_damaged_bundle_is_an_error_of_all(vault: Vault, faulty: FaultyStore) -> None:
    """Whose names it holds nobody knows."""
    await faulty.inner.put(bundles.key_of(f"{MANIFESTS}d/", new_id()), b"damaged", IF_ABSENT)
    errors: list[str] = []

    async def create(path: str) -> None:
        with pytest.raises(CorruptObject):
            await write(vault, path, b"x")
        errors.append(path)

    await at_once(partial(create, path) for path in ("d/x", "d/y", "d/z"))
    assert sorted(errors) == ["d/x", "d/y", "d/z"]
    await write(vault, "elsewhere", b"x")
    assert await read(vault, "elsewhere") == b"x"


async def test_who_gives_up_does_not_hold_up_the_others(vault: Vault, faulty: FaultyStore) -> None:
    """A commit that is cancelled while it waits: the others are acknowledged, and it comes to nothing or to all."""
    scope = trio.CancelScope()

    async def cancelled() -> None:
        with scope:
            await write(vault, "d/x", b"x")

    held = faulty.held("put", f"{MANIFESTS}d/%+*", write_together, vault, {"d/y": b"y", "d/z": b"z"})
    async with trio.open_nursery() as nursery, held:
        nursery.start_soon(cancelled)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
    assert await vault.drain(10) == 0
    found = await contents(vault)
    assert found.pop("d/x", b"x") == b"x"
    assert found == {"d/y": b"y", "d/z": b"z"}
    assert (await audit(faulty.inner)).exact
