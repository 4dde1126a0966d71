"""`stowfs flush`: waits until what was acknowledged on this host is in the store."""

import os
from functools import partial
from pathlib import Path

import click
import trio

from stowfs.cli.arguments import json_option, seconds_option, store_options
from stowfs.cli.mounts import TREE_ROOT, canonical, is_dead, mount_entry
from stowfs.cli.output import counted, echo, emit, fail, note
from stowfs.config import StoreOptions
from stowfs.durable import sync_directory
from stowfs.errors import MountFailed
from stowfs.vault.naming import display


@click.command()
@click.argument("place", metavar="DIR|STORE")
@store_options
@seconds_option(
    "--timeout",
    default=600.0,
    help="How long to wait at most.",
)
@json_option
def flush(place: str, options: StoreOptions, timeout: float, as_json: bool) -> None:
    """Wait until what was written is in the store.

    DIR: a directory on a mount. Everything that was closed or synced there until now, by anybody, is in the store when
    this succeeds; with commit=sync it always is. STORE: sends what mounts of it on this host left behind when they
    ended without it.

    \b
    Example:
      stowfs flush /mnt/stow
      stowfs flush s3://my-bucket/conversations
    """
    if os.path.isdir(place) and (mountpoint := _mountpoint(place)) is not None:
        _flush_mount(mountpoint, timeout)
        if as_json:
            emit({"mountpoint": os.fsencode(mountpoint).decode(errors="backslashreplace"), "flushed": True})
        else:
            echo(f"{mountpoint}: everything is in the store")
        return
    # Not before it is needed: whoever flushes a mount after each of his steps waits for nothing else.
    from stowfs.cli.sending import send_left

    done = trio.run(partial(send_left, place, options, timeout))
    for path, reason in done.left.items():
        note(f"{display(path)} is not in the store yet: {reason}")
    if as_json:
        emit(
            {
                "stored": done.stored,
                "left": len(done.left),
                "settled_commits": done.settled,
                "unsettled_commits": done.unsettled,
                "busy": done.busy,
            }
        )
    else:
        more = f"; {counted(done.busy, 'mount')} in use, to be flushed by its directory" if done.busy else ""
        echo(f"{counted(done.stored, 'conversation')} stored, {counted(done.settled, 'commit')} settled{more}")
    if done.left or done.unsettled:
        left = f"{counted(len(done.left), 'conversation')} and {counted(done.unsettled, 'commit')}"
        click.get_current_context().exit(fail(f"{left} are left: they stay on this host; try again"))


def _mountpoint(directory: str) -> str | None:
    """The mount of stowfs that `directory` is on, if it is on one."""
    path = canonical(directory)
    while path != "/":
        entry = mount_entry(path)
        if entry is not None:
            return path if entry.is_stowfs else None
        path = os.path.dirname(path)
    return None


def _flush_mount(mountpoint: str, timeout: float) -> None:
    """A sync of a directory of the mount: the daemon answers it when everything is in the store."""
    if is_dead(mountpoint):
        raise MountFailed(f"{mountpoint}: its daemon is dead: 'stowfs umount {mountpoint}', then mount it again")
    trio.run(partial(_sync_within, Path(mountpoint) / TREE_ROOT, timeout))


async def _sync_within(directory: Path, timeout: float) -> None:
    try:
        with trio.fail_after(timeout):
            # Nothing can end a thread that waits for the daemon: it is left behind.
            await trio.to_thread.run_sync(sync_directory, directory, abandon_on_cancel=True)
    except trio.TooSlowError:
        raise MountFailed(f"{directory} is not flushed after {timeout:g} s: what is left goes on being sent") from None
    except OSError as error:
        raise MountFailed(
            f"{directory} is not flushed: {error.strerror}: what is left is safe on this host, and goes on being sent;"
            " the log of the mount says why it fails"
        ) from error
