"""The process that serves a mount: makes contact with the store, takes the hot tier, and serves until it is
unmounted."""

import logging
import logging.handlers
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import trio

from stowfs.cli.daemons import slot_of, write_record
from stowfs.cli.launch import MountRequest
from stowfs.cli.leftovers import check_slot, remember, remembered
from stowfs.cli.making import make_directory_store
from stowfs.cli.session import Contact, contact, without_contact
from stowfs.config import MIB, HotTierOptions, default_state_root
from stowfs.errors import HotTierBusy, StoreUnavailable
from stowfs.hot.tier import HotTier
from stowfs.mount.daemon import serve
from stowfs.store.open import FileLocation

log = logging.getLogger(__name__)

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
    # It logs, with a stack, each error that it raises as well.
    logging.getLogger("botocore.credentials").setLevel(logging.CRITICAL)


async def serve_mount(request: MountRequest, *, ready: Callable[[], None]) -> None:
    """Mounts, calls `ready` when the mount answers, and returns when it is unmounted.

    Where the store cannot be reached, but conversations that were written at this mount point before wait for it, it
    is mounted all the same, so that they can be read. Raises `MountFailed`, `HotTierBusy`, and what making contact
    with the store raises; then nothing is mounted.
    """
    async with AsyncExitStack() as stack:
        reached = await _reach(request, stack)
        store, descriptor = reached.store, reached.descriptor
        slot = slot_of(request.mountpoint)
        check_slot(default_state_root(), slot, descriptor.store_id, request.mountpoint)
        hot = await _take(request.options.for_hot_tier(), descriptor.store_id, slot)
        stack.push_async_callback(hot.close)
        remember(hot.state_directory, store.url, descriptor)
        record = write_record(hot.state_directory, store.url, request.mountpoint, request.options)
        stack.callback(record.unlink)
        await serve(request.mountpoint, store, hot, descriptor, request.options, requests=reached.requests, ready=ready)


async def _reach(request: MountRequest, stack: AsyncExitStack) -> Contact:
    """The store and its descriptor: as they are, or as they were when something was left for them here."""
    location, options, writing = request.location, request.store_options, not request.options.read_only
    try:
        if writing and isinstance(location, FileLocation):
            await make_directory_store(location, options)
        return await stack.enter_async_context(contact(location, options, writing=writing))
    except StoreUnavailable as error:
        known = remembered(default_state_root(), slot_of(request.mountpoint), location.url) if writing else None
        if known is None:
            raise
        log.warning("mounted without the store, which does not answer: %s", error)
        return await stack.enter_async_context(without_contact(location, options, known))


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
