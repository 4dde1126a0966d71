"""The spool: logs whose sealed bytes stay as they are, at the cost of what they hold, found again after a crash."""

import errno
import os
import resource
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stowfs.config import KIB, MIB
from stowfs.errors import FileTooLarge, HotTierFailed, HotTierFull, StowError
from stowfs.hot.spool import BLOCK, DISK_BLOCK, Spool, SpoolFile

SLACK = 64 * KIB
"""Disk space a file system may take for a file besides its blocks."""


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool.prepare(tmp_path / "spool", MIB)


def on_disk(path: Path) -> int:
    return path.stat().st_blocks * DISK_BLOCK


class Log:
    """A spool file beside a model of it: the bytes that must be at each position."""

    def __init__(self, file: SpoolFile) -> None:
        self.file = file
        self.bytes: dict[int, int] = {}

    def append(self, data: bytes) -> None:
        assert self.file.append(data) == self.file.end - len(data)
        self._put(self.file.end - len(data), data)

    def overwrite(self, where: int, data: bytes) -> None:
        """Somewhere in what may be changed; not where that is too little."""
        room = self.file.end - self.file.sealed - len(data)
        if room >= 0:
            position = self.file.sealed + where % (room + 1)
            self.file.overwrite(position, data)
            self._put(position, data)

    def seal(self) -> None:
        before = self.file.end
        sealed = self.file.seal()
        assert before < sealed == self.file.sealed == self.file.end
        assert sealed % BLOCK == 0

    def cut(self, position: int) -> None:
        self.file.cut(position)
        position = max(position, self.file.sealed)
        assert self.file.end <= position
        self.bytes = {at: byte for at, byte in self.bytes.items() if at < position}

    def release(self, position: int) -> None:
        """What is not sealed stays."""
        self.file.release(position)
        position = min(position, self.file.sealed)
        self.bytes = {at: byte for at, byte in self.bytes.items() if at >= position}

    def check(self) -> None:
        for position, byte in self.bytes.items():
            assert self.file.read(position, 1) == bytes([byte])

    def _put(self, position: int, data: bytes) -> None:
        self.bytes |= dict(enumerate(data, start=position))


steps = st.lists(
    st.tuples(st.just("append"), st.just(0), st.binary(min_size=1, max_size=40))
    | st.tuples(st.just("overwrite"), st.integers(0, 100), st.binary(max_size=40))
    | st.tuples(st.sampled_from(["seal", "park", "sync"]), st.just(0), st.just(b""))
    | st.tuples(st.sampled_from(["cut", "release"]), st.integers(0, 3 * BLOCK), st.just(b"")),
    max_size=20,
)


@given(st.integers(0, 2).map(lambda blocks: blocks * BLOCK), st.sampled_from([0, 60, MIB]), steps)
@settings(deadline=None)
def test_a_log_keeps_what_was_neither_written_over_nor_given_up(
    start: int, short: int, steps: list[tuple[str, int, bytes]]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        spool = Spool.prepare(Path(directory), MIB, short=short, memory=MIB)
        log = Log(spool.create("draft", start))
        assert log.file.end == log.file.sealed == start
        for kind, position, data in steps:
            match kind:
                case "append":
                    log.append(data)
                case "overwrite":
                    log.overwrite(position, data)
                case "seal":
                    log.seal()
                case "cut":
                    log.cut(position)
                case "release":
                    log.release(position)
                case "park":
                    log.file.park()
                case "sync":
                    log.file.sync()
            log.check()
            assert spool.used == log.file.charged >= 0
            assert spool.memory_used <= short
        log.file.remove()
        assert (spool.used, spool.memory_used, spool.names()) == (0, 0, [])


def test_a_short_log_needs_no_file(tmp_path: Path) -> None:
    spool = Spool.prepare(tmp_path / "spool", MIB, short=10, memory=MIB)
    file = spool.create("draft")
    file.append(b"01234")
    file.overwrite(0, b"a")
    sealed = file.seal()
    file.append(b"56789")
    assert (spool.names(), spool.memory_used, spool.used) == ([], 10, 10)
    file.append(b"x")
    assert (spool.names(), spool.memory_used, spool.used) == (["draft"], 0, 11)
    assert (file.read(0, 5), file.read(sealed, 6)) == (b"a1234", b"56789x")
    file.remove()
    assert (spool.names(), spool.memory_used, spool.used) == ([], 0, 0)


def test_the_memory_of_all_short_logs_is_bounded(tmp_path: Path) -> None:
    spool = Spool.prepare(tmp_path / "spool", MIB, short=10, memory=25)
    files = [spool.create(f"draft{n}") for n in range(4)]
    for file in files:
        file.append(b"0123456789")
    assert (spool.names(), spool.memory_used, spool.used) == (["draft2", "draft3"], 20, 40)
    files[0].remove()
    spool.create("draft4").append(b"0123456789")
    assert (spool.names(), spool.memory_used) == (["draft2", "draft3"], 20)
    assert all(file.read(0, 10) == b"0123456789" for file in files[1:])


def test_a_sync_moves_a_short_log_into_its_file(tmp_path: Path) -> None:
    spool = Spool.prepare(tmp_path / "spool", MIB, short=MIB, memory=MIB)
    file = spool.create("draft")
    file.append(b"hello")
    file.sync()
    assert (tmp_path / "spool" / "draft").read_bytes() == b"hello"
    assert spool.memory_used == 0


def test_a_short_log_that_the_disk_refuses_stays_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool.prepare(tmp_path / "spool", MIB, short=10, memory=MIB)
    file = spool.create("draft")
    file.append(b"0123456789")

    def refuse(fd: int, data: memoryview, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", refuse)
        with pytest.raises(HotTierFull):
            file.append(b"x")
    assert (spool.names(), spool.memory_used, spool.used, file.end) == ([], 10, 10, 10)
    assert file.read(0, 10) == b"0123456789"
    file.append(b"x")
    assert file.read(0, 11) == b"0123456789x"


@pytest.mark.parametrize("short", [0, 8, MIB])
def test_a_log_is_made_again_from_what_the_journal_held(tmp_path: Path, short: int) -> None:
    directory = tmp_path / "spool"
    directory.mkdir()
    (directory / "draft").write_bytes(b"of an earlier process")
    spool = Spool.prepare(directory, 4, short=short, memory=MIB)
    file = spool.recreate("draft", [(0, b"hello"), (BLOCK, b"world")], 2 * BLOCK)
    assert (file.read(0, 5), file.read(BLOCK, 5)) == (b"hello", b"world")
    assert (file.sealed, file.end, spool.used) == (2 * BLOCK, 2 * BLOCK, 10)
    assert spool.names() == ([] if short == MIB else ["draft"])
    with pytest.raises(HotTierFull):
        file.append(b"x")
    file.remove()
    assert (spool.used, spool.memory_used, spool.names()) == (0, 0, [])


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=4), steps)
@settings(deadline=None)
def test_what_is_sealed_never_changes(first: list[bytes], steps: list[tuple[str, int, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "draft"
        spool = Spool.prepare(Path(directory), MIB)
        log = Log(spool.create("draft"))
        for data in first:
            log.append(data)
        log.file.sync()
        before = path.read_bytes()
        log.seal()
        for kind, position, data in steps:
            match kind:
                case "append":
                    log.append(data)
                case "overwrite":
                    log.overwrite(position, data)
                case "seal" | "release":
                    log.seal()
                case "cut":
                    log.cut(position)
                case "park":
                    log.file.park()
                case "sync":
                    log.file.sync()
            assert path.read_bytes()[: len(before)] == before
        end, sealed = len(before), log.file.sealed
        spool.close()

        again = Spool.prepare(Path(directory), MIB).open("draft")
        again.restore(end, sealed)
        assert again.read(0, end) == before
        again.remove()


def test_only_what_may_change_is_written_over(spool: Spool) -> None:
    file = spool.create("draft")
    file.append(b"sealed")
    sealed = file.seal()
    file.append(b"open")
    file.overwrite(sealed, b"OP")
    for position, data in [(0, b"x"), (sealed - 1, b"xx"), (sealed + 3, b"xx"), (sealed + 5, b"")]:
        with pytest.raises(ValueError, match="may not be changed"):
            file.overwrite(position, data)
    assert (file.read(0, 6), file.read(sealed, 4)) == (b"sealed", b"OPen")


def test_only_what_was_written_can_be_read(spool: Spool) -> None:
    file = spool.create("draft", start=BLOCK)
    file.append(b"abc")
    assert file.read(BLOCK + 1, 2) == b"bc"
    assert file.read(BLOCK + 3, 0) == b""
    for position, size in [(BLOCK - 1, 2), (BLOCK + 2, 2), (BLOCK + 4, 0)]:
        with pytest.raises(ValueError, match="are not there"):
            file.read(position, size)


def test_cutting_gives_the_disk_space_back_but_not_of_what_is_sealed(spool: Spool, tmp_path: Path) -> None:
    file, path = spool.create("draft"), tmp_path / "spool" / "draft"
    file.append(os.urandom(512 * KIB))
    file.sync()
    file.cut(1000)
    assert (file.end, spool.used, path.stat().st_size) == (1000, 1000, 1000)
    assert on_disk(path) <= SLACK
    sealed = file.seal()
    file.append(bytes(5000))
    file.cut(0)
    assert (file.end, spool.used) == (sealed, 1000)
    file.cut(1 << 50)
    assert (file.end, spool.used) == (sealed, 1000)


def test_releasing_gives_the_disk_space_back_and_keeps_what_follows(spool: Spool, tmp_path: Path) -> None:
    file, path = spool.create("draft"), tmp_path / "spool" / "draft"
    file.append(os.urandom(512 * KIB))
    sealed = file.seal()
    kept = os.urandom(100 * KIB)
    file.append(kept)
    file.sync()
    file.release(sealed)
    assert on_disk(path) <= len(kept) + SLACK
    assert spool.used == len(kept)
    assert file.read(sealed, len(kept)) == kept
    with pytest.raises(ValueError, match="are not there"):
        file.read(sealed - 1, 2)
    file.release(1000)
    assert spool.used == len(kept), "it was given back already"
    file.append(b"more")
    assert spool.used == len(kept) + 4
    file.release(file.seal())
    assert spool.used == 0
    assert on_disk(path) <= SLACK


def test_a_file_system_without_holes_keeps_counting(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoHoles:
        def fallocate(self, *_: int) -> int:
            return -1

    file = spool.create("draft")
    file.append(b"12345")
    sealed = file.seal()
    file.append(b"678")
    monkeypatch.setattr("stowfs.hot.medium._libc", NoHoles())
    file.release(sealed)
    assert spool.used == 8
    assert file.read(sealed, 3) == b"678"
    file.remove()
    assert spool.used == 0


def test_the_limit_counts_the_logs_of_all_files(spool: Spool) -> None:
    first, second = spool.create("first"), spool.create("second")
    first.append(bytes(MIB - 10))
    second.append(b"0123456789")
    with pytest.raises(HotTierFull, match=f"{MIB} bytes that are not in the store yet, of {MIB} allowed"):
        second.append(b"a")
    assert (second.end, second.charged, second.read(0, 10)) == (10, 10, b"0123456789")
    second.overwrite(0, b"overwrites")
    assert second.read(0, 10) == b"overwrites"
    with pytest.raises(HotTierFull):
        spool.create("third")
    assert spool.names() == ["first", "second"]
    first.remove()
    assert spool.used == 10
    second.append(b"abcdef")
    assert second.read(0, 16) == b"overwritesabcdef"


@pytest.mark.parametrize(
    ("code", "expected"),
    [(errno.ENOSPC, HotTierFull), (errno.EDQUOT, HotTierFull), (errno.EIO, HotTierFailed)],
)
def test_an_append_the_disk_refuses_is_an_error_and_changes_nothing(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, code: int, expected: type[StowError]
) -> None:
    file = spool.create("draft")
    file.append(b"before")
    whole = os.pwrite

    def refuse_the_second_half(fd: int, data: memoryview, offset: int) -> int:
        if len(data) < 5:
            raise OSError(code, os.strerror(code))
        return whole(fd, data[:2], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", refuse_the_second_half)
        with pytest.raises(expected, match=os.strerror(code)):
            file.append(b"after")
    assert (file.end, file.read(0, 6), spool.used) == (6, b"before", 6)
    assert file.append(b"after") == 6
    assert file.read(0, 11) == b"beforeafter"


def test_short_writes_and_reads_are_continued(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    file = spool.create("draft")
    write, read = os.pwrite, os.pread
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: write(fd, data[:3], offset))
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: read(fd, min(size, 4), offset))
    file.append(b"0123456789")
    file.overwrite(2, b"abcdefg")
    assert file.read(0, 10) == b"01abcdefg9"


def test_a_log_past_what_the_file_system_holds_is_too_large(spool: Spool) -> None:
    file = spool.create("draft", start=10 * MIB)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10 * MIB, limits[1]))
    try:
        with pytest.raises(FileTooLarge):
            file.append(b"x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (file.end, spool.used) == (10 * MIB, 0)


def test_a_parked_file_has_no_descriptor_and_goes_on(spool: Spool) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    file = spool.create("draft")
    file.append(b"abc")
    assert descriptors() == before + 1
    file.park()
    file.park()
    assert descriptors() == before
    assert spool.used == 3
    assert file.read(0, 3) == b"abc"
    file.park()
    file.sync()
    file.park()
    file.append(b"def")
    file.park()
    file.overwrite(0, b"A")
    file.park()
    file.cut(5)
    assert file.read(0, 5) == b"Abcde"
    file.park()
    file.remove()
    assert (descriptors(), spool.used, spool.names()) == (before, 0, [])


def test_a_file_is_found_again_by_the_next_process_without_what_came_after(tmp_path: Path) -> None:
    before = Spool.prepare(tmp_path / "spool", MIB)
    file = before.create("draft")
    file.append(b"hello world")
    sealed = file.seal()
    file.sync()
    file.append(b"promised to nobody")
    before.close()

    after = Spool.prepare(tmp_path / "spool", 3)
    assert (after.names(), after.used) == (["draft"], 0)
    again = after.open("draft")
    with pytest.raises(ValueError, match="are not there"):
        again.read(0, 5)
    again.restore(11, sealed)
    assert again.read(0, 11) == b"hello world"
    assert (again.end, again.sealed) == (sealed, sealed)
    assert (tmp_path / "spool" / "draft").stat().st_size == 11
    with pytest.raises(ValueError, match="may not be changed"):
        again.overwrite(0, b"H")
    assert after.used == 11, "what is there already counts, even past the limit"
    with pytest.raises(HotTierFull):
        again.append(b"x")
    again.remove()
    assert (after.used, after.names()) == (0, [])


def test_released_space_does_not_count_after_a_restart(tmp_path: Path) -> None:
    before = Spool.prepare(tmp_path / "spool", MIB)
    file = before.create("draft")
    file.append(os.urandom(512 * KIB))
    sealed = file.seal()
    file.append(b"still to be committed")
    file.sync()
    file.release(sealed)
    before.close()

    after = Spool.prepare(tmp_path / "spool", MIB)
    again = after.open("draft")
    again.restore(sealed + 21, sealed)
    assert again.read(sealed, 21) == b"still to be committed"
    assert 21 <= after.used <= SLACK
    again.append(b"more")
    again.release(again.seal())
    assert after.used == 0
    again.remove()
    assert after.used == 0


def test_a_log_that_lacks_what_was_promised_is_refused(spool: Spool) -> None:
    file = spool.create("draft")
    file.append(b"12345")
    file.close()
    again = spool.open("draft")
    with pytest.raises(HotTierFailed, match="has 5 bytes, and its last extent ends at 6"):
        again.restore(6, BLOCK)
    assert spool.used == 0


def test_a_log_that_lost_its_end_meanwhile_is_an_error(spool: Spool, tmp_path: Path) -> None:
    file = spool.create("draft")
    file.append(b"12345")
    os.truncate(tmp_path / "spool" / "draft", 3)
    assert file.read(0, 3) == b"123"
    with pytest.raises(HotTierFailed, match="ends at byte 3"):
        file.read(0, 5)


def test_a_file_that_is_gone_cannot_be_opened(spool: Spool) -> None:
    with pytest.raises(HotTierFailed, match="No such file"):
        spool.open("draft")


def test_what_an_earlier_process_left_is_removed_by_name(tmp_path: Path) -> None:
    before = Spool.prepare(tmp_path / "spool", MIB)
    for name in ("first", "second"):
        before.create(name).append(b"abc")
    before.close()
    after = Spool.prepare(tmp_path / "spool", MIB)
    after.remove("first")
    after.remove("first")
    assert (after.names(), after.used) == (["second"], 0)
    file = after.open("second")
    with pytest.raises(ValueError, match="open"):
        after.remove("second")
    with pytest.raises(ValueError, match="not a name"):
        after.remove("../journal.db")
    file.remove()
    assert after.create("first").append(b"new") == 0


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
    first.append(b"123")
    first.remove()
    second = spool.create("draft")
    second.append(b"kept")
    first.remove()
    first.close()
    assert spool.names() == ["draft"]
    assert second.read(0, 4) == b"kept"
    closed: list[Callable[[], object]] = [lambda: first.append(b"x"), lambda: first.read(0, 3), first.sync]
    for use in closed:
        with pytest.raises(ValueError, match="closed"):
            use()
    assert spool.used == 4


def test_only_what_changed_is_synced(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    file = spool.create("draft")
    changes: list[Callable[[], object]] = [
        lambda: file.append(b"abc"),
        lambda: file.overwrite(0, b"A"),
        lambda: file.cut(2),
    ]
    for count, change in enumerate(changes, start=1):
        change()
        file.sync()
        file.sync()
        assert len(synced) == count
    file.seal()
    file.sync()
    assert len(synced) == len(changes)


def test_a_sync_that_failed_never_succeeds_later(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    file = spool.create("draft")
    file.append(b"lost")

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(HotTierFailed, match="Input/output error"):
            file.sync()
    with pytest.raises(HotTierFailed, match="could not be made durable earlier"):
        file.sync()
    file.append(b"more")
    file.park()
    with pytest.raises(HotTierFailed, match="could not be made durable earlier"):
        file.sync()


def test_of_two_syncs_at_once_none_succeeds_after_the_other_failed(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells of what it lost once only."""
    file = spool.create("draft")
    file.append(b"lost")
    failing, go_on = threading.Event(), threading.Event()
    calls: list[int] = []

    def fail_once(fd: int) -> None:
        calls.append(fd)
        if len(calls) == 1:
            failing.set()
            assert go_on.wait(30)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", fail_once)
    outcomes: list[str] = []

    def sync() -> None:
        try:
            file.sync()
        except HotTierFailed:
            outcomes.append("failed")
        else:
            outcomes.append("succeeded")

    threads = [threading.Thread(target=sync), threading.Thread(target=sync)]
    threads[0].start()
    assert failing.wait(30)
    threads[1].start()
    threads[1].join(0.2)
    file.append(b"writers do not wait for the disk")
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert outcomes == ["failed", "failed"]
