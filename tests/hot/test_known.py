"""Most hashes are in no table, and it need not be asked for them; none that is in it is ever said not to be."""

import hashlib
from pathlib import Path

import pytest
import trio

from stowfs.hot import known
from stowfs.hot.buffer import ENTRIES, BufferedIndex
from stowfs.hot.index import Index, Sighting

LIMIT = 1 << 30


def _hashes(start: int, count: int) -> list[bytes]:
    return [hashlib.sha256(b"%d" % number).digest() for number in range(start, start + count)]


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many hashes the database was asked for, each time."""
    asked: list[int] = []
    original = Index.sightings

    async def counted(self: Index, hashes: list[bytes]) -> dict[bytes, Sighting]:
        asked.append(len(hashes))
        return await original(self, hashes)

    monkeypatch.setattr(Index, "sightings", counted)
    return asked


async def _note(index: BufferedIndex, hashes: list[bytes]) -> None:
    await index.note_sightings({hash: Sighting("stored", 1.0) for hash in hashes})


async def test_what_was_never_seen_is_told_from_memory(tmp_path: Path, questions: list[int]) -> None:
    seen, later, never = _hashes(0, 1000), _hashes(1000, 3 * ENTRIES), _hashes(5000, 2000)
    index = BufferedIndex.open(tmp_path / "index.db", LIMIT)
    await _note(index, seen)
    index.close()
    index = BufferedIndex.open(tmp_path / "index.db", LIMIT)
    for hash in never[: known.ASKED_FROM]:
        assert await index.sightings([hash]) == {}
    assert len(questions) == known.ASKED_FROM
    for hash in later:
        await _note(index, [hash])
    for hash in never:
        assert await index.sightings([hash]) == {}
    assert len(questions) == known.ASKED_FROM
    assert set(await index.sightings([*seen, *later, *never])) == {*seen, *later}
    assert questions[-1] <= len(seen) + len(later)
    index.close()


async def test_they_are_read_again_where_too_many_were_noted(
    tmp_path: Path, questions: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "ADDED_LIMIT", 300)
    index = BufferedIndex.open(tmp_path / "index.db", LIMIT)
    seen = _hashes(0, 2000)
    for number, hash in enumerate(seen):
        await _note(index, [hash])
        asked = [hash, seen[number // 2], hashlib.sha256(hash).digest()]
        assert set(await index.sightings(asked)) == set(asked[:2])
    memory = index._known
    assert memory._sorted is not None
    assert len(memory._added) <= 300
    assert all(map(memory.may_have, seen))
    assert not any(memory.may_have(hash) for hash in _hashes(10_000, 1000))
    index.close()


async def test_what_is_noted_while_they_are_read_is_among_them(tmp_path: Path) -> None:
    index = BufferedIndex.open(tmp_path / "index.db", LIMIT)
    hashes = _hashes(0, 40 * known.ASKED_FROM)

    async def note(hash: bytes) -> None:
        await _note(index, [hash])
        await trio.lowlevel.checkpoint()
        assert hash in await index.sightings([hash])

    async with trio.open_nursery() as nursery:
        for hash in hashes:
            nursery.start_soon(note, hash)
    assert set(await index.sightings(hashes)) == set(hashes)
    index.close()


async def test_without_a_database_nothing_is_known(tmp_path: Path) -> None:
    (tmp_path / "index.db").mkdir()
    index = BufferedIndex.open(tmp_path / "index.db", LIMIT)
    for hash in _hashes(0, 3 * known.ASKED_FROM):
        assert await index.sightings([hash]) == {}
    index.close()
