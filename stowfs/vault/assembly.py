"""From a draft to the pieces of its next manifest: cut, compress, place.

The segments of what is cut at a time are handed on (`Acquire`) before the next is read, so that memory does not grow
with the file.
"""

from collections.abc import Awaitable, Callable, Sequence, Set
from dataclasses import dataclass
from functools import partial

import trio

from stowfs import codec
from stowfs.conversation.segmenter import SegmenterParameters
from stowfs.hot.index import Index, Sighting
from stowfs.tasks import run_long
from stowfs.vault import pages, placement
from stowfs.vault.cutting import Cutter
from stowfs.vault.dictionaries import Dictionaries
from stowfs.vault.draft import Draft
from stowfs.vault.layout import LayoutReader
from stowfs.vault.manifest import Facts, Piece, Reference, Snapshot
from stowfs.vault.parallel import each
from stowfs.vault.placement import Candidate
from stowfs.vault.record import Payload
from stowfs.vault.runs import Cutting, Run, inline_parts, kept_runs, sha256

Acquire = Callable[[Sequence[Payload], set[str]], Awaitable[None]]
"""Makes sure that each segment is stored and counted for the commit under way. The set: digests believed to be
there."""

Observe = Callable[[Sequence[bytes]], None]
"""Shown parts of a conversation that are compressed for the first time."""


@dataclass(frozen=True, slots=True)
class Assembled:
    """The content of the next manifest. `inline_digest`: of the inline bytes, if there are any; `digests`: every
    segment it references; `inline_digests`: of what lies inline and may be worth sharing if it is seen again."""

    pieces: tuple[Piece, ...]
    inline: bytes
    inline_digest: str
    tail: int
    facts: Facts
    digests: set[str]
    inline_digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Before:
    """The digests of what the base has inline and as segments. Both stay as they are, however they would compress now:
    then the same bytes are the same version."""

    inline: Set[str]
    segments: Set[str]


class Assembler:
    """Assembles drafts, with what this host knows of segments."""

    def __init__(
        self,
        layouts: LayoutReader,
        index: Index,
        dictionaries: Dictionaries,
        observe: Observe,
        parameters: SegmenterParameters,
        threads: trio.CapacityLimiter,
    ) -> None:
        self._layouts = layouts
        self._dictionaries = dictionaries
        self._observe = observe
        self._index = index
        self._threads = threads
        self._cutter = Cutter(layouts, parameters, threads)

    async def assemble(self, draft: Draft, segments: Set[str], acquire: Acquire) -> Assembled:
        """The pieces of `draft`; every new segment among them has been passed to `acquire`. `segments`: the digests of
        those that its base references. Errors of reading and storing."""
        before = Before(_inline_digests(draft.base), segments)
        cutting = await self._cutter.begin(draft)
        async with self._cutter.turn(cutting):
            async for cut in self._cutter.cut(draft, cutting):
                runs = await self._as_known(cut, cutting.resume)
                await self._place(runs, draft.size, before, acquire)
                cutting.take(runs)
                await self._spill(cutting, acquire)
            return await self._finish(cutting, acquire, note_tail=draft.base is None)

    async def _as_known(self, runs: list[Run], format: str | None) -> list[Run]:
        """Large runs as small ones, where most of their bytes are stored as such already: by whoever has less of the
        conversation, or wrote it bit by bit."""
        large = [run for run in runs if run.sealed and self._cutter.is_large(len(run.raw))]
        seen = await self._sightings(large)
        unseen = [run for run in large if bytes.fromhex(run.digest) not in seen]
        if format is None or not unseen:
            return runs

        smaller = await each(partial(self._cutter.smaller, format=format), unseen)
        instead = dict(zip(map(id, unseen), smaller, strict=True))
        sightings = await self._sightings([small for smalls in instead.values() for small in smalls])
        known: list[Run] = []
        for run in runs:
            small = instead.get(id(run), [])
            stored = sum(len(part.raw) for part in small if _is_stored(sightings.get(bytes.fromhex(part.digest))))
            known += small if stored > len(run.raw) // 2 else [run]
        return known

    async def _sightings(self, runs: Sequence[Run]) -> dict[bytes, Sighting]:
        """What is known of runs that are worth sharing."""
        worth = [bytes.fromhex(run.digest) for run in runs if len(run.raw) >= placement.SHARED_FROM]
        return await self._index.sightings(worth) if worth else {}

    async def _place(self, runs: Sequence[Run], size: int, before: Before, acquire: Acquire) -> None:
        """Decides for each run whether it becomes a segment, and stores those that do."""
        sightings = await self._sightings(runs)
        candidates = []
        for run in runs:
            seen = bytes.fromhex(run.digest) in sightings
            candidates.append(
                Candidate(
                    len(run.raw),
                    run.sealed,
                    seen,
                    stays_inline=run.digest in before.inline,
                    stays_segment=run.digest in before.segments,
                )
            )
        asked = [run for run, c in zip(runs, candidates, strict=True) if placement.needs_compressed_size(c, size)]
        await self._compress(asked)
        chosen = [
            run
            for run, candidate in zip(runs, candidates, strict=True)
            if placement.is_segment(candidate, size, len(run.compressed) if run.compressed is not None else None)
        ]
        # A tail is shown when it is sealed, unless it is all there is: it differs each time that something is appended.
        self._observe(
            [run.raw for run, c in zip(runs, candidates, strict=True) if not c.seen and (c.sealed or not before.inline)]
        )
        there = {digest.hex() for digest, sighting in sightings.items() if _is_stored(sighting)}
        await self._store(chosen, there, acquire)

    async def _spill(self, cutting: Cutting, acquire: Acquire) -> None:
        """Stores what is too much inline already.

        It is what `_finish` would find too much, but found here it does not take memory until then: however long a
        conversation is, all of it may compress too well for segments.
        """
        count = placement.spilled([run.inline for run in cutting.inline])
        spill, cutting.inline = cutting.inline[:count], cutting.inline[count:]
        await self._store(spill, set(), acquire)

    async def _store(self, runs: Sequence[Run], there: set[str], acquire: Acquire) -> None:
        if not runs:
            return
        await self._compress(runs)
        await acquire([run.as_segment() for run in runs], there)
        for run in runs:
            run.forget()

    async def _compress(self, runs: Sequence[Run]) -> None:
        """Compresses what is not compressed yet: as many at once as there are threads."""
        if not runs:
            return

        async def compress(run: Run) -> None:
            dictionary = await self._dictionaries.active_for(len(run.raw))
            await run_long(partial(run.compress, dictionary), len(run.raw), self._threads)

        await each(compress, [run for run in runs if run.compressed is None])

    async def _finish(self, cutting: Cutting, acquire: Acquire, *, note_tail: bool) -> Assembled:
        """Spills what is too much inline, and folds references into pages.

        The tail of a conversation that is appended to differs each time: only that of a new one is worth a note.
        """
        runs = [*cutting.runs, *kept_runs(cutting.suffix, cutting.suffix_inline)]
        inline = [run for run in runs if isinstance(run, Run) and run.reference is None]
        sealed = inline[:-1] if cutting.tail and inline and inline[-1] is runs[-1] else inline
        spill = sealed[: placement.spilled([run.inline for run in sealed])]
        references = sum(not isinstance(run, Run) or run.reference is not None for run in runs)
        if references > pages.FANOUT_LIMIT:
            # Pages hold references only, from the start on.
            early = {id(run) for run in runs[: pages.PAGE - pages.FANOUT_LIMIT]}
            spill += [run for run in sealed if id(run) in early and all(run is not other for other in spill)]
        await self._store(spill, set(), acquire)
        pieces, made = pages.fold([run.piece if isinstance(run, Run) else run for run in runs])
        if made:
            await acquire([Payload(d, codec.compress(raw), len(raw), "page") for d, raw in made.items()], set())
        left = [run for run in inline if run.reference is None]
        inline_bytes = b"".join(run.raw for run in left)
        noted = left if note_tail else [run for run in sealed if run.reference is None]
        return Assembled(
            pieces=tuple(pieces),
            inline=inline_bytes,
            inline_digest=_digest_of(left, inline_bytes),
            tail=cutting.tail,
            facts=cutting.facts,
            digests=await pages.digests(pieces, self._page_source(made)),
            inline_digests=tuple(run.digest for run in noted if len(run.raw) >= placement.SHARED_FROM),
        )

    def _page_source(self, made: dict[str, bytes]) -> pages.Fetch:
        async def fetch(reference: Reference) -> bytes:
            return made.get(reference.digest) or await self._layouts.fetch(reference)

        return fetch


def _is_stored(sighting: Sighting | None) -> bool:
    return sighting is not None and sighting.state != "inline"


def _digest_of(runs: Sequence[Run], joined: bytes) -> str:
    """The digest of the bytes of these runs together, if there are any; of one alone it is known."""
    if len(runs) == 1:
        return runs[0].digest
    return sha256(joined) if runs else ""


def _inline_digests(snapshot: Snapshot | None) -> set[str]:
    """What a version holds inline: seeing that again is no reason to share it."""
    if snapshot is None:
        return set()
    return {sha256(raw) for raw in inline_parts(snapshot, snapshot.manifest.pieces)}
