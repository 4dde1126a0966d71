"""The best dictionary for what is in a store: trained on a random selection of it, and used only if it gains.

The selection is of objects as they are stored: manifests in their two parts, header and inline bytes, and segments.
What the dictionary would gain is measured on a second selection, independent of the first. So where the first is the
whole store, the measure counts what the dictionary has of the store itself, and where it is a small part, what it does
for the rest. Run again, it finds the same one to be as good, and leaves it.
"""

import heapq
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import trio

from stowfs import codec
from stowfs.codec import Dictionary
from stowfs.config import KIB, MIB
from stowfs.errors import CorruptObject, ObjectNotFound, UnsupportedVersion
from stowfs.store.base import ObjectInfo, ObjectStore
from stowfs.vault import dictionaries as stored
from stowfs.vault import manifest as manifests
from stowfs.vault import record as records
from stowfs.vault.bundled_store import BundledStore
from stowfs.vault.dictionaries import Dictionaries
from stowfs.vault.naming import MANIFESTS, SEGMENTS
from stowfs.vault.parallel import each
from stowfs.vault.samples import pieces

TRAINED_ON = 16 * MIB
"""Stored bytes that are trained on at most: some 64 to 100 MiB of conversations, which takes half a minute."""

MEASURED = 1 * MIB
"""Stored bytes that the gain is measured on: some hundred objects."""

SHARE = 16
"""A dictionary has one byte for so many of conversations (each segment once). On those measured, a larger one takes
more in the store than it gains, but for long histories."""

LARGEST = 4 * MIB
"""Bytes of a dictionary at most: every host that reads has it in memory, and its contexts for compression take several
times as much."""

LEAST = 16 * KIB
"""Bytes of a dictionary at least: below, there is nothing in it that is worth a second object."""

REQUESTS = 16
"""Objects read at once."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training came to. `size`, `cost`: bytes of the dictionary, raw and stored. `before`, `after`: what all of
    the store takes without and with it, as measured. `used`: it is the active one from now on."""

    size: int
    cost: int
    before: int
    after: int
    used: bool


async def train_best(
    store: ObjectStore, dictionaries: Dictionaries, *, dry_run: bool, deadline: float
) -> Trained | None:
    """Makes the dictionary that is best for all of the store the active one; `None` where there is too little for any.

    Raises store errors, and `CorruptObject` where the dictionary cannot be published.
    """
    chance = random.Random()
    bundled = BundledStore(store, deadline=deadline)
    training, measuring = _Selection(TRAINED_ON, chance), _Selection(MEASURED, chance)
    async for info in _objects(bundled):
        training.offer(info)
        measuring.offer(info)
    samples = await _contents(bundled, dictionaries, training)
    raw = sum(map(len, samples))
    size = min(LARGEST, int(raw * training.scale) // SHARE)
    if size < LEAST:
        return None
    made = await trio.to_thread.run_sync(_make, samples, size)
    del samples
    if made is None:
        return None
    measured = await _contents(bundled, dictionaries, measuring)
    current = await dictionaries.active()
    sizes = await trio.to_thread.run_sync(_measure, measured, current, made)
    before, after = (int(size * measuring.scale) for size in sizes)
    cost = await trio.to_thread.run_sync(lambda: len(stored.encode(made)))
    pays = after + cost < before
    used = pays and (dry_run or await dictionaries.publish(made, deadline=deadline))
    return Trained(len(made.data), cost, before, after, used)


class _Selection:
    """Objects chosen at random, `limit` bytes together at most. `scale`: how many times as much there is in all."""

    def __init__(self, limit: int, chance: random.Random) -> None:
        self._limit = limit
        self._chance = chance
        self._chosen: list[tuple[float, str, ObjectInfo]] = []
        self._chosen_size = 0
        self._size = 0

    @property
    def objects(self) -> list[ObjectInfo]:
        return [info for _, _, info in self._chosen]

    @property
    def scale(self) -> float:
        return self._size / max(self._chosen_size, 1)

    def offer(self, info: ObjectInfo) -> None:
        """Each draws a number; those with the greatest stay."""
        self._size += info.size
        heapq.heappush(self._chosen, (self._chance.random(), info.key, info))
        self._chosen_size += info.size
        while self._chosen_size > self._limit and len(self._chosen) > 1:
            self._chosen_size -= heapq.heappop(self._chosen)[2].size


async def _objects(store: BundledStore) -> AsyncIterator[ObjectInfo]:
    for prefix in (MANIFESTS, SEGMENTS):
        async for page in store.list(prefix):
            for info in page.objects:
                yield info


async def _contents(store: BundledStore, dictionaries: Dictionaries, selection: _Selection) -> list[bytes]:
    """What the selected objects hold, as it is compressed. What cannot be read is left out: `compact` will name it."""

    async def one(info: ObjectInfo) -> list[bytes]:
        try:
            body = (await store.read(info)).body
            key = info.key
            if key.startswith(MANIFESTS):
                snapshot = manifests.decode("", "", body, await dictionaries.of(body))
                if not snapshot.manifest.live:
                    return []
                header = manifests.encode_header(snapshot.manifest)
                return [header, snapshot.inline] if snapshot.inline else [header]
            record = records.decode(key.rpartition("/")[2], body)
            if record.header.state == "dead" or record.header.redirect is not None:
                return []
            dictionary = await dictionaries.of(record.payload)
            return [records.unpack(record.header.hash, record.header.raw_size, record.payload, dictionary)]
        except (ObjectNotFound, CorruptObject, UnsupportedVersion):
            return []

    return [part for parts in await each(one, selection.objects, limit=REQUESTS) for part in parts]


def _make(contents: Sequence[bytes], size: int) -> Dictionary | None:
    return codec.train([bytes(piece) for part in contents for piece in pieces(part)], size)


def _measure(contents: Sequence[bytes], *choices: Dictionary | None) -> list[int]:
    """Bytes that the contents take with each dictionary. At the level of commits, which is quick: what one gains over
    the other is about the same at any."""
    return [sum(len(codec.compress(part, dictionary=choice)) for part in contents) for choice in choices]
