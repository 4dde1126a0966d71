"""`stowfs put` and `get`: bulk copies between local files and a store, without a mount."""

from collections.abc import Sequence
from functools import partial
from os import makedirs

import click
import trio

from stowfs.cli import download, upload
from stowfs.cli.arguments import DURATION, LOCAL_PATH, json_option, store_argument
from stowfs.cli.mounts import TREE_ROOT, canonical
from stowfs.cli.output import echo, emit, progress
from stowfs.cli.session import open_session, store_path
from stowfs.cli.tally import Tally
from stowfs.config import StoreOptions
from stowfs.errors import NoSuchPath
from stowfs.mount.allocator import limit_heaps
from stowfs.store.open import FileLocation, StoreLocation
from stowfs.vault.naming import split


@click.command()
@store_argument
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=LOCAL_PATH)
@click.option("--to", "target", metavar="DIR", default="", help="Directory in STORE; it is made where it is missing.")
@click.option("--ttl", type=DURATION, metavar="DURATION", help="Let them expire after so long, for example 12h or 7d.")
@json_option
@click.pass_context
def put(
    ctx: click.Context,
    location: StoreLocation,
    options: StoreOptions,
    paths: tuple[str, ...],
    target: str,
    ttl: float | None,
    as_json: bool,
) -> None:
    """Copy local files and directories into STORE.

    A directory is copied with all in it and keeps its name; 'DIR/.' stands for what is in DIR. Permissions and times of
    modification are kept, owner and group are yours. What is there already is replaced; without --ttl, what replaces it
    never expires. Of files that would get the same name, the first is stored, and the others fail; so do a PATH that is
    neither a file nor a directory, and the directory of STORE itself. Symbolic links inside directories are copied as
    links, wherever they lead; one that is named as PATH stands for what it leads to. A file that fails does not keep
    the others; then the exit status is 1.

    \b
    Example:
      stowfs put s3://my-bucket/conversations transcripts/ --to 2026/team-a
    """
    tally = Tally()

    async def run() -> None:
        where = store_path(target)
        own = canonical(str(location.directory)) if isinstance(location, FileLocation) else None
        find = partial(upload.find, list(paths), where, tally, store=own)
        directories, files = await trio.to_thread.run_sync(find)
        async with open_session(location, options, writing=True, bundles=True) as session:
            with progress("put") as bar:
                await upload.put(session.vault, directories, files, where, tally, bar, lifetime=ttl)

    limit_heaps()
    trio.run(run)
    _finish(ctx, tally, as_json)


@click.command()
@store_argument
@click.argument("names", metavar="ID...", nargs=-1, required=True)
@click.argument("directory", metavar="DIR", type=LOCAL_PATH)
@json_option
@click.pass_context
def get(
    ctx: click.Context,
    location: StoreLocation,
    options: StoreOptions,
    names: tuple[str, ...],
    directory: str,
    as_json: bool,
) -> None:
    """Copy conversations and directories from STORE into the local directory DIR.

    DIR is made where it is missing. Each conversation gets its last name there, a directory its name with all in it;
    '/' stands for all that is in STORE. Of files that would get the same name, the first is copied, and the others
    fail. Symbolic links are copied as links, wherever they lead. Permissions and times of modification are kept, but
    not owner, group, set-ID and sticky bits. Files appear whole or not at all. One that fails does not keep the others;
    then the exit status is 1.

    \b
    Example:
      stowfs get s3://my-bucket/conversations 2026/team-a ./copy
    """
    tally = Tally()
    top = canonical(directory)

    async def run() -> None:
        taken: dict[str, str] | None = {} if _may_meet(names) else None
        async with open_session(location, options, writing=False) as session:
            await trio.to_thread.run_sync(partial(makedirs, top, exist_ok=True))
            for name in names:
                try:
                    found = await session.find(name)
                except NoSuchPath as error:
                    tally.failed(name, error)
                    continue
                with progress("get") as bar:
                    await download.get(session.vault, found, top, tally, bar, taken=taken)

    limit_heaps()
    trio.run(run)
    _finish(ctx, tally, as_json)


def _may_meet(names: Sequence[str]) -> bool:
    """Whether files of several of these IDs may get the same local path. To know all paths takes memory, which most
    copies need not."""
    last = [split(store_path(name))[1] for name in names]
    whole = {"", TREE_ROOT}
    return len(last) > 1 and (len(set(last)) < len(last) or not whole.isdisjoint(last))


def _finish(ctx: click.Context, tally: Tally, as_json: bool) -> None:
    if as_json:
        emit(tally.document())
    else:
        echo(f"{ctx.info_name}: {tally.line()}")
    ctx.exit(1 if tally.errors else 0)
