"""What a run is: everything that its processes have to know."""

from pathlib import Path
from typing import Literal

import msgspec

HOSTS = ("a", "b")
"""The hosts that work; each has a mount, and local state and cache, of its own."""

WORKERS = 3
"""Processes on each host: two may meet in one file, and the third goes on with something else."""

LOGS = 2
RACES = 3
"""Files to which all workers append, and those that all replace."""


class Settings(msgspec.Struct, frozen=True):
    """`place`: the directory of the run. `timeout`: the mount option, in seconds: short, so that faults last longer
    than it."""

    place: str
    seed: int
    seconds: float
    store: Literal["file", "rgw"]
    commit: Literal["sync", "async"]
    timeout: float = 4.0

    @property
    def directory(self) -> Path:
        """Where everything of the run is."""
        return Path(self.place)

    @property
    def histories(self) -> Path:
        """Where workers write their histories."""
        return self.directory / "histories"

    def mountpoint(self, host: str) -> Path:
        """Where a host has the store mounted."""
        return self.directory / host / "mnt"

    def pause(self, host: str) -> Path:
        """While this file is there, the workers of a host keep away from its mount."""
        return self.directory / f"pause-{host}"

    def paused(self, worker: str) -> Path:
        """While this file is there, that worker does."""
        return self.directory / f"paused-{worker}"


def workers(host: str) -> list[str]:
    """The names of the workers of a host."""
    return [f"{host}{number}" for number in range(WORKERS)]


def everybody() -> list[str]:
    """The names of all workers."""
    return [worker for host in HOSTS for worker in workers(host)]


def host_of(worker: str) -> str:
    """The host on which a worker runs."""
    return worker[0]
