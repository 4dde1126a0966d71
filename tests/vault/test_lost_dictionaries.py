"""A check finds dictionaries that are lost, and a collection loses none that anything needs."""

import pytest

from stowfs.codec import Dictionary
from stowfs.vault.check import Checked, Checker
from stowfs.vault.collect import Collected, collect_garbage
from stowfs.vault.descriptor import read_descriptor
from stowfs.vault.findings import LostDictionary, StrayObject
from stowfs.vault.naming import DICTIONARIES, dictionary_key, manifest_key
from stowfs.vault.repair import DICTIONARY, FOREIGN, repair
from stowfs.vault.vault import Vault
from tests.support.audit import audit
from tests.support.dictionaries import conversation, dictionary, keys, use
from tests.support.vaults import Hosts, read, write
from tests.vault.test_collect import later

LONG = conversation(2, messages=2500)
SMALL = conversation(1)
LATE = 3 * 86400.0
"""Seconds after which nobody can be about to use what was superseded."""


@pytest.fixture(scope="module")
def old() -> Dictionary:
    return dictionary()


@pytest.fixture(scope="module")
def new() -> Dictionary:
    return dictionary(7)


async def start(hosts: Hosts, name: str, made: Dictionary, *, instead_of: str = "") -> Vault:
    """A host that compresses with a dictionary."""
    await use(hosts.store, made, instead_of=instead_of)
    hosts.descriptor = await read_descriptor(hosts.store)
    return await hosts.start(name)


async def check(hosts: Hosts) -> Checked:
    return await Checker(hosts.store, await read_descriptor(hosts.store), exclusive=True).run()


async def collect(hosts: Hosts, *, exclusive: bool = True, dry_run: bool = False, after: float = LATE) -> Collected:
    hosts.descriptor = await read_descriptor(hosts.store)
    vault = await hosts.start("collector")
    try:
        return await collect_garbage(
            hosts.store, vault, grace=0, exclusive=exclusive, dry_run=dry_run, now=later(after)
        )
    finally:
        await hosts.crash("collector")


# Checks


async def test_a_store_with_dictionaries_is_clean(hosts: Hosts, old: Dictionary, new: Dictionary) -> None:
    await write(await start(hosts, "a", old), "long", LONG)
    await write(await start(hosts, "b", new, instead_of=old.id), "small", SMALL)
    checked = await check(hosts)
    assert checked.findings == []
    assert checked.segments > 0


async def test_a_missing_dictionary_is_one_finding_with_all_that_it_touches(
    hosts: Hosts, old: Dictionary, new: Dictionary
) -> None:
    vault = await start(hosts, "a", old)
    await write(vault, "long", LONG)
    await write(vault, "small", SMALL)
    vault = await start(hosts, "b", new, instead_of=old.id)
    # Its manifest has the new one, its segments the old one.
    await vault.set_attributes("long", mode=0o600)
    await write(vault, "other", SMALL)
    await hosts.store.delete(dictionary_key(old.id))
    checked = await check(hosts)
    (finding,) = checked.findings
    assert isinstance(finding, LostDictionary)
    assert finding.key.startswith(DICTIONARIES + old.name)
    assert finding.conversations == ("long", "small")
    assert "missing" in finding.describe()
    assert not checked.complete
    (outcome,) = await repair(hosts.store, await read_descriptor(hosts.store), checked, deadline=5.0)
    assert outcome.left == DICTIONARY


@pytest.mark.parametrize("damage", [b"", b"something else"])
async def test_a_damaged_dictionary_is_found_whether_or_not_it_is_needed(
    hosts: Hosts, old: Dictionary, damage: bytes
) -> None:
    vault = await start(hosts, "a", old)
    assert await vault.dictionaries.active() is not None
    await hosts.store.put(dictionary_key(old.id), damage)
    (finding,) = (await check(hosts)).findings
    assert isinstance(finding, LostDictionary)
    assert (finding.key, finding.conversations) == (dictionary_key(old.id), ())
    # The host has it in memory.
    await write(vault, "small", SMALL)
    (finding,) = (await check(hosts)).findings
    assert isinstance(finding, LostDictionary)
    assert finding.conversations == ("small",)


async def test_the_active_dictionary_is_missed_before_anything_needs_it(hosts: Hosts, old: Dictionary) -> None:
    await use(hosts.store, old)
    await hosts.store.delete(dictionary_key(old.id))
    (finding,) = (await check(hosts)).findings
    assert (type(finding), finding.key) == (LostDictionary, dictionary_key(old.id))


async def test_what_is_no_dictionary_is_foreign(hosts: Hosts) -> None:
    await hosts.store.put(DICTIONARIES + "notes.txt", b"?")
    checked = await check(hosts)
    (finding,) = checked.findings
    assert isinstance(finding, StrayObject)
    (outcome,) = await repair(hosts.store, await read_descriptor(hosts.store), checked, deadline=5.0)
    assert outcome.left == FOREIGN


# Collections


async def test_a_dictionary_that_nothing_needs_is_removed(hosts: Hosts, old: Dictionary, new: Dictionary) -> None:
    vault = await start(hosts, "a", old)
    await write(vault, "small", SMALL)
    vault = await start(hosts, "b", new, instead_of=old.id)
    await vault.set_attributes("small", mode=0o600)
    await hosts.stop()
    both = {dictionary_key(made.id) for made in (old, new)}
    for collected in (
        await collect(hosts, exclusive=False),
        await collect(hosts, dry_run=True),
        await collect(hosts, after=0),
    ):
        assert set(await keys(hosts.store)) == both, collected
    assert (await collect(hosts)).removed == 1
    assert await keys(hosts.store) == [dictionary_key(new.id)]
    assert await read(await hosts.start("c"), "small") == SMALL
    assert (await check(hosts)).findings == []


@pytest.mark.parametrize("holder", ["manifest", "segment", "tombstone"])
async def test_a_dictionary_that_anything_needs_is_kept(
    hosts: Hosts, old: Dictionary, new: Dictionary, holder: str
) -> None:
    vault = await start(hosts, "a", old)
    await write(vault, "f", LONG if holder == "segment" else SMALL)
    if holder == "tombstone":
        await vault.remove("f")
    vault = await start(hosts, "b", new, instead_of=old.id)
    if holder == "segment":
        await vault.set_attributes("f", mode=0o600)
    await hosts.stop()
    await collect(hosts)
    assert len(await keys(hosts.store)) == 2
    third = await hosts.start("c")
    if holder != "tombstone":
        assert await read(third, "f") in (LONG, SMALL)
    else:
        await write(third, "f", SMALL)
    assert (await audit(hosts.store)).exact


async def test_the_active_dictionary_is_kept(hosts: Hosts, old: Dictionary) -> None:
    await use(hosts.store, old)
    await collect(hosts)
    assert await keys(hosts.store) == [dictionary_key(old.id)]


async def test_no_dictionary_is_removed_while_something_cannot_be_read(
    hosts: Hosts, old: Dictionary, new: Dictionary
) -> None:
    await use(hosts.store, old)
    await use(hosts.store, new, instead_of=old.id)
    await hosts.store.put(manifest_key("f"), b"who knows")
    assert len((await collect(hosts)).kept) == 1
    assert len(await keys(hosts.store)) == 2
