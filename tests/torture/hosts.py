"""A host: state and cache of its own, and maybe a mount, whose daemon can be killed and stopped."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from tests.torture.stores import Store

COMMAND_TIMEOUT = 240.0
"""Seconds for any command of stowfs: longer than any waits on purpose, so that one that takes longer hangs."""

MOUNT_RETRY = 0.5
"""Seconds between two attempts to mount while the store is away."""


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended. `status` is `None` where it had to be killed."""

    status: int | None
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        """What it printed with `--json`."""
        return json.loads(self.stdout)


class Host:
    """One host."""

    def __init__(self, name: str, directory: Path, store: Store) -> None:
        self.name = name
        self.directory = directory
        self.mountpoint = directory / "mnt"
        self.store = store
        self.mountpoint.mkdir(parents=True)
        self.mount_failures: list[str] = []

    async def stowfs(self, *arguments: str, kill_after: float | None = None) -> Done:
        """Runs a command; with `kill_after`, it is killed if it takes that many seconds."""
        environment = {
            **os.environ,
            **self.store.environment,
            "STOWFS_STATE_DIR": str(self.directory / "state"),
            "STOWFS_CACHE_DIR": str(self.directory / "cache"),
        }
        with (self.directory / "stdout").open("wb") as stdout, (self.directory / "stderr").open("wb") as stderr:
            process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "stowfs", *arguments], env=environment, stdout=stdout, stderr=stderr
            )
        with trio.move_on_after(COMMAND_TIMEOUT if kill_after is None else kill_after) as limit:
            await process.wait()
        if limit.cancelled_caught:
            process.kill()
            await process.wait()
        said = [(self.directory / name).read_text(errors="replace") for name in ("stdout", "stderr")]
        return Done(None if limit.cancelled_caught else process.returncode, said[0], said[1])

    async def mount(self, options: str, *, patience: float) -> bool:
        """Mounts, again and again for `patience` seconds; whether it succeeded."""
        with trio.move_on_after(patience):
            while True:
                with trio.CancelScope(shield=True):
                    done = await self.stowfs("mount", self.store.url, str(self.mountpoint), "-o", options)
                if done.status == 0:
                    return True
                self.mount_failures.append(done.stderr.strip() or "the command hung")
                await trio.sleep(MOUNT_RETRY)
        return False

    def pid(self) -> int | None:
        """The daemon of the mount, if it lives."""
        for record in self.directory.glob("state/*/*/mount.json"):
            pid = int(json.loads(record.read_bytes())["pid"])
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if os.fsencode(self.mountpoint) in command:
                return pid
        return None

    def signal(self, number: signal.Signals) -> bool:
        """Sends a signal to the daemon; whether there is one."""
        pid = self.pid()
        if pid is not None:
            os.kill(pid, number)
        return pid is not None

    def log(self) -> list[str]:
        """The lines of the daemon's log."""
        logs = sorted(self.directory.glob("state/logs/mount-*.log"))
        return [line for log in logs for line in log.read_text(errors="replace").splitlines()]

    def clear(self) -> None:
        """Ends what is left of the mount, whatever state it is in."""
        for number in (signal.SIGCONT, signal.SIGKILL):
            self.signal(number)
        subprocess.run(["fusermount3", "-uz", str(self.mountpoint)], capture_output=True, timeout=10, check=False)
