"""Pages of references: what keeps the manifest of a very long conversation short.

When the top level has more than `FANOUT_LIMIT` references of one level, the first `PAGE` of them become a segment of
their own, a page, which the manifest references at the next level; and so on upwards. Pages are made from the start
only, so an append leaves all full pages as they are. A page is a segment like any other: content-addressed, counted,
verified.
"""

import hashlib
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from stowfs.config import KIB
from stowfs.errors import CorruptObject, FileTooLarge
from stowfs.vault import untrusted
from stowfs.vault.manifest import LEVEL_LIMIT, Piece, Reference

PAGE = 128
"""References in a page: some 24 MiB of conversation, about 10 KB raw, 4.5 KB stored (digests do not compress)."""

FANOUT_LIMIT = 160
"""References of one level a list may hold before its start becomes a page: every append writes them again, at 36 bytes
each, and a conversation of any length should be appended to at the price of a short one."""

LARGEST_PAGE = 256
"""References a page may have that is read: there are stores whose pages are as large."""

REFERENCES_LIMIT = 1 << 20
"""References a conversation may have in all. They are held in memory while it is read, 200 MB at this many; a few
hostile pages that list each other again and again must not cost more. With pages of the usual size, it is reached at
some 96 GiB."""

PAGE_LIMIT = 32 * KIB
"""Raw bytes a page may have: more than `LARGEST_PAGE` references of the longest form."""

_decoder = msgspec.json.Decoder(tuple[Reference, ...])
_encoder = msgspec.json.Encoder()

Fetch = Callable[[Reference], Awaitable[bytes]]


def fold(pieces: Sequence[Piece]) -> tuple[list[Piece], dict[str, bytes]]:
    """The same pieces with full pages folded away, and the raw bytes of the new pages by digest.

    Only a leading run of references folds: the caller stores inline pieces as segments before they get that far to
    the front. Raises `FileTooLarge` where there are more than can be read again.
    """
    folded = list(pieces)
    if sum(LARGEST_PAGE ** max(level_of(piece), 0) for piece in folded) > REFERENCES_LIMIT:
        raise FileTooLarge("a conversation of so many segments could not be read again")
    made: dict[str, bytes] = {}
    if len(folded) <= FANOUT_LIMIT:
        return folded, made
    for level in range(LEVEL_LIMIT):
        start = next((i for i, piece in enumerate(folded) if level_of(piece) <= level), len(folded))
        left = sum(level_of(piece) == level for piece in folded[start:])
        while left > FANOUT_LIMIT:
            group = folded[start : start + PAGE]
            references = [piece for piece in group if isinstance(piece, Reference) and piece.level == level]
            if len(references) < PAGE:
                break
            raw = _encoder.encode(references)
            page = Reference(hashlib.sha256(raw).hexdigest(), sum(r.size for r in references), level + 1)
            made[page.digest] = raw
            folded[start : start + PAGE] = [page]
            start += 1
            left -= PAGE
    return folded, made


def level_of(piece: Piece) -> int:
    """The level of a reference; -1 for inline bytes, which stand below all references."""
    return piece.level if isinstance(piece, Reference) else -1


def parse(page: Reference, raw: bytes) -> tuple[Reference, ...]:
    """The references of a page. Raises `CorruptObject` where they cannot be what `page` stands for."""
    if len(raw) > PAGE_LIMIT:
        raise CorruptObject(f"page {page.digest} has {len(raw)} bytes")
    references = untrusted.parse(_decoder, raw, f"page {page.digest}")
    if (
        not 0 < page.level <= LEVEL_LIMIT
        or len(references) > LARGEST_PAGE
        or any(reference.level != page.level - 1 or reference.size <= 0 for reference in references)
        or sum(reference.size for reference in references) != page.size
    ):
        raise CorruptObject(f"page {page.digest} contradicts the reference to it")
    return references


async def expand(pieces: Sequence[Piece], fetch: Fetch) -> list[Piece]:
    """The pieces with every page replaced by what it lists, down to level 0. Raises `CorruptObject`."""
    flat: list[Piece] = []

    async def add(pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            if isinstance(piece, Reference) and piece.level > 0:
                await add(parse(piece, await fetch(piece)))
            else:
                flat.append(piece)
            _check_number(len(flat))

    await add(pieces)
    return flat


async def digests(pieces: Sequence[Piece], fetch: Fetch) -> set[str]:
    """Every segment that the pieces reference, pages included: what is counted. Raises `CorruptObject`."""
    found: set[str] = set()
    opened: set[Reference] = set()

    async def add(pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            if not isinstance(piece, Reference):
                continue
            found.add(piece.digest)
            if piece.level > 0 and piece not in opened:
                opened.add(piece)
                await add(parse(piece, await fetch(piece)))
            _check_number(len(found) - len(opened))

    await add(pieces)
    return found


def _check_number(references: int) -> None:
    if references > REFERENCES_LIMIT:
        raise CorruptObject(f"a conversation claims more than {REFERENCES_LIMIT} segments")
