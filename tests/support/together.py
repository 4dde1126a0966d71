"""Conversations that are committed at once, so that they are put into bundles."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial

import pytest
import trio

from stowfs.errors import StowError
from stowfs.store.base import ObjectStore
from stowfs.vault.bundled_store import BundledStore
from stowfs.vault.naming import MANIFESTS
from stowfs.vault.vault import Vault
from tests.support.vaults import DEADLINE, write

PATIENCE = 60.0
"""Seconds for which commits wait for one another: as long as it takes on a machine that is busy with other things."""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is committed at once goes together, however slow the machine is."""
    monkeypatch.setattr("stowfs.vault.bundler.PATIENCE", PATIENCE)


async def at_once(works: Iterable[Callable[[], Awaitable[object]]]) -> None:
    """Does all of it at once. Raises the first error, when all have ended."""
    errors: list[StowError] = []

    async def one(work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
        except StowError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        for work in works:
            nursery.start_soon(one, work)
    if errors:
        raise errors[0]


async def write_together(vault: Vault, contents: Mapping[str, bytes]) -> None:
    """Commits several new conversations at once."""
    await at_once(partial(write, vault, path, data) for path, data in contents.items())


async def bundled(store: ObjectStore) -> set[str]:
    """The names in directory d that are in committed bundles."""
    found = BundledStore(store, deadline=DEADLINE, read_only=True)
    return {member.name for bundle in await found.bundles.of(f"{MANIFESTS}d/") for member in bundle.held}
