"""What the oracle must see, and what it must accept: histories made by hand."""

from dataclasses import dataclass, field

import pytest

from tests.torture import content
from tests.torture.history import Began, Ended, Kind, Operation, Outcome, Value
from tests.torture.oracle import END, Oracle

FILE = "own/a0/whole-0"


@dataclass
class Story:
    """Operations one after the other, unless their times are given."""

    operations: list[Operation] = field(default_factory=list)
    now: float = 0.0

    def did(
        self,
        worker: str,
        kind: Kind,
        path: str,
        *,
        part: str = "",
        target: str = "",
        outcome: Outcome = "done",
        error: str = "",
        value: Value = None,
        names: tuple[str, ...] = (),
        times: tuple[float, float] | None = None,
    ) -> None:
        number = len(self.operations) + 1
        start, end = times or (self.now + 1, self.now + 2)
        self.now = max(self.now, end)
        host = END if worker == END else worker[0]
        self.operations.append(
            Operation(
                worker,
                host,
                Began(number, start, kind, path, target, part),
                Ended(number, end, outcome, error, value, names),
            )
        )

    def read(self, path: str, *value: str, worker: str = "b0", times: tuple[float, float] | None = None) -> None:
        self.did(worker, "read", path, value=value or None, times=times)

    def violations(self, *, asynchronous: bool = False, unanswered: bool = False) -> list[str]:
        return Oracle(self.operations, asynchronous=asynchronous, unanswered=lambda _: unanswered).judge()


def written(outcome: Outcome = "done") -> Story:
    """A file that was replaced twice, the second time with that outcome."""
    story = Story()
    story.did("a0", "replace", FILE, part="a0.1")
    story.did("a0", "replace", FILE, part="a0.2", outcome=outcome)
    return story


def test_what_was_acknowledged_must_be_there() -> None:
    story = written()
    story.read(FILE, "a0.2")
    assert not story.violations()
    for stale in [("a0.1",), (), ("a0.1", "a0.2")]:
        story = written()
        story.read(FILE, *stale)
        assert len(story.violations()) == 1


def test_what_is_in_doubt_may_be_there_and_then_stays() -> None:
    for seen in ("a0.1", "a0.2"):
        story = written("unknown")
        story.read(FILE, seen)
        assert not story.violations()
    story = written("unknown")
    story.read(FILE, "a0.2")
    story.read(FILE, "a0.1")
    assert len(story.violations()) == 1
    story = written("unknown")
    story.did("a0", "replace", FILE, part="a0.3")
    story.read(FILE, "a0.2")
    assert len(story.violations()) == 1


def test_what_is_under_way_may_be_seen_or_not() -> None:
    for seen in ("a0.1", "a0.2"):
        story = Story()
        story.did("a0", "replace", FILE, part="a0.1")
        story.did("a0", "replace", FILE, part="a0.2", times=(10, 20))
        story.read(FILE, seen, times=(11, 12))
        assert not story.violations()


def test_an_append_is_there_once_and_after_what_was() -> None:
    for seen, wrong in [(("a0.1", "a0.2"), 0), (("a0.1",), 1), (("a0.1", "a0.2", "a0.2"), 1), (("a0.2", "a0.1"), 1)]:
        story = Story()
        story.did("a0", "replace", FILE, part="a0.1")
        story.did("a0", "append", FILE, part="a0.2")
        story.read(FILE, *seen)
        assert len(story.violations()) == wrong


def test_what_was_removed_is_gone() -> None:
    story = written()
    story.did("a0", "remove", FILE)
    story.read(FILE)
    story.did("b0", "list", "own/a0")
    assert not story.violations()
    story.read(FILE, "a0.2")
    story.did("b0", "list", "own/a0", names=("whole-0",))
    assert len(story.violations()) == 2


def test_a_listing_shows_what_is_there() -> None:
    story = written()
    story.did("b0", "list", "own/a0", names=("whole-0",))
    assert not story.violations()
    story.did("b0", "list", "own/a0")
    story.did("b0", "list", "own/a0", names=("other", "whole-0"))
    assert len(story.violations()) == 2


def test_a_file_that_is_not_found_was_read_as_absent() -> None:
    story = written()
    story.did("a0", "append", FILE, part="a0.3", outcome="failed", error="ENOENT")
    assert len(story.violations()) == 1


def test_of_a_rename_in_doubt_one_name_is_there() -> None:
    def renamed() -> Story:
        story = Story()
        story.did("a0", "replace", FILE, part="a0.1")
        story.did("a0", "replace", "own/a0/new", part="a0.2")
        story.did("a0", "rename", "own/a0/new", target=FILE, outcome="unknown")
        return story

    for source, target in [(("a0.2",), ("a0.1",)), (("a0.2",), ("a0.2",)), ((), ("a0.2",))]:
        story = renamed()
        story.read("own/a0/new", *source)
        story.read(FILE, *target)
        assert not story.violations()
    story = renamed()
    story.read("own/a0/new")
    story.read(FILE, "a0.1")
    assert len(story.violations()) == 1


def race(*times: tuple[float, float], outcome: Outcome = "done") -> Story:
    """Renames to one name by several workers, with the times of each."""
    story = Story()
    for number, time in enumerate(times):
        story.did(f"a{number}", "replace", f"own/a{number}/new", part=f"a{number}.1", times=(0, 1))
        story.did(f"a{number}", "rename", f"own/a{number}/new", target="races/0", times=time, outcome=outcome)
    return story


def test_an_absence_that_a_removal_explains_tells_nothing_of_a_rename_in_doubt() -> None:
    def moved(*later: Kind) -> list[str]:
        story = written()
        story.read(FILE, "a0.2")
        story.did("a0", "rename", FILE, target="own/a0/whole-1", outcome="unknown")
        for kind in later:
            story.did("a0", kind, FILE, part="a0.4")
        story.read(FILE)
        story.read("own/a0/whole-1")
        return story.violations(asynchronous=True)

    assert not moved("replace", "remove")
    assert len(moved()) == 1


def test_one_of_two_replacements_at_the_same_time_wins_for_good() -> None:
    story = race((10, 20), (10, 20))
    story.read("races/0", "a0.1", times=(21, 22))
    story.read("races/0", "a0.1", times=(23, 24))
    assert not story.violations()
    story.read("races/0", "a1.1", times=(25, 26))
    story.read("races/0", "a0.1", times=(27, 28))
    assert len(story.violations()) == 1


def test_the_later_replacement_wins() -> None:
    story = race((10, 11), (12, 13))
    story.read("races/0", "a0.1", times=(14, 15))
    assert len(story.violations()) == 1
    story = race((10, 11), (12, 13))
    story.read("races/0", times=(14, 15))
    assert len(story.violations()) == 2
    story = race((10, 11), (12, 13), outcome="unknown")
    story.read("races/0", "a0.1", times=(14, 15))
    assert not story.violations()


def test_a_replacement_whose_source_is_gone_took_place() -> None:
    story = race((10, 11), outcome="unknown")
    story.read("own/a0/new", times=(12, 13))
    story.read("races/0", times=(14, 15))
    assert len(story.violations()) == 1


def test_logs_keep_every_acknowledged_append_once() -> None:
    for seen, wrong in [
        (("a0.1", "b0.2", "a0.3"), 0),
        (("a0.1", "b0.2", "a0.3", "b0.4"), 0),
        (("a0.1", "a0.3"), 1),
        (("a0.3", "b0.2", "a0.1"), 1),
        (("a0.1", "b0.2", "b0.2", "a0.3"), 1),
        (("a0.1", "b0.2", "a0.3", "c0.1"), 1),
    ]:
        story = Story()
        story.did("a0", "append", "logs/0", part="a0.1")
        story.did("b0", "append", "logs/0", part="b0.2")
        story.did("a0", "append", "logs/0", part="a0.3")
        story.did("b0", "append", "logs/0", part="b0.4", outcome="unknown")
        story.read("logs/0", *seen)
        assert len(story.violations()) == wrong, seen


def test_a_name_is_claimed_once() -> None:
    story = Story()
    story.did("a0", "create", "claims/1", part="a0.1")
    story.did("b0", "create", "claims/1", part="b0.2", outcome="failed", error="EEXIST")
    story.read("claims/1", "a0.1", worker=END)
    assert not story.violations()
    story.read("claims/1", "b0.2", worker=END)
    story.did("a1", "create", "claims/1", part="a1.4")
    assert len(story.violations()) == 2


def test_what_was_claimed_twice_in_the_background_is_kept_beside() -> None:
    story = Story()
    story.did("a0", "create", "claims/1", part="a0.1")
    story.did("b0", "create", "claims/1", part="b0.2")
    story.read("claims/1", "a0.1", worker=END)
    assert len(story.violations(asynchronous=True)) == 1
    story.read("claims/1.conflict-host-time", "b0.2", worker=END)
    assert not story.violations(asynchronous=True)
    assert len(story.violations()) == 2


def test_what_cannot_be_read_in_the_end_is_lost() -> None:
    story = written()
    story.did(END, "read", FILE, outcome="failed", error="EIO")
    assert len(story.violations()) == 1


def test_with_commits_in_the_background_other_hosts_may_lag_but_not_in_the_end() -> None:
    story = written()
    story.read(FILE, "a0.1")
    assert not story.violations(asynchronous=True)
    story.read(FILE, "a0.1", worker="a1")
    story.read(FILE, "a0.1", worker=END)
    assert len(story.violations(asynchronous=True)) == 2


def test_without_an_answer_of_the_store_other_hosts_may_show_what_was() -> None:
    story = written()
    story.read(FILE, "a0.1")
    assert not story.violations(unanswered=True)
    story.read(FILE, "a0.1", worker="a1")
    story.read(FILE)
    story.read(FILE, "a0.3")
    assert len(story.violations(unanswered=True)) == 3


def test_contents_tell_what_they_are() -> None:
    one = content.make(1, "a0.1", blocks=[0, 2], size=5000)
    two = content.make(1, "b0.2", size=0)
    assert content.parts(1, one + two) == ("a0.1", "b0.2")
    assert content.parts(1, b"") == ()
    for torn in [
        one[:-1],
        one[1:],
        one[:5000] + two[:10] + one[5000:],
        two + one[:300],
        one.replace(b"user", b"USER", 1),
    ]:
        with pytest.raises(content.Torn):
            content.parts(1, torn)
    with pytest.raises(content.Torn):
        content.parts(2, one)
