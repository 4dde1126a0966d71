"""Drafts against a bytearray: the same bytes, and what the writer meant by them."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stowfs.errors import FileTooLarge, HotTierFull
from stowfs.hot.spool import Spool
from stowfs.vault.draft import SIZE_LIMIT, Draft, Intent
from stowfs.vault.manifest import Attributes, Manifest, Snapshot
from stowfs.vault.ring import Ring

ATTRIBUTES = Attributes(0o644, 0, 0, 1, 1)


def spool_in(directory: str | Path, limit: int = 1 << 30) -> Spool:
    return Spool.prepare(Path(directory) / "spool", limit)


@dataclass
class Bases:
    """Versions that a draft can be based on."""

    contents: dict[str, bytes] = field(default_factory=dict)

    def add(self, content: bytes, *ids: str) -> Snapshot:
        etag = f"etag{len(self.contents)}"
        self.contents[etag] = content
        ring = Ring().add(*ids)
        return Snapshot("x", etag, Manifest((ids or ("0",))[-1], ring, ATTRIBUTES, size=len(content)), b"", 0)

    async def read(self, snapshot: Snapshot, start: int, end: int) -> bytes:
        assert 0 <= start < end <= snapshot.size
        return self.contents[snapshot.etag][start:end]


@dataclass
class Model:
    """What a draft should be."""

    base: bytes | None
    appending: bool
    content: bytearray
    emptied: bool = False
    touched: bool = False
    """Something before the end of the base was changed."""

    @property
    def base_size(self) -> int:
        return len(self.base or b"")

    @property
    def intent(self) -> Intent:
        if self.emptied or (self.base is None and not self.appending):
            return Intent.REPLACE
        return Intent.EDIT if self.touched else Intent.APPEND

    def write(self, offset: int, data: bytes) -> None:
        if data:
            self.touched |= offset < self.base_size
            self.content[:] = self.content.ljust(offset, b"\0")
            self.content[offset : offset + len(data)] = data

    def truncate(self, size: int) -> None:
        self.touched |= size < self.base_size
        self.emptied |= size == 0
        self.content[:] = self.content[:size].ljust(size, b"\0")

    def rebase(self, base: bytes) -> None:
        if self.intent is Intent.APPEND:
            self.content[:] = base + self.content[self.base_size :]
        else:
            self.emptied = True
        self.base = base


CONTENT = st.binary(max_size=60)
STEPS = st.lists(
    st.tuples(st.just("write"), st.integers(0, 90), CONTENT)
    | st.tuples(st.just("append"), st.just(0), CONTENT)
    | st.tuples(st.just("truncate"), st.integers(0, 90), st.just(b""))
    | st.tuples(st.just("rebase"), st.just(0), CONTENT),
    max_size=12,
)


@settings(max_examples=500, deadline=None)
@given(st.none() | CONTENT, st.booleans(), STEPS)
async def test_a_draft_is_what_was_written(
    base: bytes | None, appending: bool, steps: list[tuple[str, int, bytes]]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        spool, bases = spool_in(directory), Bases()
        snapshot = None if base is None else bases.add(base)
        draft = Draft("x", snapshot, ATTRIBUTES, spool, bases.read, appending=appending)
        model = Model(base, appending, bytearray(base or b""))
        for kind, offset, data in steps:
            match kind:
                case "write":
                    draft.write(offset, data)
                    model.write(offset, data)
                case "append":
                    draft.write(draft.size, data)
                    model.write(len(model.content), data)
                case "truncate":
                    draft.truncate(offset)
                    model.truncate(offset)
                case "rebase" if draft.intent is not Intent.EDIT:
                    draft.rebase(bases.add(data))
                    model.rebase(data)
            await check(draft, model)
        assert spool.used == draft.spooled
        draft.discard()
        draft.discard()
        assert (spool.used, spool.names()) == (0, [])
        spool.close()


async def check(draft: Draft, model: Model) -> None:
    content, base = model.content, model.base or b""
    assert draft.size == len(content)
    assert await draft.read(0, draft.size + 10) == content
    middle = draft.size // 2
    assert await draft.read(middle, middle + 7) == content[middle : middle + 7]
    assert await draft.read(draft.size, draft.size + 1) == b""
    assert draft.intent is model.intent
    first, last = draft.first_change, draft.last_change
    assert content[:first] == base[:first]
    if last < draft.size:
        assert len(content) == len(base)
        assert content[last:] == base[last:]


def new_draft(path: Path, base: Snapshot | None = None, *, bases: Bases | None = None, limit: int = 1 << 30) -> Draft:
    return Draft("x", base, ATTRIBUTES, spool_in(path, limit), (bases or Bases()).read)


def test_dirt(tmp_path: Path) -> None:
    bases = Bases()
    assert new_draft(tmp_path / "new").dirty
    draft = new_draft(tmp_path / "old", bases.add(b"abc"), bases=bases)
    assert not draft.dirty
    draft.write(1, b"")
    draft.truncate(3)
    assert not draft.dirty
    draft.truncate(2)
    assert draft.dirty
    committed = bases.add(b"ab")
    draft.settle(committed)
    assert (draft.dirty, draft.size, draft.base, draft.intent) == (False, 2, committed, Intent.APPEND)
    draft.write(0, b"x")
    assert draft.dirty


def test_sizes_have_a_bound(tmp_path: Path) -> None:
    draft = new_draft(tmp_path)
    draft.write(0, b"abc")
    with pytest.raises(FileTooLarge):
        draft.write(SIZE_LIMIT, b"x")
    with pytest.raises(FileTooLarge):
        draft.truncate(SIZE_LIMIT + 1)
    assert draft.size == 3
    draft.truncate(SIZE_LIMIT)
    assert draft.size == SIZE_LIMIT
    draft.discard()


async def test_a_sparse_draft_costs_what_was_written(tmp_path: Path) -> None:
    draft = new_draft(tmp_path)
    draft.write(1 << 38, b"end")
    assert draft.spooled == 3
    assert await draft.read((1 << 38) - 2, 1 << 39) == b"\0\0end"
    draft.discard()


async def test_a_write_or_a_move_that_finds_no_room_changes_nothing(tmp_path: Path) -> None:
    """A move needs the room of what it moves."""
    bases = Bases()
    draft = new_draft(tmp_path, bases.add(b"base"), bases=bases, limit=100)
    draft.write(4, b"a" * 60)
    with pytest.raises(HotTierFull):
        draft.write(64, b"b" * 60)
    with pytest.raises(HotTierFull):
        draft.rebase(bases.add(b"a longer base"))
    assert (draft.size, draft.spooled, draft.intent) == (64, 60, Intent.APPEND)
    assert await draft.read(0, 100) == b"base" + b"a" * 60
    draft.truncate(34)
    draft.rebase(bases.add(b"a longer base"))
    assert await draft.read(0, 100) == b"a longer base" + b"a" * 30
    draft.discard()


def test_a_draft_recognises_its_own_attempts(tmp_path: Path) -> None:
    bases = Bases()
    base = bases.add(b"base", "1")
    draft = new_draft(tmp_path, base, bases=bases)
    draft.write(4, b" more")
    draft.attempt("2")
    version = bases.add(b"base more", "1", "2", "3")
    assert draft.was_committed_in(version)
    assert not draft.was_committed_in(base)
    assert draft.has_attempted("2")
    assert not draft.has_attempted("3")
    draft.write(9, b" and more")
    assert not draft.was_committed_in(version)
    draft.attempt("4")
    assert draft.was_committed_in(bases.add(b"", "4", "5"))
    draft.settle(version)
    assert not draft.has_attempted("2")
