"""Mounting and remounting, for `stowfs mount` and `mount.stowfs`."""

import ctypes
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from stowfs.cli.daemons import find_daemon
from stowfs.cli.launch import MountRequest, Status, launch
from stowfs.cli.mounts import canonical, check_fuse, mount_entry, prepare_mountpoint
from stowfs.cli.output import note
from stowfs.config import StoreOptions, default_state_root
from stowfs.errors import MountFailed, UsageError
from stowfs.mount.options import given_options, parse_options
from stowfs.store.open import FileLocation, StoreLocation

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
"""Flags of mount(2)."""

KERNELS_OWN = {"read_only", "no_exec", "remount"}
"""Options that the kernel sees to, so that they can be changed on a mount that is there."""


def requested(
    location: StoreLocation, options: StoreOptions, mountpoint: str, option_lists: Sequence[str]
) -> MountRequest:
    """What is to be mounted, by a command line. Raises `UsageError`."""
    mount_options = parse_options(option_lists)
    options = mount_options.for_store(options)
    mount_options = replace(mount_options, endpoint=options.endpoint, region=options.region, profile=options.profile)
    return MountRequest(location, options, canonical(mountpoint), mount_options)


def prepare(request: MountRequest) -> None:
    """Checks that it can be mounted; frees the mount point from a dead daemon. Raises `MountFailed`, `UsageError`."""
    check_fuse()
    _check_apart(request)
    _check_access_log(request)
    if prepare_mountpoint(request.mountpoint):
        note(f"{request.mountpoint}: the daemon of the mount there was dead; mounting again")


def mount_or_remount(request: MountRequest, option_lists: Sequence[str]) -> Status:
    """Does what is requested; returns when the mount answers, or with what went wrong. Raises as `prepare` and
    `launch`."""
    if request.options.remount:
        remount(request.mountpoint, option_lists)
        return Status()
    prepare(request)
    return launch(request, option_lists)


def remount(mountpoint: str, option_lists: Sequence[str]) -> None:
    """Makes a mount read-only or writable, or what is in it executable or not.

    Raises `MountFailed`, and `UsageError` where something else would have to change.
    """
    entry = mount_entry(mountpoint)
    if entry is None or not entry.is_stowfs:
        raise MountFailed(f"{mountpoint} is no mount of stowfs, so it cannot be mounted again with other options")
    daemon = find_daemon(default_state_root(), mountpoint)
    if daemon is None:
        raise MountFailed(
            f"{mountpoint}: its daemon is not known here (is STOWFS_STATE_DIR set as for the mount?): unmount it first"
        )
    effective = daemon[1].options
    wanted = given_options(option_lists)
    for name, value in wanted.items():
        if name not in KERNELS_OWN and value != getattr(effective, name):
            raise UsageError(
                f"{mountpoint}: only ro, rw, exec and noexec can be changed while it is mounted: unmount it first"
            )
    read_only = bool(wanted.get("read_only", False))
    if effective.read_only and not read_only:
        raise MountFailed(f"{mountpoint} was mounted read-only: unmount it, and mount it again")
    _change_flags(mountpoint, read_only=read_only, no_exec=bool(wanted.get("no_exec", False)))


def _change_flags(mountpoint: str, *, read_only: bool, no_exec: bool) -> None:
    flags = MS_REMOUNT | MS_NOSUID | MS_NODEV | (MS_RDONLY if read_only else 0) | (MS_NOEXEC if no_exec else 0)
    # Not through mount(8), which would call mount.stowfs again.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", os.fsencode(mountpoint), None, ctypes.c_ulong(flags), None):
        reason = os.strerror(ctypes.get_errno())
        raise MountFailed(f"{mountpoint} cannot be mounted again with other options: {reason}")


def _check_apart(request: MountRequest) -> None:
    """Refuses a store below its own mount point, where the daemon would wait for itself, and the opposite."""
    if isinstance(request.location, FileLocation):
        store, mountpoint = Path(canonical(str(request.location.directory))), Path(request.mountpoint)
        if store.is_relative_to(mountpoint) or mountpoint.is_relative_to(store):
            raise UsageError(
                f"{mountpoint} and the store {store} lie in each other: mount on a directory apart from it"
            )


def _check_access_log(request: MountRequest) -> None:
    """Refuses an access log in the mount itself: to write a line of it would be an operation, and so without end."""
    path = request.options.access_log
    if path is not None and Path(canonical(path)).is_relative_to(request.mountpoint):
        raise UsageError(f"the access log {path} would lie in the mount itself: name a file elsewhere")
