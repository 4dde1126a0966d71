"""Small disks of a test's own, to be filled and to be made read-only."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

TIMEOUT = 10.0
"""Seconds for a mount or unmount of a file system in memory."""


@dataclass(frozen=True)
class Disk:
    """A file system in memory, mounted at `path`."""

    path: Path

    def fill(self) -> None:
        """Leaves no free block."""
        with (self.path / "filler").open("wb") as filler:
            command = ["dd", "if=/dev/zero", "bs=64k", "status=none"]
            done = subprocess.run(command, stdout=filler, stderr=subprocess.PIPE, timeout=TIMEOUT, check=False)
        assert b"No space left" in done.stderr

    def empty(self) -> None:
        """Frees what `fill` took."""
        (self.path / "filler").unlink()

    def set_writable(self, writable: bool) -> None:
        _run("mount", "-o", f"remount,{'rw' if writable else 'ro'}", self.path)


class Disks:
    """The disks of one test."""

    def __init__(self) -> None:
        self._paths: list[Path] = []

    def mount(self, path: Path, *, size: str) -> Disk:
        """A disk at `path`, which is made where it is missing; `size` as for mount(8)."""
        path.mkdir(parents=True, exist_ok=True)
        _run("mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", path)
        self._paths.append(path)
        return Disk(path)

    def close(self) -> None:
        """Unmounts all of them, in use or not."""
        for path in self._paths:
            _run("umount", "--lazy", path)


def _run(*command: str | Path) -> None:
    subprocess.run(list(map(str, command)), capture_output=True, timeout=TIMEOUT, check=True)


@pytest.fixture
def disks() -> Iterator[Disks]:
    """To be asked for before what uses the disks, so that they go after it."""
    every = Disks()
    try:
        yield every
    finally:
        every.close()
