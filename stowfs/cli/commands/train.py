"""`stowfs train`: makes a dictionary of what is in a store."""

import click
import trio

from stowfs.cli.arguments import json_option, store_argument
from stowfs.cli.output import echo, emit, size
from stowfs.cli.session import open_session
from stowfs.config import StoreOptions
from stowfs.store.open import StoreLocation
from stowfs.vault.best_dictionary import Trained, train_best


@click.command()
@store_argument
@json_option
def train(location: StoreLocation, options: StoreOptions, as_json: bool) -> None:
    """Train a compression dictionary on what is in STORE.

    Mounts and 'stowfs put' do so by themselves, once they have seen enough; this is for a store whose contents have
    changed since, or that was made with --no-train. The dictionary is used if it would gain more on all of STORE than
    it takes; every host compresses with it from its next mount or command on, and reads what was made with others. What
    is stored already stays as it is: 'stowfs compact' trains, too, and stores it again. That none comes of it is no
    error. Safe beside mounts and other commands.

    \b
    Example:
      stowfs train s3://my-bucket/conversations
    """

    async def run() -> Trained | None:
        async with open_session(location, options, writing=True) as session:
            return await train_best(session.store, session.vault.dictionaries, dry_run=False, deadline=options.deadline)

    trained = trio.run(run)
    if as_json:
        emit(_document(trained))
    elif trained is None:
        echo("there is too little in the store to make a dictionary of")
    else:
        use = "is used from now on" if trained.used else "is not used"
        echo(f"a dictionary of {size(trained.size)}, which takes {size(trained.cost)}, {use}:")
        echo(f"everything would take {size(trained.after)} with it, and takes {size(trained.before)} without")


def _document(trained: Trained | None) -> dict[str, object]:
    if trained is None:
        return {"used": False, "dictionary": None, "before": None, "after": None}
    return {
        "used": trained.used,
        "dictionary": {"raw_bytes": trained.size, "stored_bytes": trained.cost},
        "before": trained.before,
        "after": trained.after,
    }
