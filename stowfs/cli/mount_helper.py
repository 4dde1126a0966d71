"""The command `mount.stowfs`, which mount(8) calls for the type `stowfs`: `mount.stowfs SPEC DIR [-sfnv] [-o OPTIONS]`.

The exit status is that of mount(8): 0 done, 1 wrong usage, 2 system error, 4 a defect, 8 interrupted, 32 not mounted.
"""

import traceback
from collections.abc import Sequence

import click
from click.exceptions import NoArgsIsHelpError

from stowfs import __version__
from stowfs.cli.arguments import LOCAL_PATH, STORE
from stowfs.cli.failures import cause
from stowfs.cli.mounting import mount_or_remount, prepare, requested
from stowfs.cli.output import drop_output, open_missing_streams, printable
from stowfs.config import StoreOptions
from stowfs.errors import MountFailed, StowError, UsageError
from stowfs.mount.options import without_unknown
from stowfs.store.open import StoreLocation

WRONG_USAGE, SYSTEM_ERROR, DEFECT, INTERRUPTED, NOT_MOUNTED = 1, 2, 4, 8, 32
"""Exit statuses of mount(8)."""

USAGE_OF_STOWFS = 2
"""The exit status with which `stowfs` says the first of these."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mount.stowfs")
@click.argument("location", metavar="SPEC", type=STORE)
@click.argument("mountpoint", metavar="DIR", type=LOCAL_PATH)
@click.option("-o", "option_lists", metavar="OPTION[,…]", multiple=True, help="Mount options: see 'stowfs mount -h'.")
@click.option("-s", "sloppy", is_flag=True, help="Pass over options that stowfs does not have.")
@click.option("-f", "fake", is_flag=True, help="Only check, and mount nothing.")
@click.option("-n", "no_mtab", is_flag=True, help="Has no meaning: stowfs writes no /etc/mtab.")
@click.option("-v", "verbose", is_flag=True, help="Say what was mounted.")
@click.option("-t", "file_system", metavar="TYPE", help="Has no meaning: there is one type.")
def helper(
    location: StoreLocation,
    mountpoint: str,
    option_lists: tuple[str, ...],
    sloppy: bool,
    fake: bool,
    no_mtab: bool,
    verbose: bool,
    file_system: str | None,
) -> None:
    """Mount the store SPEC at DIR, for mount(8) and /etc/fstab.

    SPEC is s3://BUCKET/PREFIX or file:///DIRECTORY.

    \b
    Example of a line in /etc/fstab:
      s3://my-bucket/conversations  /mnt/stow  stowfs  _netdev,allow_other  0  0
    """
    lists = [",".join(without_unknown(option_lists))] if sloppy else option_lists
    request = requested(location, StoreOptions(), mountpoint, lists)
    if fake:
        if not request.options.remount:
            prepare(request)
        return
    status = mount_or_remount(request, lists)
    if status.error:
        raise (UsageError if status.status == USAGE_OF_STOWFS else MountFailed)(status.error)
    if verbose:
        click.echo(f"mount.stowfs: {location.url} mounted on {request.mountpoint}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    open_missing_streams()
    try:
        helper.main(args=arguments, prog_name="mount.stowfs", standalone_mode=False)
    except BaseException as error:  # noqa: BLE001 - every one has an exit status
        return _report(cause(error))
    return 0


def _report(error: BaseException) -> int:
    match error:
        case NoArgsIsHelpError():
            error.show()
            return WRONG_USAGE
        case click.Abort() | KeyboardInterrupt():
            return INTERRUPTED
        case click.ClickException():
            return _fail(error.format_message(), WRONG_USAGE)
        case UsageError():
            return _fail(str(error), WRONG_USAGE)
        case StowError():
            return _fail(str(error), NOT_MOUNTED)
        case OSError():
            drop_output()
            return _fail(str(error), SYSTEM_ERROR)
        case _:
            traceback.print_exception(error)
            return DEFECT


def _fail(message: str, status: int) -> int:
    click.echo(f"mount.stowfs: {printable(' '.join(message.split()))}", err=True)
    return status
