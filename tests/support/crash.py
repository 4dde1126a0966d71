"""The crash matrix: something is done with trouble at its first request to the store, at its second, and so on, until
one run goes through untroubled."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from stowfs.store.memory import MemoryStore
from stowfs.vault.vault import Vault
from tests.support.audit import Audit
from tests.support.faults import TROUBLE, FaultyStore, Rule
from tests.support.vaults import Hosts

Run = Callable[[int, FaultyStore, Path], Awaitable[bool]]
"""Does it with trouble at that request of it, on a store and in a directory of its own; whether it had so many."""


async def until_untroubled(run: Run, directory: Path) -> FaultyStore:
    """Does it again and again; the store of the last time."""
    for nth in range(1, 100):
        store = FaultyStore(MemoryStore())
        if not await run(nth, store, directory / str(nth)):
            assert nth > 1
            return store
    raise AssertionError("a commit makes no end of requests")


@dataclass(frozen=True)
class Crashed:
    """What a host did that crashed then. `acknowledged`: it succeeded; `troubled`: it made the request with trouble.
    `vault`: the host after that, which has begun to recover."""

    acknowledged: bool
    troubled: bool
    vault: Vault


async def crash_with_trouble(
    hosts: Hosts,
    name: str,
    store: FaultyStore,
    work: Callable[[], Awaitable[object]],
    trouble: str,
    nth: int,
    **own: object,
) -> Crashed:
    """Does something on a host with trouble at its `nth` request, ends the host, and starts it (`own`: with these
    options)."""
    action = TROUBLE[trouble]()
    rule = store.add(Rule(action, nth=nth))
    acknowledged = await hosts.attempt(name, work, action)
    await hosts.crash(name)
    troubled = rule.seen >= nth
    store.rules.clear()
    return Crashed(acknowledged, troubled, await hosts.start(name, **own))


def check_counts(result: Audit, trouble: str, nth: int, outcomes: list[Exception | None]) -> None:
    """No reference is counted wrongly."""
    assert result.safe, (trouble, nth, result)
    assert not result.too_high, (trouble, nth, result, outcomes)
