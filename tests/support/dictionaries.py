"""Conversations of a kind, and dictionaries for them."""

import random

from stowfs import codec
from stowfs.codec import Dictionary
from stowfs.store.base import ObjectStore
from stowfs.vault.dictionaries import Dictionaries
from stowfs.vault.naming import DICTIONARIES

_WORDS = [random.Random(n).randbytes(random.Random(n).randrange(2, 7)).hex() for n in range(400)]


def conversation(seed: int, messages: int = 4) -> bytes:
    """Lines as of an agent's session, in words that all of them use."""
    chance = random.Random(seed)
    lines = []
    for number in range(messages):
        text = " ".join(chance.choices(_WORDS, k=40))
        role = ("user", "assistant")[number % 2]
        lines.append(f'{{"role": "{role}", "content": "{text} {chance.randbytes(20).hex()}"}}\n'.encode())
    return b"".join(lines)


def dictionary(seed: int = 0, size: int = 8192) -> Dictionary:
    """One for such conversations; another for each seed."""
    trained = codec.train([conversation(1000 * seed + n) for n in range(100)], size)
    assert trained is not None
    return trained


async def use(store: ObjectStore, made: Dictionary, *, instead_of: str = "") -> None:
    """Makes it the one that hosts compress with which begin to use the store from now on."""
    assert await Dictionaries(store, active_id=instead_of).publish(made, deadline=5.0)


async def keys(store: ObjectStore) -> list[str]:
    """The dictionaries in a store."""
    return [info.key async for page in store.list(DICTIONARIES) for info in page.objects]
