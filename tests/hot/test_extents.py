"""Extents against the plain model: a set of offsets."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stowfs.hot.extents import Extents

# Small, so that ranges often touch.
SIZE = 12
ranges = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(lambda pair: (min(pair), max(pair)))
operations = st.lists(st.one_of(ranges, st.integers(0, SIZE)), max_size=25)


def play(steps: list[tuple[int, int] | int]) -> tuple[Extents, set[int]]:
    """Adds every range and truncates to every number, in the extents and in the model."""
    extents, model = Extents(), set[int]()
    for step in steps:
        if isinstance(step, int):
            extents.truncate(step)
            model = {offset for offset in model if offset < step}
        else:
            extents.add(*step)
            model |= set(range(*step))
    return extents, model


@settings(deadline=None)
@given(operations)
def test_the_ranges_are_the_set_in_its_shortest_form(steps: list[tuple[int, int] | int]) -> None:
    extents, model = play(steps)
    ranges = extents.ranges
    assert {offset for start, end in ranges for offset in range(start, end)} == model
    assert all(start < end for start, end in ranges)
    assert all(left[1] < right[0] for left, right in pairwise(ranges))
    assert extents.total == len(model)
    assert extents.end == max(model, default=-1) + 1
    assert Extents(ranges).ranges == ranges


@settings(deadline=None)
@given(operations, ranges)
def test_pieces_tile_any_range(steps: list[tuple[int, int] | int], asked: tuple[int, int]) -> None:
    extents, model = play(steps)
    pieces = list(extents.pieces(*asked))
    assert [offset for start, end, _ in pieces for offset in range(start, end)] == list(range(*asked))
    assert all(start < end for start, end, _ in pieces)
    assert all((offset in model) == written for start, end, written in pieces for offset in range(start, end))
    assert all(left[2] != right[2] for left, right in pairwise(pieces))
    assert extents.contains(*asked) == (set(range(*asked)) <= model)
    assert extents.missing(*asked) == len(set(range(*asked)) - model)


@pytest.mark.parametrize("bad", [(-1, 3), (5, 4)])
def test_what_is_no_range_is_refused(bad: tuple[int, int]) -> None:
    extents = Extents([(2, 9)])
    with pytest.raises(ValueError, match="not a range"):
        extents.add(*bad)
    with pytest.raises(ValueError, match="not a range"):
        list(extents.pieces(*bad))
    assert extents.ranges == ((2, 9),)
