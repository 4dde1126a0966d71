"""`stowfs train`: makes a dictionary of what is in a store."""

import click
import trio

from stowfs.cli.arguments import json_option, store_argument
from stowfs.cli.output import echo, emit, progress, size
from stowfs.cli.session import open_session
from stowfs.config import StoreOptions
from stowfs.store.open import StoreLocation
from stowfs.vault.store_sample import sample_store
from stowfs.vault.training import Outcome, Trained


@click.command()
@store_argument
@json_option
def train(location: StoreLocation, options: StoreOptions, as_json: bool) -> None:
    """Train a compression dictionary on what is in STORE.

    Mounts and 'stowfs put' do so by themselves, once they have seen enough; this is for a store whose contents have
    changed since, or that was made with --no-train. The dictionary is used if it gains more on what is in STORE than it
    takes; every host compresses with it from its next mount or command on, and reads what was made with others. That
    none comes of it is no error. Safe beside mounts and other commands.

    \b
    Example:
      stowfs train s3://my-bucket/conversations
    """

    async def run() -> Trained:
        async with open_session(location, options, writing=True) as session:
            with progress("train") as bar:
                sample = await sample_store(session.store, session.vault, bar)
            return await session.vault.trainer.train(sample.samples, expected=sample.raw_bytes)

    trained = trio.run(run)
    if as_json:
        emit(_document(trained))
        return
    echo(trained.outcome.value)
    if trained.before:
        echo(f"{100 * (1 - trained.after / trained.before):.1f} % less than before, of what was not trained on")
        echo(f"the dictionary takes {size(trained.cost)}")


def _document(trained: Trained) -> dict[str, object]:
    return {
        "published": trained.outcome is Outcome.PUBLISHED,
        "outcome": trained.outcome.name.lower().replace("_", "-"),
        "sampled_bytes": trained.seen,
        "held_out": {"before": trained.before, "after": trained.after},
        "dictionary_bytes": trained.cost,
    }
