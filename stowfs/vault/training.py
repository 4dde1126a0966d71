"""Dictionaries made from what is stored: when one is trained, whether it is used, and from which sample.

What is compressed for the first time is sampled as it goes by. After the first mebibyte, and each time that four times
as much has been seen, a dictionary is trained in the background, and is published if it gains more until the next time
than it takes itself. Whoever knows beforehand what will be stored (a copy of a directory, a backlog) can have the first
one trained before anything is. That none comes of it is no error.
"""

import hashlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from enum import Enum

import trio

from stowfs import codec
from stowfs.codec import Dictionary
from stowfs.config import KIB, MIB
from stowfs.conversation.segmenter import SegmenterParameters, segment
from stowfs.errors import StowError
from stowfs.vault import manifest as manifests
from stowfs.vault.best_dictionary import LEAST
from stowfs.vault.dictionaries import Dictionaries
from stowfs.vault.manifest import Attributes, Facts, Manifest
from stowfs.vault.ring import first_ring, new_id
from stowfs.vault.samples import Samples

log = logging.getLogger(__name__)

FIRST = 1 * MIB
"""Distinct bytes seen from which a first dictionary is worth a try: what is stored before it goes without, so early
counts for more than good."""

AGAIN = 4
"""How many times as much has to be seen until the next try: a dictionary from four times as much is better, and all of
them together do not take long."""

REPLACED_FROM = 16 * MIB
"""Distinct bytes that one process has to see before it tries to make something better than what there is."""

SIZE = 1 * MIB
"""Bytes of a dictionary at most. On the conversations measured 1 MiB stores 7 to 20 % less than 110 KiB, with the 100
to 300 KB that it takes in the store; what is larger takes the gain away from all but the largest stores."""

SHARE = 4
"""A dictionary has at most this part of the bytes that it was trained on: the rest is what tells how often they
occur."""

REPLACING_GAIN = 0.95
"""The part that is left of what the last dictionary leaves, at most: every one is kept, fetched and held in memory by
everybody who reads what was made with it."""

CONTENT = 256 * KIB
"""Bytes of one conversation that are sampled beforehand: so little that there are dozens in a sample."""

ENOUGH = 6 * MIB
"""Distinct bytes to sample beforehand: as many as are kept."""

TOO_MUCH = 64 * MIB
"""Bytes to read for that, at most, where hardly any are distinct: a second or two."""

STEP = 256 * KIB
"""Bytes of them that another thread looks at in one go: some milliseconds of work, beside which the change of threads
is nothing."""


class Outcome(Enum):
    """What came of a training."""

    PUBLISHED = "a better dictionary is in use from now on"
    TOO_LITTLE = "there is too little, or it is too uniform, to make a dictionary of"
    NO_GAIN = "a dictionary would gain less than it takes"
    OVERTAKEN = "another host has published a dictionary meanwhile, which is in use from now on"


class Trainer:
    """The training of one vault. `enabled`: whether it happens by itself."""

    def __init__(
        self,
        dictionaries: Dictionaries,
        parameters: SegmenterParameters,
        nursery: trio.Nursery,
        *,
        enabled: bool,
        deadline: float,
    ) -> None:
        self._dictionaries = dictionaries
        self._parameters = parameters
        self._nursery = nursery
        self._deadline = deadline
        self._enabled = enabled
        self._samples = Samples()
        # What has to be seen until the next try.
        self._next = REPLACED_FROM if dictionaries.active_id else FIRST
        self._lock = trio.Lock()

    @property
    def wants_first(self) -> bool:
        """Whether the store has no dictionary, and nobody has tried to make one here."""
        return self._enabled and not self._dictionaries.active_id and self._next == FIRST

    def observe(self, parts: Sequence[bytes]) -> None:
        """Parts of one conversation that are compressed for the first time."""
        if not self._enabled:
            return
        self._samples.offer(parts)
        if self._samples.seen >= self._next:
            samples, self._samples = self._samples, Samples()
            expected = float(self._next * AGAIN - self._next)
            self._next *= AGAIN
            self._nursery.start_soon(self._train_in_background, samples, expected)

    async def train_first(self, contents: AsyncIterator[bytes], total: int) -> None:
        """Trains the first dictionary, if there is none, on contents that will be stored: `total` bytes in all, of
        which `contents` is a random selection. What fails is logged. Raises what `contents` raises."""
        if not self.wants_first or total < FIRST:
            return
        async with self._lock:
            if not self.wants_first:
                return
            collector = Collector(self._parameters)
            waiting: list[bytes] = []
            size = 0
            async for content in contents:
                waiting.append(content)
                size += len(content)
                if size >= STEP:
                    await trio.to_thread.run_sync(collector.add, waiting)
                    waiting, size = [], 0
                    if collector.is_enough:
                        break
            await trio.to_thread.run_sync(collector.add, waiting)
            self._next = FIRST * AGAIN
            expected = collector.samples.seen / max(collector.read, 1) * total
            await self._try(collector.samples, expected)
            # As it comes in, one directory after the other, it would be a worse sample of itself.
            self._next = max(self._next, int(AGAIN * expected))

    async def _train_in_background(self, samples: Samples, expected: float) -> None:
        async with self._lock:
            await self._try(samples, expected)

    async def _try(self, samples: Samples, expected: float) -> None:
        try:
            outcome = await self._train(samples, expected)
        except StowError as error:
            log.warning("no dictionary was trained: %s", error)
            return
        log.info("training on %d bytes: %s", samples.seen, outcome.value)
        if outcome in (Outcome.PUBLISHED, Outcome.OVERTAKEN):
            self._next = max(self._next, REPLACED_FROM)

    async def _train(self, samples: Samples, expected: float) -> Outcome:
        current = await self._dictionaries.active()
        made = await trio.to_thread.run_sync(_make, samples)
        if made is None:
            return Outcome.TOO_LITTLE
        held_out = list(samples.held_out)
        before, after, cost = await trio.to_thread.run_sync(_measure, held_out, current, made)
        if not _pays(before, after, cost, expected / sum(map(len, held_out)), replacing=current is not None):
            return Outcome.NO_GAIN
        published = await self._dictionaries.publish(made, deadline=self._deadline)
        return Outcome.PUBLISHED if published else Outcome.OVERTAKEN


class Collector:
    """Samples contents that are not stored yet, as they will be compressed: cut, and each segment once. Blocks."""

    def __init__(self, parameters: SegmenterParameters) -> None:
        self._parameters = parameters
        self._known: set[bytes] = set()
        self.samples = Samples()
        self.read = 0

    @property
    def is_enough(self) -> bool:
        """Whether more would not change much."""
        return self.samples.seen >= ENOUGH or self.read >= TOO_MUCH

    def add(self, contents: Sequence[bytes]) -> None:
        """Conversations, or their beginnings."""
        for content in contents:
            self._add(content)

    def _add(self, content: bytes) -> None:
        self.read += len(content)
        cut = segment(content, parameters=self._parameters)
        facts = Facts(cut.format, cut.resumable, cut.metadata.model, cut.metadata.application, cut.metadata.messages)
        parts = [header_like(content, facts)]
        start = 0
        for end in [*cut.ends, len(content)]:
            part = content[start:end]
            digest = hashlib.sha256(part).digest()
            if part and digest not in self._known:
                self._known.add(digest)
                parts.append(part)
            start = end
        self.samples.offer(parts)


def header_like(content: bytes, facts: Facts) -> bytes:
    """The header of the manifest that a new conversation of this content would have, about."""
    now = time.time_ns()
    commit = new_id()
    return manifests.encode_header(
        Manifest(
            commit=commit,
            ring=first_ring().add(commit),
            attributes=Attributes(0o644, 0, 0, now, now),
            size=len(content),
            pieces=(len(content),),
            tail=len(content),
            inline=len(content),
            inline_digest=hashlib.sha256(content).hexdigest(),
            facts=facts,
        )
    )


def _make(samples: Samples) -> Dictionary | None:
    size = min(SIZE, samples.seen // SHARE)
    if not any(True for _ in samples.held_out):
        return None
    return codec.train(list(samples.training), size) if size >= LEAST else None


def _measure(held_out: Sequence[bytes], current: Dictionary | None, made: Dictionary) -> tuple[int, int, int]:
    """Bytes that the samples take with either dictionary, and those that the new one takes at most."""
    before = sum(len(codec.compress(part, dictionary=current)) for part in held_out)
    after = sum(len(codec.compress(part, dictionary=made)) for part in held_out)
    return before, after, len(codec.compress(made.data))


def _pays(before: int, after: int, cost: int, scale: float, *, replacing: bool) -> bool:
    """Whether a dictionary is worth its place, where `scale` times the measured samples are to come."""
    if replacing and after > before * REPLACING_GAIN:
        return False
    return (before - after) * scale > cost
