"""A mount in a process of its own, on a `file://` store that does what files in a control directory say.

    python -m tests.support.mount_daemon STORE MOUNTPOINT SLOT OPTIONS CONTROL

While CONTROL/down exists the store cannot be reached, while CONTROL/silent does it takes requests and gives no answer,
and while CONTROL/defect does, every request of it ends in an error that nobody foresaw. CONTROL/kill, "before N" or
"after N", ends the process by SIGKILL at the Nth request from then on, before it is sent or when it has taken effect.
CONTROL/clock holds by how many seconds the clock of deadlines is ahead; CONTROL/known, how many inodes the mount may
know when it begins. CONTROL/requests gets a line for each request: operation and key. "ready" is printed when the mount
answers.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import trio

from stowfs.errors import NotAStore
from stowfs.hot.tier import HotTier
from stowfs.mount import inodes
from stowfs.mount.daemon import serve
from stowfs.mount.options import parse_options
from stowfs.store.base import ObjectStore
from stowfs.store.counting import CountingStore
from stowfs.store.file import FileStore
from stowfs.store.retry import guarded
from stowfs.vault import expiry
from stowfs.vault.descriptor import Descriptor, create_descriptor, read_descriptor
from stowfs.vault.naming import DESCRIPTOR
from tests.support.faults import FaultyStore, Operation

T = TypeVar("T")


class ControlledStore(FaultyStore):
    """A store that another process can break and mend, and whose requests it can read."""

    def __init__(self, directory: Path, control: Path) -> None:
        super().__init__(FileStore(directory))
        self._control = control
        self._seen = 0

    async def _decide(self, operation: Operation, key: str, send: Callable[[], Awaitable[T]]) -> T:
        self.down = (self._control / "down").exists()
        if (self._control / "defect").exists():
            raise RuntimeError("injected: a defect")
        with (self._control / "requests").open("a") as requests:
            requests.write(f"{operation} {key}\n")
        when, number = self._death()
        if when is not None:
            self._seen += 1
        mine = self._seen
        if when == "before" and mine == number:
            os.kill(os.getpid(), signal.SIGKILL)
        while (self._control / "silent").exists():  # noqa: ASYNC110 - another process removes it
            await trio.sleep(0.05)
        try:
            return await super()._decide(operation, key, send)
        finally:
            if when == "after" and mine == number:
                os.kill(os.getpid(), signal.SIGKILL)

    def _death(self) -> tuple[str | None, int]:
        path = self._control / "kill"
        if not path.exists():
            return None, 0
        when, number = path.read_text().split()
        return when, int(number)


async def main(arguments: list[str]) -> None:
    store_directory, mountpoint, slot, options_text, control = arguments
    options = parse_options([options_text])
    if (known := Path(control) / "known").exists():
        inodes.KNOWN = int(known.read_text())
    expiry.now_ns = lambda: time.time_ns() + _ahead(Path(control) / "clock")
    store = CountingStore(ControlledStore(Path(store_directory), Path(control)))
    descriptor = await _descriptor(store)
    hot = await HotTier.open(options.for_hot_tier(), descriptor.store_id, slot)
    try:
        async with guarded(store, options.for_vault().deadline, trial=DESCRIPTOR) as working:
            await serve(
                mountpoint,
                working,
                hot,
                descriptor,
                options,
                requests=store.counts,
                ready=lambda: print("ready", flush=True),
            )
    finally:
        await hot.close()


def _ahead(path: Path) -> int:
    return int(path.read_text()) * expiry.NANOSECONDS if path.exists() else 0


async def _descriptor(store: ObjectStore) -> Descriptor:
    try:
        return await read_descriptor(store)
    except NotAStore:
        return await create_descriptor(store)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    trio.run(main, sys.argv[1:])
