"""Rings: an id is never said to have happened when it did not, nor the other way round."""

import time

from hypothesis import given
from hypothesis import strategies as st

from stowfs.vault.ring import CAPACITY, Ring, Verdict, id_of_time, new_id

IDS = st.integers(0, 99).map("{:02d}".format)


def test_ids_do_not_run_ahead_of_the_clock() -> None:
    """Many more than there are milliseconds: made one after another, they still tell when they were made."""
    ids = [new_id() for _ in range(50_000)]
    assert ids[-1] < id_of_time(time.time() + 1)


def test_ids_of_one_process_ascend() -> None:
    ids = [new_id() for _ in range(2000)]
    assert ids == sorted(set(ids))


@given(st.lists(IDS, unique=True), IDS)
def test_a_verdict_is_never_wrong(history: list[str], op: str) -> None:
    """Whatever order the clocks of several hosts gave the ids."""
    ring = Ring()
    for entry in history:
        ring = ring.add(entry)
    match ring.verdict(op):
        case Verdict.HAPPENED:
            assert op in history
        case Verdict.DID_NOT_HAPPEN:
            assert op not in history
        case Verdict.UNKNOWN:
            assert len(history) > CAPACITY
    assert len(ring.recent) == min(len(history), CAPACITY)
    assert ring.generation == len(history)


@given(st.lists(IDS, unique=True), st.lists(IDS, unique=True), IDS)
def test_a_verdict_with_a_known_generation_is_never_wrong(before: list[str], after: list[str], op: str) -> None:
    """`op` is attempted after `before`: so it may be in `after` only."""
    history = [entry for entry in before if entry != op]
    later = [entry for entry in after if entry not in history]
    since = Ring().add(*history)
    ring = since.add(*later)
    verdict = ring.verdict(op, since=since.generation)
    if verdict is Verdict.UNKNOWN:
        assert len(later) > CAPACITY
    else:
        assert (verdict is Verdict.HAPPENED) is (op in later)


@given(st.lists(st.lists(IDS, max_size=20), max_size=5))
def test_ids_may_be_added_together_or_one_by_one(groups: list[list[str]]) -> None:
    together = one_by_one = Ring()
    for group in groups:
        together = together.add(*group)
        for entry in group:
            one_by_one = one_by_one.add(entry)
    assert together == one_by_one


def test_the_floor_never_falls() -> None:
    ring, floors = Ring(), []
    for entry in [f"{number % 40:02d}" for number in range(0, 400, 7)]:
        ring = ring.add(entry)
        floors.append(ring.floor)
    assert floors == sorted(floors)
    assert floors[-1] > ""


def test_a_generation_that_was_later_than_the_ring_tells_nothing() -> None:
    """The object was removed since, and is another one now."""
    ring = Ring(floor="50", generation=2)
    assert ring.verdict("40", since=3) is Verdict.UNKNOWN
    assert ring.verdict("40", since=2) is Verdict.DID_NOT_HAPPEN


def test_what_fell_out_is_unknown() -> None:
    ring = Ring().add(*(f"{number:02d}" for number in range(CAPACITY + 3)))
    assert [ring.verdict(op) for op in ("00", "02", "03", "99")] == [
        Verdict.UNKNOWN,
        Verdict.UNKNOWN,
        Verdict.HAPPENED,
        Verdict.DID_NOT_HAPPEN,
    ]
