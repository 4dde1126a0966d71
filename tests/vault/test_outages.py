"""What a vault gives while its store cannot be reached: what it saw last, to those who ask for that, and nothing made
up."""

import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from stowfs.errors import StoreUnavailable
from stowfs.vault.manifest import Snapshot
from stowfs.vault.vault import Vault
from tests.support.faults import FaultyStore
from tests.support.vaults import ATTRIBUTES, Hosts, append, edit, read, write

LONG = b"".join(
    b'{"role": "user", "content": "%s"}\n' % random.Random(n).randbytes(300).hex().encode() for n in range(900)
)
"""Several segments."""


@pytest.fixture
def options() -> Mapping[str, Any]:
    """They give the store up at once: how long it is asked for is the business of other tests."""
    return {"deadline": 0.01}


async def shown(vault: Vault, path: str) -> bytes:
    """What a reader is shown who cannot wait for the store."""
    snapshot = await vault.head(path, stale_ok=True)
    return await vault.read(snapshot, 0, snapshot.size)


async def test_what_was_read_can_be_read_again(hosts: Hosts, faulty: FaultyStore) -> None:
    vault = await hosts.start("a")
    await write(vault, "f", LONG)
    await hosts.crash("a")
    other = await hosts.start("b")
    assert await read(other, "f") == LONG
    faulty.down = True
    assert await shown(other, "f") == LONG
    with pytest.raises(StoreUnavailable):
        await other.head("f")


async def test_also_after_a_restart(hosts: Hosts, faulty: FaultyStore) -> None:
    vault = await hosts.start("a")
    await write(vault, "d", LONG)
    await write(vault, "f", LONG + b"more")
    other = await hosts.start("b")
    assert await read(other, "f") == LONG + b"more"
    await hosts.crash("b")
    faulty.down = True
    other = await hosts.start("b")
    assert await shown(other, "f") == LONG + b"more"
    with pytest.raises(StoreUnavailable):
        await shown(other, "d")


async def test_bytes_that_are_not_cached_are_an_error(hosts: Hosts, faulty: FaultyStore) -> None:
    vault = await hosts.start("a")
    await write(vault, "f", LONG)
    other = await hosts.start("b")
    await other.head("f")
    faulty.down = True
    snapshot = await other.head("f", stale_ok=True)
    assert snapshot.size == len(LONG)
    with pytest.raises(StoreUnavailable):
        await other.read(snapshot, 0, 10)


async def test_that_something_is_not_there_is_never_made_up(hosts: Hosts, faulty: FaultyStore) -> None:
    vault = await hosts.start("a")
    await write(vault, "deleted", b"x")
    await vault.remove("deleted")
    await write(vault, "old", b"x")
    await vault.rename("old", "new")
    faulty.down = True
    for path in ("deleted", "old", "never"):
        with pytest.raises(StoreUnavailable):
            await vault.head(path, stale_ok=True)
    with pytest.raises(StoreUnavailable):
        await vault.list_directory("")
    assert await shown(vault, "new") == b"x"
    # The index, too, has forgotten what went.
    await hosts.crash("a")
    vault = await hosts.start("a")
    for path in ("deleted", "old"):
        with pytest.raises(StoreUnavailable):
            await vault.head(path, stale_ok=True)
    assert await shown(vault, "new") == b"x"


@pytest.mark.parametrize(
    "change",
    [
        lambda vault: vault.remove("f"),
        lambda vault: vault.rename("f", "g"),
        lambda vault: vault.rename("f", "h", replace=False),
        lambda vault: vault.rename_directory("d", "e"),
        lambda vault: vault.remove_directory("d"),
        lambda vault: vault.make_directory("f", ATTRIBUTES),
        lambda vault: vault.set_attributes("f", mode=0o600),
    ],
)
async def test_changes_of_names_and_attributes_are_never_decided_by_it(
    hosts: Hosts, faulty: FaultyStore, change: Callable[[Vault], Awaitable[object]]
) -> None:
    vault = await hosts.start("a")
    await write(vault, "f", b"x")
    await write(vault, "h", b"y")
    await vault.make_directory("d", ATTRIBUTES)
    faulty.down = True
    with pytest.raises(StoreUnavailable):
        await change(vault)
    faulty.down = False
    assert sorted(entry.path for entry in await vault.list_directory("")) == ["d", "f", "h"]


async def test_a_write_that_failed_leaves_the_version_before_readable(hosts: Hosts, faulty: FaultyStore) -> None:
    vault = await hosts.start("a")
    base = await write(vault, "f", b"before")
    faulty.down = True
    with pytest.raises(StoreUnavailable):
        await write(vault, "f", b"after", base)
    assert await shown(vault, "f") == b"before"


async def test_it_is_said_once_in_an_outage(
    hosts: Hosts, faulty: FaultyStore, caplog: pytest.LogCaptureFixture
) -> None:
    vault = await hosts.start("a")
    for name in ("f", "g"):
        await write(vault, name, b"x")
    for _ in range(2):
        faulty.down = True
        for _ in range(5):
            for name in ("f", "g"):
                await vault.head(name, stale_ok=True)
        faulty.down = False
        await vault.head("f", stale_ok=True)
    assert sum("as this host saw them last" in record.getMessage() for record in caplog.records) == 2


async def _append(vault: Vault, base: Snapshot) -> None:
    draft = vault.draft("f", base, base.attributes, appending=True)
    draft.write(base.size, b"appended\n")
    await vault.commit(draft)
    draft.discard()


async def _replace(vault: Vault, base: Snapshot) -> None:
    await write(vault, "f", b"replaced\n", base)


async def _edit(vault: Vault, base: Snapshot) -> None:
    draft = vault.draft("f", base, base.attributes)
    draft.write(0, b"EDIT")
    await vault.commit(draft)
    draft.discard()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_append, [b"elsewhere\nmore\nappended\n"]),
        (_replace, [b"replaced\n"]),
        (_edit, [b"elsewhere\nmore\n", b"EDITt\n"]),
    ],
)
async def test_writing_to_what_is_out_of_date_loses_nothing(
    hosts: Hosts, faulty: FaultyStore, change: Callable[[Vault, Snapshot], Awaitable[None]], expected: list[bytes]
) -> None:
    vault = await hosts.start("a")
    await write(vault, "f", b"first\n")
    other = await hosts.start("b")
    await edit(other, "f", 0, b"elsewhere\n")
    await append(other, "f", b"more\n")
    faulty.down = True
    base = await vault.head("f", stale_ok=True)
    assert await vault.read(base, 0, base.size) == b"first\n"
    faulty.down = False
    await change(vault, base)
    assert [await read(other, entry.path) for entry in await other.list_directory("")] == expected
