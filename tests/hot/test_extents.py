"""Extents against the plain model: a position for each offset that was written."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stowfs.hot.extents import ExtentMap

# Small, so that extents often touch.
SIZE = 12
ranges = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(lambda pair: (min(pair), max(pair)))
writes = st.tuples(ranges, st.integers(0, SIZE))
operations = st.lists(st.one_of(writes, st.integers(0, SIZE)), max_size=25)

Steps = list[tuple[tuple[int, int], int] | int]


def play(steps: Steps) -> tuple[ExtentMap, dict[int, int]]:
    """Adds every extent and truncates to every number, in the map and in the model."""
    extents, model = ExtentMap(), dict[int, int]()
    for step in steps:
        if isinstance(step, int):
            extents.truncate(step)
            model = {offset: position for offset, position in model.items() if offset < step}
        else:
            (start, end), position = step
            extents.add(start, end, position)
            model |= {offset: position + offset - start for offset in range(start, end)}
    return extents, model


def model_of(extents: ExtentMap) -> dict[int, int]:
    return {offset: position + offset - start for start, end, position in extents for offset in range(start, end)}


@settings(deadline=None)
@given(operations)
def test_the_extents_are_the_map_in_its_shortest_form(steps: Steps) -> None:
    extents, model = play(steps)
    assert model_of(extents) == model
    assert all(extent.start < extent.end for extent in extents)
    for left, right in pairwise(extents):
        assert left.end <= right.start
        continues = left.position + left.end - left.start == right.position
        assert not (left.end == right.start and continues)
    assert extents.total == len(model)
    assert extents.end == max(model, default=-1) + 1
    assert extents.start == min(model, default=None)
    assert bool(extents) is bool(model)
    assert list(ExtentMap(extents)) == list(extents)


@settings(deadline=None)
@given(operations, ranges)
def test_pieces_tile_any_range(steps: Steps, asked: tuple[int, int]) -> None:
    extents, model = play(steps)
    pieces = list(extents.pieces(*asked))
    assert [offset for start, end, _ in pieces for offset in range(start, end)] == list(range(*asked))
    assert all(start < end for start, end, _ in pieces)
    for start, end, position in pieces:
        for offset in range(start, end):
            assert model.get(offset) == (None if position is None else position + offset - start)


@settings(deadline=None)
@given(operations, st.integers(0, SIZE))
def test_moving_keeps_the_positions(steps: Steps, distance: int) -> None:
    extents, model = play(steps)
    moved = extents.moved(distance)
    assert model_of(moved) == {offset + distance: position for offset, position in model.items()}
    assert model_of(extents) == model


def test_what_was_written_since_a_position() -> None:
    extents = ExtentMap()
    extents.add(0, 10, 0)
    extents.add(4, 6, 100)
    extents.add(20, 30, 102)
    assert list(extents.since(100)) == [(4, 6, 100), (20, 30, 102)]
    assert list(extents.since(101)) == [(20, 30, 102)]
    assert list(extents.since(0)) == [(0, 4, 0), (4, 6, 100), (6, 10, 6), (20, 30, 102)]


@pytest.mark.parametrize("bad", [(-1, 3, 0), (5, 4, 0), (1, 2, -1)])
def test_what_is_no_extent_is_refused(bad: tuple[int, int, int]) -> None:
    extents = ExtentMap([(2, 9, 0)])
    with pytest.raises(ValueError, match="not an extent"):
        extents.add(*bad)
    assert list(extents) == [(2, 9, 0)]


def test_what_is_no_range_or_size_is_refused() -> None:
    extents = ExtentMap()
    with pytest.raises(ValueError, match="not a range"):
        list(extents.pieces(5, 4))
    with pytest.raises(ValueError, match="not a size"):
        extents.truncate(-1)
