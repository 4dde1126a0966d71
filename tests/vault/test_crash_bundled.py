"""The crash matrix of bundles: conversations that are created together, and what becomes of one that is in a bundle.

As in `test_crash`, with trouble at every store request. Of several that are created together, each is there or not;
those that were acknowledged are there; and no reference is counted wrongly.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from stowfs.errors import NoSuchPath
from stowfs.locks import Lock
from stowfs.store.memory import MemoryStore
from stowfs.vault.backlog import Unshown
from stowfs.vault.naming import MANIFESTS, is_bundle
from stowfs.vault.vault import Vault
from tests.support.audit import audit
from tests.support.crash import check_counts, crash_with_trouble, until_untroubled
from tests.support.faults import TROUBLE, FaultyStore
from tests.support.together import at_once, bundled, patient, write_together
from tests.support.vaults import ATTRIBUTES, DEADLINE, Hosts, append, flush, read, write
from tests.vault.test_crash import State
from tests.vault.test_promises import log_lines

__all__ = ["patient"]

# The first two share segments.
OLD = log_lines(250, 1)
NEW = OLD + log_lines(150, 2)
LARGE = log_lines(300, 3)
TURN = log_lines(100, 4)
SMALL = b'{"role":"user","content":"hello"}\n'
PATHS = ("d/x", "d/y", "d/z")
TOGETHER = {"d/x": NEW, "d/y": OLD, "d/z": SMALL}
"""Two of them have segments."""


async def _replace(vault: Vault) -> None:
    await write(vault, "d/x", LARGE, await vault.head("d/x"))


@dataclass(frozen=True)
class Kind:
    """A commit to conversations that are in bundles: what it does, and what is there after it; a rename may leave both
    names for a while."""

    do: Callable[[Vault], Awaitable[object]]
    after: State
    between: State | None = None


KINDS = {
    "replace": Kind(_replace, {**TOGETHER, "d/x": LARGE}),
    "append": Kind(lambda v: append(v, "d/x", TURN), {**TOGETHER, "d/x": NEW + TURN}),
    "delete": Kind(lambda v: v.remove("d/x"), {"d/y": OLD, "d/z": SMALL}),
    "rename": Kind(lambda v: v.rename("d/x", "d/w"), {"d/w": NEW, "d/y": OLD, "d/z": SMALL}, {**TOGETHER, "d/w": NEW}),
    "attributes": Kind(lambda v: v.set_attributes("d/x", mode=0o600), TOGETHER),
}


async def _state(vault: Vault) -> State:
    found = {}
    for path in (*PATHS, "d/w"):
        try:
            found[path] = await read(vault, path)
        except NoSuchPath:
            continue
    assert {entry.path for entry in await vault.list_directory("d")} == found.keys()
    return found


@pytest.mark.parametrize("trouble", TROUBLE)
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_each_of_several_is_there_or_not(trouble: str, asynchronous: bool, tmp_path: Path) -> None:
    store = await until_untroubled(partial(_create_together, asynchronous, trouble), tmp_path)
    assert await bundled(store.inner) == {"x", "y", "z"}


async def _create_together(asynchronous: bool, trouble: str, nth: int, store: FaultyStore, directory: Path) -> bool:
    """Several commits with trouble at their `nth` request; whether they had that many."""
    async with Hosts(store, directory, bundles=True, deadline=0.5 if asynchronous else DEADLINE) as hosts:
        vault = await hosts.start("a", asynchronous=asynchronous)
        await vault.make_directory("d", ATTRIBUTES)
        await write(vault, "bystander", OLD)
        await vault.drain()
        work: Callable[[], Awaitable[object]] = partial(write_together, vault, TOGETHER)
        if asynchronous:
            for path, data in TOGETHER.items():
                draft = vault.draft(path, None, ATTRIBUTES)
                draft.write(0, data)
                await vault.acknowledge(draft)
            work = partial(_flush_together, vault)
        crashed = await crash_with_trouble(hosts, "a", store, work, trouble, nth, asynchronous=asynchronous)
        vault = crashed.vault
        if asynchronous:
            await flush(vault)
        assert await vault.drain(10) == 0
        outcomes = await store.carry_out_late()
        state = await _state(vault)
        for path, data in state.items():
            assert data == TOGETHER[path], (trouble, nth, path)
        if crashed.acknowledged or asynchronous:
            assert state == TOGETHER, (trouble, nth, [*state])
        assert await _state(await hosts.start("b")) == state
        check_counts(await audit(store.inner), trouble, nth, outcomes)
        await _life_goes_on(vault, state)
        check_counts(await audit(store.inner), trouble, nth, outcomes)
        return crashed.troubled


async def _flush_together(vault: Vault) -> None:
    await at_once(partial(vault.backlog.flush, draft, Lock(), Unshown) for draft in vault.backlog.drafts)


async def _life_goes_on(vault: Vault, state: State) -> None:
    """On top of whatever recovery left behind."""
    for path in PATHS:
        if path in state:
            await append(vault, path, TURN)
        else:
            await write(vault, path, TURN, exclusive=True)
        assert await read(vault, path) == state.get(path, b"") + TURN
    assert await read(vault, "bystander") == OLD
    await vault.drain(10)


@pytest.mark.parametrize("trouble", TROUBLE)
@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_in_a_bundle_is_replaced_or_not(kind: str, trouble: str, tmp_path: Path) -> None:
    await until_untroubled(partial(_change, KINDS[kind], trouble), tmp_path)


async def _change(kind: Kind, trouble: str, nth: int, store: FaultyStore, directory: Path) -> bool:
    """One commit with trouble at its `nth` request; whether it had that many."""
    async with Hosts(store, directory, bundles=True) as hosts:
        vault = await hosts.start("a")
        await vault.make_directory("d", ATTRIBUTES)
        await write_together(vault, TOGETHER)
        await write(vault, "bystander", OLD)
        await vault.drain()
        assert await bundled(store.inner) == {"x", "y", "z"}
        # Another host than the one that knows them already.
        vault = await hosts.start("c")
        crashed = await crash_with_trouble(hosts, "c", store, partial(kind.do, vault), trouble, nth)
        vault = crashed.vault
        assert await vault.drain(10) == 0
        outcomes = await store.carry_out_late()
        state = await _state(vault)
        if crashed.acknowledged:
            assert state == kind.after, (trouble, nth)
        else:
            assert state in (TOGETHER, kind.after, kind.between), (trouble, nth, [*state])
        assert await _state(await hosts.start("b")) == state
        check_counts(await audit(store.inner), trouble, nth, outcomes)
        await _life_goes_on(vault, state)
        check_counts(await audit(store.inner), trouble, nth, outcomes)
        return crashed.troubled


async def test_the_bundles_are_where_they_are_looked_for(tmp_path: Path) -> None:
    store = MemoryStore()
    async with Hosts(store, tmp_path, bundles=True) as hosts:
        vault = await hosts.start("a")
        await vault.make_directory("d", ATTRIBUTES)
        await write_together(vault, TOGETHER)
        keys = [info.key async for page in store.list(f"{MANIFESTS}d/") for info in page.objects]
        assert len(keys) == 1
        assert is_bundle(keys[0])
