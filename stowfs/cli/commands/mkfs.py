"""`stowfs mkfs`: makes a place a store."""

from functools import partial

import click
import trio

from stowfs.cli.arguments import json_option, store_argument
from stowfs.cli.making import make_store
from stowfs.cli.output import echo, emit
from stowfs.config import StoreOptions
from stowfs.store.open import StoreLocation


@click.command()
@store_argument
@click.option("--if-missing", is_flag=True, help="Succeed where there is a store already.")
@click.option("--no-train", is_flag=True, help="Compress without dictionaries, unless 'stowfs train' makes one.")
@json_option
def mkfs(location: StoreLocation, options: StoreOptions, if_missing: bool, no_train: bool, as_json: bool) -> None:
    """Make a store.

    Checks that STORE heeds conditional writes, then creates its descriptor. A bucket must exist; a directory is
    created.

    \b
    Example:
      stowfs mkfs s3://my-bucket/conversations
    """
    made = trio.run(partial(make_store, location, options, if_missing=if_missing, training=not no_train))
    if as_json:
        emit({"store": location.url, "id": made.descriptor.store_id, "created": made.created})
    elif made.created:
        echo(f"{location.url} is a stowfs store now")
    else:
        echo(f"{location.url} is a stowfs store already")
