"""Sessions of agents as they come to be: each line an open, an append and a close, and somebody reads all the while.

STOWFS_CORPUS names a directory with more sessions than the samples.
"""

import hashlib
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.corpus import corpus, samples
from tests.support.mounting import CLIENT_TIMEOUT, Mounts, run

pytestmark = pytest.mark.fuse

SESSIONS = [path for path in list(corpus()) or samples() if path.parent.name == "claude-code-jsonl"]

LINES = sum(path.read_bytes().count(b"\n") for path in SESSIONS)

REPLAY_TIMEOUT = CLIENT_TIMEOUT + LINES / 10
"""Seconds: each line is a commit, of which a loaded machine does some dozens in a second."""

REPLAY = """
import os, sys
directory, *sources = sys.argv[1:]
sessions = [(os.path.join(directory, os.path.basename(path)), open(path, 'rb').readlines()) for path in sources]
for number in range(max(len(lines) for _, lines in sessions)):
    for path, lines in sessions:
        if number < len(lines):
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            assert os.write(fd, lines[number]) == len(lines[number])
            os.close(fd)
"""


@contextmanager
def followed(session: Path, seen: Path) -> Iterator[None]:
    """Follows a session: what comes is kept as it is in `seen`, and as jq reads it beside that."""
    with seen.open("wb") as raw, seen.with_suffix(".jq").open("wb") as parsed:
        tail = subprocess.Popen(["tail", "-n", "+1", "-f", session], stdout=subprocess.PIPE)
        tee = subprocess.Popen(["tee", "/dev/fd/2"], stdin=tail.stdout, stdout=subprocess.PIPE, stderr=raw)
        jq = subprocess.Popen(["jq", "-c", "."], stdin=tee.stdout, stdout=parsed)
        for process in (tail, tee):
            assert process.stdout is not None
            process.stdout.close()
        try:
            yield
        finally:
            # The others end with what it has said.
            tail.kill()
            for process in (tail, tee, jq):
                process.wait(CLIENT_TIMEOUT)
        assert (tee.returncode, jq.returncode) == (0, 0)


def wait_for_size(path: Path, size: int) -> None:
    """Until a file has a size, or for as long as anything may take."""
    end = time.monotonic() + CLIENT_TIMEOUT
    while path.stat().st_size < size and time.monotonic() < end:
        time.sleep(0.05)


@pytest.mark.timeout(120 + 2 * REPLAY_TIMEOUT)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_sessions_are_written_line_by_line_and_followed(mounts: Mounts, tmp_path: Path, mode: str) -> None:
    mount = mounts.start(options=f"commit={mode}")
    root = mount.root / "sessions"
    run("mkdir", root)
    run("touch", *(root / session.name for session in SESSIONS))
    seen = tmp_path / "seen"
    seen.mkdir()
    writers = []
    try:
        with ExitStack() as following:
            for session in SESSIONS:
                following.enter_context(followed(root / session.name, seen / session.name))
            for half in (SESSIONS[::2], SESSIONS[1::2]):
                writers.append(subprocess.Popen([sys.executable, "-c", REPLAY, str(root), *map(str, half)]))
            assert [writer.wait(REPLAY_TIMEOUT) for writer in writers] == [0, 0]
            for session in SESSIONS:
                wait_for_size(seen / session.name, session.stat().st_size)
    finally:
        for writer in writers:
            writer.kill()
            writer.wait(CLIENT_TIMEOUT)
    for session in SESSIONS:
        assert digest((seen / session.name).read_bytes()) == digest(session.read_bytes()), session.name
        read = run("jq", "-c", ".", session).stdout
        assert digest((seen / session.name).with_suffix(".jq").read_bytes()) == digest(read), session.name
        run("cmp", session, root / session.name)
    mount.unmount()
    elsewhere = mounts.start("b").root / "sessions"
    for session in SESSIONS:
        run("cmp", session, elsewhere / session.name)


def digest(data: bytes) -> tuple[int, str]:
    """Short enough for a message."""
    return len(data), hashlib.sha256(data).hexdigest()
