"""From a draft to the pieces of its next manifest: cut, hash, compress, place.

Only what changed is cut: everything before the last sealed end that the draft leaves untouched keeps its pieces, and
so does everything after the first cut past the last change that meets an old one. A long draft is cut window by
window, and the segments of each window are handed on (`Acquire`) before the next is read, so that memory does not
grow with the file.
"""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence, Set
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
import trio

from stowfs import codec
from stowfs.codec import Dictionary
from stowfs.config import KIB, MIB
from stowfs.conversation.segmenter import Segmentation, SegmenterParameters, segment
from stowfs.hot.index import Index
from stowfs.vault import pages, placement
from stowfs.vault.dictionaries import Dictionaries
from stowfs.vault.draft import Draft
from stowfs.vault.layout import Layout, LayoutReader
from stowfs.vault.manifest import Facts, Piece, Reference, Snapshot
from stowfs.vault.parallel import each
from stowfs.vault.placement import Candidate, InlineRun
from stowfs.vault.record import Payload

T = TypeVar("T")

WINDOW = 8 * MIB
"""Bytes cut at a time by all commits together: dozens of runs, so that their hashing, compression and upload overlap,
at a few tens of megabytes."""

LEAST_WINDOW = 1 * MIB
"""Bytes cut at a time by one of many: a few of the longest runs."""

ON_LOOP = 16 * KIB
"""Bytes up to which cutting, hashing and compressing happens on the event loop: it takes less than a change of
thread."""

Acquire = Callable[[Sequence[Payload], set[str]], Awaitable[None]]
"""Makes sure that each segment is stored and counted for the commit under way. The set: digests believed to be
there."""

Observe = Callable[[Sequence[bytes]], None]
"""Shown parts of a conversation that are compressed for the first time."""


@dataclass(slots=True)
class Run:
    """One piece of the conversation that was cut anew."""

    raw: bytes
    sealed: bool
    digest: str
    compressed: bytes | None = None
    dictionary: str | None = None
    reference: Reference | None = None

    @property
    def piece(self) -> Piece:
        """How it stands in the manifest."""
        return self.reference or len(self.raw)

    @property
    def inline(self) -> InlineRun:
        """What it costs in the manifest."""
        return InlineRun(len(self.raw), len(self.compressed) if self.compressed is not None else None)

    def compress(self, dictionary: Dictionary | None) -> None:
        """Makes what a record needs to store it."""
        self.compressed = codec.compress(self.raw, dictionary=dictionary)
        self.dictionary = dictionary.name if dictionary else None

    def as_segment(self) -> Payload:
        """Turns it into a reference; returns what has to be stored. It is compressed already."""
        assert self.compressed is not None
        self.reference = Reference(self.digest, len(self.raw))
        return Payload(self.digest, self.compressed, len(self.raw), dictionary=self.dictionary)

    def forget(self) -> None:
        """Drops the bytes of a run that is stored."""
        self.raw = self.compressed = b""


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


@dataclass(slots=True)
class _Progress:
    """Where cutting stands: what is kept from the base, and what was cut so far.

    `inline`: the sealed runs among `runs` that are no segments yet, the oldest first.
    """

    position: int
    resume: str | None
    facts: Facts
    runs: list[Run | Reference] = field(default_factory=list)
    inline: list[Run] = field(default_factory=list)
    suffix: list[Piece] = field(default_factory=list)
    suffix_inline: list[bytes] = field(default_factory=list)
    tail: int = 0

    def take(self, runs: Sequence[Run | Reference]) -> None:
        """These come next in the conversation, and where they go is decided."""
        self.runs.extend(runs)
        self.inline += [run for run in runs if isinstance(run, Run) and run.sealed and run.reference is None]


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
        self._parameters = parameters
        self._threads = threads
        self._assembling = 0

    async def assemble(self, draft: Draft, segments: Set[str], acquire: Acquire) -> Assembled:
        """The pieces of `draft`; every new segment among them has been passed to `acquire`. `segments`: the digests of
        those that its base references. Errors of reading and storing."""
        before = Before(_inline_digests(draft.base), segments)
        self._assembling += 1
        try:
            progress = await self._begin(draft)
            async for runs in self._cut(draft, progress):
                await self._place(runs, draft.size, before, acquire)
                progress.take(runs)
                await self._spill(progress, acquire)
            return await self._finish(progress, acquire, note_tail=draft.base is None)
        finally:
            self._assembling -= 1

    async def _begin(self, draft: Draft) -> _Progress:
        """Keeps the longest sealed prefix of the base that the draft does not touch."""
        base = draft.base
        if base is None or not base.manifest.facts.resumable or draft.first_change < 1:
            return _Progress(0, None, Facts())
        facts = base.manifest.facts
        if draft.first_change >= base.sealed_end > 0:
            # The pages stay as they are: an append does not read them.
            pieces = base.manifest.pieces[:-1] if base.manifest.tail else base.manifest.pieces
            messages = None if facts.messages is None else facts.messages - facts.tail_messages
            facts = msgspec.structs.replace(facts, messages=messages, tail_messages=0)
            return _resumed(base.sealed_end, facts, pieces, _inline_parts(base, pieces))
        layout = await self._layouts.layout(base)
        index = max(i for i, start in enumerate(layout.starts) if start <= min(draft.first_change, base.sealed_end))
        if index == 0:
            return _Progress(0, None, Facts())
        facts = msgspec.structs.replace(facts, messages=None, tail_messages=0)
        inline = [layout.inline_bytes(i) for i in range(index) if isinstance(layout.pieces[i], int)]
        return _resumed(layout.starts[index], facts, layout.pieces[:index], inline)

    async def _cut(self, draft: Draft, progress: _Progress) -> AsyncIterator[list[Run]]:
        """The runs from `progress.position` on, by windows; ends early where the rest of the base can be kept."""
        old = await self._layouts.layout(draft.base) if draft.base and draft.last_change < draft.size else None
        window = self._window()
        while progress.position < draft.size:
            start = progress.position
            final = start + window >= draft.size
            data = await draft.read(start, start + window)
            cut, runs = await self._run(len(data), self._cut_window, data, progress.resume, final)
            if not runs:
                # No message ends in the window: a longer one decides.
                window *= 2
                continue
            window = self._window()
            progress.facts = _merge(progress.facts, cut, final=final, resumed=progress.resume is not None)
            progress.resume = cut.format if cut.resumable else None
            taken = self._meet(draft, old, progress, runs) if old else len(runs)
            progress.position += sum(len(run.raw) for run in runs[:taken])
            if taken < len(runs) or progress.suffix:
                yield runs[:taken]
                return
            if final and not runs[-1].sealed:
                progress.tail = len(runs[-1].raw)
            yield runs

    def _window(self) -> int:
        """How many bytes a commit may cut at a time. Where the cuts lie does not depend on it."""
        return max(WINDOW // self._assembling, LEAST_WINDOW)

    def _cut_window(self, data: bytes, resume: str | None, final: bool) -> tuple[Segmentation, list[Run]]:
        cut = segment(data, parameters=self._parameters, resume=resume, final=final)
        ends = list(cut.ends)
        sealed = len(ends)
        if final and (not ends or ends[-1] < len(data)):
            ends.append(len(data))
        runs = []
        start = 0
        for index, end in enumerate(ends):
            raw = data[start:end]
            runs.append(Run(raw, index < sealed, hashlib.sha256(raw).hexdigest()))
            start = end
        return cut, runs

    def _meet(self, draft: Draft, old: Layout, progress: _Progress, runs: list[Run]) -> int:
        """How many runs are taken before the cuts meet those of the base again; the rest of the base is kept then."""
        position = progress.position
        boundaries = {start: i for i, start in enumerate(old.starts)}
        for taken, run in enumerate(runs, 1):
            position += len(run.raw)
            index = boundaries.get(position)
            if run.sealed and index is not None and position >= draft.last_change and position < draft.size:
                progress.suffix = old.pieces[index:]
                progress.suffix_inline = [
                    old.inline_bytes(i) for i in range(index, len(old.pieces)) if isinstance(old.pieces[i], int)
                ]
                progress.tail = old.snapshot.manifest.tail
                progress.facts = msgspec.structs.replace(progress.facts, messages=None, tail_messages=0)
                return taken
        return len(runs)

    async def _place(self, runs: Sequence[Run], size: int, before: Before, acquire: Acquire) -> None:
        """Decides for each run whether it becomes a segment, and stores those that do."""
        worth = [run.digest for run in runs if len(run.raw) >= placement.SHARED_FROM]
        sightings = await self._index.sightings([bytes.fromhex(digest) for digest in worth]) if worth else {}
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
        there = {digest.hex() for digest, sighting in sightings.items() if sighting.state != "inline"}
        await self._store(chosen, there, acquire)

    async def _spill(self, progress: _Progress, acquire: Acquire) -> None:
        """Stores what is too much inline already.

        It is what `_finish` would find too much, but found here it does not take memory until then: however long a
        conversation is, all of it may compress too well for segments.
        """
        count = placement.spilled([run.inline for run in progress.inline])
        spill, progress.inline = progress.inline[:count], progress.inline[count:]
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
        dictionary = await self._dictionaries.active()

        async def compress(run: Run) -> None:
            await self._run(len(run.raw), run.compress, dictionary)

        await each(compress, [run for run in runs if run.compressed is None])

    async def _finish(self, progress: _Progress, acquire: Acquire, *, note_tail: bool) -> Assembled:
        """Spills what is too much inline, and folds references into pages.

        The tail of a conversation that is appended to differs each time: only that of a new one is worth a note.
        """
        runs = [*progress.runs, *_kept_runs(progress.suffix, progress.suffix_inline)]
        inline = [run for run in runs if isinstance(run, Run) and run.reference is None]
        sealed = inline[:-1] if progress.tail and inline and inline[-1] is runs[-1] else inline
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
            tail=progress.tail,
            facts=progress.facts,
            digests=await pages.digests(pieces, self._page_source(made)),
            inline_digests=tuple(run.digest for run in noted if len(run.raw) >= placement.SHARED_FROM),
        )

    def _page_source(self, made: dict[str, bytes]) -> pages.Fetch:
        async def fetch(reference: Reference) -> bytes:
            return made.get(reference.digest) or await self._layouts.fetch(reference)

        return fetch

    async def _run(self, size: int, function: Callable[..., T], *arguments: object) -> T:
        """Calls a function that works on `size` bytes: here, or in a thread where that takes long."""
        if size <= ON_LOOP:
            return function(*arguments)
        return await trio.to_thread.run_sync(function, *arguments, limiter=self._threads)


def _digest_of(runs: Sequence[Run], joined: bytes) -> str:
    """The digest of the bytes of these runs together, if there are any; of one alone it is known."""
    if len(runs) == 1:
        return runs[0].digest
    return hashlib.sha256(joined).hexdigest() if runs else ""


def _resumed(position: int, facts: Facts, pieces: Sequence[Piece], inline: Sequence[bytes]) -> _Progress:
    """Cutting goes on at `position`, after the first `pieces` of the base."""
    progress = _Progress(position, facts.format, facts)
    progress.take(_kept_runs(pieces, inline))
    return progress


def _kept_runs(pieces: Sequence[Piece], inline: Sequence[bytes]) -> list[Run | Reference]:
    """Pieces of the base as they go on: references, and inline runs with their bytes."""
    left = iter(inline)
    kept: list[Run | Reference] = []
    for piece in pieces:
        if isinstance(piece, Reference):
            kept.append(piece)
        else:
            raw = next(left)
            kept.append(Run(raw, True, hashlib.sha256(raw).hexdigest()))
    return kept


def _inline_parts(snapshot: Snapshot, pieces: Sequence[Piece]) -> list[bytes]:
    """The bytes of the inline pieces among the first `pieces` of a version."""
    parts = []
    inline = snapshot.inline
    start = 0
    for piece in pieces:
        if isinstance(piece, int):
            parts.append(inline[start : start + piece])
            start += piece
    return parts


def _inline_digests(snapshot: Snapshot | None) -> set[str]:
    """What a version holds inline: seeing that again is no reason to share it."""
    if snapshot is None:
        return set()
    return {hashlib.sha256(raw).hexdigest() for raw in _inline_parts(snapshot, snapshot.manifest.pieces)}


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
