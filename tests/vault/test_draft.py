"""Drafts against a list of what was done to them: the same bytes, and what the writer meant by them."""

import errno
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stowfs.config import MIB
from stowfs.errors import FileTooLarge, HotTierFailed, HotTierFull
from stowfs.hot.spool import BLOCK, Spool
from stowfs.vault.draft import PLANNED_FOR, RELEASE_FROM, SIZE_LIMIT, Draft, Intent
from stowfs.vault.draft_state import DraftState
from stowfs.vault.manifest import Attributes, Manifest, Snapshot
from stowfs.vault.overlay import Mark
from stowfs.vault.ring import CAPACITY, Ring

ATTRIBUTES = Attributes(0o644, 0, 0, 1, 1)


def spool_in(directory: str | Path, limit: int = 1 << 30, short: int = 0) -> Spool:
    return Spool.prepare(Path(directory) / "spool", limit, short=short, memory=MEMORY)


MEMORY = 200
"""Bytes of short logs in memory: some of those that a sequence leaves fill it."""


@dataclass
class Bases:
    """Versions that a draft can be based on."""

    contents: dict[str, bytes] = field(default_factory=dict)

    def add(self, content: bytes, *ids: str, ring: Ring | None = None, attributes: Attributes = ATTRIBUTES) -> Snapshot:
        etag = f"etag{len(self.contents)}"
        self.contents[etag] = content
        ring = ring or Ring().add(*ids)
        manifest = Manifest((ids or ("0",))[-1], ring, attributes, size=len(content), inline_digest=content.hex())
        return Snapshot("x", etag, manifest, b"")

    async def read(self, snapshot: Snapshot, start: int, end: int) -> bytes:
        assert 0 <= start < end <= snapshot.size
        return self.contents[snapshot.etag][start:end]


@dataclass(frozen=True)
class Write:
    offset: int
    data: bytes


@dataclass(frozen=True)
class Truncate:
    size: int


@dataclass
class Model:
    """What a draft should be: its base, and everything that was done to it since, with the marks in between."""

    base: bytes | None
    appending: bool
    done: list[Write | Truncate | Mark] = field(default_factory=list)

    def copy(self) -> "Model":
        return Model(self.base, self.appending, list(self.done))

    @property
    def content(self) -> bytes:
        return replayed(self.base, self.done)

    @property
    def marks(self) -> list[Mark]:
        return [step for step in self.done if isinstance(step, Mark)]

    @property
    def intent(self) -> Intent:
        if Truncate(0) in self.done or (self.base is None and not self.appending):
            return Intent.REPLACE
        return Intent.APPEND if only_grew(len(self.base or b""), self.done) else Intent.EDIT

    def rebase(self, base: bytes) -> None:
        if self.intent is Intent.APPEND:
            self.done = moved(self.done, len(base) - len(self.base or b""))
        else:
            self.done.insert(0, Truncate(0))
        self.base = base

    def at(self, mark: Mark) -> bytes:
        return replayed(self.base, self.done[: self.done.index(mark)])

    def follow(self, mark: Mark, version: bytes, *, same: bool) -> bool:
        since = self.done[self.done.index(mark) :]
        size = len(self.at(mark))
        if Truncate(0) not in since:
            if only_grew(size, since):
                since = moved(since, len(version) - size)
            elif not same:
                return False
        self.base, self.done = version, since
        return True


def replayed(base: bytes | None, steps: list[Write | Truncate | Mark]) -> bytes:
    content = bytearray(base or b"")
    for step in steps:
        match step:
            case Write(offset, data):
                content[:] = content.ljust(offset, b"\0")
                content[offset : offset + len(data)] = data
            case Truncate(size):
                content[:] = content[:size].ljust(size, b"\0")
    return bytes(content)


def only_grew(size: int, steps: list[Write | Truncate | Mark]) -> bool:
    touched = [s.offset if isinstance(s, Write) else s.size for s in steps if not isinstance(s, Mark)]
    return min(touched, default=size) >= size


def moved(steps: list[Write | Truncate | Mark], distance: int) -> list[Write | Truncate | Mark]:
    def step_moved(step: Write | Truncate | Mark) -> Write | Truncate | Mark:
        match step:
            case Write(offset, data):
                return Write(offset + distance, data)
            case Truncate(size):
                return Truncate(size + distance)
        return step

    return [step_moved(step) for step in steps]


class Pair:
    """A draft beside its model, and the frozen copies made of it with the bytes they must keep."""

    def __init__(self, directory: str, base: bytes | None, *, appending: bool, short: int) -> None:
        self.directory = directory
        self.short = short
        self.bases = Bases()
        self.spool = spool_in(directory, short=short)
        snapshot = None if base is None else self.bases.add(base)
        self.draft = Draft("x", snapshot, ATTRIBUTES, self.spool, self.bases.read, appending=appending)
        self.model = Model(base, appending)
        self.acknowledged: Model | None = None
        self.frozen: list[tuple[Draft, bytes]] = []

    def step(self, kind: str, number: int, data: bytes) -> None:
        draft, model = self.draft, self.model
        match kind:
            case "write" | "append":
                offset = number if kind == "write" else draft.size
                draft.write(offset, data)
                if data:
                    model.done.append(Write(offset, data))
            case "truncate":
                draft.truncate(number)
                model.done.append(Truncate(number))
            case "rebase":
                if draft.intent is not Intent.EDIT:
                    draft.rebase(self.bases.add(data))
                    model.rebase(data)
            case "freeze":
                self._freeze()
            case "acknowledge":
                draft.acknowledged = self._freeze()
                self.acknowledged = model.copy()
            case "follow" | "follow the same":
                if marks := model.marks:
                    self._follow(marks[number % len(marks)], data, same=kind == "follow the same")
            case "revert":
                if self.acknowledged is not None:
                    draft.revert()
                    self.model = self.acknowledged.copy()
            case "restart":
                self._restart()

    def _freeze(self) -> Draft:
        frozen = self.draft.freeze()
        self.model.done.append(frozen.mark())
        self.frozen.append((frozen, self.model.content))
        return frozen

    def _follow(self, mark: Mark, data: bytes, *, same: bool) -> None:
        """The version has what the draft had at the mark: exactly that, or after something else, or not any more."""
        content = self.model.at(mark) if same else data
        version = self.bases.add(content)
        later = self.draft.acknowledged
        if later is not None and self.acknowledged is not None and self.acknowledged.done[-1] == later.mark():
            if mark not in self.acknowledged.done[:-1]:
                self.draft.acknowledged = self.acknowledged = None
            elif same and self.acknowledged.at(mark) != content:
                return
        before = self.draft.base
        expected = self.model.follow(mark, content, same=same)
        if self.acknowledged is not None:
            both = self.acknowledged.follow(mark, content, same=same) and expected
        else:
            both = expected
        assert self.draft.advance(mark, version, same=same) is both
        assert self.draft.base is (version if expected else before)
        if (known := self.draft.acknowledged) is not None and self.acknowledged is not None:
            # The copy that is acknowledged has moved on with it.
            self.frozen = [(copy, content) for copy, content in self.frozen if copy is not known]
            self.frozen.append((known, self.acknowledged.content))
            assert known.is_as(known.mark())

    def _restart(self) -> None:
        """A new process finds what is acknowledged."""
        self._freeze()
        frozen, _ = self.frozen[-1]
        if not frozen.fits_journal:
            self.draft.sync()
        stored = msgspec.msgpack.encode(frozen.state())
        self.step("write", 0, b"promised to nobody")
        self.step("append", 0, b"promised to nobody")
        self.model.done = self.model.done[:-2]
        self.spool.close()
        self.spool = spool_in(self.directory, short=self.short)
        state = msgspec.msgpack.decode(stored, type=DraftState)
        self.draft = Draft.restored(state, frozen.base, self.spool, self.bases.read)
        assert self.draft.acknowledged is not None
        assert self.draft.is_as(frozen.mark())
        self.model.done.append(self.draft.acknowledged.mark())
        self.acknowledged = self.model.copy()
        self.frozen = [(self.draft.acknowledged, self.model.content)]

    async def check(self) -> None:
        draft, content, base = self.draft, self.model.content, self.model.base or b""
        assert draft.size == len(content)
        assert await draft.read(0, draft.size + 10) == content
        middle = draft.size // 2
        assert await draft.read(middle, middle + 7) == content[middle : middle + 7]
        assert await draft.read(draft.size, draft.size + 1) == b""
        assert draft.intent is self.model.intent
        first, last = draft.first_change, draft.last_change
        assert content[:first] == base[:first]
        if last < draft.size:
            assert len(content) == len(base)
            assert content[last:] == base[last:]
        for frozen, bytes_then in self.frozen:
            assert await frozen.read(0, frozen.size + 1) == bytes_then

    def end(self) -> None:
        assert self.spool.used == self.draft.spooled
        for frozen, _ in self.frozen:
            frozen.discard()
        assert self.spool.used == self.draft.spooled
        assert self.spool.memory_used <= min(MEMORY, self.draft.spooled)
        self.draft.discard()
        self.draft.discard()
        assert (self.spool.used, self.spool.memory_used, self.spool.names()) == (0, 0, [])


CONTENT = st.binary(max_size=60)
NOTHING = st.just(b"")
ANY = st.integers(0, 90)
CHANGES = (
    st.tuples(st.just("write"), ANY, CONTENT)
    | st.tuples(st.just("append"), st.just(0), CONTENT)
    | st.tuples(st.just("truncate"), ANY, NOTHING)
)
STEPS = (
    CHANGES
    | CHANGES
    | st.tuples(st.just("rebase"), st.just(0), CONTENT)
    | st.tuples(st.sampled_from(["freeze", "acknowledge", "revert", "restart"]), st.just(0), NOTHING)
    | st.tuples(st.sampled_from(["follow", "follow the same"]), ANY, CONTENT)
)


@settings(max_examples=300, deadline=None)
@given(st.none() | CONTENT, st.booleans(), st.sampled_from([0, 50, 10_000]), st.lists(STEPS, max_size=14))
async def test_a_draft_is_what_was_done_to_it(
    base: bytes | None, appending: bool, short: int, steps: list[tuple[str, int, bytes]]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        pair = Pair(directory, base, appending=appending, short=short)
        for step in steps:
            pair.step(*step)
            await pair.check()
        pair.end()
        pair.spool.close()


@contextmanager
def new_draft(
    path: Path, base: Snapshot | None = None, *, bases: Bases | None = None, limit: int = 1 << 30
) -> Iterator[Draft]:
    spool = spool_in(path, limit)
    draft = Draft("x", base, ATTRIBUTES, spool, (bases or Bases()).read)
    yield draft
    draft.discard()
    assert (spool.used, spool.names()) == (0, [])


async def content(draft: Draft) -> bytes:
    return await draft.read(0, draft.size)


def test_sizes_have_a_bound(tmp_path: Path) -> None:
    with new_draft(tmp_path) as draft:
        draft.write(0, b"abc")
        with pytest.raises(FileTooLarge):
            draft.write(SIZE_LIMIT, b"x")
        with pytest.raises(FileTooLarge):
            draft.truncate(SIZE_LIMIT + 1)
        assert draft.size == 3
        draft.truncate(SIZE_LIMIT)
        assert draft.size == SIZE_LIMIT


async def test_a_sparse_draft_costs_what_was_written(tmp_path: Path) -> None:
    with new_draft(tmp_path) as draft:
        draft.write(1 << 38, b"end")
        assert draft.spooled == 3
        assert await draft.read((1 << 38) - 2, 1 << 39) == b"\0\0end"


async def test_what_is_not_frozen_is_written_over_in_place(tmp_path: Path) -> None:
    with new_draft(tmp_path) as draft:
        for number in range(10):
            draft.write(number, b"0123456789")
        assert draft.spooled == 19
        frozen, before = draft.freeze(), await content(draft)
        assert before == b"0" * 9 + b"0123456789"
        for _ in range(10):
            draft.write(0, b"x" * 19)
        assert draft.spooled == 38
        assert await content(frozen) == before
        assert await content(draft) == b"x" * 19


async def test_a_write_that_finds_no_room_changes_nothing(tmp_path: Path) -> None:
    """And a move needs no room."""
    bases = Bases()
    with new_draft(tmp_path, bases.add(b"base"), bases=bases, limit=100) as draft:
        draft.write(4, b"a" * 60)
        with pytest.raises(HotTierFull):
            draft.write(50, b"b" * 60)
        assert (draft.size, draft.spooled, draft.intent) == (64, 60, Intent.APPEND)
        assert await content(draft) == b"base" + b"a" * 60
        draft.rebase(bases.add(b"a longer base"))
        assert await content(draft) == b"a longer base" + b"a" * 60
        draft.write(60, b"b" * 40)
        assert draft.spooled == 87


async def test_a_write_of_several_pieces_that_fails_half_way_gives_its_room_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with new_draft(tmp_path) as draft:
        draft.write(10, b"in the middle")
        calls: list[int] = []
        whole = os.pwrite

        def refuse_the_last(fd: int, data: memoryview, offset: int) -> int:
            calls.append(offset)
            if len(calls) == 3:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return whole(fd, data, offset)

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", refuse_the_last)
            with pytest.raises(HotTierFailed):
                draft.write(0, b"x" * 40)
        assert len(calls) == 3
        assert (draft.size, draft.spooled) == (23, 13)
        assert await content(draft) == bytes(10) + b"in the middle"
        draft.write(0, b"x" * 40)
        assert await content(draft) == b"x" * 40


async def test_the_space_of_what_is_committed_is_given_back(tmp_path: Path) -> None:
    """Not, while something that is acknowledged still needs it."""
    bases = Bases()
    with new_draft(tmp_path) as draft:
        draft._read_base = bases.read
        first, second, third = (bytes([byte]) * RELEASE_FROM for byte in b"abc")
        draft.write(0, first)
        done = draft.freeze()
        draft.write(draft.size, second)
        draft.acknowledged = draft.freeze()
        draft.write(1, third)
        draft.release()
        assert draft.spooled == 3 * MIB
        assert not draft.advance(done.mark(), bases.add(b"other" + first), same=False)
        draft.release()
        assert draft.spooled == 3 * MIB, "the write inside, and what is around it, is still to be kept somewhere"
        assert await content(draft) == b"a" + third + second[1:]
        assert await content(draft.acknowledged) == b"other" + first + second
    with new_draft(tmp_path) as draft:
        draft._read_base = bases.read
        draft.write(0, first)
        done = draft.freeze()
        draft.write(draft.size, second)
        draft.acknowledged = draft.freeze()
        assert draft.advance(done.mark(), bases.add(b"other" + first), same=False)
        draft.release()
        assert MIB <= draft.spooled <= MIB + BLOCK
        assert await content(draft) == await content(draft.acknowledged) == b"other" + first + second


def frozen_twice(bases: Bases, path: Path) -> tuple[Draft, Draft, Draft]:
    """An appended part, another one, and what was frozen after each."""
    draft = Draft("x", bases.add(b"base ", "0"), ATTRIBUTES, spool_in(path), bases.read)
    draft.write(5, b"first ")
    first = draft.freeze()
    draft.write(11, b"second ")
    draft.acknowledged = second = draft.freeze()
    return draft, first, second


async def test_appends_follow_each_other_behind_those_of_another_host(tmp_path: Path) -> None:
    bases = Bases()
    draft, first, second = frozen_twice(bases, tmp_path)
    draft.write(draft.size, b"third")
    assert draft.advance(first.mark(), bases.add(b"base other first "), same=False)
    assert await content(second) == b"base other first second "
    assert await content(draft) == b"base other first second third"
    draft.acknowledged = None
    assert draft.advance(second.mark(), bases.add(b"base other first more second "), same=False)
    assert await content(draft) == b"base other first more second third"
    draft.discard()


async def test_a_copy_that_was_moved_already_can_still_follow(tmp_path: Path) -> None:
    """A commit finds that an earlier attempt took effect, after it moved the draft onto another version."""
    bases = Bases()
    draft, first, second = frozen_twice(bases, tmp_path)
    copy = second.freeze()
    copy.rebase(bases.add(b"base other "))
    assert await content(copy) == b"base other first second "
    assert copy.follow(first.mark(), bases.add(b"base other first "), same=False)
    assert await content(copy) == b"base other first second "
    assert copy.mark() == second.mark()
    assert (copy.moved, second.moved) == (True, False)
    draft.discard()


async def test_whoever_empties_an_empty_file_replaces_it(tmp_path: Path) -> None:
    bases = Bases()
    with new_draft(tmp_path) as draft:
        draft._read_base = bases.read
        mark = draft.mark()
        draft.truncate(0)
        draft.write(0, b"new")
        assert draft.follow(mark, bases.add(b"of another host"), same=False)
        assert await content(draft) == b"new"
        assert draft.intent is Intent.REPLACE


async def test_an_edit_that_cannot_follow_stays_and_is_told_apart_from_what_is_acknowledged(tmp_path: Path) -> None:
    bases = Bases()
    draft, first, second = frozen_twice(bases, tmp_path)
    draft.write(6, b"IRST")
    assert not draft.advance(first.mark(), bases.add(b"base other first "), same=False)
    assert await content(draft) == b"base fIRST second "
    assert await content(second) == b"base other first second "
    copy = second.freeze()
    assert copy.moved, "what is committed of it has other bytes than the draft had"
    copy.attempt("1", copy.base)
    attempt = draft.attempts.last_in(bases.add(b"base other first second ", "0", "1"), draft.base)
    assert attempt is not None
    assert attempt.mark.moved
    assert not draft.shares_base(second)

    draft.revert()
    assert draft.shares_base(second)
    assert await content(draft) == b"base other first second "
    assert draft.is_as(second.mark())
    draft.discard()


def test_a_mode_that_was_changed_elsewhere_is_no_change_here(tmp_path: Path) -> None:
    bases = Bases()
    draft, first, second = frozen_twice(bases, tmp_path)
    elsewhere = msgspec.structs.replace(ATTRIBUTES, mode=0o600)
    assert draft.advance(first.mark(), bases.add(b"base first ", attributes=elsewhere), same=True)
    assert draft.attributes == second.attributes == elsewhere
    assert draft.is_as(second.mark())
    assert second.freeze().mark() == second.mark()
    draft.attributes = msgspec.structs.replace(draft.attributes, mtime_ns=2)
    assert not draft.is_as(second.mark())
    draft.discard()


async def test_reverting_drops_what_came_after(tmp_path: Path) -> None:
    with new_draft(tmp_path) as draft:
        draft.appending = True
        draft.write(0, b"kept")
        draft.acknowledged = draft.freeze()
        draft.write(0, b"dropped")
        draft.appending, draft.exclusive = False, True
        dropped = draft.mark()
        draft.revert()
        assert await content(draft) == b"kept"
        assert (draft.intent, draft.appending, draft.exclusive) == (Intent.APPEND, True, False)
        assert draft.is_as(draft.acknowledged.mark())
        draft.write(0, b"anew")
        assert not draft.is_as(dropped), "another state than the one that was dropped"
        assert not draft.is_as(draft.acknowledged.mark())
        draft.truncate(2)
        draft.revert()
        assert await content(draft) == b"kept"
        assert draft.spooled == 4 + len(b"dropped"), "what is not sealed was given back"


def test_a_state_after_a_restart_is_none_that_was_attempted(tmp_path: Path) -> None:
    bases = Bases()
    draft = Draft("x", None, ATTRIBUTES, spool_in(tmp_path), bases.read)
    draft.write(0, b"acknowledged")
    frozen = draft.freeze()
    draft.write(0, b"attempted")
    draft.attempt("1", None)
    attempted = draft.mark()
    draft.sync()
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(frozen.state()), type=DraftState)
    again = Draft.restored(state, None, spool_in(tmp_path), bases.read)
    again.write(0, b"something else")
    assert not again.is_as(attempted)
    again.discard()


def test_what_was_acknowledged_and_is_not_on_the_disk_is_an_error(tmp_path: Path) -> None:
    draft = Draft("x", None, ATTRIBUTES, spool_in(tmp_path), Bases().read)
    draft.write(0, b"abc")
    state = draft.freeze().state()
    draft.discard()
    with pytest.raises(HotTierFailed, match="No such file"):
        Draft.restored(state, None, spool_in(tmp_path), Bases().read)


def test_a_draft_that_was_emptied_can_be_written_to_after_a_restart(tmp_path: Path) -> None:
    draft = Draft("x", None, ATTRIBUTES, spool_in(tmp_path), Bases().read)
    draft.write(0, b"abc")
    draft.truncate(0)
    state = draft.freeze().state()
    assert state.extents == ()
    spool = spool_in(tmp_path)
    again = Draft.restored(state, None, spool, Bases().read)
    assert spool.names() == []
    again.write(0, b"def")
    assert again.spooled == 3
    again.discard()


def test_settling_makes_it_clean(tmp_path: Path) -> None:
    bases = Bases()
    with new_draft(tmp_path) as draft:
        draft._read_base = bases.read
        draft.write(0, b"abc")
        draft.attempt("1", None)
        draft.acknowledged = draft.freeze()
        before, mark = draft.id, draft.mark()
        committed = bases.add(b"abc", "1")
        draft.settle(committed)
        assert (draft.size, draft.base, draft.intent, draft.spooled) == (3, committed, Intent.APPEND, 0)
        assert draft.acknowledged is None
        assert not draft.attempts
        assert draft.id != before
        draft.write(0, b"x")
        assert not draft.is_as(mark)


def test_a_draft_recognises_its_own_attempts(tmp_path: Path) -> None:
    bases = Bases()
    base = bases.add(b"base", "1")
    with new_draft(tmp_path, base, bases=bases) as draft:
        assert not draft.attempts
        draft.write(4, b" more")
        draft.attempt("2", base)
        version = bases.add(b"base more", "1", "2", "3")
        assert draft.attempts
        assert draft.attempts.last_in(base, draft.base) is None
        attempt = draft.attempts.last_in(version, draft.base)
        assert attempt is not None
        assert (attempt.commit, attempt.certain, attempt.mark.moved) == ("2", True, False)
        assert draft.is_as(attempt.mark)
        draft.write(9, b" and more")
        assert not draft.is_as(attempt.mark)
        draft.attempt("4", version)
        later = draft.attempts.last_in(bases.add(b"", "1", "2", "4", "5"), draft.base)
        assert later is not None
        assert (later.commit, draft.is_as(later.mark)) == ("4", True)
        assert draft.follow(attempt.mark, version, same=True)
        assert draft.attempts.last_in(version, draft.base) is None, "it is in the base"


def test_only_new_content_is_planned_and_for_one_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bases = Bases()
    with new_draft(tmp_path) as draft:
        draft.write(0, b"abc")
        frozen, forgotten = draft.freeze(), draft.freeze()
        frozen.plan()
        plan = frozen.take_plan()
        assert plan is not None
        assert frozen.take_plan() is None
        frozen.attempt(plan.commit, None)
        assert frozen.attempts.was(plan)
        frozen.attempt(plan.commit, bases.add(b"another", "1"))
        assert not frozen.attempts.was(plan), "it is to replace something"
        frozen.attempts.failed(plan.commit)
        forgotten.plan()
        later = time.time() + PLANNED_FOR + 1
        monkeypatch.setattr("stowfs.vault.draft.time.time", lambda: later)
        assert forgotten.take_plan() is None
    with new_draft(tmp_path, bases.add(b"base", "1"), bases=bases) as draft:
        draft.write(4, b" more")
        frozen = draft.freeze()
        frozen.plan()
        assert frozen.take_plan() is None


def test_an_attempt_that_may_still_take_effect_is_not_forgotten(tmp_path: Path) -> None:
    bases = Bases()
    base = bases.add(b"base", "1")
    with new_draft(tmp_path, base, bases=bases) as draft:
        draft.write(4, b" more")
        draft.attempt("2", base)
        assert draft.attempts.last_in(base, draft.base) is None
        assert draft.attempts, "its request may be on its way"
        assert draft.attempts.last_in(bases.add(b"base other", "1", "3"), draft.base) is None
        assert not draft.attempts, "what it was to replace is gone"
        assert draft.attempts.last_in(bases.add(b"base more", "1", "2"), draft.base) is None


def test_whether_an_old_attempt_took_effect_may_be_uncertain(tmp_path: Path) -> None:
    bases = Bases()
    base = bases.add(b"base", "00")
    with new_draft(tmp_path, base, bases=bases) as draft:
        draft.write(4, b" more")
        draft.attempt("01", base)
        full = Ring().add("00", *(f"{number:02}" for number in range(2, 3 + CAPACITY)))
        assert "01" not in full.recent
        attempt = draft.attempts.last_in(bases.add(b"base other", ring=full), draft.base)
        assert attempt is not None
        assert (attempt.commit, attempt.certain) == ("01", False)
        assert draft.attempts
        # A later attempt that is in the ring settles it.
        draft.attempt("50", base)
        later = draft.attempts.last_in(bases.add(b"base other", ring=full.add("50")), draft.base)
        assert later is not None
        assert (later.commit, later.certain) == ("50", True)


def test_what_was_followed_leaves_no_doubt_when_the_ring_has_turned_over(tmp_path: Path) -> None:
    bases = Bases()
    base = bases.add(b"base", "00")
    with new_draft(tmp_path, base, bases=bases) as draft:
        draft.write(4, b" more")
        draft.attempt("01", base)
        mark = draft.mark()
        version = bases.add(b"base more", "00", "01")
        draft.write(9, b" and more")
        draft.attempt("02", version)
        assert draft.follow(mark, version, same=True)
        draft.attempts.forget(version)
        assert draft.attempts, "one may still replace that version"
        draft.rebase(bases.add(b"other", ring=Ring().add(*(f"{number:02}" for number in range(3, 5 + CAPACITY)))))
        draft.attempts.forget(draft.base or version)
        assert not draft.attempts
        newer = bases.add(b"other", ring=Ring().add(*(f"{number:02}" for number in range(4, 6 + CAPACITY))))
        assert draft.attempts.last_in(newer, draft.base) is None
