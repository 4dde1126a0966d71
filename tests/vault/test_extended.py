"""Extended attributes in a store."""

from functools import partial
from pathlib import Path

import pytest
import trio

from stowfs.errors import AttributesFull, NoSuchAttribute
from stowfs.store.memory import MemoryStore
from stowfs.vault import extended
from stowfs.vault.descriptor import create_descriptor
from stowfs.vault.manifest import Attributes
from stowfs.vault.vault import Vault
from tests.support.faults import FaultyStore
from tests.support.vaults import ATTRIBUTES, Hosts, append, read, write


def having(name: bytes, data: bytes) -> partial[Attributes]:
    return partial(extended.having, name=name, data=data)


async def held(vault: Vault, path: str) -> dict[bytes, bytes]:
    return dict((await vault.head(path)).attributes.extended)


def test_one_is_set_changed_and_removed() -> None:
    attributes = extended.having(ATTRIBUTES, b"user.b", b"\0\xff")
    attributes = extended.having(attributes, b"user.a", b"")
    attributes = extended.having(attributes, b"user.b", b"other")
    assert extended.names(attributes) == [b"user.a", b"user.b"]
    assert (extended.value(attributes, b"user.a"), extended.value(attributes, b"user.b")) == (b"", b"other")
    assert extended.names(extended.lacking(attributes, b"user.a")) == [b"user.b"]
    for function in (extended.value, extended.lacking):
        with pytest.raises(NoSuchAttribute, match=r"user\.\\xff"):
            function(attributes, b"user.\xff")


def test_there_is_room_for_64_kib() -> None:
    attributes = extended.having(ATTRIBUTES, b"user.a", bytes(30_000))
    attributes = extended.having(attributes, b"user.b", bytes(extended.LIMIT - 30_000 - 12))
    with pytest.raises(AttributesFull):
        extended.having(attributes, b"user.c", b"")
    # One that is replaced makes room.
    assert extended.value(extended.having(attributes, b"user.a", b"x"), b"user.a") == b"x"


async def test_they_stay_whatever_happens_to_the_file(tmp_path: Path) -> None:
    store = MemoryStore()
    async with Hosts(store, tmp_path, descriptor=await create_descriptor(store)) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write(a, "x", b"first\n")
        await a.change_attributes("x", having(b"user.\xff", b"\0value"))
        wanted = {b"user.\xff": b"\0value"}
        assert await held(b, "x") == wanted
        await append(b, "x", b"second\n")
        assert await held(a, "x") == wanted
        await a.set_attributes("x", mode=0o600)
        await a.rename("x", "y")
        assert await held(b, "y") == wanted
        await a.remove("y")
        await a.undelete("y")
        assert await held(b, "y") == wanted
        assert await read(b, "y") == b"first\nsecond\n"
        await write(a, "y", b"anew", await a.head("y"))
        assert await held(b, "y") == {}


async def test_changes_of_two_hosts_are_both_kept(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write(a, "x", b"text")
        async with trio.open_nursery() as nursery:
            for number in range(10):
                vault = (a, b)[number % 2]
                nursery.start_soon(vault.change_attributes, "x", having(b"user.%d" % number, b"v"))
        assert await held(a, "x") == {b"user.%d" % number: b"v" for number in range(10)}


async def test_an_append_keeps_what_was_set_meanwhile(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        base = await write(a, "x", b"first\n")
        draft = a.draft("x", base, base.attributes, appending=True)
        draft.write(base.size, b"second\n")
        await b.change_attributes("x", having(b"user.a", b"v"))
        await a.commit(draft)
        assert await held(b, "x") == {b"user.a": b"v"}
        assert await read(b, "x") == b"first\nsecond\n"
