"""Directories: what is in them is shown, whole, whoever else is at work, and at the cost of what changed."""

from pathlib import Path

import msgspec
import pytest
import trio

from stowfs import codec
from stowfs.errors import (
    CorruptObject,
    DirectoryNotEmpty,
    IsDirectory,
    NoSuchPath,
    NotDirectory,
    PathExists,
    ReadOnly,
    StoreUnavailable,
    StowError,
    UnsupportedVersion,
    UsageError,
)
from stowfs.store.file import FileStore
from stowfs.store.memory import MemoryStore
from stowfs.vault.naming import manifest_key
from stowfs.vault.vault import Vault
from tests.support.audit import audit
from tests.support.faults import FailBefore, FaultyStore, Rule, Stall
from tests.support.vaults import ATTRIBUTES, Hosts, append, flush, read, write
from tests.vault.test_promises import log_lines


async def names(vault: Vault, directory: str = "") -> list[str]:
    """What a listing shows; directories end in '/'."""
    found = await vault.list_directory(directory)
    return [entry.path.rpartition("/")[2] + ("/" if entry.is_directory else "") for entry in found]


async def paths(vault: Vault, directory: str = "") -> list[str]:
    return [snapshot.path async for snapshot in vault.walk(directory)]


async def make(vault: Vault, *directories: str) -> None:
    for path in directories:
        await vault.make_directory(path, ATTRIBUTES)


async def test_directories_come_and_go(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        assert await names(a) == []
        await make(a, "d", "d/e")
        await write(a, "d/x", b"1")
        await write(a, "y", b"2")
        for vault in (a, b):
            assert await names(vault) == ["d/", "y"]
            assert await names(vault, "d") == ["e/", "x"]
            assert await names(vault, "d/e") == []
            assert (await vault.head("d")).attributes == ATTRIBUTES
        # Where both are objects, the one below a directory sorts behind the directory's own.
        assert sorted(await paths(b)) == ["d", "d/e", "d/x", "y"]
        assert sorted(await paths(b, "d")) == ["d/e", "d/x"]
        with pytest.raises(DirectoryNotEmpty):
            await b.remove_directory("d")
        await b.remove("d/x")
        await b.remove_directory("d/e")
        await a.remove_directory("d")
        assert await names(b) == ["y"]
        with pytest.raises(NoSuchPath):
            await b.list_directory("d")
        await make(b, "d")
        assert await names(a, "d") == []


async def test_what_is_asked_of_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        await make(a, "d")
        await write(a, "x", b"")
        for attempt, error in [
            (make(a, "d"), PathExists),
            (make(a, "x"), PathExists),
            (make(a, "nowhere/e"), NoSuchPath),
            (make(a, "x/e"), NotDirectory),
            (a.list_directory("x"), NotDirectory),
            (a.list_directory("nowhere"), NoSuchPath),
            (paths(a, "x"), NotDirectory),
            (a.remove_directory("x"), NotDirectory),
            (a.remove_directory("nowhere"), NoSuchPath),
            (a.remove("d"), IsDirectory),
            (a.rename("d", "e"), IsDirectory),
            (a.rename("x", "d"), IsDirectory),
            (a.rename_directory("x", "e"), NotDirectory),
            (a.rename_directory("d", "x"), NotDirectory),
            (a.rename_directory("nowhere", "e"), NoSuchPath),
            (a.rename_directory("d", "d/e"), UsageError),
            (a.rename_directory("d", "d/e/f"), UsageError),
            (write(a, "d", b"over a directory"), IsDirectory),
            (write(a, "d", b"over a directory", exclusive=True), PathExists),
        ]:
            with pytest.raises(error):
                await attempt
        assert await names(a) == ["d/", "x"]


async def test_renaming_something_to_its_own_name_changes_nothing(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        await make(a, "empty", "full")
        await write(a, "full/x", log_lines(500))
        await a.rename("full/x", "full/x")
        await a.rename_directory("full", "full")
        await a.rename_directory("empty", "empty")
        await a.drain()
        assert await names(a) == ["empty/", "full/"]
        assert await read(a, "full/x") == log_lines(500)
        assert (await audit(hosts.store)).exact


async def test_attributes_of_directories(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        await make(a, "d")
        await write(a, "d/x", b"1")
        await a.set_attributes("d", mode=0o700, uid=7)
        b = await hosts.start("b")
        attributes = (await b.head("d")).attributes
        assert (attributes.mode, attributes.uid, attributes.gid) == (0o700, 7, ATTRIBUTES.gid)
        assert await names(b, "d") == ["x"]


@pytest.mark.parametrize("kind", ["memory", "file"])
async def test_names_that_end_in_json_and_other_odd_ones(kind: str, tmp_path: Path) -> None:
    """In a directory of files, too, where a file and a directory cannot have one name."""
    (tmp_path / "store").mkdir()
    store = MemoryStore() if kind == "memory" else FileStore(tmp_path / "store")
    async with Hosts(store, tmp_path) as hosts:
        a = await hosts.start("a")
        await make(a, "x.json", "x.json/y.json", "x", "odd\udcff %2E\n")
        for path in ["x.json.json", "x/x.json", "x.json/y.json/z.json", "x.json/a", "odd\udcff %2E\n/\udc80.json"]:
            await write(a, path, path.encode(errors="surrogateescape"))
        b = await hosts.start("b")
        assert await names(b) == ["odd\udcff %2E\n/", "x/", "x.json/", "x.json.json"]
        assert await names(b, "x.json") == ["a", "y.json/"]
        assert await names(b, "x.json/y.json") == ["z.json"]
        assert await names(b, "odd\udcff %2E\n") == ["\udc80.json"]
        assert await read(b, "x.json/y.json/z.json") == b"x.json/y.json/z.json"
        await b.rename_directory("x.json", "moved")
        assert sorted(await paths(a, "moved")) == ["moved/a", "moved/y.json", "moved/y.json/z.json"]
        assert await names(a) == ["moved/", "odd\udcff %2E\n/", "x/", "x.json.json"]


async def test_an_empty_directory_survives_everything(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        await make(a, "d", "d/empty")
        await write(a, "d/x", b"")
        await a.remove("d/x")
        await hosts.crash("a")
        a = await hosts.start("a")
        await a.rename_directory("d", "e")
        assert await paths(await hosts.start("b")) == ["e", "e/empty"]


async def test_tombstones_are_not_shown(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        await make(a, "d")
        for number in range(5):
            await write(a, f"d/{number}", b"x")
        await a.remove("d/1")
        await a.rename("d/2", "d/3")
        for vault in (a, await hosts.start("b")):
            assert await names(vault, "d") == ["0", "3", "4"]
            assert await paths(vault, "d") == ["d/0", "d/3", "d/4"]
            with pytest.raises(NoSuchPath):
                await vault.head("d/1")


# Renaming directories


async def test_a_directory_is_renamed_with_all_that_is_in_it(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        await make(a, "d", "d/e", "d/e/f", "d/empty", "target")
        await a.set_attributes("d", mode=0o711)
        contents = {"x": log_lines(600, 1), "e/y": log_lines(600, 2), "e/f/z": b"small"}
        contents |= {f"many{number}": b"%d" % number for number in range(40)}
        for path, data in contents.items():
            await write(a, f"d/{path}", data)
        for old, new in (("d", "g"), ("g", "target")):
            await a.rename_directory(old, new)
            b = await hosts.start("b")
            assert {path: await read(b, f"{new}/{path}") for path in contents} == contents
            assert sorted(await paths(b)) == sorted(
                [new, *(f"{new}/{path}" for path in [*contents, "e", "e/f", "empty"])]
                + (["target"] if new == "g" else [])
            )
            assert (await b.head(new)).attributes.mode == 0o711
            await hosts.crash("b")
        await make(a, "other")
        with pytest.raises(DirectoryNotEmpty):
            await a.rename_directory("other", "target")
        await a.drain()
        assert (await audit(hosts.store)).exact


async def test_a_rename_that_fails_half_way_leaves_every_conversation_whole(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path, deadline=0.3) as hosts:
        a = await hosts.start("a")
        await make(a, "d")
        contents = {str(number): log_lines(300, number) for number in range(6)}
        for name, data in contents.items():
            await write(a, f"d/{name}", data)
        rule = store.add(Rule(FailBefore(), "put", "manifests/e/3.json", times=None))
        with pytest.raises(StoreUnavailable):
            await a.rename_directory("d", "e")
        b = await hosts.start("b")
        for name, data in contents.items():
            found = [directory for directory in ("d", "e") if name in await names(b, directory)]
            assert found
            for directory in found:
                assert await read(b, f"{directory}/{name}") == data
        store.rules.remove(rule)
        assert await a.drain(20) == 0
        assert await names(b) == ["e/"]
        assert {name: await read(b, f"e/{name}") for name in contents} == contents
        assert await a.drain(10) == 0
        assert (await audit(store.inner)).exact


# Races between hosts


async def test_what_is_created_while_its_directory_is_removed_shows_again(tmp_path: Path) -> None:
    """The removal looks, finds nothing, and writes its tombstone while another host creates."""
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await make(a, "d")
        await a.set_attributes("d", mode=0o700)
        outcome: list[Exception] = []

        async def remove() -> None:
            try:
                await a.remove_directory("d")
            except DirectoryNotEmpty as error:
                outcome.append(error)

        async with store.held("put", manifest_key("d"), remove):
            await write(b, "d/x", b"1")
        assert len(outcome) == 1
        for vault in (a, b, await hosts.start("fresh")):
            assert await names(vault) == ["d/"]
            assert await names(vault, "d") == ["x"]
            assert (await vault.head("d")).attributes.mode == 0o700


async def test_an_orphan_is_made_visible_again_by_the_next_listing(tmp_path: Path) -> None:
    """The host that removed the directory was gone before it could look again."""
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await make(a, "d")
        await a.remove_directory("d")
        await write(b, "d/e/x", b"orphan")
        fresh = await hosts.start("fresh")
        assert await names(fresh) == ["d/"]
        assert await names(fresh, "d") == ["e/"]
        assert await read(fresh, "d/e/x") == b"orphan"
        assert (await b.head("d")).is_directory


async def test_a_read_only_vault_shows_an_orphan_without_writing(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        await write(await hosts.start("a"), "d/x", b"orphan")
        hosts.options["read_only"] = True
        reader = await hosts.start("reader")
        store.reset_log()
        assert await names(reader) == ["d/"]
        assert store.count("put") == 0
        for attempt in (make(reader, "e"), reader.remove("d/x"), reader.rename("d/x", "y"), write(reader, "z", b"")):
            with pytest.raises(ReadOnly):
                await attempt


@pytest.mark.parametrize("packed", [False, True])
async def test_what_was_created_below_a_file_is_moved_beside_it_by_a_listing(packed: bool, tmp_path: Path) -> None:
    """A host took for a directory still what another one had removed, and given its name to a file."""
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await make(a, "d", "d/e", "d/e/empty")
        text = log_lines(1500, 1)
        waits = [b.draft(path, None, ATTRIBUTES) for path in ("d/x", "d/e/y")]
        for draft in waits:
            draft.write(0, text)
            await b.acknowledge(draft)
        for path in ("d/e/empty", "d/e", "d"):
            await a.remove_directory(path)
        await write(a, "d", b"a conversation now")
        await flush(b)
        await b.make_symlink("d.link", b"d", ATTRIBUTES)
        await make(b, "d.other")

        hosts.options["read_only"] = True
        assert await names(await hosts.start("reader")) == ["d", "d.link", "d.other/"]
        del hosts.options["read_only"]
        c = await hosts.start("c")
        if packed:
            shown = [name for name, _ in await c.list_versions("")]
        else:
            shown = [entry.path for entry in await c.list_directory("")]
        beside = shown[1]
        assert shown == ["d", beside, "d.link", "d.other"]
        assert beside.startswith("d.conflict-")
        for vault in (a, b, c, await hosts.start("fresh")):
            assert await names(vault) == ["d", f"{beside}/", "d.link", "d.other/"]
            assert await names(vault, beside) == ["e/", "x"]
            assert await read(vault, "d") == b"a conversation now"
            assert await read(vault, f"{beside}/x") == await read(vault, f"{beside}/e/y") == text
            assert await vault.drain(20) == 0
        assert (await audit(hosts.store)).exact


async def test_directories_below_a_file_are_moved_too(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await make(a, "d")
        await make(b, "d/e")
        await a.store.delete(manifest_key("d"))
        await write(a, "d", b"a conversation now")
        await b.make_symlink("d/e/link", b"elsewhere", ATTRIBUTES)
        fresh = await hosts.start("fresh")
        first, beside = await names(fresh)
        assert first == "d"
        assert await names(fresh, beside[:-1]) == ["e/"]
        assert (await fresh.head(f"{beside}e")).attributes == ATTRIBUTES
        assert (await fresh.head(f"{beside}e/link")).target == b"elsewhere"
        # There is nothing left that would be looked for.
        assert await names(await hosts.start("another")) == [first, beside]


async def test_what_cannot_be_moved_from_below_a_file_hides_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        await write(a, "d", b"a conversation now")
        deep = "/".join(["d", *["n" * 215] * 4])
        await write(a, deep, b"no longer path is possible")
        await write(a, "d/x", b"movable")
        fresh = await hosts.start("fresh")
        first, beside = await names(fresh)
        assert (first, await names(fresh, beside[:-1])) == ("d", ["x"])
        assert "cannot be shown, since a file has the name of its directory" in caplog.text
        assert await names(fresh) == [first, beside]


async def test_what_is_in_a_directory_that_was_a_file_a_moment_ago_stays_there(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store.inner, tmp_path) as hosts:
        a, b = await hosts.start("a", store), await hosts.start("b")
        await write(b, "d", b"a conversation")
        await write(b, "d/hidden", b"created in what was taken for a directory")
        # The first is by the listing, the second has found something below the file.
        stall = Stall()
        store.add(Rule(stall, "list", "manifests/d/*", nth=2))

        async def meanwhile() -> None:
            await stall.reached.wait()
            await b.remove("d")
            await make(b, "d")
            await write(b, "d/x", b"to be seen")
            stall.go.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(meanwhile)
            await a.list_directory("")
        for vault in (a, b):
            assert await names(vault) == ["d/"]
            assert await names(vault, "d") == ["hidden", "x"]


async def test_a_file_with_the_name_of_an_old_directory_is_not_searched_each_time(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a = await hosts.start("a")
        await make(a, "d")
        await write(a, "d/x", b"")
        await a.remove("d/x")
        await a.remove_directory("d")
        await write(a, "d", b"a conversation now")
        assert await names(a) == ["d"]
        store.reset_log()
        assert await names(a) == ["d"]
        assert store.count() == 1


async def test_directory_and_conversation_of_one_name_have_one_winner(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        vaults = [await hosts.start(name) for name in "abcd"]
        for attempt in range(4):
            done: list[str] = []

            async def create(index: int, path: str, done: list[str]) -> None:
                try:
                    if index % 2:
                        await make(vaults[index], path)
                    else:
                        await write(vaults[index], path, b"x", exclusive=True)
                    done.append("directory" if index % 2 else "conversation")
                except PathExists:
                    return

            async with trio.open_nursery() as nursery:
                for index in range(4):
                    nursery.start_soon(create, index, f"n{attempt}", done)
            assert len(done) == 1
            assert (await vaults[0].head(f"n{attempt}")).is_directory is (done == ["directory"])


# What listings cost, and what they refuse to say


@pytest.mark.parametrize("nth", [1, 2, 3])
async def test_a_listing_that_fails_half_way_is_an_error(nth: int, tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore(page_size=10))
    async with Hosts(store, tmp_path) as hosts:
        a = await hosts.start("a")
        await make(a, "d")
        for number in range(25):
            await write(a, f"d/{number:02d}", b"x")
        for attempt in (a.list_directory, lambda path: paths(a, path)):
            rule = store.add(Rule(FailBefore(), "list", "manifests/d/", nth=nth))
            with pytest.raises(StoreUnavailable):
                await attempt("d")
            assert rule.seen == nth
            store.rules.remove(rule)
        assert len(await names(a, "d")) == 25


async def test_a_manifest_that_cannot_be_fetched_fails_the_listing(tmp_path: Path) -> None:
    """It is there: a directory without it would be a lie."""
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a = await hosts.start("a")
        for number in range(5):
            await write(a, f"{number}", b"x")
        store.add(Rule(FailBefore(), "get", manifest_key("3"), nth=1))
        b = await hosts.start("b")
        with pytest.raises(StoreUnavailable):
            await b.list_directory("")
        assert await names(b) == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("error", [CorruptObject, UnsupportedVersion])
async def test_a_manifest_that_cannot_be_read_hides_nothing_else(error: type[StowError], tmp_path: Path) -> None:
    """And its directory is not taken for an empty one."""
    store = MemoryStore()
    async with Hosts(store, tmp_path) as hosts:
        a = await hosts.start("a")
        await make(a, "d")
        await write(a, "d/good", b"1")
        body = codec.compress(b'{"v":2}') if error is UnsupportedVersion else b"damaged"
        await store.put(manifest_key("d/bad"), body)
        await store.put("manifests/d/no manifest at all", b"")
        assert await names(a, "d") == ["good"]
        with pytest.raises(error, match="d/bad"):
            await a.head("d/bad")
        await a.remove("d/good")
        with pytest.raises(error, match="d/bad"):
            await a.remove_directory("d")
        assert await names(a) == ["d/"]
        await store.delete(manifest_key("d/bad"))
        await a.remove_directory("d")
        assert await names(a) == []


async def test_a_listing_costs_its_pages_and_what_changed(tmp_path: Path) -> None:
    entries, page = 2500, 1000
    store = FaultyStore(MemoryStore(page_size=page))
    async with Hosts(store, tmp_path) as hosts:
        a = await hosts.start("a")
        await make(a, "d")
        async with trio.open_nursery() as nursery:
            for number in range(entries):
                nursery.start_soon(write, a, f"d/{number:04d}", b"%d" % number)
        pages = entries // page + 1
        b = await hosts.start("b")

        async def cost(directory: str) -> dict[str, int]:
            store.reset_log()
            assert len(await names(b, directory)) == entries
            return {operation: store.count(operation, "manifests") for operation in ("list", "get", "put")}

        # The first time everything is fetched; the directory itself is not asked for, since something is in it.
        assert await cost("d") == {"list": pages, "get": entries, "put": 0}
        assert await cost("d") == {"list": pages, "get": 0, "put": 0}
        await append(a, "d/0007", b"!")
        await a.set_attributes("d/2001", mode=0o600)
        await a.remove("d/1000")
        await write(a, "d/new", b"")
        assert await cost("d") == {"list": pages, "get": 4, "put": 0}
        # After a restart the index knows them all.
        await hosts.crash("b")
        b = await hosts.start("b")
        assert await cost("d") == {"list": pages, "get": 0, "put": 0}
        # The directory above is asked for with a delimiter: what is in `d` is not listed. Its manifest is fetched once.
        for requests in (2, 1):
            store.reset_log()
            assert await names(b) == ["d/"]
            assert store.count() == requests


async def test_directories_of_tombstones_only_are_not_searched_each_time(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path) as hosts:
        a = await hosts.start("a")
        for number in range(3):
            await make(a, f"d{number}")
            await write(a, f"d{number}/x", b"")
            await a.remove(f"d{number}/x")
            await a.remove_directory(f"d{number}")
        assert await names(a) == []
        store.reset_log()
        assert await names(a) == []
        assert store.count() == 1


async def test_times_and_modes_of_entries_need_no_request(tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a = await hosts.start("a")
        await write(a, "x", b"12345")
        await a.set_attributes("x", mode=0o640, mtime_ns=17)
        [entry] = await (await hosts.start("b")).list_directory("")
        assert (entry.size, entry.attributes.mode, entry.attributes.mtime_ns) == (5, 0o640, 17)
        assert entry.attributes.ctime_ns > ATTRIBUTES.ctime_ns
        assert msgspec.structs.replace(entry.attributes, ctime_ns=0) == msgspec.structs.replace(
            ATTRIBUTES, mode=0o640, mtime_ns=17, ctime_ns=0
        )
