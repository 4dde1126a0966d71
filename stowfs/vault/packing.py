"""Compression of small things, for many commits at once: together, in a thread.

To compress a small conversation takes less than the way to a thread and back, and yet a quarter of what its commit
takes of the event loop. So what many commits have to compress at about the same time goes there together, and is
compressed in one step, during which the interpreter is free for others. A commit that is alone compresses where it is.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import trio

from stowfs import codec
from stowfs.codec import Dictionary
from stowfs.tasks import run_long
from stowfs.vault.batching import Batcher

TOGETHER = 32
"""Commits whose bytes are compressed together at most: some milliseconds of work, for which the first of them waits."""


@dataclass(slots=True, eq=False)
class _Request:
    """What one commit has to compress, and what came of it."""

    contents: Sequence[bytes]
    dictionary: Dictionary | None
    result: list[bytes] | Exception | None = None


class Packing:
    """What the commits of one vault compress, at `codec.LEVEL`."""

    def __init__(self, nursery: trio.Nursery, threads: trio.CapacityLimiter) -> None:
        self._threads = threads
        # One at a time: then whoever gets there compresses for all who wait.
        self._thread = Batcher(nursery, trio.CapacityLimiter(1), threads=1, most=TOGETHER)
        self._waiting: deque[_Request] = deque()
        self._asking = 0

    async def compress(self, contents: Sequence[bytes], dictionary: Dictionary | None) -> list[bytes]:
        """One zstd frame for each of the contents, none of which is empty."""
        size = sum(map(len, contents))
        alone = partial(run_long, partial(_one_by_one, contents, dictionary), size, self._threads)
        if size > codec.SMALL:
            return await alone()
        self._asking += 1
        try:
            # Whoever else can run now may have something to compress, too.
            await trio.lowlevel.checkpoint()
            if self._asking == 1:
                return await alone()
            request = _Request(contents, dictionary)
            self._waiting.append(request)
            return await self._thread.run(partial(self._frames, request))
        finally:
            self._asking -= 1

    def _frames(self, request: _Request) -> list[bytes]:
        """Those of a request; of others that wait, too, if it is not done yet. In the thread."""
        if request.result is None:
            requests = [self._waiting.popleft() for _ in range(min(len(self._waiting), TOGETHER))]
            for dictionary in {other.dictionary for other in requests}:
                _compress([other for other in requests if other.dictionary is dictionary], dictionary)
        assert request.result is not None
        if isinstance(request.result, Exception):
            raise request.result
        return request.result


def _one_by_one(contents: Sequence[bytes], dictionary: Dictionary | None) -> list[bytes]:
    return [codec.compress(content, dictionary=dictionary) for content in contents]


def _compress(requests: Sequence[_Request], dictionary: Dictionary | None) -> None:
    contents = [content for request in requests for content in request.contents]
    try:
        frames = iter(codec.compress_all(contents, dictionary=dictionary))
    except Exception as error:  # noqa: BLE001 - each of them raises it
        for request in requests:
            request.result = error
    else:
        for request in requests:
            request.result = [next(frames) for _ in request.contents]
