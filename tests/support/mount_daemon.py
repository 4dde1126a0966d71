"""A mount in a process of its own, on a `file://` store that does what files in a control directory say.

    python -m tests.support.mount_daemon STORE MOUNTPOINT SLOT OPTIONS CONTROL

While CONTROL/down exists the store does not answer, and while CONTROL/defect does, every request of it ends in an
error that nobody foresaw. CONTROL/requests gets a line for each request: operation and key. "ready" is printed when
the mount answers.
"""

import logging
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import trio

from stowfs.errors import NotAStore
from stowfs.hot.tier import HotTier
from stowfs.mount.daemon import serve
from stowfs.mount.options import parse_options
from stowfs.store.file import FileStore
from stowfs.vault.descriptor import Descriptor, create_descriptor, read_descriptor
from tests.support.faults import FaultyStore, Operation

T = TypeVar("T")


class ControlledStore(FaultyStore):
    """A store that another process can break and mend, and whose requests it can read."""

    def __init__(self, directory: Path, control: Path) -> None:
        super().__init__(FileStore(directory))
        self._control = control

    async def _decide(self, operation: Operation, key: str, send: Callable[[], Awaitable[T]]) -> T:
        self.down = (self._control / "down").exists()
        if (self._control / "defect").exists():
            raise RuntimeError("injected: a defect")
        with (self._control / "requests").open("a") as requests:
            requests.write(f"{operation} {key}\n")
        return await super()._decide(operation, key, send)


async def main(store_directory: str, mountpoint: str, slot: str, options_text: str, control: str) -> None:
    options = parse_options([options_text])
    store = ControlledStore(Path(store_directory), Path(control))
    descriptor = await _descriptor(store)
    hot = await HotTier.open(options.for_hot_tier(), descriptor.store_id, slot)
    try:
        await serve(mountpoint, store, hot, descriptor, options, ready=lambda: print("ready", flush=True))
    finally:
        await hot.close()


async def _descriptor(store: FaultyStore) -> Descriptor:
    try:
        return await read_descriptor(store)
    except NotAStore:
        return await create_descriptor(store)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    trio.run(main, *sys.argv[1:])
