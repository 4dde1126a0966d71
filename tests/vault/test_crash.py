"""The crash matrix: every kind of commit, every store request in it, every way it can go wrong; then recovery.

Afterwards the conversation is the old one or the new one, whole; what was acknowledged is the new one; and no
reference is counted wrongly. Requests are found by counting: a commit is repeated with trouble at its first, second,
… request until one run goes through untroubled.
"""

import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from stowfs.errors import NoSuchPath
from stowfs.store.memory import MemoryStore
from stowfs.vault.vault import Vault
from tests.support.audit import audit
from tests.support.crash import check_counts, crash_with_trouble, until_untroubled
from tests.support.faults import TROUBLE, FaultyStore, Rule, Stall
from tests.support.vaults import Hosts, append, edit, read, write
from tests.vault.test_promises import log_lines, noise

# Several segments and a tail; the other shares some of them.
OLD = log_lines(700, 1) + noise(200_000, 1)
NEW = log_lines(700, 1) + log_lines(300, 2)
TARGET = log_lines(500, 3)
# Nothing of it compresses: every segment is too large for its record.
LARGE = noise(600_000, 2)
TURN = log_lines(250, 4)

State = dict[str, bytes]


@dataclass(frozen=True)
class Kind:
    """A commit: what is there before it (none of it shared with `bystander`), what it does, what is there after it."""

    before: State
    do: Callable[[Vault], Awaitable[object]]
    after: State
    between: State | None = None
    """A rename may leave both names for a while."""


async def _replace(vault: Vault) -> None:
    await write(vault, "x", NEW, await vault.head("x"))


KINDS = {
    "create": Kind({}, lambda v: write(v, "x", NEW), {"x": NEW}),
    "create with redirected payloads": Kind({}, lambda v: write(v, "x", LARGE), {"x": LARGE}),
    "create exclusively": Kind({}, lambda v: write(v, "x", NEW, exclusive=True), {"x": NEW}),
    "replace": Kind({"x": OLD}, _replace, {"x": NEW}),
    "append": Kind({"x": OLD}, lambda v: append(v, "x", TURN), {"x": OLD + TURN}),
    "edit": Kind({"x": OLD}, lambda v: edit(v, "x", 100, b"!"), {"x": OLD[:100] + b"!" + OLD[101:]}),
    "delete": Kind({"x": OLD}, lambda v: v.remove("x"), {}),
    "rename": Kind({"x": OLD}, lambda v: v.rename("x", "y"), {"y": OLD}, {"x": OLD, "y": OLD}),
    "rename over": Kind({"x": OLD, "y": TARGET}, lambda v: v.rename("x", "y"), {"y": OLD}, {"x": OLD, "y": OLD}),
    "attributes": Kind({"x": OLD}, lambda v: v.set_attributes("x", mode=0o600), {"x": OLD}),
}


async def _state(vault: Vault) -> State:
    found = {}
    for path in ("x", "y"):
        try:
            found[path] = await read(vault, path)
        except NoSuchPath:
            continue
    return found


@pytest.mark.parametrize("trouble", TROUBLE)
@pytest.mark.parametrize("kind", KINDS)
async def test_commit_is_all_or_nothing(kind: str, trouble: str, tmp_path: Path) -> None:
    await until_untroubled(partial(_run, KINDS[kind], trouble), tmp_path)


async def _run(kind: Kind, trouble: str, nth: int, store: FaultyStore, directory: Path) -> bool:
    """One commit with trouble at its `nth` request; whether it had that many."""
    async with Hosts(store, directory) as hosts:
        vault = await hosts.start("a")
        for path, data in {**kind.before, "bystander": log_lines(700, 1)}.items():
            await write(vault, path, data)
        await vault.drain()
        crashed = await crash_with_trouble(hosts, "a", store, partial(kind.do, vault), trouble, nth)
        vault = crashed.vault
        assert await vault.drain(10) == 0
        outcomes = await store.carry_out_late()
        state = await _state(vault)
        if crashed.acknowledged:
            assert state == kind.after, (trouble, nth)
        else:
            assert state in (kind.before, kind.after, kind.between), (trouble, nth, [*state])
        assert await _state(await hosts.start("b")) == state
        check_counts(await audit(store.inner), trouble, nth, outcomes)
        # Life goes on, on top of whatever recovery left behind.
        for path in state:
            await append(vault, path, TURN)
            assert await read(vault, path) == state[path] + TURN
        if not state:
            await write(vault, "x", OLD, exclusive=True)
        assert await read(vault, "bystander") == log_lines(700, 1)
        await vault.drain(10)
        check_counts(await audit(store.inner), trouble, nth, outcomes)
        return crashed.troubled


@pytest.mark.parametrize("column", ["payload", "phase"])
async def test_a_row_that_is_damaged_is_said_and_given_up_and_the_others_are_settled(
    column: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        vault = await hosts.start("a")
        await write(vault, "bystander", OLD)
        for path in ("damaged", "sound"):
            stalled = Stall()
            store.add(Rule(stalled, "put", f"manifests/{path}.json"))
            hosts.start_soon("a", partial(write, vault, path, NEW))
            await stalled.reached.wait()
        left = {row.path: row.commit for _, row in await vault.under_way()}
        await hosts.crash("a")
        store.rules.clear()
        journal = sqlite3.connect(next((tmp_path / "a" / "state").glob("*/test")) / "journal.db")
        with closing(journal), journal:
            journal.execute(f"UPDATE commits SET {column} = '{{' WHERE commit_id = ?", (left["damaged"],))
        vault = await hosts.start("a")
        assert f"commit {left['damaged']}, left in phase" in caplog.text
        assert await vault.drain(10) == 0
        assert await vault.under_way() == []
        assert await read(vault, "bystander") == OLD
        # What the damaged row says has been counted cannot be told any more: too much is.
        counts = await audit(store.inner)
        assert counts.safe
        assert counts.too_high
        await write(vault, "damaged", NEW)
        assert await read(vault, "damaged") == NEW
