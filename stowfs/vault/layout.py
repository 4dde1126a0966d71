"""Reading a version of a conversation: which pieces lie under a range of bytes, and their bytes.

Segments of one read are fetched in parallel, and a reader that goes on where it stopped gets the next ones ahead of
time, a window that doubles with every step. Several may read the same version at different places.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Literal, NamedTuple

from stowfs.config import KIB, MIB
from stowfs.errors import CorruptObject
from stowfs.vault import pages
from stowfs.vault.lru import Lru
from stowfs.vault.manifest import NO_BLOBS, Piece, Reference, Snapshot
from stowfs.vault.segments import SegmentReader

MEMORY = 32 * MIB
"""Bytes of versions whose expanded pieces are kept, with their inline bytes (up to 2 MiB each): as many as are usually
open, or one of some 20 GiB. The current one is kept in any case."""

OVERHEAD = 2500
"""Bytes of Python objects that a version and its layout cost besides, about: most conversations have few others."""

PIECE = 200
"""Bytes of Python objects for a piece, about."""

AHEAD = 8 * MIB
"""Raw bytes that are fetched ahead of one reader at most: 400 MB/s from a store 20 ms away, or half of that where each
large segment takes two requests."""

SHARE = 8
"""The part of the memory for segments that may be fetched ahead of one reader, so that readers drive out neither what
they are about to read themselves nor what others are."""

STREAMS = 8
"""Readers of one version that are told apart."""

SCATTERED = 64 * KIB
"""Bytes from which a read is one of several that the kernel has under way for one sequential reader: they come in any
order. Programs that jump about read less at a time."""

NEAR = 1 * MIB
"""How far such reads are from each other at most: twice what the kernel is told to read ahead."""


@dataclass(slots=True)
class Stream:
    """One sequential reader: where it has got to, and how many segments are fetched ahead of it."""

    position: int
    window: int = 1

    def goes_on_with(self, start: int, end: int) -> bool:
        """Whether a read of `start` to `end` is the next of this reader."""
        return start == self.position or (end - start >= SCATTERED and abs(start - self.position) <= NEAR)


class Kept(NamedTuple):
    """A segment that this host has: its raw bytes, and the type of its record."""

    raw: bytes
    type: Literal["data", "page"]


class Layout:
    """The pieces of one version in order, pages expanded, with their offsets. `cost`: bytes it takes in memory."""

    def __init__(self, snapshot: Snapshot, pieces: list[Piece]) -> None:
        self.snapshot = snapshot
        self.pieces = pieces
        sizes = [piece if isinstance(piece, int) else piece.size for piece in pieces]
        self.starts = [0, *accumulate(sizes)]
        inline = [piece if isinstance(piece, int) else 0 for piece in pieces]
        self._inline_starts = [0, *accumulate(inline)]
        self.cost = OVERHEAD + snapshot.stored_size + snapshot.manifest.inline + PIECE * len(pieces)
        # The one that was used last comes last. Who reads from the beginning is expected to go on.
        self._streams = [Stream(0)]

    def inline_bytes(self, index: int) -> bytes:
        """The bytes of the inline piece `index`. Raises `CorruptObject`."""
        start = self._inline_starts[index]
        return self._inline[start : self._inline_starts[index + 1]]

    @cached_property
    def digests(self) -> set[str]:
        """The segments that the pieces are; pages are not among them."""
        return {piece.digest for piece in self.pieces if isinstance(piece, Reference)}

    @cached_property
    def _inline(self) -> bytes:
        return self.snapshot.inline

    def covering(self, start: int, end: int) -> range:
        """The indexes of the pieces that hold bytes `start` to `end`."""
        return range(bisect_right(self.starts, start) - 1, bisect_right(self.starts, end - 1))

    def ahead(self, start: int, end: int, last: int, limit: int, size: int = AHEAD) -> list[Reference]:
        """The segments to fetch ahead after a read of `start` to `end`, of which `last` was the last piece: at most
        `limit`, which end within `size` bytes."""
        stream = next((stream for stream in reversed(self._streams) if stream.goes_on_with(start, end)), None)
        if stream is None:
            self._streams = [*self._streams[1 - STREAMS :], Stream(end)]
            return []
        self._streams.remove(stream)
        self._streams.append(stream)
        stream.position = max(stream.position, end)
        stream.window = min(stream.window * 2, limit)
        first = max(last, self.covering(stream.position - 1, stream.position)[-1]) + 1
        past = bisect_right(self.starts, stream.position + size) - 1
        following = self.pieces[first : min(first + stream.window, past)]
        return [piece for piece in following if isinstance(piece, Reference)]


class LayoutReader:
    """Bytes of snapshots."""

    def __init__(self, segments: SegmentReader, *, prefetch: int) -> None:
        self._segments = segments
        self._prefetch = prefetch
        self._ahead = min(AHEAD, segments.memory_limit // SHARE)
        self._layouts = Lru[Layout](MEMORY, lambda layout: layout.cost)

    async def layout(self, snapshot: Snapshot) -> Layout:
        """The layout of a version; fetches its pages. Errors as `SegmentReader.fetch`."""
        commit = snapshot.manifest.commit
        layout = self._layouts.get(commit)
        if layout is None:
            self._segments.prefetch(piece for piece in snapshot.top_references if piece.level > 0)
            layout = Layout(snapshot, await pages.expand(snapshot.manifest.pieces, self.fetch))
            self._layouts.put(commit, layout)
        return layout

    async def fetch(self, reference: Reference, blobs: Mapping[str, str] = NO_BLOBS) -> bytes:
        """The raw bytes that a reference leads to; their size is checked where it is known. `blobs`: see `Snapshot`."""
        raw = await self._segments.fetch(reference, blobs)
        if reference.level == 0 and len(raw) != reference.size:
            raise CorruptObject(f"segment {reference.digest} has {len(raw)} bytes, not {reference.size}")
        return raw

    async def kept(self, snapshot: Snapshot, digest: str) -> Kept | None:
        """A segment of a version, if this host has it, whether or not the store does. Errors as `SegmentReader.kept`,
        and of reading its pages."""
        raw = await self._segments.kept(digest)
        if raw is None:
            return None
        return Kept(raw, "data" if digest in (await self.layout(snapshot)).digests else "page")

    async def digests(self, snapshot: Snapshot | None) -> set[str]:
        """Every segment that a version references, pages included; nothing for no version."""
        if snapshot is None:
            return set()
        return await pages.digests(snapshot.manifest.pieces, self.fetch)

    def fetch_beginnings(self, snapshots: Sequence[Snapshot]) -> None:
        """Begins to fetch the first segments of versions that will be read one after the other, in all as much as is
        fetched ahead of one reader."""
        left = self._ahead
        for snapshot in snapshots:
            for piece in snapshot.manifest.pieces:
                if not isinstance(piece, Reference) or piece.level or piece.size > left:
                    break
                left -= piece.size
                self._segments.prefetch([piece], snapshot.blobs)

    async def read(self, snapshot: Snapshot, start: int, end: int) -> bytes:
        """The bytes `start` to `end`, clipped at the size. Raises `CorruptObject` and store errors."""
        return bytes(await self.view(snapshot, start, end))

    async def view(self, snapshot: Snapshot, start: int, end: int) -> bytes | memoryview:
        """As `read`, without copying what lies in one piece."""
        end = min(end, snapshot.size)
        if start >= end:
            return b""
        layout = await self.layout(snapshot)
        covering = layout.covering(start, end)
        blobs = snapshot.blobs
        wanted = [piece for i in covering if isinstance(piece := layout.pieces[i], Reference)]
        if len(wanted) > 1:
            self._segments.prefetch(wanted, blobs)
        self._segments.prefetch(layout.ahead(start, end, covering[-1], self._prefetch, self._ahead), blobs)
        parts: list[bytes | memoryview] = []
        for i in covering:
            piece = layout.pieces[i]
            raw = await self.fetch(piece, blobs) if isinstance(piece, Reference) else layout.inline_bytes(i)
            base = layout.starts[i]
            parts.append(memoryview(raw)[max(start - base, 0) : end - base])
        return parts[0] if len(parts) == 1 else b"".join(parts)
