"""What a truncation that failed leaves as it was: what is known of the commits before it, too."""

import random

import pytest
import trio

from stowfs.errors import FileTooLarge, StoreUnavailable
from stowfs.vault.draft import SIZE_LIMIT
from tests.support.faults import FailAfter, FailBefore, FaultyStore, Rule, Stall
from tests.support.vaults import Hosts, read, write
from tests.support.view import View

MANIFEST = "manifests/x.json"
BESIDE = "manifests/x.conflict-*"

LARGE = random.Random(1).randbytes(1 << 20)
"""More than lies in a manifest."""


@pytest.fixture
def options() -> dict[str, float]:
    return {"deadline": 0.3}


async def test_what_is_appended_is_there_once_where_a_truncation_fails_while_it_is_on_its_way(
    hosts: Hosts, faulty: FaultyStore
) -> None:
    other = await hosts.start("other")
    await write(other, "x", b"begin\n")
    view = View(await hosts.start("this", asynchronous=True))
    inode = await view.open_files.open_path("x", writing=True)
    await view.contents.write(inode, 6, LARGE, appending=True)
    await view.commits.commit(inode)

    async def flush_without_an_answer() -> None:
        with pytest.raises(StoreUnavailable):
            await view.commits.flush(inode)

    stalled = Stall()
    faulty.add(Rule(stalled, "put", "segments/*", nth=1))
    faulty.add(Rule(FailAfter(), "put", MANIFEST, nth=1))
    faulty.add(Rule(FailBefore(), "put", MANIFEST, nth=2, times=None))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flush_without_an_answer)
        await stalled.reached.wait()
        with pytest.raises(FileTooLarge):
            await view.contents.truncate_at_once(inode, SIZE_LIMIT + 1)
        faulty.add(Rule(FailBefore(), "get", MANIFEST))
        stalled.go.set()
    faulty.rules.clear()
    await view.commits.flush(inode)
    assert await read(other, "x") == b"begin\n" + LARGE


async def test_an_edit_that_lost_is_kept_once_where_a_truncation_fails_before_that_is_known(
    hosts: Hosts, faulty: FaultyStore
) -> None:
    other = await hosts.start("other")
    await write(other, "x", b"base text")
    view = View(await hosts.start("this"))
    inode = await view.open_files.open_path("x", writing=True)
    await view.contents.write(inode, 0, b"EDIT", appending=False)
    await write(other, "x", b"theirs")
    faulty.add(Rule(FailAfter(), "put", BESIDE, nth=1))
    faulty.add(Rule(FailBefore(), "put", BESIDE, nth=2, times=None))
    faulty.add(Rule(FailBefore(), "get", BESIDE))
    with pytest.raises(StoreUnavailable):
        await view.commits.commit(inode)
    faulty.rules.clear()
    faulty.down = True
    with pytest.raises(StoreUnavailable):
        await view.contents.truncate_at_once(inode, 3)
    faulty.down = False
    await view.commits.commit(inode)
    x, kept = [name for name, _ in (await other.listing("")).entries]
    assert [await read(other, name) for name in (x, kept)] == [b"theirs", b"EDIT text"]
