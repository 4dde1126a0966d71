"""Pages of references: what keeps the manifest of a very long conversation short.

When the top level has more than `FANOUT_LIMIT` references of one level, the first `PAGE` of them become a segment of
their own, a page, which the manifest references at the next level; and so on upwards. Pages are made from the start
only, so an append leaves all full pages as they are. A page is a segment like any other: content-addressed, counted,
verified.
"""

import hashlib
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from stowfs.errors import CorruptObject
from stowfs.vault.manifest import Piece, Reference

PAGE = 256
"""References in a page: about 20 KB raw, 9 KB stored (digests do not compress)."""

FANOUT_LIMIT = 640
"""References of one level a list may hold before its start becomes a page: some 64 MiB of conversation whose appends
rewrite about 22 KB of references."""

LEVEL_LIMIT = 4
"""Levels of pages. Four hold 256^4 segments, far more than any file; a deeper one is hostile."""

_decoder = msgspec.json.Decoder(tuple[Reference, ...])
_encoder = msgspec.json.Encoder()

Fetch = Callable[[Reference], Awaitable[bytes]]


def fold(pieces: Sequence[Piece]) -> tuple[list[Piece], dict[str, bytes]]:
    """The same pieces with full pages folded away, and the raw bytes of the new pages by digest.

    Only a leading run of references folds: the caller stores inline pieces as segments before they get that far to
    the front.
    """
    folded = list(pieces)
    made: dict[str, bytes] = {}
    for level in range(LEVEL_LIMIT):
        start = next((i for i, piece in enumerate(folded) if level_of(piece) <= level), len(folded))
        while sum(level_of(piece) == level for piece in folded[start:]) > FANOUT_LIMIT:
            group = folded[start : start + PAGE]
            references = [piece for piece in group if isinstance(piece, Reference) and piece.level == level]
            if len(references) < PAGE:
                break
            raw = _encoder.encode(references)
            page = Reference(hashlib.sha256(raw).hexdigest(), sum(r.size for r in references), level + 1)
            made[page.digest] = raw
            folded[start : start + PAGE] = [page]
            start += 1
    return folded, made


def level_of(piece: Piece) -> int:
    """The level of a reference; -1 for inline bytes, which stand below all references."""
    return piece.level if isinstance(piece, Reference) else -1


def parse(page: Reference, raw: bytes) -> tuple[Reference, ...]:
    """The references of a page. Raises `CorruptObject` where they cannot be what `page` stands for."""
    try:
        references = _decoder.decode(raw)
    except msgspec.MsgspecError as error:
        raise CorruptObject(f"page {page.digest} is not valid: {error}") from error
    if (
        not 0 < page.level <= LEVEL_LIMIT
        or any(reference.level != page.level - 1 or reference.size <= 0 for reference in references)
        or sum(reference.size for reference in references) != page.size
    ):
        raise CorruptObject(f"page {page.digest} contradicts the reference to it")
    return references


async def expand(pieces: Sequence[Piece], fetch: Fetch) -> list[Piece]:
    """The pieces with every page replaced by what it lists, down to level 0."""
    flat: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, Reference) and piece.level > 0:
            flat.extend(await expand(parse(piece, await fetch(piece)), fetch))
        else:
            flat.append(piece)
    return flat


async def digests(pieces: Sequence[Piece], fetch: Fetch) -> set[str]:
    """Every segment that the pieces reference, pages included: what is counted."""
    found: set[str] = set()
    for piece in pieces:
        if isinstance(piece, Reference):
            found.add(piece.digest)
            if piece.level > 0:
                found |= await digests(parse(piece, await fetch(piece)), fetch)
    return found
