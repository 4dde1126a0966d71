"""Deadlines: what has expired is absent at once and for everybody, stays so, and is given up later, once."""

import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import trio

from stowfs.errors import DirectoryNotEmpty, Expired, IsDirectory, NoSuchPath, PathExists, ReadOnly
from stowfs.store.base import Found, ObjectStore
from stowfs.store.memory import MemoryStore
from stowfs.vault import expiry
from stowfs.vault import manifest as manifests
from stowfs.vault.check import Checker
from stowfs.vault.collect import collect_garbage
from stowfs.vault.descriptor import create_descriptor
from stowfs.vault.draft import Draft
from stowfs.vault.expiry import MARGIN
from stowfs.vault.manifest import Attributes
from stowfs.vault.naming import manifest_key
from stowfs.vault.vault import Vault
from tests.support.audit import audit
from tests.support.clock import Clock
from tests.support.faults import FailAfter, FaultyStore, Rule, Stall
from tests.support.vaults import ATTRIBUTES, Hosts, append, edit, read, write
from tests.vault.test_promises import log_lines
from tests.vault.test_undelete import WEEK, deleted, trash_hosts

CONTENT = log_lines(1400, 1)
OTHER = log_lines(900, 2)
HOUR = 3600.0


async def write_until(vault: Vault, path: str, data: bytes, expires_ns: int | None) -> None:
    """Commits a new conversation, or replaces one, with a deadline of its own."""
    draft = vault.draft(path, None, msgspec.structs.replace(ATTRIBUTES, expires_ns=expires_ns))
    draft.write(0, data)
    try:
        await vault.commit(draft)
    finally:
        draft.discard()


async def deadline(vault: Vault, path: str) -> int | None:
    return (await vault.head(path)).attributes.expires_ns


async def opened(vault: Vault, path: str) -> Draft:
    base = await vault.head(path)
    return vault.draft(path, base, base.attributes)


async def is_absent(vault: Vault, path: str) -> bool:
    """Whether nothing shows that there ever was anything; raises where some of it does and some does not."""
    listed = path in [entry.path for entry in await vault.list_directory("")]
    walked = path in [entry.path async for entry in vault.walk()]
    try:
        await vault.head(path)
    except NoSuchPath:
        assert not listed
        assert not walked
        return True
    assert listed
    assert walked
    return False


async def settled(hosts: Hosts, *vaults: Vault) -> None:
    """Nothing is counted wrongly."""
    for vault in vaults:
        assert await vault.drain(20) == 0
    store = hosts.store
    result = await audit(store.inner if isinstance(store, FaultyStore) else store)
    assert result.exact, result


# What is seen


async def test_it_is_gone_at_its_deadline_for_every_host(clock: Clock, tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write_until(a, "x", CONTENT, clock.after(10))
        await write(a, "kept", OTHER)
        clock.advance(10 - 1e-6)
        for vault in (a, b):
            assert await read(vault, "x") == CONTENT
            assert not await is_absent(vault, "x")
        clock.advance(1e-6)
        for vault in (a, b, await hosts.start("c")):
            assert await is_absent(vault, "x")
            assert await read(vault, "kept") == OTHER


async def test_nothing_that_is_cached_shows_it_longer(clock: Clock, tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path, revalidate=HOUR) as hosts:
        a = await hosts.start("a")
        await write_until(a, "x", CONTENT, clock.after(10))
        assert not await is_absent(a, "x")
        store.reset_log()
        clock.advance(10)
        with pytest.raises(NoSuchPath):
            await a.head("x")
        assert store.log == []


async def test_a_conversation_without_a_deadline_never_expires(clock: Clock, tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        await write(a, "x", CONTENT)
        clock.advance(1000 * 366 * 86400)
        assert await read(a, "x") == CONTENT


async def test_manifests_of_before_there_were_deadlines_are_read() -> None:
    stored = msgspec.json.encode([0o644, 1, 2, 3, 4])
    assert msgspec.json.decode(stored, type=Attributes) == Attributes(0o644, 1, 2, 3, 4, expires_ns=None)


async def test_what_was_opened_is_read_to_the_end(clock: Clock, tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write_until(a, "x", CONTENT, clock.after(10))
        snapshot = await b.head("x")
        clock.advance(11)
        assert await b.read(snapshot, 0, snapshot.size) == CONTENT
        assert await is_absent(b, "x")


async def test_its_directory_counts_as_empty(clock: Clock, tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        await a.make_directory("d", ATTRIBUTES)
        await write_until(a, "d/x", CONTENT, clock.after(10))
        with pytest.raises(DirectoryNotEmpty):
            await a.remove_directory("d")
        clock.advance(10)
        await a.remove_directory("d")
        assert await a.list_directory("") == []


# The name


async def test_the_name_is_free(clock: Clock, tmp_path: Path) -> None:
    """For O_EXCL, RENAME_NOREPLACE and a directory, on the host that wrote it and on others."""
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        for vault in (a, b):
            for path in ("x", "y", "z"):
                await write_until(a, path, CONTENT, clock.after(10))
            await write(a, "source", OTHER)
            with pytest.raises(PathExists):
                await write(vault, "x", OTHER, exclusive=True)
            with pytest.raises(PathExists):
                await vault.rename("source", "y", replace=False)
            clock.advance(10)
            await write(vault, "x", OTHER, exclusive=True)
            await vault.rename("source", "y", replace=False)
            await vault.make_directory("z", ATTRIBUTES)
            for reader in (a, b):
                assert await read(reader, "x") == await read(reader, "y") == OTHER
                assert await deadline(reader, "x") is None
                assert (await reader.head("z")).is_directory
            await vault.remove_directory("z")
            await settled(hosts, a, b)


async def test_nothing_can_be_done_to_what_has_expired(clock: Clock, tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        await write_until(a, "x", CONTENT, clock.after(10))
        clock.advance(10)
        for attempt in (
            lambda: a.remove("x"),
            lambda: a.rename("x", "y"),
            lambda: a.set_attributes("x", mode=0o600),
            lambda: a.set_deadline("x", None),
            lambda: a.undelete("x"),
        ):
            with pytest.raises(NoSuchPath):
                await attempt()
        assert await is_absent(a, "x")
        await settled(hosts, a)


async def test_one_of_two_that_create_it_anew_wins(clock: Clock, tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        won: list[str] = []
        for number in range(10):
            path = f"x{number}"
            await write_until(a, path, CONTENT, clock.after(10))
            clock.advance(10)

            async def create(vault: Vault, name: str, path: str = path) -> None:
                try:
                    await write(vault, path, name.encode(), exclusive=True)
                    won.append(f"{path}{name}")
                except PathExists:
                    pass

            async with trio.open_nursery() as nursery:
                nursery.start_soon(create, a, "a")
                nursery.start_soon(create, b, "b")
            assert len(won) == number + 1
            assert path.encode() + await read(b, path) == won[-1].encode()
        await settled(hosts, a, b)


# What a deadline is kept by


async def test_appending_editing_attributes_and_renaming_keep_it(clock: Clock, tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        expires = clock.after(10)
        await write_until(a, "x", CONTENT, expires)
        await append(a, "x", b"more")
        await edit(a, "x", 3, b"other")
        await a.set_attributes("x", mode=0o600, mtime_ns=1)
        await a.rename("x", "y")
        assert await deadline(a, "y") == expires
        clock.advance(10)
        assert await is_absent(a, "y")
        await settled(hosts, a)


async def test_a_replacement_has_a_deadline_of_its_own(clock: Clock, tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        await write_until(a, "x", CONTENT, clock.after(10))
        await write_until(a, "x", OTHER, clock.after(20))
        assert await deadline(a, "x") == clock.after(20)
        await write(a, "y", CONTENT)
        await a.rename("y", "x")
        assert await deadline(a, "x") is None


async def test_it_can_be_set_and_put_off_until_it_has_passed(clock: Clock, tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        before = await write(a, "x", CONTENT)
        changed = await b.set_deadline("x", clock.after(10))
        assert changed.manifest.pieces == before.manifest.pieces
        assert changed.attributes.mtime_ns == before.attributes.mtime_ns
        assert changed.attributes.ctime_ns > before.attributes.ctime_ns
        assert await deadline(a, "x") == clock.after(10)
        clock.advance(9)
        await a.set_deadline("x", clock.after(9))
        clock.advance(8)
        assert await read(b, "x") == CONTENT
        await b.set_deadline("x", None)
        clock.advance(HOUR)
        assert await read(a, "x") == CONTENT
        await settled(hosts, a, b)


async def test_only_conversations_that_are_there_get_one(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        await a.make_directory("d", ATTRIBUTES)
        with pytest.raises(IsDirectory):
            await a.set_deadline("d", None)
        with pytest.raises(NoSuchPath):
            await a.set_deadline("x", None)


async def test_a_read_only_vault_changes_none(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path, read_only=True) as hosts:
        a = await hosts.start("a")
        with pytest.raises(ReadOnly):
            await a.set_deadline("x", None)
        with pytest.raises(ReadOnly):
            await a.give_up_expired("x", before=time.time())


# Drafts that were begun before


@pytest.mark.parametrize("offset", [0, len(CONTENT)], ids=["edit", "append"])
async def test_what_is_written_to_it_goes_with_it(offset: int, clock: Clock, tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        await write_until(a, "x", CONTENT, clock.after(10))
        draft = await opened(a, "x")
        draft.write(offset, OTHER)
        clock.advance(10)
        with pytest.raises(Expired):
            await a.commit(draft)
        assert await draft.read(offset, offset + len(OTHER)) == OTHER
        draft.discard()
        assert await is_absent(a, "x")
        await settled(hosts, a)


@pytest.mark.parametrize("collected", [False, True])
@pytest.mark.parametrize("offset", [0, len(CONTENT)], ids=["edit", "append"])
async def test_a_deadline_that_was_set_elsewhere_meanwhile_counts(
    offset: int, collected: bool, clock: Clock, tmp_path: Path
) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write(a, "x", CONTENT)
        draft = await opened(a, "x")
        draft.write(offset, OTHER)
        await b.set_deadline("x", clock.after(10))
        clock.advance(10)
        if collected:
            assert await b.give_up_expired("x", before=clock.time())
        with pytest.raises(Expired):
            await a.commit(draft)
        draft.discard()
        assert await is_absent(a, "x")
        assert await is_absent(b, "x")
        await settled(hosts, a, b)


@pytest.mark.parametrize("offset", [0, len(CONTENT)], ids=["edit", "append"])
async def test_a_deadline_that_was_put_off_elsewhere_meanwhile_counts(
    offset: int, clock: Clock, tmp_path: Path
) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write_until(a, "x", CONTENT, clock.after(10))
        draft = await opened(a, "x")
        draft.write(offset, b"more")
        expires = clock.after(20)
        await b.set_deadline("x", expires)
        clock.advance(10)
        await a.commit(draft)
        assert await read(b, "x") == CONTENT[:offset] + b"more" + CONTENT[offset + 4 :]
        assert await deadline(b, "x") == expires
        await settled(hosts, a, b)


async def test_appends_follow_what_took_the_name(clock: Clock, tmp_path: Path) -> None:
    """As they do after a deletion; what had expired does not come back with them."""
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write_until(a, "x", CONTENT, clock.after(10))
        draft = await opened(a, "x")
        draft.write(len(CONTENT), b"more")
        clock.advance(10)
        await write(b, "x", OTHER)
        await a.commit(draft)
        assert await read(b, "x") == OTHER + b"more"
        assert await deadline(b, "x") is None
        await settled(hosts, a, b)


async def test_an_edit_of_what_has_expired_leaves_what_took_the_name(clock: Clock, tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write_until(a, "x", CONTENT, clock.after(10))
        draft = await opened(a, "x")
        draft.write(0, b"edited")
        clock.advance(10)
        await write(b, "x", OTHER)
        with pytest.raises(Expired):
            await a.commit(draft)
        draft.discard()
        assert [entry.path for entry in await a.list_directory("")] == ["x"]
        assert await read(a, "x") == OTHER
        await settled(hosts, a, b)


async def test_a_replacement_may_be_committed_after_the_old_deadline(clock: Clock, tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        await write_until(a, "x", CONTENT, clock.after(10))
        draft = await opened(a, "x")
        draft.truncate(0)
        draft.write(0, OTHER)
        draft.attributes = msgspec.structs.replace(draft.attributes, expires_ns=None)
        clock.advance(10)
        await a.commit(draft)
        assert await read(a, "x") == OTHER
        clock.advance(HOUR)
        assert await read(a, "x") == OTHER
        await settled(hosts, a)


async def test_a_replacement_that_comes_too_late_replaces_nothing(clock: Clock, tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        draft = a.draft("x", None, msgspec.structs.replace(ATTRIBUTES, expires_ns=clock.after(10)))
        draft.write(0, CONTENT)
        clock.advance(10)
        await write(b, "x", OTHER)
        with pytest.raises(Expired):
            await a.commit(draft)
        draft.discard()
        assert await read(a, "x") == OTHER


async def test_an_append_to_what_another_host_made_has_its_deadline(clock: Clock, tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        draft = a.draft("x", None, ATTRIBUTES, appending=True)
        draft.write(0, b"more")
        expires = clock.after(10)
        await write_until(b, "x", CONTENT, expires)
        await a.commit(draft)
        assert await read(b, "x") == CONTENT + b"more"
        assert await deadline(b, "x") == expires


async def test_a_lost_response_is_no_error(clock: Clock, tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a = await hosts.start("a")
        await write(a, "x", CONTENT)
        store.add(Rule(FailAfter(), "put", "manifests/*", nth=1))
        await a.set_deadline("x", clock.after(10))
        clock.advance(10)
        assert await is_absent(a, "x")


# The trash


async def test_the_trash_does_not_keep_it_longer(clock: Clock, tmp_path: Path) -> None:
    async with await trash_hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        expires = clock.after(HOUR)
        for path in ("x", "y"):
            await write_until(a, path, CONTENT, expires)
            await a.remove(path)
        restored = await a.undelete("y")
        assert restored.attributes.expires_ns == expires
        assert await deleted(a) == ["x"]
        clock.advance(HOUR)
        assert await deleted(a) == []
        with pytest.raises(NoSuchPath):
            await a.undelete("x")
        assert await is_absent(a, "y")
        collected = await collect_garbage(hosts.store, a, grace=0, now=lambda: clock.time() + MARGIN)
        assert (collected.emptied, collected.expired, collected.expired_size) == (0, 2, 2 * len(CONTENT))
        await settled(hosts, a)


async def test_a_directory_comes_back_without_the_deadline_of_a_conversation_of_its_name(
    clock: Clock, tmp_path: Path
) -> None:
    async with await trash_hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        await a.make_directory("d", ATTRIBUTES)
        await write(a, "d/x", CONTENT)
        await a.remove("d/x")
        await a.remove_directory("d")
        await write_until(a, "d", OTHER, clock.after(10))
        clock.advance(10)
        await a.undelete("d/x")
        clock.advance(HOUR)
        assert await read(a, "d/x") == CONTENT
        assert [entry.path async for entry in a.walk()] == ["d", "d/x"]


# Collection


async def collect(hosts: Hosts, vault: Vault, now: Callable[[], float], *, dry_run: bool = False) -> tuple[int, int]:
    """What had expired, and how many segments were freed."""
    collected = await collect_garbage(hosts.store, vault, grace=0, now=now, dry_run=dry_run)
    assert collected.kept == ()
    return collected.expired, collected.segments


async def stored(store: ObjectStore, path: str) -> manifests.Manifest:
    found = await store.get(manifest_key(path))
    assert isinstance(found, Found)
    return manifests.decode(path, found.etag, found.body).manifest


async def test_its_space_is_given_back_when_no_clock_can_be_before_the_deadline(clock: Clock, tmp_path: Path) -> None:
    async with await trash_hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        await write_until(a, "x", CONTENT, clock.after(10))
        await write_until(a, "empty", b"", clock.after(10))
        await write_until(a, "later", OTHER, clock.after(2 * MARGIN))
        segments = (await audit(hosts.store)).segments
        clock.advance(10)
        for too_early in (0, MARGIN - 1):
            assert await collect(hosts, a, lambda too_early=too_early: clock.time() + too_early) == (0, 0)
        assert (await stored(hosts.store, "x")).deleted is None
        clock.advance(MARGIN)
        assert (await collect(hosts, a, clock.time, dry_run=True))[0] == 2
        assert (await stored(hosts.store, "x")).deleted is None
        expired, freed = await collect(hosts, a, clock.time)
        assert expired == 2
        assert 0 < freed < segments
        for path in ("x", "empty"):
            manifest = await stored(hosts.store, path)
            assert (manifest.deleted is None, manifest.pieces, manifest.inline) == (False, (), 0)
        assert await collect(hosts, a, clock.time) == (0, 0)
        assert await deleted(a) == []
        assert await read(a, "later") == OTHER
        await settled(hosts, a)


async def test_a_host_whose_clock_is_fast_destroys_nothing_that_others_see(clock: Clock, tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, fast = await hosts.start("a"), await hosts.start("fast")
        await write_until(a, "x", CONTENT, clock.after(10))
        clock.advance(30 * 60)
        assert await is_absent(fast, "x")
        assert await collect(hosts, fast, clock.time) == (0, 0)
        clock.advance(-30 * 60)
        await a.set_deadline("x", None)
        assert await read(a, "x") == CONTENT
        clock.advance(2 * MARGIN)
        assert await collect(hosts, fast, clock.time) == (0, 0)
        assert await read(fast, "x") == CONTENT


@pytest.mark.parametrize("how", ["put off", "created anew"])
async def test_who_comes_before_collection_wins(how: str, clock: Clock, tmp_path: Path) -> None:
    """The tombstone of the collector is under way when another host, whose clock is slow, does something to it."""
    store = FaultyStore(MemoryStore())
    async with await trash_hosts(store, tmp_path) as hosts:
        a, b = await hosts.start("a", store.inner), await hosts.start("b")
        await write_until(a, "x", CONTENT, clock.after(10))
        clock.advance(10)
        outcome: list[bool] = []

        async def give_up() -> None:
            outcome.append(await b.give_up_expired("x", before=clock.time()))

        async with store.held("put", "manifests/*", give_up):
            if how == "put off":
                clock.advance(-5)
                await a.set_deadline("x", clock.after(HOUR))
                clock.advance(5)
            else:
                await write(a, "x", OTHER, exclusive=True)
        assert outcome == [False]
        for vault in (a, b):
            assert await read(vault, "x") == (CONTENT if how == "put off" else OTHER)
        await settled(hosts, a, b)


async def test_a_crash_in_the_middle_of_giving_up_leaves_nothing_wrong(clock: Clock, tmp_path: Path) -> None:
    for nth in range(1, 8):
        store = FaultyStore(MemoryStore())
        async with await trash_hosts(store, tmp_path / str(nth)) as hosts:
            a = await hosts.start("a")
            await write_until(a, "x", CONTENT, clock.after(10))
            await write(a, "y", CONTENT[: len(CONTENT) // 2])
            clock.advance(10)
            stall = Stall()
            store.add(Rule(stall, nth=nth))

            async def give_up(vault: Vault = a) -> None:
                await vault.give_up_expired("x", before=clock.time())

            hosts.start_soon("a", give_up)
            with trio.move_on_after(1):
                await stall.reached.wait()
            await hosts.crash("a")
            store.rules.clear()
            a = await hosts.start("a")
            await a.drain(20)
            assert await is_absent(a, "x")
            await a.give_up_expired("x", before=clock.time())
            assert (await stored(store, "x")).pieces == ()
            assert await read(a, "y") == CONTENT[: len(CONTENT) // 2]
            await settled(hosts, a)


# Checking


async def test_fsck_counts_it_apart_and_finds_nothing_wrong(clock: Clock, tmp_path: Path) -> None:
    store = MemoryStore()
    descriptor = await create_descriptor(store, trash_seconds=WEEK)
    async with Hosts(store, tmp_path, descriptor=descriptor) as hosts:
        a = await hosts.start("a")
        for path in ("x", "y", "z"):
            await write_until(a, path, CONTENT, clock.after(10))
        await write(a, "kept", OTHER)
        await a.remove("y")

        async def counts() -> tuple[int, int, int]:
            checked = await Checker(store, descriptor, exclusive=True).run()
            assert checked.findings == []
            return checked.conversations, checked.deleted, checked.expired

        assert await counts() == (3, 1, 0)
        clock.advance(10)
        assert await counts() == (1, 0, 3)
        await a.give_up_expired("x", before=clock.time())
        await a.drain()
        assert await counts() == (1, 0, 2)


# Directories


async def test_a_directory_is_renamed_though_something_in_it_expires(clock: Clock, tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a = await hosts.start("a")
        await a.make_directory("d", ATTRIBUTES)
        await write_until(a, "d/x", CONTENT, clock.after(10))
        await write(a, "d/y", OTHER)
        stall = Stall()
        store.add(Rule(stall, "get", manifest_key("d/x")))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.rename_directory, "d", "e")
            await stall.reached.wait()
            clock.advance(10)
            store.rules.clear()
            stall.go.set()
        assert [entry.path async for entry in a.walk()] == ["e", "e/y"]
        await settled(hosts, a)


def test_how_long_is_left(clock: Clock) -> None:
    assert expiry.seconds_left(None) == float("inf")
    assert expiry.seconds_left(clock.after(2.5)) == 2.5
    assert expiry.seconds_left(clock.after(-1)) == 0
    assert expiry.deadline(None) is None
    assert expiry.deadline(2.5) == clock.after(2.5)
    assert not expiry.is_over(None)
