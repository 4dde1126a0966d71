"""The same operations on a mount and on the local file system: the same answers, errors, and trees in the end.

Each sequence has a directory of its own on the one mount. STOWFS_EXAMPLES sets how many are tried, STOWFS_SEED which.
"""

import itertools
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.support.mounting import CLIENT_TIMEOUT, Mount, Mounts

pytestmark = pytest.mark.fuse

EXAMPLES = int(os.environ.get("STOWFS_EXAMPLES", "25"))
"""Sequences: a fifth of a second each."""

SEED = int(os.environ.get("STOWFS_SEED", "1"))

MODES = ["commit=sync", "commit=async,flush_delay=3600", "commit=async,flush_delay=0.02"]
"""Everything goes to the store at once; nothing does; something does at any time."""

MINIMUM = 12
"""Operations of a sequence; on average there are then twice as many."""

SECONDS_EACH = 30
"""The time limit for a sequence and for each step in the search for a shorter one that fails, too."""

Operation = list[str | int | bool]

# Few names, so that operations meet.
PATHS = st.sampled_from(["a", "b", "c", "d", "d/a", "d/b", "d/e", "d/e/a", "e", "e/a", "d/../a"])
TARGETS = st.sampled_from(["a", "b", "d", "d/e", "../a", "nowhere", ".", "x" * 200])
SLOTS = st.integers(0, 3)
LENGTHS = st.sampled_from([0, 1, 7, 100, 4095, 4096, 5000, 70_000, 200_000])
OFFSETS = st.sampled_from([0, 1, 50, 4096, 4100, 65_536, 131_072, 150_000, 1 << 20])
SEEDS = st.integers(0, 9)
FILE_MODES = st.sampled_from([0o600, 0o644, 0o666, 0o755])
DIRECTORY_MODES = st.sampled_from([0o700, 0o755, 0o777, 0o1777])
TIMES = st.sampled_from([0, 1, 1_000_000_000_123_456_789, 1_600_000_000_999_999_999])
ACCESS = st.sampled_from([os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR])
FLAGS = st.sets(st.sampled_from([os.O_CREAT, os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND]), max_size=3)
OPEN_FLAGS = st.builds(lambda access, flags: access | sum(flags), ACCESS, FLAGS)


def operation(name: str, *arguments: st.SearchStrategy[str | int | bool]) -> st.SearchStrategy[Operation]:
    return st.tuples(st.just(name), *arguments).map(list)


OPERATIONS = st.one_of(
    # The first is what the others are replaced with in the search for a simpler sequence.
    operation("fstat", SLOTS),
    operation("open", SLOTS, PATHS, OPEN_FLAGS, FILE_MODES),
    operation("open", SLOTS, PATHS, st.just(os.O_RDWR | os.O_CREAT), FILE_MODES),
    operation("close", SLOTS),
    operation("dup", SLOTS, SLOTS),
    operation("read", SLOTS, LENGTHS),
    operation("pread", SLOTS, LENGTHS, OFFSETS),
    operation("write", SLOTS, LENGTHS, SEEDS),
    operation("write", SLOTS, LENGTHS, SEEDS),
    operation("pwrite", SLOTS, LENGTHS, SEEDS, OFFSETS),
    operation("lseek", SLOTS, OFFSETS, st.sampled_from([os.SEEK_SET, os.SEEK_CUR, os.SEEK_END])),
    operation("ftruncate", SLOTS, OFFSETS),
    operation("fsync", SLOTS),
    operation("fchmod", SLOTS, FILE_MODES),
    operation("futimens", SLOTS, TIMES),
    operation("map_write", SLOTS, LENGTHS, SEEDS, OFFSETS, st.booleans()),
    operation("map_read", SLOTS),
    operation("truncate", PATHS, OFFSETS),
    operation("rename", PATHS, PATHS),
    operation("rename", PATHS, PATHS),
    operation("rename_noreplace", PATHS, PATHS),
    operation("unlink", PATHS),
    operation("mkdir", PATHS, DIRECTORY_MODES),
    operation("rmdir", PATHS),
    operation("chmod", PATHS, DIRECTORY_MODES),
    operation("utimens", PATHS, TIMES),
    operation("symlink", TARGETS, PATHS),
    operation("readlink", PATHS),
    operation("stat", PATHS),
    operation("lstat", PATHS),
    operation("listdir", st.sampled_from([".", "d", "d/e", "e"])),
    operation("save", PATHS, LENGTHS, SEEDS),
)

START: list[Operation] = [
    *(["mkdir", "d", 0o755], ["mkdir", "e", 0o755]),
    *(["save", "a", 5000, 1], ["save", "c", 100, 2], ["save", "d/b", 200_000, 3]),
    *(["open", 0, "a", os.O_RDWR, 0], ["open", 1, "d/b", os.O_RDWR | os.O_APPEND, 0]),
    *(["open", 2, "a", os.O_RDONLY, 0], ["open", 3, "c", os.O_RDWR, 0]),
]
"""What each sequence begins with, so that most operations find something."""


class Client:
    """One of the processes that are compared; it is started again where an operation has ended it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.support.posix_client", str(self.directory)],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def ask(self, request: list[object]) -> list[object]:
        """Raises `AssertionError` where no answer comes."""
        if self.process.poll() is not None:
            self.leave()
            self.process = self.start()
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(request).encode() + b"\n")
        stdin.flush()
        readable, _, _ = select.select([stdout], [], [], CLIENT_TIMEOUT)
        assert readable, f"no answer to {request}"
        line = stdout.readline()
        assert line, f"ended with status {self.process.wait(CLIENT_TIMEOUT)}"
        result = json.loads(line)
        assert isinstance(result, list)
        return result

    def leave(self) -> None:
        """Lets go of the process."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()


@contextmanager
def client(directory: Path, mount: Mount | None = None) -> Iterator[Client]:
    """A client that is ended in any case: where it waits for a daemon, by the end of that."""
    started = Client(directory)
    try:
        yield started
    finally:
        started.leave()
        try:
            started.process.wait(CLIENT_TIMEOUT)
        except subprocess.TimeoutExpired:
            if mount is not None:
                mount.kill()
            started.process.kill()
            started.process.wait(CLIENT_TIMEOUT)


def without_times(tree: list[object]) -> list[object]:
    """A tree without the times of its directories, which are not stored."""
    return [entry[:-2] + entry[-1:] if entry[1].startswith("0o4") else entry for entry in tree]  # type: ignore[index]


@pytest.mark.timeout(120 + SECONDS_EACH * EXAMPLES)
@pytest.mark.parametrize("options", MODES)
def test_operations_do_what_they_do_on_a_local_disk(mounts: Mounts, tmp_path: Path, options: str) -> None:
    local = tmp_path / "local"
    local.mkdir()
    mount = mounts.start(options=options)
    names = (f"{number:05d}" for number in itertools.count())
    done: list[str] = []

    with client(mount.root, mount) as here, client(local) as there:

        @seed(SEED)
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(OPERATIONS, min_size=MINIMUM, max_size=60))
        def sequence(operations: list[Operation]) -> None:
            name = next(names)
            request: list[object] = [name, START + operations]
            for asked, got, expected in itertools.zip_longest(
                [*START, *operations, "tree, files open", "tree"], here.ask(request), there.ask(request)
            ):
                assert got == expected, f"{asked}: {got}, not {expected}"
            done.append(name)

        sequence()
    mount.unmount()
    mounts.forget_caches("a")
    again = mounts.start()
    with client(again.root, again) as here, client(local) as there:
        for name in done:
            stored, kept = here.ask(["tree", name]), there.ask(["tree", name])
            assert without_times(stored) == without_times(kept), name
    assert len(done) >= EXAMPLES
