"""Who takes part, and how each is used: as a mount, as a program that copies in and out, or to see the bytes it stores.

Each is given a `Place`: a directory and a bucket of its own for one run. What it starts is ended when the run is over.
"""

import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from scripts.benchmark.mounts import Daemon, mounted
from scripts.benchmark.packages import Package
from scripts.benchmark.processes import run
from scripts.benchmark.settings import ROOT, WORKLOADS
from scripts.benchmark.store import Server, Stored

STOWFS = ROOT / ".venv" / "bin" / "stowfs"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a contestant works in one run. `environment` names the endpoint that it is to use: that of the proxy."""

    directory: Path
    bucket: str
    environment: Mapping[str, str]
    server: Server
    timeout: float

    @property
    def endpoint(self) -> str:
        """The URL of the S3 server as contestants shall use it."""
        return self.environment["AWS_ENDPOINT_URL"]

    def run(
        self,
        *command: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        succeeds: Collection[int] = (0,),
    ) -> bytes:
        """What a command prints. Raises `Failed`."""
        environment = {**self.environment, **(env or {})}
        return run(*command, timeout=self.timeout, cwd=cwd, env=environment, succeeds=succeeds)

    def program(self, name: str, *arguments: str | Path) -> str:
        """What one of `programs` prints: it pays for starting, as all contestants do, and one that is stuck in a mount
        can be left behind. Raises `Failed`."""
        command = [sys.executable, "-m", f"scripts.benchmark.programs.{name}", *arguments]
        return self.run(*command, env={"PYTHONPATH": str(ROOT)}).decode()


class Contestant(ABC):
    """One way to keep conversations."""

    name: ClassVar[str]
    packages: ClassVar[tuple[Package, ...]] = ()
    workloads: ClassVar[frozenset[str]]
    """What can be done with it."""

    bare_etags: ClassVar[bool] = False
    """Whether it gives ETags back as it got them, which Ceph RGW 16 does not understand (see `proxy`)."""

    def make(self, place: Place) -> None:  # noqa: B027 - most have nothing to make
        """What is done once, before anything is stored. Not timed."""

    def stored(self, place: Place) -> Stored:
        """What it has stored."""
        return place.server.stored(place.bucket)


@dataclass(slots=True)
class Session:
    """A mount while it lasts: `root` is where files go."""

    root: Path
    daemon: Daemon | None


class Mounted(Contestant):
    """A file system."""

    workloads = frozenset(WORKLOADS)

    @abstractmethod
    def mount(self, place: Place) -> AbstractContextManager[Session]:
        """Mounts for as long as the context lasts."""

    def mount_for_reading(self, place: Place) -> AbstractContextManager[Session]:
        """As `mount`, where nothing is going to be written."""
        return self.mount(place)

    def settle(self, place: Place, written: Stored) -> float:
        """Waits until everything that was written is in the store: `written` are all files of the mount. Returns how
        many seconds ago it was."""
        return 0.0

    @abstractmethod
    def fill(self, place: Place, source: Path, to: str) -> None:
        """Puts a directory under the name `to`, by whatever is quickest. It is not mounted. Not timed."""

    def forget(self, place: Place) -> None:
        """Empties what it has cached on the disk. It is not mounted."""
        shutil.rmtree(place.directory / "cache", ignore_errors=True)


class Copier(Contestant):
    """A program that copies directories in and out."""

    workloads = frozenset({"copy-in", "copy-out", "clients"})
    exact: ClassVar[bool] = True
    """Whether it claims to give back the bytes it was given."""

    @abstractmethod
    def copy_in(self, place: Place, source: Path, to: str) -> None:
        """Stores all files of a directory, under the name `to`."""

    @abstractmethod
    def copy_out(self, place: Place, target: Path) -> None:
        """Writes everything that is stored to the directory `target`."""

    def forget(self, place: Place) -> None:
        """Empties what it has cached on the disk."""
        shutil.rmtree(place.directory / "cache", ignore_errors=True)


class Whole(Contestant):
    """A program that keeps a file as one object."""

    workloads: ClassVar[frozenset[str]] = frozenset({"read"})

    @abstractmethod
    def keep(self, place: Place, file: Path) -> None:
        """Stores a file."""

    @abstractmethod
    def read(self, place: Place) -> tuple[float, str]:
        """Reads it into memory: the seconds, and the SHA-256 of what was read."""


class Packer(Contestant):
    """A program of which only the bytes it stores are of interest."""

    workloads: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def pack(self, place: Place, source: Path) -> None:
        """Stores all files of a directory."""


def directory_size(directory: Path) -> Stored:
    """What is in a local directory."""
    sizes = [path.stat().st_size for path in directory.rglob("*") if path.is_file()]
    return Stored(len(sizes), sum(sizes))


class Native(Mounted):
    """A directory of this machine's own file system."""

    name = "native"

    @contextmanager
    def mount(self, place: Place) -> Iterator[Session]:
        root = place.directory / "files"
        root.mkdir(exist_ok=True)
        yield Session(root, None)

    def fill(self, place: Place, source: Path, to: str) -> None:
        root = place.directory / "files"
        root.mkdir(exist_ok=True)
        place.run("cp", "-r", source, root / to)

    def stored(self, place: Place) -> Stored:
        return directory_size(place.directory / "files")


def _stowfs_environment(place: Place) -> dict[str, str]:
    cache, state = place.directory / "cache", place.directory / "cache" / "state"
    return {**place.environment, "STOWFS_CACHE_DIR": str(cache), "STOWFS_STATE_DIR": str(state)}


class StowfsMount(Mounted):
    """A mount of stowfs. Its state lies with its cache: an empty hot tier is what a fresh host has."""

    options: ClassVar[str]

    def make(self, place: Place) -> None:
        _mkfs(place)

    def mount(self, place: Place) -> AbstractContextManager[Session]:
        return self._mounted(place, self.options)

    @contextmanager
    def _mounted(self, place: Place, options: str) -> Iterator[Session]:
        point = place.directory / "mnt"
        command: list[str | Path] = [STOWFS, "mount", "--foreground", f"s3://{place.bucket}", point, "-o", options]
        with mounted(
            command, point, _stowfs_environment(place), place.directory / "mount.log", place.timeout
        ) as daemon:
            yield Session(point / "conversations", daemon)

    def fill(self, place: Place, source: Path, to: str) -> None:
        _put(place, source, to)
        # It writes the index, as mounts do in the course of time.
        _stowfs(place, "gc", f"s3://{place.bucket}")


class StowfsSync(StowfsMount):
    """stowfs as it is by default: `close` waits for the store."""

    name = "stowfs"
    options = "commit=sync"


class StowfsBelieving(StowfsMount):
    """As `StowfsSync`, but what was seen is believed for five minutes, as with `StowfsAsync`: a name that is new is not
    looked up in the store."""

    name = "stowfs-revalidate"
    options = "commit=sync,revalidate=300"


class StowfsAsync(StowfsMount):
    """stowfs for bulk work: what is timed ends with `stowfs flush`. What was seen is believed for five minutes, as
    rclone does by default (s3fs does for fifteen)."""

    name = "stowfs-async"
    options = "commit=async,revalidate=300"

    def settle(self, place: Place, written: Stored) -> float:
        _stowfs(place, "flush", place.directory / "mnt")
        return 0.0


class StowfsReadOnly(StowfsAsync):
    """As `StowfsAsync`, but what is read is read through a mount that cannot be written to: a close is no request to
    it."""

    name = "stowfs-ro"

    def mount_for_reading(self, place: Place) -> AbstractContextManager[Session]:
        return self._mounted(place, f"{self.options},ro")


class StowfsCopy(Copier):
    """`stowfs put` and `stowfs get`."""

    name = "stowfs-put"

    def make(self, place: Place) -> None:
        _mkfs(place)

    def copy_in(self, place: Place, source: Path, to: str) -> None:
        _put(place, source, to)

    def copy_out(self, place: Place, target: Path) -> None:
        _stowfs(place, "get", f"s3://{place.bucket}", "/", target)


class StowfsCompact(Packer):
    """`stowfs put`, then `stowfs compact`."""

    name = "stowfs-compact"

    def make(self, place: Place) -> None:
        _mkfs(place)

    def pack(self, place: Place, source: Path) -> None:
        _put(place, source, "files")
        _stowfs(place, "compact", f"s3://{place.bucket}")


def _mkfs(place: Place) -> None:
    _stowfs(place, "mkfs", f"s3://{place.bucket}")


def _put(place: Place, source: Path, to: str) -> None:
    _stowfs(place, "put", f"s3://{place.bucket}", f"{source}/.", "--to", to)


def _stowfs(place: Place, *arguments: str | Path) -> None:
    place.run(STOWFS, *arguments, env=_stowfs_environment(place))
