"""What a reader has seen stays where it was, whatever others put before it; and which files have such readers."""

from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from stowfs.errors import StoreUnavailable
from stowfs.mount import readers
from stowfs.mount.commits import Commits
from stowfs.mount.inode import Inode
from stowfs.mount.inodes import Inodes
from stowfs.mount.moves import Moves
from stowfs.mount.outcomes import Outcomes
from stowfs.mount.readers import CONTENDED, OTHERS, PATHS, Contention, Reader
from stowfs.store.memory import MemoryStore
from stowfs.vault.version import Version
from tests.support.faults import FailAfter, FailBefore, FaultyStore, Rule
from tests.support.vaults import ATTRIBUTES, Hosts, read, write

LINES = st.binary(min_size=1, max_size=9)


class File:
    """A file with a base that all hosts know, and what was appended here since; and its readers."""

    def __init__(self) -> None:
        self.base = b""
        self.own = b""
        self.readers: list[tuple[Reader, bytearray]] = []

    def open(self) -> None:
        self.readers.append((Reader(), bytearray(self.base + self.own)))

    def append(self, line: bytes) -> None:
        self.own += line
        for _, seen in self.readers:
            seen += line

    def merge(self, theirs: bytes) -> None:
        """What others have appended comes before what was appended here."""
        for reader, _ in self.readers:
            reader.put_before(len(self.base), len(theirs))
        self.base += theirs + self.own
        self.own = b""

    def read(self, reader: Reader, start: int, end: int) -> bytes:
        content = self.base + self.own
        return b"".join(content[slice(*place)] for place in reader.ranges(start, end))


@given(st.lists(st.just("open") | st.tuples(st.sampled_from(["append", "merge"]), LINES), max_size=30), st.data())
def test_what_was_seen_stays_and_what_is_appended_here_follows(
    steps: list[str | tuple[str, bytes]], data: st.DataObject
) -> None:
    file = File()
    for step in steps:
        match step:
            case ("append", bytes(line)):
                file.append(line)
            case ("merge", bytes(line)):
                file.merge(line)
            case _:
                file.open()
        for reader, seen in file.readers:
            start = data.draw(st.integers(0, len(seen)))
            end = data.draw(st.integers(start, len(seen) + 3))
            assert file.read(reader, start, end) == seen[start:end]


def test_a_reader_that_is_open_for_very_long_goes_on_at_the_end() -> None:
    file = File()
    file.append(b"begin")
    file.open()
    for number in range(readers.MOST + 50):
        file.append(b"%d\n" % number)
        file.merge(b"others\n" * (number % 3 + 1))
    ((reader, seen),) = file.readers
    assert file.read(reader, len(seen) - 500, len(seen) + 500) == seen[-500:]
    assert len(reader.ranges(0, len(seen))) <= readers.MOST + 1


def moving(contention: Contention, paths: str, *, appending: bool = False) -> str:
    """Those of the paths whose bytes may move."""
    return "".join(path for path in paths if contention.moves(path, appending=appending))


async def test_a_file_is_contended_while_two_hosts_append_to_it(autojump_clock: trio.testing.MockClock) -> None:
    contention = Contention()
    contention.changed_elsewhere("x")
    contention.committed("y", appended=True)
    assert moving(contention, "xy") == ""
    contention.committed("x", appended=True)
    assert moving(contention, "x") == ""
    contention.changed_elsewhere("x")
    contention.merged("z")
    await trio.sleep(CONTENDED - 1)
    assert moving(contention, "xyz") == "xz"
    contention.merged("z")
    await trio.sleep(2)
    assert moving(contention, "xyz") == "z"
    contention.changed_elsewhere("y")
    assert moving(contention, "xyz") == "z"


async def test_what_is_appended_may_move_unless_this_mount_seems_to_be_alone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    contention = Contention()
    assert moving(contention, "xy", appending=True) == "xy"
    contention.committed("x", appended=False)
    contention.committed("y", appended=False)
    assert moving(contention, "xy", appending=True) == ""
    contention.changed_elsewhere("x")
    assert moving(contention, "xy", appending=True) == "xy"
    assert moving(contention, "xy") == ""
    await trio.sleep(OTHERS + 1)
    assert moving(contention, "xy", appending=True) == "x"


async def test_so_many_files_are_known_and_no_more() -> None:
    contention = Contention()
    for number in range(2 * PATHS):
        contention.merged(str(number))
    known = [number for number in range(2 * PATHS) if contention.moves(str(number), appending=False)]
    assert known == list(range(PATHS, 2 * PATHS))


async def test_what_a_commit_finds_to_be_stored_already_has_not_moved(tmp_path: Path) -> None:
    """A commit that nobody answered took effect, and the next one fails once it has found that."""

    async def invalidate(_: Inode) -> None:
        """There is no kernel."""

    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path, deadline=0.5) as hosts:
        vault = await hosts.start("a")
        base = await write(vault, "x", b"start\n")
        inodes = Inodes(Version("", ATTRIBUTES, 0), Contention())
        commits = Commits(vault, inodes, Moves(1.0), Outcomes(inodes, invalidate, lambda *_: None), lifetime=None)
        inode = inodes.add("x", Version.of(base))
        inode.handles, inode.readers = 1, (reader := Reader(),)
        inode.draft = draft = vault.draft("x", base, base.attributes, appending=True)
        for line, trouble, nth in ((b"one\n", FailAfter, 1), (b"two\n", FailBefore, 2)):
            draft.write(draft.size, line)
            store.add(Rule(trouble(StoreUnavailable("no answer")), "put", "manifests/x.json", nth=nth, times=None))
            store.add(Rule(FailBefore(StoreUnavailable("away")), "get", "manifests/x.json", nth=nth, times=None))
            with pytest.raises(StoreUnavailable):
                await commits.commit(inode)
            store.rules.clear()
        seen = [await draft.read(*place) for place in reader.ranges(0, draft.size)]
        assert b"".join(seen) == b"start\none\ntwo\n"
        await commits.commit(inode)
        assert await read(vault, "x") == b"start\none\ntwo\n"
        assert reader.ranges(0, 14) == [(0, 14)]
        draft.discard()
