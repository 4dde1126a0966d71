"""FUSE daemons in the foreground, so that their ids are known and each ends, whatever state it is in."""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from scripts.benchmark.processes import Failed, end, last_words, run, start

POLL_SECONDS = 0.02
"""How often is looked whether a mount is there: not part of what is timed."""

CLEAR_SECONDS = 30.0
"""How long unmounting may take: daemons finish what they owe the store first."""


class Daemon:
    """A mounted file system."""

    def __init__(self, process: "subprocess.Popen[bytes]", mountpoint: Path) -> None:
        self.process = process
        self.mountpoint = mountpoint

    def peak_memory(self) -> int:
        """The most memory that the daemon has used, in bytes."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise Failed("the daemon has ended")


def is_mounted(mountpoint: Path) -> bool:
    """Whether something is mounted there. Nothing is asked of it."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return str(mountpoint) in (line.split(" ")[4] for line in lines)


@contextlib.contextmanager
def mounted(
    command: Sequence[str | Path], mountpoint: Path, env: Mapping[str, str], log: Path, timeout: float
) -> Iterator[Daemon]:
    """Mounts by `command`, which stays in the foreground; unmounts, and waits until the daemon has ended.

    Raises `Failed` with the end of its log when it does not mount within `timeout` seconds.
    """
    mountpoint.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = start(command, env=env, cwd=None, output=output.fileno())
    try:
        deadline = time.monotonic() + timeout
        while not is_mounted(mountpoint):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"{Path(command[0]).name} did not mount: {last_words(log.read_bytes())}")
            time.sleep(POLL_SECONDS)
        run("stat", "-f", mountpoint, timeout=timeout)
        yield Daemon(process, mountpoint)
        run("fusermount3", "-u", mountpoint, timeout=CLEAR_SECONDS)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout)
    finally:
        if is_mounted(mountpoint):
            # Whoever is stuck in it is let go.
            subprocess.run(["fusermount3", "-uz", mountpoint], capture_output=True, timeout=CLEAR_SECONDS, check=False)
        end(process)


def drop_page_cache() -> None:
    """Makes the kernel forget clean pages and names. Raises `Failed` where that is not permitted."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError as error:
        raise Failed(f"the page cache cannot be dropped: {error.strerror}") from error
