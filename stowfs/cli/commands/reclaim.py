"""`stowfs gc` and `undelete`: the trash of a store, and the space of what is no longer needed."""

from contextlib import AsyncExitStack

import click
import trio

from stowfs.cli.arguments import json_option, seconds_option, store_argument
from stowfs.cli.exclusive import alone
from stowfs.cli.listing import readable
from stowfs.cli.output import counted, echo, emit, fail, moment, note, progress, size
from stowfs.cli.session import Session, open_session, store_path
from stowfs.config import StoreOptions
from stowfs.errors import NoSuchPath, NotDirectory, PathExists, UsageError
from stowfs.store.open import StoreLocation
from stowfs.vault.collect import GRACE, Collected, collect_garbage
from stowfs.vault.expiry import NANOSECONDS
from stowfs.vault.manifest import Snapshot
from stowfs.vault.naming import display


@click.command()
@store_argument
@seconds_option(
    "--grace",
    default=GRACE,
    help="Keep data that nothing has needed for less than this: files that are open may still be read from it.",
)
@click.option("--empty-trash", is_flag=True, help="Give up deleted conversations at once, not when their time is over.")
@click.option("--dry-run", is_flag=True, help="Change nothing; say what could be given back now.")
@click.option(
    "--exclusive",
    is_flag=True,
    help="Also remove the traces of what was deleted long ago. You know that no host uses STORE meanwhile.",
)
@json_option
def gc(
    location: StoreLocation,
    options: StoreOptions,
    grace: float,
    empty_trash: bool,
    dry_run: bool,
    exclusive: bool,
    as_json: bool,
) -> None:
    """Give back the space of what was deleted or has expired.

    Deleted conversations whose time in the trash is over lose their content, and so do expired ones an hour after
    their deadline; data that nothing has needed for the grace period is deleted. The index by which new hosts list is
    brought up to date. Safe beside mounts and other commands. What cannot be read is kept, and named.

    \b
    Example:
      stowfs gc s3://my-bucket/conversations --dry-run
      stowfs gc file:///srv/store --empty-trash --grace 0
    """

    async def run() -> Collected:
        async with open_session(location, options, writing=not dry_run) as session, AsyncExitStack() as stack:
            if exclusive:
                own = session.hot.state_directory.name
                descriptor = session.vault.descriptor
                await stack.enter_async_context(alone(session.store, descriptor, options, own=own))
            with progress("gc") as bar:
                return await collect_garbage(
                    session.store,
                    session.vault,
                    grace=grace,
                    trash=0.0 if empty_trash else None,
                    exclusive=exclusive,
                    dry_run=dry_run,
                    progress=bar,
                )

    collected = trio.run(run)
    for kept in collected.kept:
        note(f"{kept.key} is kept: {kept.reason}")
    if as_json:
        emit(_document(collected, dry_run=dry_run))
    else:
        for line in _lines(collected, dry_run=dry_run):
            echo(line)


@click.command()
@store_argument
@click.argument("names", metavar="[ID]...", nargs=-1)
@click.option("--list", "listing", is_flag=True, help="List what can be brought back, below ID where one is given.")
@click.option("-r", "--recursive", is_flag=True, help="ID is a directory: bring back all that was deleted below it.")
@json_option
@click.pass_context
def undelete(
    ctx: click.Context,
    location: StoreLocation,
    options: StoreOptions,
    names: tuple[str, ...],
    listing: bool,
    recursive: bool,
    as_json: bool,
) -> None:
    """Bring deleted conversations back, or list them.

    They come back as they were, with the directories they were in, until 'stowfs gc' has given them up, somebody has
    written under their name, or they have expired. One that cannot be brought back does not keep the others. A
    conversation that was empty leaves nothing to bring back.

    \b
    Example:
      stowfs undelete s3://my-bucket/conversations --list
      stowfs undelete s3://my-bucket/conversations runs/0001.json
      stowfs undelete s3://my-bucket/conversations -r runs
    """
    if not listing and not names:
        raise click.UsageError("name what to bring back, or pass --list")

    async def run() -> int:
        async with open_session(location, options, writing=not listing) as session:
            if listing:
                await _list(session, [store_path(name) for name in names] or [""], as_json=as_json)
                return 0
            return await _bring_back(session, names, recursive=recursive, as_json=as_json)

    ctx.exit(trio.run(run))


async def _list(session: Session, directories: list[str], *, as_json: bool) -> None:
    found = [snapshot for directory in directories async for snapshot in session.vault.deleted(directory)]
    if as_json:
        emit([_trashed(session, snapshot) for snapshot in found])
        return
    for snapshot in found:
        entry = _trashed(session, snapshot)
        echo(f"{snapshot.size:>12} {entry['deleted']} {entry['kept_until']} {snapshot.path}")


async def _bring_back(session: Session, names: tuple[str, ...], *, recursive: bool, as_json: bool) -> int:
    status = 0
    paths: list[str] = []
    for name in names:
        path = store_path(name)
        below = [snapshot.path async for snapshot in session.vault.deleted(path)] if recursive else [path]
        if not path and not recursive:
            raise UsageError("the top directory cannot have been deleted: pass -r for all that was deleted in it")
        if not below:
            status = fail(f"{display(path) or '/'}: nothing that was deleted below it can be brought back")
        paths += below
    restored: list[str] = []
    for path in paths:
        try:
            restored.append((await session.vault.undelete(path)).path)
        except (NoSuchPath, PathExists, NotDirectory) as error:
            status = fail(str(error))
    if as_json:
        emit({"restored": [readable(path) for path in restored]})
    else:
        for path in restored:
            echo(path)
    return status


def _trashed(session: Session, snapshot: Snapshot) -> dict[str, object]:
    """What a program gets to know of a deleted conversation; times as ISO 8601."""
    deleted = snapshot.manifest.deleted or 0.0
    kept_until = deleted + session.vault.descriptor.trash_seconds
    if snapshot.attributes.expires_ns is not None:
        kept_until = min(kept_until, snapshot.attributes.expires_ns / NANOSECONDS)
    return {
        "id": snapshot.path,
        "size": snapshot.size,
        "deleted": moment(deleted),
        "kept_until": moment(kept_until),
        "format": snapshot.manifest.facts.format,
        "model": snapshot.manifest.facts.model,
        "messages": snapshot.manifest.facts.messages,
    }


def _document(collected: Collected, *, dry_run: bool) -> dict[str, object]:
    return {
        "dry_run": dry_run,
        "emptied": {"conversations": collected.emptied, "raw_bytes": collected.emptied_size},
        "expired": {"conversations": collected.expired, "raw_bytes": collected.expired_size},
        "freed": {"segments": collected.segments, "bytes": collected.segment_bytes},
        "waiting": {"segments": collected.waiting, "bytes": collected.waiting_bytes},
        "removed": {"objects": collected.removed, "bytes": collected.removed_bytes},
        "replaced": {"blobs": collected.replaced},
        "unsettled": collected.unsettled,
        "kept": [{"key": kept.key, "reason": kept.reason} for kept in collected.kept],
    }


def _lines(collected: Collected, *, dry_run: bool) -> list[str]:
    would = "would be " if dry_run else ""
    lines = [
        f"{counted(collected.emptied, 'deleted conversation')} {would}given up ({size(collected.emptied_size)} raw)",
        f"{counted(collected.segments, 'segment')} {would}freed ({size(collected.segment_bytes)})",
    ]
    if collected.expired:
        given_up = f"{counted(collected.expired, 'expired conversation')} {would}given up"
        lines.insert(1, f"{given_up} ({size(collected.expired_size)} raw)")
    if collected.waiting:
        lines.append(
            f"{counted(collected.waiting, 'segment')} not needed, within the grace period"
            f" ({size(collected.waiting_bytes)})"
        )
    if collected.replaced:
        lines.append(f"{counted(collected.replaced, 'payload')} that 'stowfs compact' has replaced {would}deleted")
    if collected.removed:
        lines.append(f"{counted(collected.removed, 'trace')} {would}removed ({size(collected.removed_bytes)})")
    if collected.unsettled:
        lines.append(f"{counted(collected.unsettled, 'commit')} not settled yet: the next command goes on with them")
    return lines
