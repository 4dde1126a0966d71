"""scripts/posix-suite with suites made up here, which do on the mount what the real ones may do."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.fuse

SCRIPT = Path(__file__).parents[2] / "scripts" / "posix-suite"

ON_MOUNT = '[ "$(stat -f -c %T .)" = fuseblk ] && touch file'

EXCEPTIONS = """# A comment.
a/00.t 2,4-5 refused
b/00.t 1 gone
c/00.t 1 no such file
"""


def suite(*arguments: str | Path, status: int) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What a built pjdfstest looks like."""
    checkout = tmp_path / "pjdfstest"
    program(checkout / "pjdfstest", "")
    (tmp_path / "exceptions").write_text(EXCEPTIONS)
    return checkout


def test_results_are_compared_with_the_list(checkout: Path, tmp_path: Path) -> None:
    lines = [f"{ON_MOUNT} && echo ok 1", "echo 1..7", "echo not ok 2 - tried", "echo not ok 3", "echo ok 4"]
    lines += ["echo not ok 5", "echo 'not ok 6 # TODO later'"]
    program(checkout / "tests" / "a" / "00.t", "\n".join(lines))
    program(checkout / "tests" / "b" / "00.t", "echo 1..1; echo ok 1")
    program(checkout / "tests" / "d" / "00.t", "echo out of order; exit 1")
    arguments = (checkout, "--exceptions", tmp_path / "exceptions")
    document = json.loads(suite(*arguments, "--json", status=1).stdout)
    verdict = document["pjdfstest"]
    assert (verdict["passed"], verdict["expected_failures"]) == (2, 2)
    failures = ["a/00.t 3: not ok 3", "a/00.t 7: no result", "d/00.t 0: no results: out of order"]
    assert verdict["unexpected_failures"] == failures
    assert verdict["unexpected_passes"] == ["a/00.t 4: refused", "b/00.t 1: gone", "c/00.t: there is no such file"]
    assert document["ok"] is False
    text = suite(*arguments, "--only", "b", status=1).stdout
    assert "unexpected pass: b/00.t 1: gone\n" in text
    assert "pjdfstest: 1 tests: 0 passed, 0 expected failures, 0 unexpected failures, 1 unexpected passes" in text


def test_all_as_expected(checkout: Path, tmp_path: Path) -> None:
    program(checkout / "tests" / "a" / "00.t", "echo 1..5; echo ok 1; echo not ok 2; echo ok 3; echo not ok 4")
    fsx = program(tmp_path / "fsx", ON_MOUNT)
    fsstress = program(tmp_path / "fsstress", f'{ON_MOUNT} && [ "$1 $2 $3 $4" = "-p 4 -n 7" ]')
    runs = ("--fsx", fsx, "--fsx-runs", "2", "9", "--fsstress", fsstress, "--fsstress-runs", "1", "7")
    text = suite(checkout, "--only", "a", "--exceptions", tmp_path / "exceptions", *runs, status=0).stdout
    assert "pjdfstest: 5 tests: 2 passed, 3 expected failures, 0 unexpected" in text
    assert "fsx: 4 runs passed, 0 failed" in text
    assert "fsstress: 1 runs passed, 0 failed" in text
    assert "fsck: 5 conversations, 0 deleted" in text


STUCK = """
pid=$(sed -n 's/.*"pid": *\\([0-9]*\\).*/\\1/p' ../../../state/*/*/mount.json)
kill -STOP "$pid" && touch file
"""


def test_a_daemon_that_is_stuck_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What waits for the daemon is done with when it has died: its mount is let go of only after that.
    slow = program(tmp_path / "bin" / "fusermount3", f'sleep 2; exec {shutil.which("fusermount3")} "$@"')
    monkeypatch.setenv("PATH", str(slow.parent), prepend=os.pathsep)
    fsx = program(tmp_path / "fsx", STUCK)
    arguments = ("--fsx", fsx, "--fsx-runs", "1", "9", "--timeout", "5", "--json")
    document = json.loads(suite(*arguments, status=1).stdout)
    assert document["fsx"]["passed"] == 0
    stuck, not_run = document["fsx"]["failures"]
    assert "touch: " in stuck
    assert not_run.endswith("not run: the daemon had to be ended")
    assert document["hung"] == ["fsx-1-0 was not done within 5 s"]


def test_wrong_usage(tmp_path: Path) -> None:
    assert "nothing to run" in suite(status=2).stderr
    assert "no built checkout of pjdfstest" in suite(tmp_path, status=2).stderr
    assert "no program" in suite("--fsx", tmp_path, status=2).stderr
    text = suite("--help", status=0).stdout
    assert "example:" in text
    assert "exit status: 0" in text


def test_a_list_that_cannot_be_read(checkout: Path, tmp_path: Path) -> None:
    program(checkout / "tests" / "a" / "00.t", "echo 1..1; echo ok 1")
    (tmp_path / "exceptions").write_text("a/00.t 1-x reason\n")
    failed = suite(checkout, "--exceptions", tmp_path / "exceptions", status=2)
    assert "exceptions, line 1: not a test file, numbers, and a reason" in failed.stderr
