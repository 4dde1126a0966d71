"""What a listing or a fetch ahead of a reader spares those who open the files: requests, never what is new."""

from collections.abc import Mapping
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from stowfs.vault.vault import Vault
from tests.support.faults import FailBefore, FaultyStore, Rule, Stall
from tests.support.vaults import Hosts, append, read, write

BELIEVED = 100.0
NAMES = [f"{number:02d}" for number in range(40)]


@pytest.fixture
def options() -> Mapping[str, Any]:
    return {"revalidate": BELIEVED}


async def made(hosts: Hosts) -> Vault:
    """A host that has written some files; the others know nothing."""
    a = await hosts.start("a")
    for name in NAMES:
        await write(a, name, name.encode())
    return a


async def test_what_a_listing_has_fetched_is_opened_without_asking_again(
    hosts: Hosts, faulty: FaultyStore, mock_clock: MockClock
) -> None:
    await made(hosts)
    b = await hosts.start("b")
    await b.list_versions("")
    faulty.reset_log()
    for name in NAMES:
        assert await read(b, name) == name.encode()
    assert faulty.log == []
    mock_clock.jump(BELIEVED)
    assert await read(b, NAMES[0]) == NAMES[0].encode()
    assert faulty.counts() == {("get", "manifests"): 1}


async def test_a_listing_hides_nothing_that_was_done_here_since(hosts: Hosts) -> None:
    await made(hosts)
    b = await hosts.start("b")
    await b.list_versions("")
    await append(b, "00", b" and more")
    assert await read(b, "00") == b"00 and more"
    await b.remove("01")
    await b.rename("02", "03")
    with pytest.raises(Exception, match="no such"):
        await read(b, "01")
    assert await read(b, "03") == b"02"


async def test_where_every_open_has_to_ask_it_asks(hosts: Hosts, faulty: FaultyStore) -> None:
    await made(hosts)
    b = await hosts.start("b", revalidate=0.0)
    await b.list_versions("")
    faulty.reset_log()
    b.fetch_ahead(NAMES)
    await read(b, "00")
    assert faulty.counts() == {("get", "manifests"): 1}


async def test_who_opens_what_is_being_fetched_waits_for_that(hosts: Hosts, faulty: FaultyStore) -> None:
    await made(hosts)
    b = await hosts.start("b")
    stall = Stall()
    faulty.add(Rule(stall, "get", "manifests/*", times=None))
    faulty.reset_log()
    got: dict[str, bytes] = {}

    async def open_and_read(name: str) -> None:
        got[name] = await read(b, name)

    async with trio.open_nursery() as nursery:
        # This one asks by itself, and is not fetched another time.
        nursery.start_soon(open_and_read, NAMES[0])
        await stall.reached.wait()
        b.fetch_ahead(NAMES)
        b.fetch_ahead(NAMES)
        for name in NAMES[1:]:
            nursery.start_soon(open_and_read, name)
        await trio.sleep(0.05)
        assert not got
        stall.go.set()
    assert got == {name: name.encode() for name in NAMES}
    assert faulty.counts() == {("get", "manifests"): len(NAMES)}


async def test_what_could_not_be_fetched_ahead_is_fetched_by_who_opens_it(hosts: Hosts, faulty: FaultyStore) -> None:
    await made(hosts)
    b = await hosts.start("b")
    failing = faulty.add(Rule(FailBefore(), "get", "manifests/*", nth=1, times=len(NAMES)))
    b.fetch_ahead(NAMES)
    with trio.fail_after(30):
        while failing.seen < len(NAMES):  # noqa: ASYNC110 - the rule only counts
            await trio.sleep(0.01)
    for name in NAMES:
        assert await read(b, name) == name.encode()


async def test_what_is_fetched_again_before_the_others_are_there_is_fetched(
    hosts: Hosts, faulty: FaultyStore, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    await made(hosts)
    b = await hosts.start("b")
    slow, again = Stall(), Stall()
    faulty.add(Rule(slow, "get", "manifests/01.json"))
    faulty.add(Rule(again, "get", "manifests/00.json", nth=2))
    b.fetch_ahead(["00", "01"])
    await slow.reached.wait()
    assert await read(b, "00") == b"00"
    mock_clock.jump(BELIEVED)
    b.fetch_ahead(["00"])
    await again.reached.wait()
    slow.go.set()
    assert await read(b, "01") == b"01"
    await wait_all_tasks_blocked()
    again.go.set()
    assert await read(b, "00") == b"00"
    await wait_all_tasks_blocked()
    assert "unexpectedly" not in caplog.text
