"""The journal row of one commit: what it acquires and releases, and how far it has come (DESIGN §7).

Phases: *recorded* (segments may have been acquired) → *written* (the manifest's PUT may have been sent) → *updated*
(it is there: what the old manifest alone referenced is to be released). Any earlier end is *lost*: the PUT is fenced
off, and what was acquired is undone. A commit that neither acquires nor releases counts nothing, so there is nothing
to recover: it has no row.
"""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Literal

import msgspec

from stowfs.errors import MissingSegment
from stowfs.hot.index import Index, Sighting
from stowfs.hot.journal import Journal, JournalRow
from stowfs.vault.counts import Acquired, Counts
from stowfs.vault.naming import from_text, to_text
from stowfs.vault.parallel import each
from stowfs.vault.record import Payload
from stowfs.vault.ring import new_id

Phase = Literal["recorded", "written", "updated"]
Kind = Literal["commit", "delete", "rename", "move"]
"""`move`: of a directory (see `move`), which counts nothing itself."""

Find = Callable[[str], Awaitable[Payload | None]]
"""Finds elsewhere a segment that is not in the store."""

TRUST_SATURATED = 3600.0
"""Seconds for which a count that was seen saturated is believed to be so, and not asked again; not beyond the next
recount (`fsck --recount`), for which nobody may have the store mounted."""


class Source(msgspec.Struct, frozen=True, array_like=True):
    """The old name of a rename: its path, the ETag its tombstone's PUT is conditional on, and what it references."""

    path: str
    base: str
    digests: tuple[str, ...]


class Row(msgspec.Struct, frozen=True, omit_defaults=True):
    """What recovery needs to know of a commit. `base`: the ETag its manifest's PUT is conditional on (none: no object).

    A segment that is given up more than once stands in `release` as often. For a rename `path` is the new name.
    """

    commit: str
    kind: Kind
    path: str
    base: str | None = None
    acquire: tuple[str, ...] = ()
    release: tuple[str, ...] = ()
    source: Source | None = None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Row)


def encode(row: Row, phase: Phase) -> JournalRow:
    """The row as it stands in the journal."""
    return JournalRow(row.commit, phase, _encoder.encode(_with_paths(row, to_text)))


def decode(row: JournalRow) -> Row:
    """The row as the commit wrote it."""
    return _with_paths(_decoder.decode(row.payload), from_text)


async def _find_none(_: str) -> Payload | None:
    return None


def _with_paths(row: Row, change: Callable[[str], str]) -> Row:
    source = row.source and msgspec.structs.replace(row.source, path=change(row.source.path))
    return msgspec.structs.replace(row, path=change(row.path), source=source)


class Transaction:
    """One commit under way in this process."""

    def __init__(
        self, journal: Journal, counts: Counts, index: Index, kind: Kind, path: str, commit: str | None = None
    ) -> None:
        self._journal = journal
        self._counts = counts
        self._index = index
        self._recorded = False
        self.finished = False
        self.phase: Phase = "recorded"
        # What the last version references: counted already, so not to be acquired.
        self.held: set[str] = set()
        # What this commit is known to have counted, and what nobody counts any more.
        self.counted: set[str] = set()
        self._uncounted: set[str] = set()
        # Of what it acquired: see `Snapshot.blobs`.
        self.blobs: dict[str, str] = {}
        self.row = Row(commit or new_id(), kind, path)

    @property
    def id(self) -> str:
        """The commit's id."""
        return self.row.commit

    @property
    def recorded(self) -> bool:
        """Whether there is a row in the journal."""
        return self._recorded

    async def acquire(self, payloads: Sequence[Payload], there: set[str]) -> None:
        """Makes every segment count for this commit, unless the version before or an earlier call did so.

        `there`: segments believed to be in the store. Raises store errors; then some may have been acquired.
        """
        wanted = {payload.digest: payload for payload in payloads}
        await self._acquire(
            wanted, lambda digest: self._counts.acquire(self.id, digest, wanted[digest], exists=digest in there)
        )

    async def acquire_existing(self, digests: Iterable[str], find: Find = _find_none) -> None:
        """As `acquire`, for segments that are in the store already; where one is not, for what `find` gives. Raises
        `MissingSegment` where that is nothing."""

        async def acquire(digest: str) -> Acquired:
            try:
                return await self._counts.acquire(self.id, digest, None)
            except MissingSegment:
                if (payload := await find(digest)) is None:
                    raise
                return await self._counts.acquire(self.id, digest, payload)

        await self._acquire(digests, acquire)

    def surplus(self, kept: Iterable[str]) -> list[str]:
        """What the last version and this commit hold beyond the references of a next version that references `kept`.

        A segment occurs twice where both hold it and it is not kept.
        """
        if not self.held and not self.row.acquire:
            return []
        owned = Counter(self.held)
        owned.update(self.row.acquire)
        return list((owned - Counter(set(kept))).elements())

    async def about_to_write(self, base: str | None, release: Iterable[str], *, source: Source | None = None) -> None:
        """Notes, durably, what the PUT that follows depends on and what is to be released once it took effect."""
        row = msgspec.structs.replace(self.row, base=base, release=tuple(sorted(release)), source=source)
        if self._recorded or row.release or source is not None:
            await self._record(row, "written")
        else:
            self.row = row

    async def updated(self) -> None:
        """The manifest is there."""
        self.phase = "updated"
        await self._journal.advance(self.id, "updated")

    async def _acquire(self, digests: Iterable[str], acquire: Callable[[str], Awaitable[Acquired]]) -> None:
        owned = self.held.union(self.row.acquire, self._uncounted)
        new = [digest for digest in digests if digest not in owned]
        self._uncounted.update(await self._saturated(new))
        wanted = [digest for digest in new if digest not in self._uncounted]
        if not wanted:
            return

        async def count(digest: str) -> Acquired:
            acquired = await acquire(digest)
            self.counted.add(digest)
            return acquired

        await self._record(msgspec.structs.replace(self.row, acquire=(*self.row.acquire, *wanted)))
        done = await each(count, wanted)
        self.blobs.update((a.digest, a.blob) for a in done if a.blob is not None)
        now = time.time()
        await self._index.note_sightings(
            {bytes.fromhex(a.digest): Sighting("saturated" if a.saturated else "stored", now) for a in done}
        )

    async def _record(self, row: Row, phase: Phase = "recorded") -> None:
        self.row = row
        self.phase = phase
        self._recorded = True
        await self._journal.record(encode(row, phase))

    async def _saturated(self, digests: Sequence[str]) -> list[str]:
        """Those of the segments that nobody counts any more, as this host saw not long ago."""
        sightings = await self._index.sightings([bytes.fromhex(digest) for digest in digests]) if digests else {}
        recent = max(time.time() - TRUST_SATURATED, self._counts.believed_from)
        return [
            d.hex() for d, sighting in sightings.items() if sighting.state == "saturated" and sighting.seen_at > recent
        ]
