"""The crash matrix with `commit=async`: acknowledged first, committed later, with trouble at every store request.

What was acknowledged is there in the end, once and whole, whatever happened to its commit; and no reference is counted
wrongly. As in `test_crash`, requests are found by counting.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from stowfs.locks import Lock
from stowfs.vault.backlog import Unshown
from stowfs.vault.draft import Draft
from stowfs.vault.vault import Vault
from tests.support.audit import audit
from tests.support.crash import check_counts, until_untroubled
from tests.support.faults import TROUBLE, Action, FaultyStore, Rule
from tests.support.vaults import ATTRIBUTES, Hosts, append, flush, read, write
from tests.vault.test_crash import LARGE, NEW, OLD, TURN, State, _state
from tests.vault.test_promises import log_lines


@dataclass(frozen=True)
class Kind:
    """What is there before, what is done to a draft of "x" and acknowledged, and what is there in the end."""

    before: State
    do: Callable[[Vault], Awaitable[Draft]]
    after: State
    more: Callable[[Draft], None] | None = None
    """What is done to it, and acknowledged too, while the first commit is under way; and what is there then."""
    after_more: State | None = None


async def _create(vault: Vault, data: bytes, *, exclusive: bool = False) -> Draft:
    draft = vault.draft("x", None, ATTRIBUTES)
    draft.exclusive = exclusive
    draft.write(0, data)
    return draft


async def _replace(vault: Vault) -> Draft:
    base = await vault.head("x")
    draft = vault.draft("x", base, base.attributes)
    draft.truncate(0)
    draft.write(0, NEW)
    return draft


async def _append(vault: Vault) -> Draft:
    base = await vault.head("x")
    draft = vault.draft("x", base, base.attributes, appending=True)
    draft.write(base.size, TURN)
    return draft


async def _edit(vault: Vault) -> Draft:
    base = await vault.head("x")
    draft = vault.draft("x", base, base.attributes)
    draft.write(100, b"!")
    return draft


EDITED = OLD[:100] + b"!" + OLD[101:]


def _more(draft: Draft) -> None:
    draft.write(draft.size, b"and more")


def _other(draft: Draft) -> None:
    draft.truncate(0)
    draft.write(0, LARGE)


def _inside(draft: Draft) -> None:
    draft.write(50, b"?")


KINDS = {
    "create": Kind({}, lambda v: _create(v, NEW), {"x": NEW}, _more, {"x": NEW + b"and more"}),
    "create a small one": Kind(
        {}, lambda v: _create(v, b"few"), {"x": b"few"}, _inside, {"x": b"few" + bytes(47) + b"?"}
    ),
    "create with redirected payloads": Kind({}, lambda v: _create(v, LARGE), {"x": LARGE}),
    "create exclusively": Kind({}, lambda v: _create(v, NEW, exclusive=True), {"x": NEW}, _other, {"x": LARGE}),
    "replace": Kind({"x": OLD}, _replace, {"x": NEW}, _more, {"x": NEW + b"and more"}),
    "append": Kind({"x": OLD}, _append, {"x": OLD + TURN}, _more, {"x": OLD + TURN + b"and more"}),
    "edit": Kind({"x": OLD}, _edit, {"x": EDITED}, _inside, {"x": EDITED[:50] + b"?" + EDITED[51:]}),
}


CASES = [(kind, False) for kind in KINDS] + [(kind, True) for kind in KINDS if KINDS[kind].more]


@pytest.mark.parametrize("trouble", TROUBLE)
@pytest.mark.parametrize(("kind", "more"), CASES)
async def test_what_is_acknowledged_reaches_the_store(kind: str, trouble: str, more: bool, tmp_path: Path) -> None:
    await until_untroubled(partial(_run, KINDS[kind], more, trouble), tmp_path)


async def _run(kind: Kind, more: bool, trouble: str, nth: int, store: FaultyStore, directory: Path) -> bool:
    """One commit with trouble at its `nth` request; whether it had that many."""
    async with Hosts(store, directory, asynchronous=True, deadline=0.5) as hosts:
        vault = await hosts.start("a")
        for path, data in {**kind.before, "bystander": log_lines(700, 1)}.items():
            await write(vault, path, data)
        await vault.drain()
        draft = await kind.do(vault)
        action = TROUBLE[trouble]()
        store.reset_log()
        rule = store.add(Rule(action, nth=nth))
        await vault.acknowledge(draft)
        assert store.count() == 0, "acknowledging costs no request"
        expected = kind.after
        await _attempt(hosts, vault, draft, action, kind.more if more else None)
        if more:
            assert kind.after_more is not None
            expected = kind.after_more
        await hosts.crash("a")
        happened = rule.seen >= nth
        store.rules.clear()
        vault = await hosts.start("a")
        await flush(vault)
        assert await vault.drain(10) == 0
        outcomes = await store.carry_out_late()
        assert await _state(vault) == expected, (trouble, nth)
        assert vault.backlog.drafts == []
        host = await hosts.start("b")
        assert await _state(host) == expected
        check_counts(await audit(store.inner), trouble, nth, outcomes)
        await append(vault, "x", TURN)
        assert await read(vault, "x") == expected["x"] + TURN
        assert await read(vault, "bystander") == log_lines(700, 1)
        assert {entry.path async for entry in vault.walk()} == {"x", "bystander"}, "nothing was kept beside it"
        await vault.drain(10)
        check_counts(await audit(store.inner), trouble, nth, outcomes)
        return happened


async def _attempt(
    hosts: Hosts, vault: Vault, draft: Draft, action: Action, more: Callable[[Draft], None] | None
) -> None:
    """Commits what is acknowledged, until that ends or is held at the troubled request; `more` happens meanwhile."""
    lock = Lock()

    async def write_more() -> None:
        # The flush has frozen the draft by now.
        assert more is not None
        async with lock:
            more(draft)
            await vault.acknowledge(draft)

    flush_draft = partial(vault.backlog.flush, draft, lock, Unshown)
    await hosts.attempt("a", flush_draft, action, meanwhile=write_more if more else None)
