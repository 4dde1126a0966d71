"""Pages of references: what is folded unfolds, an append keeps full pages, and hostile pages cost little."""

import hashlib
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stowfs.errors import CorruptObject, FileTooLarge
from stowfs.vault import pages
from stowfs.vault.manifest import Piece, Reference
from stowfs.vault.pages import FANOUT_LIMIT, LARGEST_PAGE, LEVEL_LIMIT, PAGE, REFERENCES_LIMIT


def reference(number: int, size: int = 100, level: int = 0) -> Reference:
    return Reference(hashlib.sha256(b"%d" % number).hexdigest(), size, level)


def references(count: int) -> list[Piece]:
    return [reference(number, 1 + number % 1000) for number in range(count)]


class Stored:
    """Pages by digest, and how often one was asked for."""

    def __init__(self, made: dict[str, bytes] | None = None) -> None:
        self.raw = dict(made or {})
        self.fetches = 0

    def add(self, raw: bytes) -> str:
        digest = hashlib.sha256(raw).hexdigest()
        self.raw[digest] = raw
        return digest

    def page(self, entries: Sequence[Reference], level: int, size: int | None = None) -> Reference:
        digest = self.add(msgspec.json.encode(entries))
        return Reference(digest, sum(entry.size for entry in entries) if size is None else size, level)

    async def fetch(self, page: Reference) -> bytes:
        self.fetches += 1
        return self.raw[page.digest]


def size_of(pieces: Sequence[Piece]) -> int:
    return sum(piece if isinstance(piece, int) else piece.size for piece in pieces)


async def check_round_trip(pieces: list[Piece]) -> list[Piece]:
    folded, made = pages.fold(pieces)
    stored = Stored(made)
    assert await pages.expand(folded, stored.fetch) == pieces
    counted = {piece.digest for piece in pieces if isinstance(piece, Reference)}
    assert await pages.digests(folded, stored.fetch) == counted | set(made)
    assert size_of(folded) == size_of(pieces)
    for digest, raw in made.items():
        assert hashlib.sha256(raw).hexdigest() == digest
        assert len(raw) <= pages.PAGE_LIMIT
    return folded


@pytest.mark.parametrize("count", [0, 1, 127, 128, 159, 160, 161, 287, 288, 289, 320, 321, 5000])
async def test_references_survive_folding(count: int) -> None:
    folded = await check_round_trip(references(count))
    assert sum(pages.level_of(piece) == 0 for piece in folded) <= FANOUT_LIMIT
    assert (len(folded) < count) is (count > FANOUT_LIMIT)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 5000), st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 10**6)), max_size=30))
async def test_references_and_inline_pieces_survive_folding(count: int, inline: list[tuple[int, int]]) -> None:
    pieces = references(count)
    for position, size in inline:
        pieces.insert(min(position, len(pieces)), size)
    await check_round_trip(pieces)


async def test_pages_of_pages() -> None:
    count = PAGE * (FANOUT_LIMIT + PAGE + 3) + 17
    folded = await check_round_trip(references(count))
    assert len(folded) <= 2 * FANOUT_LIMIT
    levels = [pages.level_of(piece) for piece in folded]
    assert levels[0] == 2
    assert levels == sorted(levels, reverse=True)


async def test_an_append_leaves_full_pages_as_they_are() -> None:
    """And going on from a folded list gives what folding everything at once gives."""
    pieces = references(3000)
    folded, made = pages.fold(pieces[:700])
    for number in range(700, 3000):
        full = [piece for piece in folded if pages.level_of(piece) > 0]
        folded, new = pages.fold([*folded, pieces[number]])
        assert folded[: len(full)] == full
        assert len(new) <= 1
        made |= new
    assert folded == pages.fold(pieces)[0]
    assert await pages.expand(folded, Stored(made).fetch) == pieces


async def test_conversations_with_a_common_beginning_share_its_pages() -> None:
    beginning = references(1000)
    one, made_one = pages.fold([*beginning, *(reference(10**6 + n) for n in range(300))])
    other, made_other = pages.fold([*beginning, *(reference(2 * 10**6 + n) for n in range(900))])
    assert one[0] == other[0]
    assert set(made_one) & set(made_other)


def test_more_references_than_can_be_read_again_are_refused() -> None:
    folded = [reference(number, 10, level=2) for number in range(REFERENCES_LIMIT // LARGEST_PAGE**2)]
    assert pages.fold(folded)[0] == folded
    with pytest.raises(FileTooLarge):
        pages.fold([*folded, reference(-1)])


# What somebody may have put into the store


async def refused(stored: Stored, *pieces: Piece, most: int = 3) -> None:
    """It is `CorruptObject` for everybody, after at most so many fetches."""
    for walk in (pages.expand, pages.digests):
        stored.fetches = 0
        with pytest.raises(CorruptObject):
            await walk(pieces, stored.fetch)
        assert stored.fetches <= most


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[",
        b"null",
        b"{}",
        b"[1]",
        b'[["x"]]',
        b'[["x","1"]]',
        b'[["x",1,0,0],5]',
        b"\xff\xfe",
        b'[["\x80",1]]',
        b"[" * 30_000,
        b" " * (pages.PAGE_LIMIT + 1),
    ],
)
async def test_a_page_that_is_no_page(raw: bytes) -> None:
    stored = Stored()
    await refused(stored, Reference(stored.add(raw), 1, 1))


@settings(max_examples=200)
@given(st.binary(max_size=100))
async def test_any_bytes_are_no_page(raw: bytes) -> None:
    stored = Stored()
    await refused(stored, Reference(stored.add(raw), 1, 1))


@pytest.mark.parametrize("level", [-1, 1, 2, 3, LEVEL_LIMIT, LEVEL_LIMIT + 1, 1 << 40])
async def test_a_page_of_entries_of_the_wrong_level(level: int) -> None:
    stored = Stored()
    await refused(stored, stored.page([reference(1, level=level)], 1))


@pytest.mark.parametrize("level", [LEVEL_LIMIT + 1, 1 << 40])
async def test_a_page_that_is_too_high(level: int) -> None:
    stored = Stored()
    await refused(stored, stored.page([reference(1, level=level - 1)], level))


@pytest.mark.parametrize("claimed", [0, 1, 299, 301, 1 << 62])
async def test_a_page_whose_sizes_do_not_add_up(claimed: int) -> None:
    stored = Stored()
    await refused(stored, stored.page([reference(n) for n in range(3)], 1, claimed))


@pytest.mark.parametrize("size", [0, -1, -(1 << 62)])
async def test_a_page_with_an_entry_of_no_size(size: int) -> None:
    stored = Stored()
    await refused(stored, stored.page([reference(1, 100 - size), reference(2, size)], 1))


async def test_a_page_with_too_many_entries() -> None:
    stored = Stored()
    await refused(stored, stored.page([Reference("", 1)] * (LARGEST_PAGE + 1), 1))


async def test_pages_that_list_each_other_again_and_again() -> None:
    """A handful of objects that stand for more references than any memory holds."""
    stored = Stored()
    page = stored.page([reference(n, 1) for n in range(LARGEST_PAGE)], 1)
    for level in range(2, LEVEL_LIMIT + 1):
        page = stored.page([page] * LARGEST_PAGE, level)
    with pytest.raises(CorruptObject, match="claims more"):
        await pages.expand([page] * 4, stored.fetch)
    assert stored.fetches < 2 * REFERENCES_LIMIT // LARGEST_PAGE
    stored.fetches = 0
    assert len(await pages.digests([page] * 4, stored.fetch)) == LARGEST_PAGE + LEVEL_LIMIT
    assert stored.fetches == LEVEL_LIMIT


async def test_a_page_cannot_contain_itself() -> None:
    """Not that SHA-256 allowed it: whatever a store answers, each level is one lower."""

    class Cyclic(Stored):
        async def fetch(self, page: Reference) -> bytes:
            self.fetches += 1
            return msgspec.json.encode([Reference(page.digest, page.size, page.level)])

    await refused(Cyclic(), reference(1, level=LEVEL_LIMIT), most=1)
