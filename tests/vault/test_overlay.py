"""Overlays: which bytes may differ from the base, and what the changes mean, without any bytes (see also
`test_draft`)."""

import pytest

from stowfs.vault.manifest import Attributes
from stowfs.vault.overlay import Intent, Mark, Overlay, Truncation

ATTRIBUTES = Attributes(0o644, 0, 0, 1, 1)


def mark_of(overlay: Overlay, seal: int) -> Mark:
    return Mark(seal, overlay.changes, overlay.size - overlay.shift, ATTRIBUTES)


def write(overlay: Overlay, start: int, end: int, position: int) -> None:
    overlay.extents.add(start, end, position)
    overlay.written(end)


def test_the_smallest_truncation_since_a_seal_counts() -> None:
    overlay = Overlay(100, 100)
    for size, seal in [(80, 0), (40, 0), (90, 0), (60, 10), (70, 10), (50, 20), (200, 20), (150, 30)]:
        overlay.truncated(size, seal)
    assert overlay.truncations == [Truncation(0, 40), Truncation(20, 50), Truncation(30, 150)]
    assert (overlay.size, overlay.base_limit, overlay.first_change, overlay.last_change) == (150, 40, 40, 150)
    assert overlay.changes == 8
    assert not overlay.emptied
    overlay.truncated(0, 30)
    assert overlay.truncations == [Truncation(30, 0)]
    assert overlay.emptied


@pytest.mark.parametrize(
    ("base_size", "appending", "truncated", "written", "expected"),
    [
        (None, False, None, None, Intent.REPLACE),
        (None, True, None, (0, 5), Intent.APPEND),
        (None, True, 0, (0, 5), Intent.REPLACE),
        (10, False, None, (10, 15), Intent.APPEND),
        (10, False, None, (20, 25), Intent.APPEND),
        (10, True, None, (9, 15), Intent.EDIT),
        (10, False, 12, None, Intent.APPEND),
        (10, False, 9, None, Intent.EDIT),
        (10, False, 0, (3, 5), Intent.REPLACE),
        (0, False, None, (0, 5), Intent.APPEND),
        (0, False, 0, (0, 5), Intent.REPLACE),
    ],
)
def test_intent(
    base_size: int | None,
    appending: bool,
    truncated: int | None,
    written: tuple[int, int] | None,
    expected: Intent,
) -> None:
    overlay = Overlay(base_size, base_size or 0)
    if truncated is not None:
        overlay.truncated(truncated, 0)
    if written is not None:
        write(overlay, *written, 0)
    assert overlay.intent(appending=appending) is expected


def test_a_copy_is_independent() -> None:
    overlay = Overlay(10, 10)
    write(overlay, 10, 20, 0)
    overlay.truncated(15, 0)
    copy = overlay.copy()
    assert (list(copy.extents), copy.truncations) == (list(overlay.extents), overlay.truncations)
    overlay.truncated(5, 0)
    write(overlay, 0, 5, 20)
    overlay.rebased_append(100)
    assert list(copy.extents) == [(10, 15, 0)]
    assert (copy.size, copy.base_size, copy.changes, copy.shift) == (15, 10, 2, 0)
    assert copy.truncations == [Truncation(0, 15)]


def test_what_grew_since_a_mark_follows_to_any_end() -> None:
    overlay = Overlay(10, 10)
    write(overlay, 0, 30, 0)
    mark = mark_of(overlay, 4096)
    write(overlay, 30, 40, 4096)
    overlay.truncated(35, 4096)
    assert overlay.follow(mark, 7, same=False)
    assert (overlay.base_size, overlay.size, overlay.shift) == (7, 12, -23)
    assert list(overlay.extents) == [(7, 12, 4096)]
    assert overlay.truncations == [Truncation(4096, 12)]
    assert overlay.intent(appending=False) is Intent.APPEND
    # Again, onto a version that another one was appended to: nothing is moved twice.
    assert overlay.follow(mark, 10, same=False)
    assert list(overlay.extents) == [(10, 15, 4096)]
    assert mark_of(overlay, 8192).size == 35


def test_an_edit_since_a_mark_follows_to_the_same_bytes_only() -> None:
    overlay = Overlay(10, 10)
    write(overlay, 10, 30, 0)
    mark = mark_of(overlay, 4096)
    write(overlay, 5, 8, 4096)
    overlay.truncated(20, 4096)
    before = overlay.copy()
    assert not overlay.follow(mark, 35, same=False)
    assert (list(overlay.extents), overlay.truncations) == (list(before.extents), before.truncations)
    assert (overlay.base_size, overlay.size, overlay.shift) == (10, 20, 0)
    assert overlay.follow(mark, 30, same=True)
    assert (overlay.base_size, overlay.size, overlay.base_limit) == (30, 20, 20)
    assert list(overlay.extents) == [(5, 8, 4096)]


@pytest.mark.parametrize("size", [0, 30])
def test_what_was_emptied_since_a_mark_replaces_anything(size: int) -> None:
    overlay = Overlay(None, 0)
    if size:
        write(overlay, 0, size, 0)
    mark = mark_of(overlay, 4096)
    overlay.truncated(0, 4096)
    write(overlay, 2, 8, 4096)
    assert overlay.follow(mark, 50, same=False)
    assert (overlay.base_size, overlay.size, overlay.base_limit) == (50, 8, 0)
    assert list(overlay.extents) == [(2, 8, 4096)]
    assert overlay.intent(appending=True) is Intent.REPLACE


def test_a_replacement_shows_nothing_of_its_base() -> None:
    overlay = Overlay(None, 0)
    write(overlay, 5, 8, 0)
    overlay.replaced(50)
    assert (overlay.base_size, overlay.size, overlay.base_limit) == (50, 8, 0)
    assert overlay.intent(appending=True) is Intent.REPLACE
    mark = mark_of(overlay, 4096)
    write(overlay, 8, 9, 4096)
    assert overlay.follow(mark, 60, same=False)
    assert list(overlay.extents) == [(60, 61, 4096)]
    assert overlay.intent(appending=True) is Intent.APPEND
