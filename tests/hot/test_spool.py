"""The spool: bytes kept at their offsets, at the cost of what was written, and found again after a crash."""

import errno
import os
import resource
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stowfs.config import KIB, MIB, TIB
from stowfs.errors import FileTooLarge, HotTierFailed, HotTierFull, StowError
from stowfs.hot.spool import Spool


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool.prepare(tmp_path / "spool", MIB)


writes = st.tuples(st.integers(0, 300), st.binary(max_size=80))


@given(st.lists(st.one_of(writes, st.integers(0, 300)), max_size=20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_every_written_byte_is_read_back(spool: Spool, steps: list[tuple[int, bytes] | int]) -> None:
    file = spool.create("draft")
    try:
        model: dict[int, int] = {}
        for step in steps:
            if isinstance(step, int):
                file.truncate(step)
                model = {offset: byte for offset, byte in model.items() if offset < step}
            else:
                file.write(*step)
                model |= dict(enumerate(step[1], start=step[0]))
        read: dict[int, int] = {}
        for start, end, written in file.covers(0, 400):
            if written:
                read |= dict(enumerate(file.read(start, end), start=start))
        assert read == model
        assert spool.used == len(model)
    finally:
        file.remove()
    assert spool.used == 0
    assert spool.names() == []


def test_only_written_ranges_can_be_read(spool: Spool) -> None:
    file = spool.create("draft")
    file.write(10, b"abc")
    assert file.extents == ((10, 13),)
    assert file.read(11, 13) == b"bc"
    assert file.read(5, 5) == b""
    with pytest.raises(ValueError, match="were not all written"):
        file.read(9, 12)
    with pytest.raises(ValueError, match="were not all written"):
        file.read(12, 14)


def test_a_sparse_file_costs_what_it_holds(spool: Spool, tmp_path: Path) -> None:
    file = spool.create("draft")
    file.write(0, b"a" * 4096)
    file.write(TIB, b"b" * 4096)
    status = (tmp_path / "spool" / "draft").stat()
    assert status.st_size == TIB + 4096
    assert status.st_blocks * 512 <= 64 * KIB
    assert spool.used == 8192


def test_truncating_gives_the_disk_space_back_and_never_extends(spool: Spool, tmp_path: Path) -> None:
    file = spool.create("draft")
    file.write(0, os.urandom(512 * KIB))
    file.sync()
    file.truncate(1000)
    path = tmp_path / "spool" / "draft"
    assert path.stat().st_size == 1000
    assert path.stat().st_blocks * 512 <= 64 * KIB
    assert spool.used == 1000
    file.truncate(1 << 50)
    assert path.stat().st_size == 1000
    assert file.extents == ((0, 1000),)


def test_the_limit_counts_new_bytes_of_all_files(spool: Spool) -> None:
    first, second = spool.create("first"), spool.create("second")
    first.write(0, bytes(MIB - 10))
    second.write(500, b"0123456789")
    with pytest.raises(HotTierFull, match=f"{MIB} bytes that are not in the store yet, of {MIB} allowed"):
        second.write(505, b"abcdef")
    assert second.read(500, 510) == b"0123456789"
    assert second.extents == ((500, 510),)
    second.write(500, b"overwrites")
    assert second.read(500, 510) == b"overwrites"
    with pytest.raises(HotTierFull):
        spool.create("third")
    first.remove()
    assert spool.used == 10
    second.write(505, b"abcdef")
    assert second.read(500, 511) == b"overwabcdef"


@pytest.mark.parametrize(
    ("code", "expected"),
    [(errno.ENOSPC, HotTierFull), (errno.EDQUOT, HotTierFull), (errno.EIO, HotTierFailed)],
)
def test_a_write_the_disk_refuses_is_an_error_and_counts_nothing(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, code: int, expected: type[StowError]
) -> None:
    file = spool.create("draft")
    file.write(0, b"before")

    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", refuse)
        with pytest.raises(expected, match=os.strerror(code)):
            file.write(3, b"after")
    assert file.extents == ((0, 6),)
    assert file.read(0, 6) == b"before"
    assert spool.used == 6
    file.write(3, b"after")
    assert file.read(0, 8) == b"befafter"


def test_short_writes_are_continued(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    file = spool.create("draft")
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: whole(fd, data[:3], offset))
    file.write(7, b"0123456789")
    assert file.read(7, 17) == b"0123456789"


def test_an_offset_past_what_the_file_system_holds_is_too_large(spool: Spool) -> None:
    file = spool.create("draft")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10 * MIB, limits[1]))
    try:
        with pytest.raises(FileTooLarge):
            file.write(10 * MIB, b"x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.extents == ()
    assert spool.used == 0


def test_a_file_is_found_again_by_the_next_process(tmp_path: Path) -> None:
    before = Spool.prepare(tmp_path / "spool", MIB)
    file = before.create("draft")
    file.write(5, b"hello")
    file.write(100_000, b"world")
    file.sync()
    extents = file.extents
    assert extents == ((5, 10), (100_000, 100_005))
    before.close()

    after = Spool.prepare(tmp_path / "spool", 3)
    assert after.names() == ["draft"]
    assert after.used == 0
    again = after.open("draft")
    with pytest.raises(ValueError, match="were not all written"):
        again.read(5, 10)
    again.restore(extents)
    assert again.extents == extents
    assert (again.read(5, 10), again.read(100_000, 100_005)) == (b"hello", b"world")
    assert after.used == 10, "what is there already counts, even past the limit"
    with pytest.raises(HotTierFull):
        again.write(200_000, b"x")
    again.remove()
    assert (after.used, after.names()) == (0, [])


def test_extents_that_the_file_does_not_hold_are_refused(spool: Spool) -> None:
    file = spool.create("draft")
    file.write(0, b"12345")
    file.close()
    again = spool.open("draft")
    with pytest.raises(HotTierFailed, match="has 5 bytes, and its last extent ends at 6"):
        again.restore([(0, 2), (4, 6)])
    assert spool.used == 0


def test_a_file_that_is_gone_cannot_be_opened(spool: Spool) -> None:
    with pytest.raises(HotTierFailed, match="No such file"):
        spool.open("draft")


def test_one_name_is_one_file(spool: Spool) -> None:
    file = spool.create("draft")
    with pytest.raises(ValueError, match="open already"):
        spool.open("draft")
    file.close()
    with pytest.raises(HotTierFailed, match="File exists"):
        spool.create("draft")


@pytest.mark.parametrize("name", ["", ".", "..", "../journal.db", "a/b", ".hidden", "ä", "x" * 101, "new\nline"])
def test_names_that_are_no_plain_ids_are_refused(spool: Spool, name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        spool.create(name)


def test_removing_again_leaves_a_later_file_of_that_name_alone(spool: Spool) -> None:
    first = spool.create("draft")
    first.remove()
    second = spool.create("draft")
    second.write(0, b"kept")
    first.remove()
    first.close()
    assert spool.names() == ["draft"]
    assert second.read(0, 4) == b"kept"
    with pytest.raises(ValueError, match="closed"):
        first.write(0, b"x")
    assert spool.used == 4


def test_a_sync_that_failed_never_succeeds_later(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    file = spool.create("draft")
    file.write(0, b"lost")

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(HotTierFailed, match="Input/output error"):
            file.sync()
    with pytest.raises(HotTierFailed, match="could not be made durable earlier"):
        file.sync()
