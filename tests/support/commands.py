"""The command `stowfs` as a user runs it: a process each time, with a time limit and local directories of its own; and
scripts that run for long."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

COMMAND_TIMEOUT = 60.0
"""Seconds a command may take: many times what any needs, half the limit of a test."""

SHOWN = 2_000
"""Characters of what a command printed that are shown where it fails: the rest of a log must stay readable where it was
the contents of a file."""


def run_script(
    arguments: Sequence[str | Path], *, limit: float, end_limit: float
) -> "subprocess.CompletedProcess[str]":
    """Runs a program that mounts to its end. After `limit` seconds it is interrupted, and has `end_limit` seconds to
    unmount and to end what it has started."""
    with subprocess.Popen(
        arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            said, told = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            said, told = process.communicate(timeout=end_limit)
    return subprocess.CompletedProcess(arguments, process.returncode, said, told)


class Stow:
    """`stowfs` with state, cache and working directory below `directory`. Nothing stays mounted there after `close`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.environment = {"STOWFS_STATE_DIR": str(self.state), "STOWFS_CACHE_DIR": str(directory / "cache")}

    def run(
        self, *arguments: str | Path, status: int = 0, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command, and asserts its exit status."""
        done = subprocess.run(
            [sys.executable, "-m", "stowfs", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            cwd=self.directory,
            env={**os.environ, **self.environment, **(env or {})},
            timeout=COMMAND_TIMEOUT,
            check=False,
        )
        said = (done.stdout + done.stderr)[-SHOWN:]
        assert done.returncode == status, f"{arguments}: {done.returncode}, not {status}: {said!a}"
        return done

    def json(self, *arguments: str | Path, status: int = 0) -> Any:
        """The one document that a command prints with `--json`."""
        return json.loads(self.run(*arguments, "--json", status=status).stdout)

    def error(self, *arguments: str | Path, status: int = 1, env: dict[str, str] | None = None) -> str:
        """What a command that must fail says: one line on stderr, after its name, and nothing on stdout."""
        done = self.run(*arguments, status=status, env=env)
        assert done.stdout == ""
        assert done.stderr.endswith("\n")
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith("stowfs: ")
        return done.stderr.removeprefix("stowfs: ").rstrip("\n")

    def daemon(self) -> int:
        """The process id of the one daemon that runs."""
        (record,) = self.state.glob("*/*/mount.json")
        pid = json.loads(record.read_bytes())["pid"]
        assert isinstance(pid, int)
        return pid

    def mounted(self) -> list[str]:
        """The mount points below the directory, innermost first."""
        points = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        return sorted((point for point in points if point.startswith(f"{self.directory.resolve()}/")), reverse=True)

    def close(self) -> None:
        """Unmounts whatever is mounted below the directory, in use or not."""
        for point in self.mounted():
            subprocess.run(["fusermount3", "-uz", "--", point], capture_output=True, timeout=10, check=True)


@pytest.fixture
def stow(tmp_path: Path) -> Iterator[Stow]:
    """The command `stowfs` in `tmp_path`."""
    command = Stow(tmp_path)
    try:
        yield command
    finally:
        command.close()
