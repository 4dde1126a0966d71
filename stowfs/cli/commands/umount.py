"""`stowfs umount`: unmounts, waits for the daemon to finish, and tells what it left."""

import os
from functools import partial

import click
import trio

from stowfs.cli.arguments import LOCAL_PATH, json_option, seconds_option
from stowfs.cli.daemons import find_daemon, wait_for_end
from stowfs.cli.leftovers import Waiting
from stowfs.cli.mounts import canonical, is_dead, mount_entry, unmount
from stowfs.cli.output import counted, echo, emit
from stowfs.config import default_state_root
from stowfs.errors import MountFailed


@click.command()
@click.argument("mountpoint", metavar="DIR", type=LOCAL_PATH)
@seconds_option(
    "--timeout",
    default=60.0,
    help="How long to wait for the daemon to finish its work.",
)
@json_option
def umount(mountpoint: str, timeout: float, as_json: bool) -> None:
    """Unmount DIR, when its daemon has finished.

    Waits until the daemon has finished what it still has to do in the store, and tells what is left for the next mount
    of the same store there. Also frees a mount point whose daemon has died.

    \b
    Example:
      stowfs umount /mnt/stow
    """
    mountpoint = canonical(mountpoint)
    entry = mount_entry(mountpoint)
    if entry is None:
        raise MountFailed(f"{mountpoint} is not a mount point: 'findmnt -t fuse.stowfs' lists what is mounted")
    if not entry.is_stowfs:
        raise MountFailed(f"{mountpoint} is a mount of {entry.file_system}, not of stowfs: use umount(8)")
    dead = is_dead(mountpoint)
    # Its record goes with it: look first.
    daemon = find_daemon(default_state_root(), mountpoint)
    unmount(mountpoint, lazy=dead)
    queued: Waiting | None = None
    if daemon is not None:
        directory, record = daemon
        queued = trio.run(partial(wait_for_end, directory, timeout))
        if queued is None:
            raise MountFailed(
                f"{mountpoint} is unmounted, but its daemon (process {record.pid}) still works after {timeout:g} s:"
                " what it does not finish is in the journal for the next mount there"
            )
    if as_json:
        emit(
            {
                "mountpoint": os.fsencode(mountpoint).decode(errors="backslashreplace"),
                "daemon_was_dead": dead,
                "queued": None if queued is None else queued.total,
                "queued_commits": None if queued is None else queued.commits,
                "queued_conversations": None if queued is None else queued.conversations,
            }
        )
        return
    what = "freed: its daemon was dead" if dead else "unmounted"
    match queued:
        case None:
            left = "its daemon is not known here, so it was not waited for (is STOWFS_STATE_DIR set as for the mount?)"
        case Waiting(0, 0):
            left = "nothing is left to do"
        case Waiting(_, 0):
            left = (
                f"{counted(queued.commits, 'commit')} still queued: the next mount of {entry.source} there settles them"
            )
        case _:
            left = (
                f"{counted(queued.conversations, 'conversation')} not in the store yet, but safe on this host:"
                f" 'stowfs flush {entry.source}' or the next mount of it there stores them"
            )
    echo(f"{mountpoint}: {what}; {left}")
