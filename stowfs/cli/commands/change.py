"""`stowfs rm` and `mv`: changing names in a store without a mount."""

import click
import trio

from stowfs.cli.arguments import store_argument
from stowfs.cli.output import fail
from stowfs.cli.session import Session, open_session, store_path
from stowfs.config import StoreOptions
from stowfs.errors import IsDirectory, NoSuchPath, UsageError
from stowfs.store.open import StoreLocation
from stowfs.vault.manifest import Snapshot
from stowfs.vault.naming import display, join, split
from stowfs.vault.parallel import each

DELETIONS = 16
"""Conversations deleted at once: half of what goes to a store at once, since each takes more than one request."""


@click.command()
@store_argument
@click.argument("names", metavar="ID...", nargs=-1, required=True)
@click.option("-r", "--recursive", is_flag=True, help="Directories, too, with all in them.")
@click.option("-f", "--force", is_flag=True, help="What is not there is no error.")
@click.pass_context
def rm(
    ctx: click.Context,
    location: StoreLocation,
    options: StoreOptions,
    names: tuple[str, ...],
    recursive: bool,
    force: bool,
) -> None:
    """Delete conversations.

    One that cannot be deleted does not keep the others.

    \b
    Example:
      stowfs rm s3://my-bucket/conversations runs/0001.json
    """

    async def run() -> int:
        status = 0
        async with open_session(location, options, writing=True) as session:
            for name in names:
                try:
                    await _remove(session, await session.find(name), recursive=recursive)
                except NoSuchPath as error:
                    if not force:
                        status = fail(str(error))
                except IsDirectory as error:
                    status = fail(str(error))
        return status

    ctx.exit(trio.run(run))


@click.command()
@store_argument
@click.argument("old")
@click.argument("new")
@click.option("-n", "--no-clobber", is_flag=True, help="Fail where NEW is there already.")
def mv(location: StoreLocation, options: StoreOptions, old: str, new: str, no_clobber: bool) -> None:
    """Rename a conversation or a directory.

    Where NEW is a directory, OLD moves into it; an existing conversation NEW is replaced. A directory is moved one
    conversation after the other: interrupted, it is finished by the next command here that writes to the store.

    \b
    Example:
      stowfs mv file:///srv/store drafts/0001.json runs/0001.json
    """

    async def run() -> None:
        async with open_session(location, options, writing=True) as session:
            # Had it been interrupted, what is left of it must not be moved twice.
            await session.vault.drain()
            source = await session.find(old)
            if not source.path:
                raise UsageError("the top directory has no name that could be changed")
            target = store_path(new)
            if await _is_directory(session, target):
                target = join(target, split(source.path)[1])
            if target == source.path or target.startswith(source.path + "/"):
                raise UsageError(f"{old} cannot be moved to itself or into itself ({target})")
            if source.is_directory:
                await session.vault.rename_directory(source.path, target)
            else:
                await session.vault.rename(source.path, target, replace=not no_clobber)

    trio.run(run)


async def _remove(session: Session, snapshot: Snapshot, *, recursive: bool) -> None:
    if not snapshot.is_directory:
        await session.vault.remove(snapshot.path)
        return
    if not recursive:
        raise IsDirectory(f"{display(snapshot.path) or '/'} is a directory: pass -r to delete all in it")
    children = await session.vault.list_directory(snapshot.path)
    await each(session.vault.remove, [child.path for child in children if not child.is_directory], limit=DELETIONS)
    for child in children:
        if child.is_directory:
            await _remove(session, child, recursive=True)
    if snapshot.path:
        await session.vault.remove_directory(snapshot.path)


async def _is_directory(session: Session, path: str) -> bool:
    try:
        return (await session.vault.head(path)).is_directory
    except NoSuchPath:
        return False
