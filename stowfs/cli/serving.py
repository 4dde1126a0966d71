"""The process that serves a mount: makes contact with the store, takes the hot tier, and serves until it is
unmounted."""

import logging
import logging.handlers
from collections.abc import Callable
from pathlib import Path

import trio

from stowfs.cli.daemons import slot_of, write_record
from stowfs.cli.launch import MountRequest
from stowfs.cli.making import make_directory_store
from stowfs.cli.session import contact
from stowfs.config import MIB, HotTierOptions
from stowfs.errors import HotTierBusy
from stowfs.hot.tier import HotTier
from stowfs.mount.daemon import serve
from stowfs.store.open import FileLocation

HANDOVER = 35.0
"""Seconds for which a mount waits for the daemon that served the same mount point before, which may still be releasing
what it deleted: a little longer than a vault takes to close."""

RETRY = 0.2
"""Seconds between two attempts to take over from it."""

LOG_SIZE = 4 * MIB
"""Bytes of a daemon's log before it begins a new one; one old one is kept."""


def log_to(path: Path | None) -> None:
    """Sends the log to a file that cannot grow without end; without one, to stderr."""
    handler: logging.Handler = logging.StreamHandler()
    if path is not None:
        handler = logging.handlers.RotatingFileHandler(
            path, maxBytes=LOG_SIZE, backupCount=1, errors="backslashreplace"
        )
    logging.basicConfig(handlers=[handler], format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("stowfs").setLevel(logging.INFO)


async def serve_mount(request: MountRequest, *, ready: Callable[[], None]) -> None:
    """Mounts, calls `ready` when the mount answers, and returns when it is unmounted.

    Raises `MountFailed`, `HotTierBusy`, and what making contact with the store raises; then nothing is mounted.
    """
    writing = not request.options.read_only
    if writing and isinstance(request.location, FileLocation):
        await make_directory_store(request.location, request.store_options)
    async with contact(request.location, request.store_options, writing=writing) as reached:
        hot = await _take(request.options.for_hot_tier(), reached.descriptor.store_id, slot_of(request.mountpoint))
        try:
            record = write_record(hot.state_directory, reached.store.url, request.mountpoint, request.options)
            try:
                await serve(
                    request.mountpoint,
                    reached.store,
                    hot,
                    reached.descriptor,
                    request.options,
                    requests=reached.requests,
                    ready=ready,
                )
            finally:
                record.unlink()
        finally:
            await hot.close()


async def _take(options: HotTierOptions, store_id: str, slot: str) -> HotTier:
    """The slot, as soon as the daemon that has it lets go."""
    deadline = trio.current_time() + HANDOVER
    while True:
        try:
            return await HotTier.open(options, store_id, slot)
        except HotTierBusy:
            if trio.current_time() > deadline:
                raise
            await trio.sleep(RETRY)
