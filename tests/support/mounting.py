"""Real mounts for tests: each daemon a process of its own, and nothing of a mount is touched from within the test
process.

A process that uses a mount whose daemon is stuck cannot be ended. So clients run as children with a time limit (`run`,
`python`), and whatever happens the daemons are ended: by unmounting, then by their pids, then by a lazy unmount.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

CLIENT_TIMEOUT = 30.0
"""Seconds a client may take: far more than any needs, far less than the limit of a test."""

DAEMON_TIMEOUT = 30.0
"""Seconds a daemon may take to mount, and to end."""


def run(
    *command: str | Path,
    check: bool = True,
    data: bytes | None = None,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = CLIENT_TIMEOUT,
) -> subprocess.CompletedProcess[bytes]:
    """Runs a client. With `check`, that it succeeds is asserted, with what it said in the message."""
    result = subprocess.run(
        [str(part) for part in command],
        input=data if data is not None else b"",
        capture_output=True,
        timeout=timeout,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        check=False,
    )
    if check:
        assert result.returncode == 0, f"{command}: {result.returncode}: {result.stderr.decode(errors='replace')}"
    return result


def python(code: str, *arguments: str | Path, check: bool = True, timeout: float = CLIENT_TIMEOUT) -> str:
    """Runs `code` as a client, with `os`, `sys`, `errno` and the arguments as `args`; what it prints, stripped."""
    prelude = "import errno, os, sys\nargs = sys.argv[1:]\n"
    done = run(sys.executable, "-c", prelude + code, *arguments, check=check, timeout=timeout)
    return done.stdout.decode().strip()


def failure(code: str, *arguments: str | Path) -> str:
    """The name of the errno with which `code` ends; '' where it does not fail."""
    body = "".join(f"    {line}\n" for line in code.splitlines())
    return python(f"try:\n{body}except OSError as e:\n    print(errno.errorcode[e.errno])", *arguments)


@dataclass
class Mount:
    """One mount of a store. `root` is what shows the conversations."""

    name: str
    mountpoint: Path
    control: Path
    log: Path
    process: subprocess.Popen[bytes]
    root: Path = field(init=False)

    def __post_init__(self) -> None:
        self.root = self.mountpoint / "conversations"

    def requests(self) -> list[str]:
        """The requests to the store since the last call, "operation key" each."""
        path = self.control / "requests"
        if not path.exists():
            return []
        taken = path.rename(self.control / "requests.taken")
        return taken.read_text().splitlines()

    def counts(self) -> Counter[str]:
        """How often each operation was done, and each kind of request made."""
        stats = json.loads(run("cat", self.mountpoint / ".stowfs" / "stats.json").stdout)
        return Counter({kind: of["count"] for part in ("operations", "requests") for kind, of in stats[part].items()})

    def break_store(self, how: str = "down") -> None:
        """From now on the store fails: it is "down" or "silent", or has a "defect"."""
        (self.control / how).touch()

    def put_clock_ahead(self, seconds: int) -> None:
        """From now on the clock of deadlines is so far ahead."""
        written = self.control / "clock.new"
        written.write_text(str(seconds))
        written.rename(self.control / "clock")

    def kill_at(self, when: str, request: int) -> None:
        """The daemon ends by SIGKILL at the `request`th request from now on: "before" it is sent, or "after" it."""
        written = self.control / "kill.new"
        written.write_text(f"{when} {request}")
        written.rename(self.control / "kill")

    def was_killed(self) -> bool:
        """Unmounts, which waits for what is done in the background; whether the daemon met its end by `kill_at`."""
        run("fusermount3", "-u", self.mountpoint, check=False)
        killed = self.process.wait(CLIENT_TIMEOUT) == -signal.SIGKILL
        self.mend_store()
        if killed:
            self.clear()
        return killed

    def mend_store(self) -> None:
        """The store works again, and the daemon has noticed."""
        for how in ("down", "silent", "defect", "kill"):
            (self.control / how).unlink(missing_ok=True)
        end = time.monotonic() + CLIENT_TIMEOUT
        while self.alive() and self.in_outage():
            assert time.monotonic() < end, self.log_text()
            time.sleep(0.05)

    def in_outage(self) -> bool:
        """Whether the daemon takes the store to be unreachable."""
        log = self.log_text()
        return log.rfind("store unreachable: ") > log.rfind("store answers again ")

    def log_text(self) -> str:
        """What the daemon has logged so far."""
        return self.log.read_text(errors="replace")

    def alive(self) -> bool:
        """Whether the daemon runs."""
        return self.process.poll() is None

    def unmount(self) -> None:
        """Unmounts as a user does; the daemon must end by itself, and well."""
        run("fusermount3", "-u", self.mountpoint)
        assert self.process.wait(DAEMON_TIMEOUT) == 0, self.log_text()

    def kill(self) -> None:
        """Ends the daemon as a crash does, and clears the dead mount away."""
        self.process.kill()
        self.process.wait(DAEMON_TIMEOUT)
        self.clear()

    def clear(self) -> None:
        """Removes what is still mounted, without asking anybody."""
        subprocess.run(["fusermount3", "-uz", str(self.mountpoint)], capture_output=True, timeout=10, check=False)


class Mounts:
    """The mounts of one test, all of one store: each as if on a host of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = directory / "store"
        self.store.mkdir()
        self._mounts: list[Mount] = []

    def start(self, name: str = "a", options: str = "", *, mountpoint: Path | None = None) -> Mount:
        """Mounts, and returns when the mount answers. The hot tier of a name is kept between mounts."""
        home = self.directory / name
        control = home / "control"
        control.mkdir(parents=True, exist_ok=True)
        if mountpoint is None:
            mountpoint = home / "mnt"
            mountpoint.mkdir(exist_ok=True)
        log = home / "log"
        # So short a timeout that a store that is down shows in a test, so long that a slow machine does not.
        command = ["tests.support.mount_daemon", self.store, mountpoint, name, f"timeout=2,{options}", control]
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=output,
                cwd=Path(__file__).parents[2],
                env={**os.environ, "STOWFS_STATE_DIR": str(home / "state"), "STOWFS_CACHE_DIR": str(home / "cache")},
            )
        mount = Mount(name, mountpoint, control, log, process)
        self._mounts.append(mount)
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], DAEMON_TIMEOUT)
        assert readable, mount.log_text()
        assert process.stdout.readline() == b"ready\n", mount.log_text()
        return mount

    def forget_caches(self, name: str) -> None:
        """Empties the hot tier of a name that is not mounted."""
        for part in ("state", "cache"):
            shutil.rmtree(self.directory / name / part, ignore_errors=True)

    def close(self) -> None:
        """Ends every daemon, whatever state it is in."""
        for mount in self._mounts:
            mount.mend_store()
            if mount.alive():
                unmount = ["fusermount3", "-u", str(mount.mountpoint)]
                subprocess.run(unmount, capture_output=True, timeout=10, check=False)
            # Somebody may have it open still: the first signal ends the mount, the second what it waits for.
            for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
                try:
                    mount.process.wait(5)
                except subprocess.TimeoutExpired:
                    mount.process.send_signal(number)
            mount.process.wait(DAEMON_TIMEOUT)
            if mount.process.stdout is not None:
                mount.process.stdout.close()
            mount.clear()


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[Mounts]:
    """Mounts on a fresh `file://` store."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.fail("/dev/fuse is missing or not accessible: the tests of the mount need it")
    every = Mounts(tmp_path)
    try:
        yield every
    finally:
        every.close()
