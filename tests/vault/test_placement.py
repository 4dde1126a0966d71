"""Where runs go: bounds that hold for any runs."""

from hypothesis import given
from hypothesis import strategies as st

from stowfs.config import KIB
from stowfs.vault import placement
from stowfs.vault.placement import (
    INLINE_RAW_TOTAL,
    INLINE_TOTAL,
    SEGMENT_FROM,
    SHARED_FROM,
    SMALL_CONVERSATION,
    Candidate,
    InlineRun,
)

SIZES = st.integers(1, 4 << 20)
CANDIDATES = st.builds(
    Candidate,
    SIZES,
    sealed=st.booleans(),
    seen=st.booleans(),
    stays_inline=st.booleans(),
    stays_segment=st.booleans(),
)
RUNS = st.lists(st.builds(InlineRun, SIZES, st.none() | st.integers(1, 256 * KIB)), max_size=40)


def place(candidate: Candidate, conversation: int, compressed: int) -> bool:
    """As callers do it: the compressed size is found out only where it matters."""
    needed = placement.needs_compressed_size(candidate, conversation)
    return placement.is_segment(candidate, conversation, compressed if needed else None)


@given(CANDIDATES, SIZES, SIZES)
def test_a_decision_never_lacks_a_size(candidate: Candidate, conversation: int, compressed: int) -> None:
    place(candidate, conversation, compressed)


@given(CANDIDATES, st.integers(0, SMALL_CONVERSATION), SIZES)
def test_a_small_conversation_that_shares_nothing_is_one_object(
    candidate: Candidate, conversation: int, compressed: int
) -> None:
    if not candidate.seen and not candidate.stays_segment:
        assert not place(candidate, conversation, compressed)


def test_what_was_seen_elsewhere_is_shared_but_for_scraps() -> None:
    for sealed in (True, False):
        assert place(Candidate(SHARED_FROM, sealed, seen=True), 10, 1)
        assert not place(Candidate(SHARED_FROM - 1, sealed, seen=True), 10, 1)
        assert not place(Candidate(SHARED_FROM, sealed, seen=True, stays_inline=True), 10, 1)


def test_a_sealed_run_of_a_long_conversation_is_a_segment_by_its_compressed_size() -> None:
    long = SMALL_CONVERSATION + 1
    run = Candidate(200 * KIB, sealed=True, seen=False)
    assert place(run, long, SEGMENT_FROM)
    assert not place(run, long, SEGMENT_FROM - 1)


def test_an_unsealed_run_stays_inline() -> None:
    assert not place(Candidate(256 * KIB, sealed=False, seen=False), 1 << 30, 256 * KIB)


@given(RUNS)
def test_what_stays_inline_is_bounded_and_nothing_spills_without_need(runs: list[InlineRun]) -> None:
    count = placement.spilled(runs)

    def too_much(left: list[InlineRun]) -> bool:
        cost = sum(run.cost for run in left)
        return cost > INLINE_TOTAL or sum(run.raw_size for run in left) > INLINE_RAW_TOTAL

    assert 0 <= count <= len(runs)
    assert not too_much(runs[count:])
    assert count == 0 or too_much(runs[count - 1 :])


@given(SIZES, st.booleans(), SIZES, SIZES)
def test_what_is_a_segment_stays_one(raw_size: int, seen: bool, conversation: int, compressed: int) -> None:
    assert place(Candidate(raw_size, True, seen, stays_segment=True), conversation, compressed)
