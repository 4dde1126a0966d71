"""`stowfs ls`, `cat` and `stat`: reading a store without a mount."""

import os
import sys
from functools import partial
from itertools import islice

import click
import trio

from stowfs.cli.arguments import MOMENT, json_option, store_argument
from stowfs.cli.listing import NANOSECONDS, Filter, document, entries, has_times, long_line, name_shown, readable
from stowfs.cli.output import echo, emit, moment, note, size, writing_results
from stowfs.cli.session import Session, open_session
from stowfs.config import MIB, StoreOptions
from stowfs.errors import IsDirectory, StowError, UsageError
from stowfs.store.open import StoreLocation

STEP = 4 * MIB
"""Bytes read at a time: a few dozen segments, fetched in parallel, and little memory."""


@click.command()
@store_argument
@click.argument("path", default="")
@click.option("-l", "long", is_flag=True, help="Also mode, size, time, deadline, messages and model.")
@click.option("-R", "--recursive", is_flag=True, help="All below PATH, each by its id.")
@click.option("--model", metavar="PATTERN", help="Only conversations with a model like this, for example 'gpt-4*'.")
@click.option("--application", metavar="PATTERN", help="Only conversations of an application like this.")
@click.option("--since", type=MOMENT, metavar="TIME", help="Only from TIME on, for example 2026-01-31 (UTC).")
@click.option("--until", type=MOMENT, metavar="TIME", help="Only from before TIME.")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="At most N entries.")
@click.option("--offset", type=click.IntRange(min=0), default=0, metavar="N", help="Leave out the first N entries.")
@json_option
def ls(
    location: StoreLocation,
    options: StoreOptions,
    path: str,
    long: bool,
    recursive: bool,
    model: str | None,
    application: str | None,
    since: float | None,
    until: float | None,
    limit: int | None,
    offset: int,
    as_json: bool,
) -> None:
    """List conversations.

    PATH is a directory or a conversation in STORE; without it, the top directory is listed. The time of a conversation
    is when it began, where it says so, else when it was last written to. With --model, --application, --since or
    --until, directories and symbolic links are not shown.

    \b
    Example:
      stowfs ls s3://my-bucket/conversations -R -l --model 'claude-*' --since 2026-01-01
    """
    wanted = Filter(model or None, application or None, since, until)

    async def run() -> None:
        async with open_session(location, options, writing=False) as session:
            found = [s async for s in entries(session, path, recursive=recursive) if wanted.shows(s)]
        shown = islice(found, offset, None if limit is None else offset + limit)
        if as_json:
            emit([document(snapshot) for snapshot in shown])
            return
        line = long_line if long else name_shown
        for snapshot in shown:
            echo(line(snapshot, recursive=recursive))

    trio.run(run)


@click.command()
@store_argument
@click.argument("names", metavar="ID...", nargs=-1, required=True)
@click.pass_context
def cat(ctx: click.Context, location: StoreLocation, options: StoreOptions, names: tuple[str, ...]) -> None:
    """Print conversations, byte for byte, one after the other.

    One that fails does not keep the others; then the exit status is 1.

    \b
    Example:
      stowfs cat file:///srv/store runs/0001.json | jq .messages
    """
    failed = False

    async def run() -> None:
        nonlocal failed
        async with open_session(location, options, writing=False) as session:
            for name in names:
                try:
                    await _print(session, name)
                except UsageError:
                    raise
                except StowError as error:
                    failed = True
                    note(str(error))

    trio.run(run)
    ctx.exit(1 if failed else 0)


async def _print(session: Session, name: str) -> None:
    write = partial(_write_all, sys.stdout.fileno())
    snapshot = await session.find(name)
    if snapshot.is_directory:
        raise IsDirectory(f"{name} is a directory: name conversations in it (stowfs ls), or use stowfs get")
    if snapshot.is_symlink:
        target = readable(os.fsdecode(snapshot.target))
        raise StowError(f"{name} is a symbolic link to {target}: name what it leads to")
    for start in range(0, snapshot.size, STEP):
        await trio.to_thread.run_sync(write, await session.vault.read(snapshot, start, start + STEP))


@click.command()
@store_argument
@click.argument("name", metavar="ID")
@json_option
def stat(location: StoreLocation, options: StoreOptions, name: str, as_json: bool) -> None:
    """Show what is known of a conversation or directory.

    Segments may be shared with other conversations; the bytes of each are counted in full.

    \b
    Example:
      stowfs stat file:///srv/store runs/0001.json
    """

    async def run() -> None:
        async with open_session(location, options, writing=False) as session:
            snapshot = await session.find(name)
            known = document(snapshot)
            if snapshot.is_conversation:
                used = await session.vault.footprint(snapshot)
                known |= {
                    "segments": used.segments,
                    "segment_bytes": used.segment_bytes,
                    "inline_bytes": used.inline_bytes,
                    "manifest_bytes": used.manifest_bytes,
                    "stored_bytes": used.segment_bytes + used.manifest_bytes,
                }
        known["changed"] = moment(snapshot.attributes.ctime_ns / NANOSECONDS) if has_times(snapshot) else None
        if as_json:
            emit(known)
            return
        for key, value in known.items():
            if value is not None:
                text = (
                    f"{value:,} ({size(value)})"
                    if key in ("size", "stored_bytes") and isinstance(value, int)
                    else value
                )
                echo(f"{key.replace('_', ' '):>15}: {text}")

    trio.run(run)


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    with writing_results():
        while rest:
            rest = rest[os.write(fd, rest) :]
