"""Starting the daemon of a mount, as a process of its own, and waiting until its mount answers.

The daemon is started anew, not forked off: nothing of this process, no thread and no lock, gets into it. It says on a
pipe that it is ready, or why it is not; its end closes the pipe in any case.
"""

import os
import select
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from stowfs.cli.daemons import log_file
from stowfs.cli.mounts import IN_CONTAINER, is_dead, mount_entry, unmount
from stowfs.config import StoreOptions, default_cache_root, default_state_root
from stowfs.errors import MountFailed
from stowfs.mount.options import MountOptions
from stowfs.store.open import StoreLocation

START_TIMEOUT = 120.0
"""Seconds until a daemon must be ready. Each of its steps has a shorter limit of its own: this is for what none
foresees."""

STOP_TIMEOUT = 10.0
"""Seconds for a daemon that failed to start to end by itself after SIGTERM."""


@dataclass(frozen=True, slots=True)
class MountRequest:
    """What is to be mounted where. `mountpoint` is canonical."""

    location: StoreLocation
    store_options: StoreOptions
    mountpoint: str
    options: MountOptions


class Status(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a daemon reports: `error` is empty where the mount answers, `status` its exit status where it does not."""

    error: str = ""
    status: int = 0


def report(fd: int, status: Status) -> None:
    """Tells the process at the other end of the pipe, and closes it."""
    with os.fdopen(fd, "wb") as pipe:
        pipe.write(msgspec.json.encode(status) + b"\n")


def launch(request: MountRequest, option_lists: Sequence[str]) -> Status:
    """Starts a daemon with the mount options `option_lists`; returns when its mount answers or it has failed.

    Then nothing is left mounted. Raises `MountFailed` where it did not say why.
    """
    mountpoint = request.mountpoint
    log = log_file(default_state_root().absolute(), mountpoint)
    log_start = log.stat().st_size if log.exists() else 0
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        try:
            process = _start(_arguments(request, option_lists), log, writing)
        finally:
            os.close(writing)
        try:
            status = _wait(pipe.fileno(), log)
            if not status.error:
                _check(mountpoint, log)
        except BaseException:
            _end(process, mountpoint)
            raise
        if status.error:
            _end(process, mountpoint)
            return Status("; ".join([status.error, *_said_by_fuse(log, log_start)]), status.status)
    return status


def _said_by_fuse(log: Path, start: int) -> list[str]:
    """What libfuse and fusermount3 wrote to stderr, who alone know why a mount was refused; and what to do."""
    with log.open("rb") as lines:
        lines.seek(start)
        said = [
            line.decode(errors="backslashreplace").strip()
            for line in lines
            if line.startswith((b"fuse: ", b"fusermount3: "))
        ]
    return [*said, IN_CONTAINER] if any("not permitted" in line for line in said) else said


def _arguments(request: MountRequest, option_lists: Sequence[str]) -> list[str]:
    """The command line that asks for the same mount, wherever it is run."""
    options = request.store_options
    given = [("--endpoint", options.endpoint), ("--region", options.region), ("--profile", options.profile)]
    pairs = [(name, value) for name, value in given if value] + [("-o", text) for text in option_lists]
    return [*(word for pair in pairs for word in pair), "--", request.location.url, request.mountpoint]


def _start(arguments: Sequence[str], log: Path, status_fd: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "stowfs", "mount", "--status-fd", str(status_fd), "--log", str(log), *arguments]
    environment = {
        **os.environ,
        "STOWFS_STATE_DIR": str(default_state_root().absolute()),
        "STOWFS_CACHE_DIR": str(default_cache_root().absolute()),
    }
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[status_fd],
            # A daemon must not keep the file system busy that it was started from.
            cwd="/",
            env=environment,
            start_new_session=True,
        )


def _wait(fd: int, log: Path) -> Status:
    message = b""
    while not message.endswith(b"\n"):
        readable, _, _ = select.select([fd], [], [], START_TIMEOUT)
        if not readable:
            raise MountFailed(f"the mount did not answer within {START_TIMEOUT:.0f} s: its log is {log}")
        part = os.read(fd, 1 << 16)
        if not part:
            raise MountFailed(f"the daemon ended before the mount answered{_last_words(log)}: its log is {log}")
        message += part
    return msgspec.json.decode(message, type=Status)


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="backslashreplace").splitlines()[-1:]
    return f" ({lines[0].strip()})" if lines else ""


def _check(mountpoint: str, log: Path) -> None:
    entry = mount_entry(mountpoint)
    if entry is None or not entry.is_stowfs or is_dead(mountpoint):
        raise MountFailed(f"{mountpoint}: the mount has gone again: its log is {log}")


def _end(process: "subprocess.Popen[bytes]", mountpoint: str) -> None:
    """Ends a daemon that is not to go on; frees the mount point where it did not do so itself."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    entry = mount_entry(mountpoint)
    if entry is not None and entry.is_stowfs:
        unmount(mountpoint, lazy=True)
