"""`stowfs compact`: what is stored already, in less space."""

import click
import trio

from stowfs.cli.arguments import json_option, store_argument
from stowfs.cli.output import counted, echo, emit, note, progress, size
from stowfs.cli.session import open_session
from stowfs.config import StoreOptions
from stowfs.store.open import StoreLocation
from stowfs.vault.best_dictionary import Trained
from stowfs.vault.compact import Compacted, compact_store


@click.command()
@store_argument
@click.option("--no-training", is_flag=True, help="Use the dictionary that there is: look for no better one.")
@click.option("--dry-run", is_flag=True, help="Change nothing; say what would be saved. Takes as long.")
@json_option
def compact(location: StoreLocation, options: StoreOptions, no_training: bool, dry_run: bool, as_json: bool) -> None:
    """Store what is stored already in less space.

    Trains a dictionary for the whole store, if that gains, and compresses everything again with it, as far as that
    makes it smaller, at a level that takes too long while somebody waits: a minute for some 10 to 30 MB of
    conversations. Their bytes and times stay as they are. Safe beside mounts and other commands; hosts fetch
    what was compacted once more when they need it. A compaction that was interrupted goes on where it was when it is
    run again.

    Large payloads that were replaced are deleted by 'stowfs gc' after its grace period.

    \b
    Example:
      stowfs compact s3://my-bucket/conversations
      stowfs compact file:///srv/store --dry-run --json

    The exit status is 0 when everything was looked at, also if some of it could not be read and was left as it is
    ('stowfs fsck' says more), and 1 where the compaction failed; what was done until then is done.
    """

    async def run() -> Compacted:
        async with open_session(location, options, writing=not dry_run) as session:
            with progress("compact") as bar:
                return await compact_store(
                    session.store, session.vault, train=not no_training, dry_run=dry_run, progress=bar
                )

    compacted = trio.run(run)
    for unread in compacted.unread:
        note(f"{unread.key} is left as it is: {unread.reason}")
    if as_json:
        emit(_document(compacted, dry_run=dry_run))
    else:
        for line in _lines(compacted, dry_run=dry_run):
            echo(line)


def _document(compacted: Compacted, *, dry_run: bool) -> dict[str, object]:
    return {
        "dry_run": dry_run,
        "dictionary": None if compacted.trained is None else _trained(compacted.trained),
        "conversations": compacted.conversations,
        "segments": compacted.segments,
        "looked_at": compacted.looked_at,
        "bytes_before": compacted.bytes_before,
        "bytes_after": compacted.bytes_after,
        "unread": [{"key": unread.key, "reason": unread.reason} for unread in compacted.unread],
    }


def _trained(trained: Trained) -> dict[str, object]:
    return {"used": trained.used, "raw_bytes": trained.size, "bytes": trained.cost}


def _lines(compacted: Compacted, *, dry_run: bool) -> list[str]:
    would = "would be " if dry_run else ""
    again = f"{counted(compacted.conversations, 'conversation')} and {counted(compacted.segments, 'segment')}"
    lines = [
        f"{again} {would}stored again, of {compacted.looked_at:,}:"
        f" {size(compacted.bytes_before)} before, {size(compacted.bytes_after)} after"
    ]
    if compacted.trained is not None and compacted.trained.used:
        lines.insert(0, f"a new dictionary {would}used ({size(compacted.trained.cost)})")
    return lines
