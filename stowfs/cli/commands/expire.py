"""`stowfs expire`: sets when conversations expire."""

import click
import trio

from stowfs.cli.arguments import DURATION, MOMENT, json_option, store_argument
from stowfs.cli.listing import deadline
from stowfs.cli.output import echo, emit, fail
from stowfs.cli.session import open_session
from stowfs.config import StoreOptions
from stowfs.errors import IsDirectory, NoSuchPath
from stowfs.store.open import StoreLocation
from stowfs.vault import expiry


@click.command()
@store_argument
@click.argument("names", metavar="ID...", nargs=-1, required=True)
@click.option("--in", "lifetime", type=DURATION, metavar="DURATION", help="After so long, for example 12h or 7d.")
@click.option("--at", "when", type=MOMENT, metavar="TIME", help="At TIME, for example 2031-01-31T18:30 (UTC).")
@click.option("--never", is_flag=True, help="They do not expire.")
@json_option
@click.pass_context
def expire(
    ctx: click.Context,
    location: StoreLocation,
    options: StoreOptions,
    names: tuple[str, ...],
    lifetime: float | None,
    when: float | None,
    never: bool,
    as_json: bool,
) -> None:
    """Set when conversations expire.

    From that time on they are gone, for every host and without anything that has to run, and cannot be brought back;
    'stowfs gc' gives back their space later. Until then the time can be changed. Appending, editing and renaming keep
    it. One that cannot be changed does not keep the others.

    \b
    Example:
      stowfs expire s3://my-bucket/conversations runs/0001.json --in 30d
      stowfs expire s3://my-bucket/conversations runs/0001.json --never
    """
    if (lifetime is not None) + (when is not None) + never != 1:
        raise click.UsageError("say when, by one of --in, --at and --never")
    expires_ns = expiry.deadline(lifetime) if when is None else int(when * expiry.NANOSECONDS)
    if expiry.is_over(expires_ns):
        raise click.UsageError("that time is over: to delete what is there, use 'stowfs rm', which can be undone")

    async def run() -> int:
        status = 0
        changed = []
        async with open_session(location, options, writing=True) as session:
            for name in names:
                try:
                    found = await session.find(name)
                    if found.is_directory:
                        raise IsDirectory(f"{name} is a directory: only conversations expire")
                    changed.append(await session.vault.set_deadline(found.path, expires_ns))
                except (NoSuchPath, IsDirectory) as error:
                    status = fail(str(error))
        if as_json:
            emit([{"id": snapshot.path, "expires": deadline(snapshot)} for snapshot in changed])
        else:
            for snapshot in changed:
                echo(f"{deadline(snapshot) or 'never':<20} {snapshot.path}")
        return status

    ctx.exit(trio.run(run))
