"""From a draft to runs: what of the version before stays, and where the rest is cut.

Only what changed is cut: everything before the last sealed end that the draft leaves untouched keeps its pieces, and
so does everything after the first cut past the last change that meets an old one. A long draft is cut window by
window, so that memory does not grow with the file; where the cuts lie does not depend on the windows.
"""

import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from itertools import pairwise

import msgspec
import trio

from stowfs.config import MIB
from stowfs.conversation.segmenter import Segmentation, SegmenterParameters, segment
from stowfs.errors import CorruptObject
from stowfs.tasks import run_long
from stowfs.vault.draft import Draft, Intent
from stowfs.vault.layout import Layout, LayoutReader
from stowfs.vault.manifest import Facts, Reference, Snapshot
from stowfs.vault.run_sizes import RunSizes, Stretch
from stowfs.vault.runs import Cutting, Run, inline_parts, sha256

log = logging.getLogger(__name__)

BYTES = "bytes"
"""The name of the format of what is no conversation that is known (see `formats.catalogue`)."""

WINDOW = 8 * MIB
"""Bytes cut at a time by all commits together: dozens of runs, so that their hashing, compression and upload overlap,
at a few tens of megabytes."""

LEAST_WINDOW = 1 * MIB
"""Bytes cut at a time by one of many: a few of the longest runs."""

LARGE_AT_ONCE = 2
"""Commits that cut large runs at once: so many windows of two of the largest are what all may take."""


class Cutter:
    """Cuts drafts, several at once."""

    def __init__(self, layouts: LayoutReader, parameters: SegmenterParameters, threads: trio.CapacityLimiter) -> None:
        self._layouts = layouts
        self._parameters = parameters
        self._threads = threads
        self._at_once = 0
        self._large = trio.CapacityLimiter(LARGE_AT_ONCE)

    async def begin(self, draft: Draft) -> Cutting:
        """Keeps the longest sealed prefix of the base that the draft does not touch."""
        base = draft.base
        old = await self._layouts.layout(base) if base and draft.last_change < draft.size else None
        cutting = Cutting(self._sizes(draft, old), old)
        if base is None or not base.manifest.facts.resumable:
            return cutting
        facts = base.manifest.facts
        if base.sealed_end > 0 and (
            draft.first_change >= base.sealed_end
            or (cutting.sizes.large_until and await self._is_written_again(draft, base))
        ):
            # The pages stay as they are: an append does not read them.
            pieces = base.manifest.pieces[:-1] if base.manifest.tail else base.manifest.pieces
            messages = None if facts.messages is None else facts.messages - facts.tail_messages
            facts = msgspec.structs.replace(facts, messages=messages, tail_messages=0)
            cutting.resume_at(base.sealed_end, facts, pieces, inline_parts(base, pieces))
        elif draft.first_change > 0:
            layout = await self._layouts.layout(base)
            kept = max(i for i, start in enumerate(layout.starts) if start <= min(draft.first_change, base.sealed_end))
            if kept:
                facts = msgspec.structs.replace(facts, messages=None, tail_messages=0)
                inline = [layout.inline_bytes(i) for i in range(kept) if isinstance(layout.pieces[i], int)]
                cutting.resume_at(layout.starts[kept], facts, layout.pieces[:kept], inline)
        return cutting

    def _sizes(self, draft: Draft, old: Layout | None) -> RunSizes:
        """How large the runs of a draft are to be. Those of an edit are as those that are edited: so they soon meet the
        cuts of the base."""
        sizes = RunSizes.of(self._parameters, draft.size)
        if old is None:
            return sizes
        edited = old.covering(draft.first_change, draft.first_change + 1)[0]
        return sizes if self.is_large(old.starts[edited + 1] - old.starts[edited]) else sizes.only_small()

    def is_large(self, size: int) -> bool:
        """Whether only a large run has so many bytes."""
        return size > self._parameters.maximum

    @asynccontextmanager
    async def turn(self, cutting: Cutting) -> AsyncIterator[None]:
        """A part of the memory that cutting may take, until the end of the block."""
        async with self._large if cutting.position < cutting.sizes.large_until else nullcontext():
            self._at_once += 1
            try:
                yield
            finally:
                self._at_once -= 1

    async def _is_written_again(self, draft: Draft, base: Snapshot) -> bool:
        """Whether the draft replaces a version by what begins with the same sealed runs. They stay then, however they
        would be cut today: what has grown line by line has small ones. Not where a page is lost or damaged."""
        if draft.intent is not Intent.REPLACE or draft.size < base.sealed_end:
            return False
        try:
            layout = await self._layouts.layout(base)
        except CorruptObject:
            return False
        for index in layout.covering(0, base.sealed_end):
            piece = layout.pieces[index]
            digest = piece.digest if isinstance(piece, Reference) else sha256(layout.inline_bytes(index))
            raw = await draft.read(layout.starts[index], layout.starts[index + 1])
            if await run_long(partial(sha256, raw), len(raw), self._threads) != digest:
                return False
        return True

    async def cut(self, draft: Draft, cutting: Cutting) -> AsyncIterator[list[Run]]:
        """The runs from `cutting.position` on, by windows, in the commit's `turn`; ends early where the rest of the
        base can be kept."""
        window = 0
        while cutting.position < draft.size:
            start = cutting.position
            stretch = cutting.sizes.at(start)
            window = max(window, self._window(), 2 * stretch.parameters.maximum)
            stop = min(start + window, stretch.needed)
            final = stop == draft.size
            data = await draft.read(start, stop)
            cut, runs = await run_long(
                partial(_cut_window, data, stretch, start, cutting.resume, final=final),
                len(data),
                self._threads,
            )
            if not runs:
                # No message ends in the window: a longer one decides.
                if stop == stretch.needed:
                    cutting.sizes = cutting.sizes.only_small()
                window *= 2
                continue
            window = 0
            cutting.facts = _merge(cutting.facts, cut, final=final, resumed=cutting.resume is not None)
            cutting.resume = cut.format if cut.resumable else None
            taken = _meet(draft, cutting.old, cutting, runs) if cutting.old else len(runs)
            cutting.position += sum(len(run.raw) for run in runs[:taken])
            if taken < len(runs) or cutting.suffix:
                yield runs[:taken]
                return
            if final and not runs[-1].sealed:
                cutting.tail = len(runs[-1].raw)
            yield runs

    async def smaller(self, run: Run, format: str) -> list[Run]:
        """A large run of a conversation of this format as small ones, the last of which ends where it does."""
        return await run_long(partial(_cut_smaller, run.raw, format, self._parameters), len(run.raw), self._threads)

    def _window(self) -> int:
        """How many bytes a commit may cut at a time, unless its runs are longer."""
        return max(WINDOW // self._at_once, LEAST_WINDOW)


def _cut_smaller(data: bytes, format: str, parameters: SegmenterParameters) -> list[Run]:
    cut = _segment(data, parameters=parameters, resume=format, final=False)
    return [Run(data[start:end], True) for start, end in pairwise([0, *cut.ends, len(data)]) if start < end]


def _cut_window(
    data: bytes, stretch: Stretch, start: int, resume: str | None, *, final: bool
) -> tuple[Segmentation, list[Run]]:
    """The runs of a stretch that begin in `data`, which begin at `start` in the conversation."""
    until = stretch.end - start
    cut = _segment(data, parameters=stretch.parameters, resume=resume, final=final, until=until)
    ends = list(cut.ends)
    sealed = len(ends)
    if final and (not ends or ends[-1] < len(data)):
        ends.append(len(data))
    runs = [Run(data[begin:end], index < sealed) for index, (begin, end) in enumerate(pairwise([0, *ends]))]
    return cut, runs


def _segment(
    data: bytes, *, parameters: SegmenterParameters, resume: str | None, final: bool, until: int = sys.maxsize
) -> Segmentation:
    """As `segment`; a defect of it must not keep anything from being stored."""
    try:
        return segment(data, parameters=parameters, resume=resume, final=final, until=until)
    except Exception:
        log.exception("a defect: what was written cannot be cut between messages, and is cut as bytes")
        return segment(data, parameters=parameters, resume=BYTES, final=final, until=until)


def _meet(draft: Draft, old: Layout, cutting: Cutting, runs: list[Run]) -> int:
    """How many runs are taken before the cuts meet those of the base again; the rest of the base is kept then."""
    position = cutting.position
    boundaries = {start: i for i, start in enumerate(old.starts)}
    for taken, run in enumerate(runs, 1):
        position += len(run.raw)
        index = boundaries.get(position)
        if run.sealed and index is not None and position >= draft.last_change and position < draft.size:
            cutting.suffix = old.pieces[index:]
            cutting.suffix_inline = [
                old.inline_bytes(i) for i in range(index, len(old.pieces)) if isinstance(old.pieces[i], int)
            ]
            cutting.tail = old.snapshot.manifest.tail
            cutting.facts = msgspec.structs.replace(cutting.facts, messages=None, tail_messages=0)
            return taken
    return len(runs)


def _merge(facts: Facts, cut: Segmentation, *, final: bool, resumed: bool) -> Facts:
    """What is known of the conversation after one more window: the first one names it, all of them count messages."""
    found = cut.metadata
    counted = found.messages if final else cut.sealed_messages
    # What came before this window, if that is known.
    earlier = facts.messages if resumed else 0
    messages = None if earlier is None or counted is None else earlier + counted
    tail = 0
    if final and found.messages is not None and cut.sealed_messages is not None:
        tail = found.messages - cut.sealed_messages
    return Facts(
        format=cut.format if not resumed else facts.format,
        resumable=cut.resumable,
        model=facts.model or found.model,
        application=facts.application or found.application,
        messages=messages,
        time=facts.time if facts.time is not None else found.time,
        tail_messages=tail,
    )
