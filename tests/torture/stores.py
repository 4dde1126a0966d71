"""The store of a run: a directory, or a bucket of a Ceph RGW of the run's own, which can go away and come back."""

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import trio

from stowfs.config import StoreOptions
from stowfs.store.s3_account import make_client

SCRIPT = Path(__file__).parents[2] / "scripts" / "rgw"
BUCKET = "torture"

SCRIPT_TIMEOUT = 180.0
"""Seconds for RGW to start, or to start again: longer than the script waits itself."""


class Store(Protocol):
    """Where everything is stored."""

    @property
    def url(self) -> str:
        """Its address."""

    @property
    def environment(self) -> dict[str, str]:
        """What commands that use it need."""

    @property
    def can_fail(self) -> bool:
        """Whether it can be made to."""

    async def down(self) -> None:
        """Ends it at once; what it holds stays."""

    async def up(self) -> None:
        """Starts it again, and returns when it answers."""

    def freeze(self) -> None:
        """Makes it accept requests and not answer; it carries them out when it thaws."""

    def thaw(self) -> None:
        """Lets it go on."""


class Directory:
    """A `file://` store, which does not fail."""

    can_fail = False

    def __init__(self, directory: Path) -> None:
        self.url = directory.as_uri()
        self.environment: dict[str, str] = {}

    async def down(self) -> None:
        raise NotImplementedError("a directory does not go away")

    async def up(self) -> None:
        """It always is."""

    def freeze(self) -> None:
        raise NotImplementedError("a directory does not stall")

    def thaw(self) -> None:
        """It never stalls."""


class Rgw:
    """A bucket of an RGW with its state below `directory`."""

    can_fail = True
    url = f"s3://{BUCKET}"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.environment: dict[str, str] = {}

    async def start(self) -> None:
        """Starts the server, and makes the bucket."""
        await self._script("start")
        lines = (await self._script("env")).splitlines()
        pairs = [line.removeprefix("export ").partition("=") for line in lines]
        self.environment = {name: value.strip("'") for name, _, value in pairs}
        os.environ.update(self.environment)
        client = make_client(StoreOptions())
        await trio.to_thread.run_sync(lambda: client.create_bucket(Bucket=BUCKET))

    async def stop(self) -> None:
        """Ends the server and forgets what it holds."""
        self.thaw()
        await self._script("stop")

    async def down(self) -> None:
        await self._script("down")

    async def up(self) -> None:
        await self._script("up")

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.kill(int((self._directory / "radosgw.pid").read_text()), number)
        except (FileNotFoundError, ProcessLookupError):
            return  # It is down, or was never started.

    async def _script(self, command: str) -> str:
        with trio.fail_after(SCRIPT_TIMEOUT):
            done = await trio.run_process(
                [sys.executable, str(SCRIPT), command],
                env={**os.environ, "STOWFS_RGW_DIR": str(self._directory)},
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
        if done.returncode != 0:
            raise RuntimeError(f"rgw {command}: {done.returncode}: {done.stderr.decode()[-2000:]}")
        return done.stdout.decode()


@asynccontextmanager
async def open_store(kind: str, directory: Path) -> AsyncIterator[Store]:
    """The store of a run, for as long as it lasts."""
    if kind == "file":
        yield Directory(directory / "store")
        return
    rgw = Rgw(directory / "rgw")
    try:
        await rgw.start()
        yield rgw
    finally:
        with trio.CancelScope(shield=True):
            await rgw.stop()
