"""`stowfs mount`: checks, starts the daemon, and returns when the mount answers.

What serves a mount is imported only by the process that does.
"""

import os
from functools import partial
from pathlib import Path

import click
import trio

from stowfs.cli.arguments import LOCAL_PATH, store_argument
from stowfs.cli.failures import cause, explain
from stowfs.cli.launch import MountRequest, Status, report
from stowfs.cli.mounting import mount_or_remount, prepare, requested
from stowfs.cli.output import fail, note
from stowfs.config import StoreOptions
from stowfs.store.open import StoreLocation


@click.command()
@store_argument
@click.argument("mountpoint", metavar="DIR", type=LOCAL_PATH)
@click.option("-o", "option_lists", metavar="OPTION[,…]", multiple=True, help="Mount options, see below.")
@click.option("--foreground", is_flag=True, help="Stay in the foreground, with the log on stderr, until unmounted.")
@click.option("--status-fd", type=int, hidden=True)
@click.option("--log", type=click.Path(path_type=Path), hidden=True)
@click.pass_context
def mount(
    ctx: click.Context,
    location: StoreLocation,
    options: StoreOptions,
    mountpoint: str,
    option_lists: tuple[str, ...],
    foreground: bool,
    status_fd: int | None,
    log: Path | None,
) -> None:
    """Mount STORE at DIR, an empty directory.

    Returns when the mount answers; a daemon serves it until 'stowfs umount DIR'. A missing file:// store is created.
    The conversations are in DIR/conversations; what the mount does is shown in DIR/.stowfs.

    \b
    Mount options:
      ro                 read only
      allow_other        other users, too (needs user_allow_other in /etc/fuse.conf unless root)
      noexec             nothing can be executed
      xattr              extended attributes (each write costs a little more)
      uid=ID gid=ID      owner and group that are shown for everything, whatever is stored
      umask=MASK         permissions that are shown: all but these, in octal, whatever is stored
      remount            change ro, rw, exec or noexec of a mount that is there (root)
      commit=sync|async  whether a close waits for STORE or for the local disk (sync)
      flush_delay=SECONDS  how long changes wait for others, with commit=async (2)
      backlog_size=SIZE  what may wait for STORE at most, with commit=async (4G)
      backlog_count=N    the same in conversations (10000)
      ttl=DURATION       new conversations expire after so long, for example 12h or 7d
      excl=open|close    when O_EXCL finds out that another host was first (close)
      revalidate=SECONDS how long what was seen is believed without asking the store (0)
      attr_timeout=SECONDS  how old the attributes in a stat may be (1)
      timeout=SECONDS    how long an operation tries to reach STORE before it fails (60)
      cache_size=SIZE    local disk for cached segments (1G)
      memory_cache=SIZE  memory for decompressed segments (64M)
      local=PATTERN[:…]  names of new files that are kept out of STORE and go with the mount
                         (.*.sw[a-px]:.*.swpx:.sw[a-p]:4913:.nfs000*:.fuse_hidden*)
      access_log=PATH    a file that gets one line for each operation
      endpoint=URL region=NAME profile=NAME  as --endpoint, --region and --profile

    What else mount(8) and fstab know (defaults, _netdev, noatime, nofail, x-…) is passed over. Device files and
    set-user-ID programs never have an effect (nodev, nosuid).

    \b
    Example:
      stowfs mount s3://my-bucket/conversations /mnt/stow -o cache_size=4G
    """
    request = requested(location, options, mountpoint, option_lists)
    if status_fd is not None:
        ctx.exit(_serve_as_daemon(request, status_fd, log))
    if foreground and not request.options.remount:
        from stowfs.cli.serving import log_to, serve_mount

        prepare(request)
        log_to(None)
        trio.run(
            partial(serve_mount, request, ready=lambda: note(f"{location.url} is mounted at {request.mountpoint}"))
        )
        return
    status = mount_or_remount(request, option_lists)
    if status.error:
        ctx.exit(fail(status.error, status=status.status))


def _serve_as_daemon(request: MountRequest, status_fd: int, log: Path | None) -> int:
    """Serves the mount, and reports on the pipe whether it answers; the exit status."""
    from stowfs.cli.serving import log_to, serve_mount

    os.set_inheritable(status_fd, False)
    log_to(log)
    reported = False

    def tell(status: Status) -> None:
        nonlocal reported
        reported = True
        report(status_fd, status)

    try:
        trio.run(partial(serve_mount, request, ready=lambda: tell(Status())))
    except Exception as error:
        explained = explain(cause(error))
        if reported or explained is None:
            raise
        tell(Status(*explained))
        return explained[1]
    return 0
