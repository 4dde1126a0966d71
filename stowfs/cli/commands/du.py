"""`stowfs du`: what conversations weigh, and what they take in the store."""

import click
import trio

from stowfs.cli.arguments import json_option, store_argument
from stowfs.cli.inventory import Inventory, part_of_store, whole_store
from stowfs.cli.output import counted, echo, emit, size
from stowfs.cli.session import open_session
from stowfs.config import StoreOptions
from stowfs.store.open import StoreLocation


@click.command()
@store_argument
@click.argument("path", default="")
@json_option
def du(location: StoreLocation, options: StoreOptions, path: str, as_json: bool) -> None:
    """Show how many bytes conversations have, and how many they take in STORE.

    Without PATH, every object of STORE is counted. With it, only what PATH uses: a segment that others use, too, is
    counted in full.

    \b
    Example:
      stowfs du s3://my-bucket/conversations
    """

    async def run() -> Inventory:
        async with open_session(location, options, writing=False) as session:
            top = await session.find(path)
            if top.path:
                return await part_of_store(session.store, session.vault, top)
            return await whole_store(session.store, session.vault)

    found = trio.run(run)
    kinds = {kind: usage for kind, usage in found.stored.items() if usage.objects}
    if as_json:
        emit(
            {
                "conversations": found.conversations,
                "directories": found.directories,
                "symlinks": found.symlinks,
                "raw_bytes": found.raw_bytes,
                "stored_bytes": found.stored_bytes,
                "objects": found.objects,
                "ratio": None if found.ratio is None else round(found.ratio, 3),
                "stored": {kind: {"objects": usage.objects, "bytes": usage.bytes} for kind, usage in kinds.items()},
            }
        )
        return
    rows = [("raw", found.raw_bytes, counted(found.conversations, "conversation"))]
    rows.append(("stored", found.stored_bytes, counted(found.objects, "object")))
    rows += [(f"  {kind}", usage.bytes, counted(usage.objects, "object")) for kind, usage in kinds.items()]
    for name, count, holders in rows:
        echo(f"{name:<12} {count:>18,} bytes {size(count):>10}  in {holders}")
    if found.ratio is not None and found.raw_bytes:
        echo(f"{'ratio':<12} {found.ratio:>18.2f}")
