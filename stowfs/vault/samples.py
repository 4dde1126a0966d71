"""A sample of what is stored, in bounded memory, to train a dictionary on and to measure it with.

Every piece of what was offered is as likely to be in the sample as any other, however much was offered: each draws a
number, and those with the least stay.
"""

import heapq
import random
from collections.abc import Iterable, Iterator

from stowfs.codec import BytesLike, gains_from_dictionary
from stowfs.config import KIB, MIB

PIECE = 32 * KIB
"""Bytes that are sampled together: short enough that a sample has many conversations in it, since a dictionary is for
what occurs in many, not for one long one."""

TRAINING_LIMIT = 6 * MIB
"""Bytes of the sample that is trained on: from several times its size on, a dictionary hardly gets better. To train
takes about as much memory again, and a second for every 20 MiB."""

HELD_OUT_LIMIT = 1 * MIB
"""Bytes of the sample that it is measured with, in another thread for a fraction of a second."""

HELD_OUT_SHARE = 8
"""One of so many conversations is held out."""


class Sample:
    """Pieces of what was offered, at most `limit` bytes in all."""

    def __init__(self, limit: int, chance: random.Random) -> None:
        self._limit = limit
        self._chance = chance
        # The greatest number first.
        self._pieces: list[tuple[float, int, bytes]] = []
        self._used = 0
        self._count = 0

    def __iter__(self) -> Iterator[bytes]:
        return (piece for _, _, piece in self._pieces)

    def offer(self, piece: BytesLike) -> None:
        """A piece that may be taken."""
        number = self._chance.random()
        full = self._used + len(piece) > self._limit
        if full and self._pieces and number >= -self._pieces[0][0]:
            return
        self._count += 1
        heapq.heappush(self._pieces, (-number, self._count, bytes(piece)))
        self._used += len(piece)
        while self._used > self._limit:
            self._used -= len(heapq.heappop(self._pieces)[2])


class Samples:
    """What is trained on, and what is held out to measure the result with. `seen`: bytes that were offered."""

    def __init__(self, chance: random.Random | None = None) -> None:
        self._chance = chance or random.Random()
        self.training = Sample(TRAINING_LIMIT, self._chance)
        self.held_out = Sample(HELD_OUT_LIMIT, self._chance)
        self.seen = 0

    def offer(self, parts: Iterable[BytesLike]) -> None:
        """Parts of one conversation, each of which is compressed alone; those that are without a dictionary are passed
        over."""
        held_out = self._chance.randrange(HELD_OUT_SHARE) == 0
        for part in parts:
            if not gains_from_dictionary(len(part)):
                continue
            self.seen += len(part)
            if held_out:
                # Whole: the more of a part there is, the less a dictionary helps.
                self.held_out.offer(part)
                continue
            for piece in pieces(part):
                self.training.offer(piece)


def pieces(part: BytesLike) -> Iterator[memoryview]:
    """A part as it is trained on."""
    view = memoryview(part)
    return (view[start : start + PIECE] for start in range(0, len(view), PIECE))
