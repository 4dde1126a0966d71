"""Directories through the mount: what a listing told is what programs see next, without asking for each entry."""

import time
import tracemalloc

import msgspec
import pytest
from trio.testing import MockClock

from stowfs.mount.attributes import Shown, answered, entry
from stowfs.mount.listings import PER_TIMEOUT
from stowfs.vault.manifest import Attributes
from stowfs.vault.naming import INDEX_POINTER, manifest_key, shard_key
from stowfs.vault.shards import Pointer, encode_pointer, encode_shard, row
from stowfs.vault.version import Version, encode
from tests.support.faults import FaultyStore
from tests.support.mounting import Mounts, python, run
from tests.support.vaults import Hosts, append, write
from tests.support.view import ATTRIBUTE_TIMEOUT, View

FILES = 200

NAMES = 10_000
"""So many that what is there only once does not count."""

NAME_MEMORY = 600
"""Bytes that the kernel's knowing a file may cost: its inode, packed version, path and number, and where these are
found."""


async def test_attributes_from_a_listing_are_believed_longer_the_more_there_are(
    hosts: Hosts, faulty: FaultyStore, mock_clock: MockClock
) -> None:
    a = await hosts.start("a")
    for number in range(FILES):
        await write(a, f"{number:03d}", b"x")
    view = View(await hosts.start("mount"))
    # Of inodes that are new, and of those that are known.
    for _ in range(2):
        listing = view.listings.open(view.inodes.conversations)
        await view.listings.read(listing)
        shown = [entry[1] for position in range(FILES) if (entry := view.listings.entry(listing, position)) is not None]
        assert len(shown) == FILES
        faulty.reset_log()
        mock_clock.jump(ATTRIBUTE_TIMEOUT * (1 + FILES / PER_TIMEOUT) - 0.001)
        for inode in shown:
            await view.lookup.shown(inode, recently=True)
        assert faulty.log == []
        mock_clock.jump(0.002)
        await view.lookup.shown(shown[5], recently=True)
        await view.lookup.shown(shown[5], recently=True)
        assert faulty.counts() == {("get", "manifests"): 1}
        # Asked for by itself, it is believed as long as any other.
        mock_clock.jump(ATTRIBUTE_TIMEOUT + 0.001)
        await view.lookup.shown(shown[5], recently=True)
        assert faulty.count() == 2
        # Whoever has to be sure asks.
        await view.lookup.shown(shown[5])
        assert faulty.count() == 3
        view.listings.close(listing)


async def test_a_name_that_was_listed_takes_little_memory(hosts: Hosts) -> None:
    view = View(await hosts.start("mount"))
    listing = view.listings.open(view.inodes.conversations)
    listing.asked = listing.answered = listing.allowance = 1.5
    attributes = Attributes(0o644, 1000, 1000, time.time_ns(), time.time_ns())
    listing.entries = [
        (f"{number:020d}", encode(Version(f"{number:032d}", attributes, 1000 + number))) for number in range(NAMES)
    ]
    tracemalloc.start()
    try:
        for position in range(NAMES):
            shown = view.listings.entry(listing, position)
            assert shown is not None
            inode = shown[1]
            inode.lookups += 1
            answered(inode, entry(inode, Shown(), 1.0, 1.0), inode)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert inode.size == 1000 + NAMES - 1
    print("TAKEN", taken / NAMES)
    assert taken / NAMES < NAME_MEMORY


async def test_a_listing_shows_what_others_changed_and_open_files_keep_their_version(
    hosts: Hosts, mock_clock: MockClock
) -> None:
    a = await hosts.start("a")
    for name in ("changed", "open", "same"):
        await write(a, name, b"x")
    view = View(await hosts.start("mount"))
    listing = view.listings.open(view.inodes.conversations)

    async def sizes() -> dict[str, int]:
        await view.listings.read(listing)
        entries = [view.listings.entry(listing, position) for position in range(len(listing.entries))]
        return {entry[0]: entry[1].size for entry in entries if entry is not None}

    assert await sizes() == {"changed": 1, "open": 1, "same": 1}
    opened, _ = await view.lookup.find("open")
    await view.open_files.open(opened, 1, writing=False)
    for name in ("changed", "open"):
        await append(a, name, b"more")
    assert await sizes() == {"changed": 5, "open": 5, "same": 1}
    assert opened.size == 1
    assert not view.inodes.is_current(opened)


async def test_a_file_has_the_size_of_its_manifest_whatever_the_index_says(hosts: Hosts, faulty: FaultyStore) -> None:
    a = await hosts.start("a")
    rows = []
    for number in range(40):
        made = await write(a, f"{number:02d}", b"content")
        lie = msgspec.structs.replace(Version.of(made), size=3 if number % 2 else 1 << 40)
        rows.append(row(manifest_key(made.path), made.etag, lie))
    info, body = encode_shard(rows, "", "")
    await faulty.put(shard_key(info.id), body)
    await faulty.put(INDEX_POINTER, encode_pointer(Pointer("0", (info,))))
    view = View(await hosts.start("mount"))
    listing = view.listings.open(view.inodes.conversations)
    await view.listings.read(listing)
    for position in (0, 1):
        entry = view.listings.entry(listing, position)
        assert entry is not None
        _, inode = entry
        assert inode.size in (3, 1 << 40)
        inode.lookups += 1
        await view.open_files.open(inode, 1, writing=False)
        assert inode.size == 7
        # And another listing does not bring it back.
        await view.listings.read(listing)
        view.listings.entry(listing, position)
        assert inode.size == 7
        await view.open_files.close(inode, writing=False)


@pytest.mark.fuse
def test_a_new_host_lists_by_the_index_that_another_has_written(mounts: Mounts) -> None:
    a = mounts.start("a")
    code = "for n in range(300): open(f'{args[0]}/{n}', 'w').write('x' * n)"
    python(code, a.root)
    run("ls", "-l", a.root)
    pointer = mounts.store / "index" / "current"
    deadline = time.monotonic() + 40
    while not pointer.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    b = mounts.start("b")
    b.requests()
    found = run("find", b.root, "-type", "f", "-printf", "%f %s\\n").stdout.decode().split()
    assert sorted(found[::2]) == sorted(found[1::2]) == sorted(str(n) for n in range(300))
    assert [request for request in b.requests() if request.startswith("get manifests/")] == []
    assert run("cat", b.root / "299").stdout == b"x" * 299


@pytest.mark.fuse
def test_find_and_ls_ask_for_no_entry_by_itself(mounts: Mounts) -> None:
    mount = mounts.start(options="attr_timeout=60")
    run("mkdir", mount.root / "d")
    code = "for n in range(300): open(f'{args[0]}/{n}', 'w').write('x' * n)"
    python(code, mount.root / "d")
    mount.unmount()
    mount = mounts.start(options="attr_timeout=60")
    before = mount.counts()
    found = run("find", mount.root / "d", "-type", "f", "-printf", "%f %s\\n").stdout.decode().split()
    assert sorted(found[::2]) == sorted(found[1::2]) == sorted(str(n) for n in range(300))
    assert run("ls", "-l", mount.root / "d").stdout.count(b"\n") == 301
    used = mount.counts() - before
    assert used["getattr"] + used["lookup"] < 20
    assert used["get"] < 20


@pytest.mark.fuse
def test_what_need_not_be_revalidated_is_opened_and_read_without_a_question(mounts: Mounts) -> None:
    mount = mounts.start(options="attr_timeout=0,revalidate=600")
    run("mkdir", mount.root / "d")
    python("for n in range(100): open(f'{args[0]}/{n}', 'w').write('x' * n)", mount.root / "d")
    code = "for n in range(100): assert len(open(f'{args[0]}/{n}').read()) == os.stat(f'{args[0]}/{n}').st_size == n"
    python(code, mount.root / "d")
    # Reading from us, which the kernel takes for a change of the time of access, was the first time only.
    python(code, mount.root / "d")
    before = mount.counts()
    python(code, mount.root / "d")
    used = mount.counts() - before
    # Those of the figures themselves among them.
    assert used["open"] == 101
    assert used["read"] + used["getattr"] + used["lookup"] + used["get"] + used["list"] <= 10


IS_AS_DONE = """
import os
root = args[0] + '/d'
expected = {}

def check():
    for _ in range(2):
        assert {entry.name: entry.stat().st_size for entry in os.scandir(root) if entry.is_file()} == expected

def write(name, content, mode='w'):
    with open(f'{root}/{name}', mode) as file:
        file.write(content)
    expected[name] = os.stat(f'{root}/{name}').st_size
    check()

os.mkdir(root)
check()
for n in range(5):
    write(f'{n}', 'x' * n)
write('0', 'more', 'a')
write('1', 'written anew')
os.truncate(f'{root}/2', 1)
expected['2'] = 1
check()
os.rename(f'{root}/2', f'{root}/two')
expected['two'] = expected.pop('2')
check()
os.replace(f'{root}/two', f'{root}/3')
expected['3'] = expected.pop('two')
check()
os.rename(f'{root}/4', f'{args[0]}/away')
del expected['4']
check()
os.remove(f'{root}/3')
del expected['3']
check()
os.mkdir(f'{root}/inner')
assert sorted(os.listdir(root)) == ['0', '1', 'inner']
"""


@pytest.mark.fuse
def test_a_directory_that_was_listed_is_listed_again_without_a_question(mounts: Mounts) -> None:
    a = mounts.start("a")
    run("mkdir", a.root / "d")
    python("for n in range(10): open(f'{args[0]}/d/{n}', 'w').write('x' * n)", a.root)
    b = mounts.start("b", options="revalidate=600")
    listed = run("ls", "-l", b.root / "d").stdout
    assert "list manifests/d/" in b.requests()
    assert run("ls", "-l", b.root / "d").stdout == listed
    assert b.requests() == []


@pytest.mark.fuse
@pytest.mark.parametrize("program", ["ls -lR", "find", "du -a", "grep -r x", "tar -cf -"])
def test_programs_that_go_through_a_tree_list_many_directories_at_once(mounts: Mounts, program: str) -> None:
    make = "for n in range(60): os.mkdir(f'{args[0]}/d{n}'); open(f'{args[0]}/d{n}/{n}', 'w').write('x' * n)"
    python(make, mounts.start("a").root)
    b = mounts.start("b", options="revalidate=600")
    b.requests()
    run(*program.split(), b.root)
    listed = [request for request in b.requests() if request.startswith("list ")]
    assert listed == ["list manifests/", "list manifests/d0/", "list manifests/"]


@pytest.mark.fuse
@pytest.mark.parametrize("commit", ["sync", "async"])
def test_what_this_host_does_is_listed_at_once_whatever_was_listed_before(mounts: Mounts, commit: str) -> None:
    mount = mounts.start(options=f"revalidate=600,commit={commit}")
    python(IS_AS_DONE, mount.root)
    run("mv", mount.root / "d", mount.root / "e")
    run("mkdir", mount.root / "d")
    assert run("ls", mount.root / "d").stdout == b""
    assert run("ls", mount.root / "e").stdout.split() == [b"0", b"1", b"inner"]
    run("rm", "-r", mount.root / "e")
    assert run("ls", mount.root).stdout.split() == [b"away", b"d"]
