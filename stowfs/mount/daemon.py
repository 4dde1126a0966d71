"""The life of a mount: the vault, the FUSE session, and what signals do to them.

SIGTERM or SIGINT ends the session: requests under way are answered, what is open for writing is committed, the mount
point is free again. A second signal gives up waiting for the store.
"""

import logging
import os
import signal
from collections.abc import Callable

import pyfuse3
import trio

from stowfs.errors import MountFailed
from stowfs.hot.tier import HotTier
from stowfs.mount.about import About
from stowfs.mount.allocator import limit_heaps
from stowfs.mount.collector import spare_collector
from stowfs.mount.kernel import capacity_of, mount_flags, set_read_ahead
from stowfs.mount.monitor import Monitor, access_log
from stowfs.mount.operations import FileSystem
from stowfs.mount.options import MountOptions
from stowfs.store.base import ObjectStore
from stowfs.store.counting import RequestCounts
from stowfs.vault.descriptor import Descriptor
from stowfs.vault.vault import open_vault

log = logging.getLogger(__name__)

REQUESTS = 64
"""Requests handled at once, twice what goes to a store at once: those that need no store are not kept waiting by those
that do."""

IDLE = 4
"""Tasks kept waiting for requests: pyfuse3 would otherwise end and begin one, with a megabyte of buffer, for each."""


async def serve(
    mountpoint: str,
    store: ObjectStore,
    hot: HotTier,
    descriptor: Descriptor,
    options: MountOptions,
    *,
    requests: RequestCounts,
    ready: Callable[[], None],
) -> None:
    """Mounts, calls `ready` as soon as the mount answers, and returns when it is unmounted or a signal has ended it.

    `requests`: those to the store, for the figures in `/.stowfs`. Neither the store nor the hot tier is closed. Raises
    `MountFailed` (also after a second signal), `OSError` for an access log that cannot be opened, and errors of opening
    the vault.
    """
    limit_heaps()
    spare_collector()
    about = About(store.url, descriptor.store_id, mountpoint, options, str(hot.state_directory))
    with access_log(options.access_log) as lines:
        async with open_vault(store, hot, descriptor, options.for_vault()) as vault:
            monitor = Monitor(lines)
            file_system = FileSystem(vault, options, capacity_of(store.url), monitor, requests, about, hot.others)
            await _serve(mountpoint, file_system, mount_flags(options, store.url), ready)


async def _serve(mountpoint: str, file_system: FileSystem, flags: set[str], ready: Callable[[], None]) -> None:
    try:
        pyfuse3.init(file_system, mountpoint, flags)
    except RuntimeError as error:
        raise MountFailed(f"cannot mount at {mountpoint}: {error} (libfuse has said why)") from error
    finished = False
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(file_system.forgetting.run)
            await nursery.start(_watch_signals, nursery, file_system)
            nursery.start_soon(_announce, mountpoint, ready)
            await pyfuse3.main(min_tasks=IDLE, max_tasks=REQUESTS)
            await file_system.forgetting.stop()
            await file_system.finish()
            finished = True
            nursery.cancel_scope.cancel()
    finally:
        pyfuse3.close(unmount=True)
    if not finished:
        raise MountFailed(f"{mountpoint} was unmounted before everything that was written to it was stored")


async def _announce(mountpoint: str, ready: Callable[[], None]) -> None:
    try:
        # A request that the mount itself has to answer. The thread is left behind should the mount end instead.
        await trio.to_thread.run_sync(os.stat, mountpoint, abandon_on_cancel=True)
    except OSError as error:
        log.error("the mount at %s does not answer, and is ended: %s", mountpoint, error.strerror)
        pyfuse3.terminate()
        return
    await trio.to_thread.run_sync(set_read_ahead, mountpoint, abandon_on_cancel=True)
    ready()


async def _watch_signals(
    nursery: trio.Nursery, file_system: FileSystem, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        first = True
        async for number in signals:
            name = signal.Signals(number).name
            if not first:
                log.warning("%s again: ending at once", name)
                nursery.cancel_scope.cancel()
                return
            first = False
            log.info("%s: unmounting", name)
            nursery.start_soon(_terminate, file_system)


async def _terminate(file_system: FileSystem) -> None:
    # As long as requests are answered, the kernel has soon forgotten what it is asked to.
    await file_system.forgetting.stop()
    pyfuse3.terminate()
