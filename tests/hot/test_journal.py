"""The journal: rows in order, durable when a call returns, many callers in few transactions."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from stowfs.config import HotTierOptions
from stowfs.errors import HotTierFailed, HotTierFull, UnsupportedVersion
from stowfs.hot.journal import SCHEMA_VERSION, DraftRow, Journal, JournalRow
from stowfs.hot.tier import HotTier
from tests.hot.conftest import STORE_ID, Holder
from tests.hot.holder import SPOOLED


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    journal = Journal.open(path)
    yield journal
    journal.close()


async def test_rows_keep_the_order_of_their_first_record(journal: Journal) -> None:
    await journal.record(JournalRow("b", "recorded", b"1"))
    await journal.record(JournalRow("a", "recorded", b"\x00\xff"))
    await journal.record(JournalRow("c", "recorded", b""))
    await journal.record(JournalRow("b", "again", b"2"))
    await journal.advance("a", "written")
    await journal.advance("c", "written", b"3")
    assert await journal.rows() == [
        JournalRow("b", "again", b"2"),
        JournalRow("a", "written", b"\x00\xff"),
        JournalRow("c", "written", b"3"),
    ]
    await journal.remove("b")
    await journal.remove("b")
    assert [row.commit_id for row in await journal.rows()] == ["a", "c"]


async def test_drafts_keep_the_order_of_their_first_row(journal: Journal) -> None:
    await journal.change_drafts([DraftRow("b", b"1", b"base"), DraftRow("a", b"\x00\xff", None)])
    await journal.change_drafts([DraftRow("c", b"", b"")])
    await journal.change_drafts(iter([DraftRow("b", b"2", None)]))
    assert await journal.drafts() == [
        DraftRow("b", b"2", None),
        DraftRow("a", b"\x00\xff", None),
        DraftRow("c", b"", b""),
    ]
    await journal.change_drafts([DraftRow("d", b"4", None)], drop=["b", "nobody"])
    await journal.change_drafts(drop=["b"])
    await journal.change_drafts([DraftRow("b", b"again", None)])
    assert [row.draft_id for row in await journal.drafts()] == ["a", "c", "d", "b"]
    assert await journal.rows() == []


async def test_drafts_are_put_and_dropped_in_one_transaction(journal: Journal) -> None:
    await journal.change_drafts([DraftRow("old", b"1", b"base")])
    (pages,) = journal._connection.execute("PRAGMA page_count").fetchone()
    journal._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(HotTierFull, match="writing the journal"):
        await journal.change_drafts([DraftRow("new", bytes(100_000), None)], drop=["old"])
    assert await journal.drafts() == [DraftRow("old", b"1", b"base")]
    journal._connection.execute("PRAGMA max_page_count = 1000000")
    before = journal.transactions
    await journal.change_drafts([DraftRow("new", bytes(100_000), None)], drop=["old"])
    assert journal.transactions == before + 1
    assert await journal.drafts() == [DraftRow("new", bytes(100_000), None)]


async def test_commits_and_drafts_share_transactions(journal: Journal) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(journal.record, JournalRow(f"{number:03}", "recorded", b""))
            nursery.start_soon(journal.change_drafts, [DraftRow(f"{number:03}", b"", None)])
    assert (len(await journal.rows()), len(await journal.drafts())) == (100, 100)
    assert journal.transactions <= 2


async def test_advancing_an_unknown_commit_fails_for_that_caller_alone(journal: Journal) -> None:
    outcomes: list[str] = []

    async def advance_unknown() -> None:
        with pytest.raises(KeyError, match="nobody"):
            await journal.advance("nobody", "written")
        outcomes.append("refused")

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(journal.record, JournalRow(f"{number}", "recorded", b""))
            nursery.start_soon(advance_unknown)
    assert outcomes == ["refused"] * 5
    assert {row.commit_id for row in await journal.rows()} == set("01234")


async def test_concurrent_callers_share_transactions(journal: Journal) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(journal.record, JournalRow(f"{number:03}", "recorded", b"x" * 100))
    assert len(await journal.rows()) == 200
    assert journal.transactions <= 2, "everything that was waiting when the turn came"

    before = journal.transactions
    for number in range(3):
        await journal.remove(f"{number:03}")
    assert journal.transactions == before + 3, "nobody waits for company"


async def test_a_cancelled_caller_disturbs_nobody(journal: Journal) -> None:
    scopes = [trio.CancelScope(), trio.CancelScope()]

    async def record(name: str, scope: trio.CancelScope) -> None:
        with scope:
            await journal.record(JournalRow(name, "recorded", b""))

    async with trio.open_nursery() as nursery, journal._turn:
        # The first carries it out for all: it goes on. Another one that is cancelled in time changes nothing.
        nursery.start_soon(record, "first", scopes[0])
        await wait_all_tasks_blocked()
        nursery.start_soon(record, "second", scopes[1])
        nursery.start_soon(journal.record, JournalRow("patient", "recorded", b""))
        await wait_all_tasks_blocked()
        for scope in scopes:
            scope.cancel()
        await wait_all_tasks_blocked()
    assert [row.commit_id for row in await journal.rows()] == ["first", "patient"]
    assert journal.transactions == 1


async def test_commits_are_synced_to_disk(journal: Journal) -> None:
    modes = [journal._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    assert modes == ["wal", 2]


async def test_what_was_recorded_survives_a_kill(options: HotTierOptions, holder: Holder) -> None:
    with holder("mount", "commit-1") as child:
        child.kill()
        child.wait(timeout=30)
    tier = await HotTier.open(options, STORE_ID, "mount")
    try:
        assert await tier.journal.rows() == [JournalRow("commit-1", "recorded", b"payload")]
        (draft,) = await tier.journal.drafts()
        assert (draft.draft_id, draft.base) == ("commit-1", b"base")
        assert tier.spool.names() == ["commit-1"]
        file = tier.spool.open("commit-1")
        file.restore(len(SPOOLED), int(draft.payload))
        assert file.read(0, len(SPOOLED)) == SPOOLED
        assert tier.spool.used == len(SPOOLED)
    finally:
        await tier.close()


async def test_a_full_disk_fails_the_change_and_keeps_the_rest(journal: Journal) -> None:
    await journal.record(JournalRow("kept", "recorded", b"before"))
    (pages,) = journal._connection.execute("PRAGMA page_count").fetchone()
    journal._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(HotTierFull, match="writing the journal"):
        await journal.record(JournalRow("refused", "recorded", bytes(100_000)))
    await journal.advance("kept", "written")
    assert await journal.rows() == [JournalRow("kept", "written", b"before")]
    journal._connection.execute("PRAGMA max_page_count = 1000000")
    await journal.record(JournalRow("refused", "recorded", bytes(100_000)))
    assert [row.commit_id for row in await journal.rows()] == ["kept", "refused"]


async def test_after_close_it_says_so(path: Path) -> None:
    journal = Journal.open(path)
    journal.close()
    with pytest.raises(HotTierFailed, match="closed"):
        await journal.record(JournalRow("late", "recorded", b""))
    with pytest.raises(HotTierFailed, match="closed"):
        await journal.change_drafts(drop=["late"])
    for read in (journal.rows, journal.drafts):
        with pytest.raises(HotTierFailed, match="closed"):
            await read()


def test_a_damaged_journal_is_refused_and_left_alone(path: Path) -> None:
    garbage = b"not a database at all " * 1000
    path.write_bytes(garbage)
    with pytest.raises(HotTierFailed, match="is damaged"):
        Journal.open(path)
    assert path.read_bytes() == garbage


def test_a_journal_of_another_version_is_refused(path: Path) -> None:
    Journal.open(path).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(UnsupportedVersion, match=f"version {SCHEMA_VERSION + 1}"):
        Journal.open(path)
