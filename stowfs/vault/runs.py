"""The runs of a conversation between being cut and standing in a manifest: what is kept from the version before, and
what was cut anew."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from stowfs import codec
from stowfs.codec import Dictionary
from stowfs.vault.layout import Layout
from stowfs.vault.manifest import Facts, Piece, Reference, Snapshot
from stowfs.vault.placement import InlineRun
from stowfs.vault.record import Payload
from stowfs.vault.run_sizes import RunSizes


@dataclass(slots=True)
class Run:
    """One piece of the conversation that was cut anew."""

    raw: bytes
    sealed: bool
    digest: str = field(init=False)
    compressed: bytes | None = None
    dictionary: str | None = None
    reference: Reference | None = None

    def __post_init__(self) -> None:
        self.digest = sha256(self.raw)

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


@dataclass(slots=True)
class Cutting:
    """Where cutting stands: what is kept from the base, and what was cut so far.

    `sizes`: of the runs to come; `old`: the base, where its end may be kept; `inline`: the sealed runs among `runs`
    that are no segments yet, the oldest first.
    """

    sizes: RunSizes
    old: Layout | None = None
    position: int = 0
    resume: str | None = None
    facts: Facts = field(default_factory=Facts)
    runs: list[Run | Reference] = field(default_factory=list)
    inline: list[Run] = field(default_factory=list)
    suffix: list[Piece] = field(default_factory=list)
    suffix_inline: list[bytes] = field(default_factory=list)
    tail: int = 0

    def resume_at(self, position: int, facts: Facts, pieces: Sequence[Piece], inline: Sequence[bytes]) -> None:
        """Cutting goes on at `position`, after the first `pieces` of the base."""
        self.position, self.resume, self.facts = position, facts.format, facts
        self.take(kept_runs(pieces, inline))

    def take(self, runs: Sequence[Run | Reference]) -> None:
        """These come next in the conversation, and where they go is decided."""
        self.runs.extend(runs)
        self.inline += [run for run in runs if isinstance(run, Run) and run.sealed and run.reference is None]


def sha256(raw: bytes) -> str:
    """The digest of bytes, as references have it."""
    return hashlib.sha256(raw).hexdigest()


def kept_runs(pieces: Sequence[Piece], inline: Sequence[bytes]) -> list[Run | Reference]:
    """Pieces of the base as they go on: references, and inline runs with their bytes."""
    left = iter(inline)
    kept: list[Run | Reference] = []
    for piece in pieces:
        if isinstance(piece, Reference):
            kept.append(piece)
        else:
            kept.append(Run(next(left), True))
    return kept


def inline_parts(snapshot: Snapshot, pieces: Sequence[Piece]) -> list[bytes]:
    """The bytes of the inline pieces among the first `pieces` of a version."""
    parts = []
    inline = snapshot.inline
    start = 0
    for piece in pieces:
        if isinstance(piece, int):
            parts.append(inline[start : start + piece])
            start += piece
    return parts
