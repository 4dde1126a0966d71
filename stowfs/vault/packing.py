"""Compression of small things, for many commits at once: together, in a thread.

To compress a small conversation takes less than the way to a thread and back, and yet a quarter of what its commit
takes of the event loop. So what many commits have to compress at about the same time goes there together, and is
compressed in one step, during which the interpreter is free for others. A commit that is alone compresses where it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import outcome
import trio
from outcome import Outcome

from stowfs import codec
from stowfs.codec import Dictionary
from stowfs.tasks import run_long
from stowfs.vault.batching import Batcher

TOGETHER = 32
"""Commits whose bytes are compressed together at most: some milliseconds of work, for which the first of them waits."""


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    """What one commit has to compress."""

    contents: Sequence[bytes]
    dictionary: Dictionary | None


class Packing:
    """What the commits of one vault compress, at `codec.LEVEL`."""

    def __init__(self, nursery: trio.Nursery, threads: trio.CapacityLimiter) -> None:
        self._threads = threads
        # One thread, so that more goes there together.
        self._together = Batcher(nursery, trio.CapacityLimiter(1), _compress, threads=1, most=TOGETHER)
        self._asking = 0

    async def compress(self, contents: Sequence[bytes], dictionary: Dictionary | None) -> list[bytes]:
        """One zstd frame for each of the contents, none of which is empty."""
        size = sum(map(len, contents))
        self._asking += 1
        try:
            # Whoever else can run now may have something to compress, too.
            await trio.lowlevel.checkpoint()
            if self._asking > 1 and size <= codec.SMALL:
                return await self._together.run(_Request(contents, dictionary))
            return await run_long(partial(_one_by_one, contents, dictionary), size, self._threads)
        finally:
            self._asking -= 1


def _one_by_one(contents: Sequence[bytes], dictionary: Dictionary | None) -> list[bytes]:
    return [codec.compress(content, dictionary=dictionary) for content in contents]


def _compress(requests: Sequence[_Request]) -> list[Outcome[list[bytes]]]:
    """The frames of each: those with the same dictionary in one step, and where it fails, it fails for them all."""
    made: dict[_Request, Outcome[list[bytes]]] = {}
    for dictionary in {request.dictionary for request in requests}:
        alike = [request for request in requests if request.dictionary is dictionary]
        contents = [content for request in alike for content in request.contents]
        try:
            frames = iter(codec.compress_all(contents, dictionary=dictionary))
        except Exception as error:  # noqa: BLE001 - each of them raises it
            made |= {request: outcome.Error(error) for request in alike}
        else:
            made |= {request: outcome.Value([next(frames) for _ in request.contents]) for request in alike}
    return [made[request] for request in requests]
