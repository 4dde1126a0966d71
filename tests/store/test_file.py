"""What only the store in a directory can get wrong: durability, races with the directory itself, foreign files."""

import errno
import fcntl
import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import pytest
import trio

from stowfs.config import StoreOptions
from stowfs.errors import (
    AccessDenied,
    NameTooLong,
    ObjectNotFound,
    PreconditionFailed,
    StoreError,
    StoreFull,
    StoreMissing,
    StoreUnavailable,
    UsageError,
)
from stowfs.store.base import ALWAYS, IF_ABSENT, Found, IfMatch
from stowfs.store.directory import HIDDEN, Directory
from stowfs.store.file import FileStore


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path)


async def keys_of(store: FileStore) -> list[str]:
    return [entry.key async for page in store.list("") for entry in page.objects]


def an_hour_later(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 3600 * 10**9)


def temporary_files(root: Path) -> list[str]:
    return os.listdir(root / HIDDEN / "tmp")


async def test_keys_are_paths(tmp_path: Path, store: FileStore) -> None:
    await store.put("a/b c/ü", b"body")
    assert (tmp_path / "a" / "b c" / "ü").read_bytes() == b"body"
    assert sorted(os.listdir(tmp_path)) == [HIDDEN, "a"]
    assert temporary_files(tmp_path) == []


async def test_the_private_directory_holds_no_keys(store: FileStore) -> None:
    await store.put("k", b"")
    for key in (f"{HIDDEN}/locks/00", f"{HIDDEN}/x", HIDDEN):
        for attempt in (store.get(key), store.put(key, b""), store.delete(key)):
            with pytest.raises(UsageError):
                await attempt
    with pytest.raises(UsageError):
        [page async for page in store.list(f"{HIDDEN}/")]
    assert await keys_of(store) == ["k"]
    assert [page.prefixes async for page in store.list("", delimiter="/")] == [()]


async def test_an_etag_never_comes_back(tmp_path: Path, store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for the same bytes, and not when the clock stands still or goes back."""
    etags = [await store.put("k", b"same")]
    now = time.time_ns()
    for clock in (now, now, now - 10**12):
        monkeypatch.setattr(time, "time_ns", lambda clock=clock: clock)
        etags.append(await store.put("k", b"same", IfMatch(etags[-1])))
        assert await store.get("k", if_none_match="") == Found(b"same", etags[-1])
    assert len(set(etags)) == len(etags)
    assert [entry.etag async for page in store.list("") for entry in page.objects] == [etags[-1]]


async def test_a_put_is_on_disk_before_it_is_visible(
    tmp_path: Path, store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put("warm/up", b"")
    events: list[str] = []
    fsync, rename, mkdir = os.fsync, os.rename, os.mkdir

    def record_fsync(fd: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        events.append("fsync file" if path.parent.name == "tmp" else f"fsync {path.relative_to(tmp_path)}")
        fsync(fd)

    def record_rename(source: bytes, target: bytes) -> None:
        events.append("rename")
        rename(source, target)

    def record_mkdir(path: bytes) -> None:
        events.append(f"mkdir {Path(os.fsdecode(path)).relative_to(tmp_path)}")
        mkdir(path)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "rename", record_rename)
    monkeypatch.setattr(os, "mkdir", record_mkdir)
    await store.put("a/b/k", b"x")
    assert events == ["fsync file", "mkdir a", "fsync .", "mkdir a/b", "fsync a", "rename", "fsync a/b"]
    events.clear()
    await store.put("a/b/k", b"y")
    assert events == ["fsync file", "rename", "fsync a/b"]


async def test_an_object_in_the_way(store: FileStore) -> None:
    await store.put("a/b", b"object")
    with pytest.raises(StoreError, match="part of its path is an object"):
        await store.put("a/b/c", b"")
    with pytest.raises(StoreError, match="other keys are below it"):
        await store.put("a", b"")
    with pytest.raises(ObjectNotFound):
        await store.get("a")
    await store.delete("a")
    await store.delete("a/b/c")
    assert await keys_of(store) == ["a/b"]


async def test_empty_directories_go_and_are_not_in_the_way(tmp_path: Path, store: FileStore) -> None:
    await store.put("a/b/c/k", b"")
    await store.put("a/other", b"")
    await store.delete("a/b/c/k")
    assert sorted(os.listdir(tmp_path / "a")) == ["other"]
    await store.delete("a/other")
    assert os.listdir(tmp_path) == [HIDDEN]
    (tmp_path / "left" / "by" / "a crash").mkdir(parents=True)
    assert [page async for page in store.list("", delimiter="/")] == []
    await store.put("left/by/a crash", b"x")
    assert await keys_of(store) == ["left/by/a crash"]


async def test_creators_and_removers_of_one_directory(store: FileStore) -> None:
    async def churn(name: str) -> None:
        for number in range(150):
            key = f"deep/er/{name}"
            etag = await store.put(key, b"%d" % number, IF_ABSENT)
            assert await store.get(key) == Found(b"%d" % number, etag)
            await store.delete(key, IfMatch(etag))

    async with trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(churn, name)
    assert await keys_of(store) == []


@pytest.mark.parametrize("function", ["rename", "mkdir"])
async def test_a_directory_that_is_removed_while_it_is_written_to(
    tmp_path: Path, store: FileStore, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    """A remover gets in just before the rename, or just before the second of two directories is made."""
    real: Callable[..., None] = getattr(os, function)
    removed = 0

    def after_a_removal(*paths: bytes) -> None:
        nonlocal removed
        parent = os.path.dirname(paths[-1])
        if parent != os.fsencode(tmp_path) and HIDDEN.encode() not in paths[-1] and removed < 3:
            removed += 1
            os.rmdir(parent)
        real(*paths)

    monkeypatch.setattr(os, function, after_a_removal)
    await store.put("a/b/k", b"x", IF_ABSENT)
    assert removed == 3
    assert await keys_of(store) == ["a/b/k"]


async def test_the_directory_that_is_synced_is_the_one_that_has_the_object(
    tmp_path: Path, store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one that was removed, and made again, since it was opened."""
    others = Directory(tmp_path, patience=5.0)
    others.put("d/last", b"", ALWAYS)
    rename, fsync = os.rename, os.fsync
    synced: list[int] = []

    def after_a_removal(source: bytes, target: bytes) -> None:
        monkeypatch.setattr(os, "rename", rename)
        others.delete("d/last", ALWAYS)
        others.put("d/new", b"", ALWAYS)
        synced.clear()
        rename(source, target)

    def record_fsync(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        fsync(fd)

    monkeypatch.setattr(os, "rename", after_a_removal)
    monkeypatch.setattr(os, "fsync", record_fsync)
    await store.put("d/own", b"acknowledged")
    assert synced == [os.stat(tmp_path / "d").st_ino]


async def test_a_killed_writer_leaves_the_old_object(tmp_path: Path, store: FileStore) -> None:
    """Killed at any moment, a process that keeps writing leaves one of its whole bodies, and nothing held."""
    program = (
        "import sys, trio\nfrom pathlib import Path\nfrom stowfs.store.file import FileStore\n"
        "async def main():\n"
        "    store = FileStore(Path(sys.argv[1]))\n"
        "    for n in range(10**9):\n"
        "        await store.put('d/k', b'%09d' % n * 100_000)\n"
        "        print(n, flush=True)\n"
        "trio.run(main)\n"
    )
    for pause in (0.0, 0.003, 0.011, 0.05):
        async with trio.open_nursery() as nursery:
            start = partial(trio.run_process, stdout=subprocess.PIPE, check=False)
            writer = await nursery.start(start, [sys.executable, "-c", program, str(tmp_path)])
            await writer.stdout.receive_some()  # It has written something.
            await trio.sleep(pause)
            writer.kill()
        found = await store.get("d/k")
        assert isinstance(found, Found)
        assert found.body == found.body[:9] * 100_000
        await store.put("d/k", b"mine", IfMatch(found.etag))
        await store.delete("d/k")
    # What the writers left half-written is swept a day later.
    left = temporary_files(tmp_path)
    for name in left:
        os.utime(tmp_path / HIDDEN / "tmp" / name, (0, 0))
    await FileStore(tmp_path).put("k", b"")
    assert temporary_files(tmp_path) == []


async def test_a_held_lock_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    store = FileStore(tmp_path, StoreOptions(read_timeout=0.2))
    etag = await store.put("k", b"x")
    held = [open(path, "rb") for path in (tmp_path / HIDDEN / "locks").iterdir()]  # noqa: SIM115, ASYNC230
    try:
        for lock in held:
            fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailable, match="holds the lock"):
            await store.put("k", b"y", IfMatch(etag))
        # What needs no lock goes on.
        assert await store.get("k") == Found(b"x", etag)
        with pytest.raises(PreconditionFailed):
            await store.put("k", b"y", IF_ABSENT)
    finally:
        for lock in held:
            lock.close()
    await store.put("k", b"y", IfMatch(etag))
    assert temporary_files(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, StoreFull),
        (errno.EDQUOT, StoreFull),
        (errno.EACCES, AccessDenied),
        (errno.EROFS, AccessDenied),
        (errno.EIO, StoreUnavailable),
        (errno.EMFILE, StoreUnavailable),
    ],
)
async def test_errors_of_the_disk(
    tmp_path: Path, store: FileStore, monkeypatch: pytest.MonkeyPatch, number: int, expected: type[Exception]
) -> None:
    etag = await store.put("k", b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    for function in ("write", "fsync", "rename", "scandir"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, fail)
            attempt = keys_of(store) if function == "scandir" else store.put("k", b"new")
            with pytest.raises(expected, match=f"^{store.url}: {os.strerror(number)}"):
                await attempt
    assert await store.get("k") == Found(b"old", etag)
    assert temporary_files(tmp_path) == []


async def test_an_unreadable_directory_is_no_shorter_listing(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("a/1", "b/1", "c/1"):
        await store.put(key, b"")
    scandir: Callable[..., object] = os.scandir

    def fail_on_b(path: bytes) -> object:
        if path.endswith(b"/b/"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail_on_b)
    with pytest.raises(StoreUnavailable):
        await keys_of(store)


@pytest.mark.parametrize("case", ["changed lately", "changed long ago", "no lock files yet"])
async def test_a_listing_has_what_is_replaced_meanwhile(
    tmp_path: Path, store: FileStore, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """As on btrfs and tmpfs: a rename over a name moves it to where the scan does not come any more."""
    others = Directory(tmp_path, patience=0.01)
    for name in "abc":
        others.put(f"d/{name}", b"x", ALWAYS)
    if case == "changed long ago":
        an_hour_later(monkeypatch)
    if case == "no lock files yet":
        shutil.rmtree(tmp_path / HIDDEN / "locks")
        os.mkdir(tmp_path / HIDDEN / "locks")
    scandir = os.scandir

    def replacing(path: bytes) -> AbstractContextManager[Iterable[os.DirEntry[bytes]]]:
        entries = list(scandir(path))
        try:
            others.put("d/b", b"y", ALWAYS)
        except TimeoutError:
            return nullcontext(entries)
        os.utime(tmp_path / "d", (0, 0))  # It would be another time, but for the ticks of the clock.
        return nullcontext(entry for entry in entries if entry.name != b"b")

    monkeypatch.setattr(os, "scandir", replacing)
    assert [entry.key async for page in store.list("d/") for entry in page.objects] == ["d/a", "d/b", "d/c"]


async def test_a_listing_waits_for_writers_only_where_something_was_changed_lately(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileStore(tmp_path, StoreOptions(read_timeout=0.1))
    await store.put("k", b"x")
    with open(next((tmp_path / HIDDEN / "locks").iterdir()), "rb") as lock:  # noqa: ASYNC230
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailable, match="holds the lock"):
            await keys_of(store)
        an_hour_later(monkeypatch)
        assert await keys_of(store) == ["k"]


async def test_a_listing_makes_nothing(tmp_path: Path, store: FileStore) -> None:
    (tmp_path / "k").write_bytes(b"copied here")
    assert await keys_of(store) == ["k"]
    assert os.listdir(tmp_path) == ["k"]


async def test_foreign_files_are_no_objects(tmp_path: Path, store: FileStore) -> None:
    await store.put("d/k", b"x")
    os.mkfifo(tmp_path / "d" / "fifo")
    (tmp_path / "d" / "link").symlink_to(tmp_path / "d" / "k")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / os.fsdecode(b"not-\xff-utf8")).write_bytes(b"")
    assert await keys_of(store) == ["d/k"]
    for key in ("d/fifo", "d/link"):
        with pytest.raises(ObjectNotFound):
            await store.get(key)


async def test_a_missing_directory_is_a_missing_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for root in (tmp_path / "missing", tmp_path / "file"):
        store = FileStore(root)
        for attempt in (store.get("k"), store.put("a/k", b""), store.delete("k"), keys_of(store)):
            with pytest.raises(StoreMissing, match="does not exist or is no directory"):
                await attempt
    assert os.listdir(tmp_path) == ["file"]


async def test_a_directory_that_vanishes_and_returns(tmp_path: Path) -> None:
    root = tmp_path / "store"
    root.mkdir()
    store = FileStore(root)
    await store.put("k", b"x")
    root.rename(tmp_path / "away")
    for attempt in (store.get("k"), store.put("k", b""), store.delete("k"), keys_of(store)):
        with pytest.raises(StoreUnavailable, match="is its file system mounted"):
            await attempt
    (tmp_path / "away").rename(root)
    await store.put("k", b"y")
    assert await keys_of(store) == ["k"]


async def test_an_empty_directory_in_its_place_is_no_store(tmp_path: Path) -> None:
    """As a mount point is when its disk has been unmounted: nothing was deleted, and nothing may be written there."""
    root, away = tmp_path / "store", tmp_path / "away"
    root.mkdir()
    store = FileStore(root, page_size=1)
    etag = await store.put("k", b"x")
    await store.put("l", b"x")
    pages = store.list("")
    assert [info.key for info in (await anext(pages)).objects] == ["k"]
    reader = FileStore(root)
    await reader.get("k")
    root.rename(away)
    root.mkdir()
    for attempt in (
        store.get("k"),
        store.put("k", b""),
        store.put("k", b"", IfMatch(etag)),
        store.delete("k"),
        store.multipart("k"),
        keys_of(store),
        keys_of(reader),
        pages.__anext__(),
    ):
        with pytest.raises(StoreUnavailable, match="is its file system mounted"):
            await attempt
    assert os.listdir(root) == []
    root.rmdir()
    # The same one mounted again may have other numbers.
    shutil.copytree(away, root)
    assert await keys_of(store) == ["k", "l"]
    await store.put("k", b"y")
    assert (root / "k").read_bytes() == b"y"


async def test_names_that_are_too_long(store: FileStore) -> None:
    key = "a/" + "x" * 256
    with pytest.raises(ObjectNotFound):
        await store.get(key)
    with pytest.raises(NameTooLong):
        await store.put(key, b"")


async def test_a_coarse_clock_of_the_file_system(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only whole seconds of modification times are kept, ETags still differ."""
    utime = os.utime

    def whole_seconds(fd: int, ns: tuple[int, int]) -> None:
        second = ns[1] // 10**9 * 10**9
        utime(fd, ns=(second, second))

    monkeypatch.setattr(os, "utime", whole_seconds)
    etags = [await store.put("k", b"same") for _ in range(4)]
    assert len(set(etags)) == 4


async def test_reading_keeps_body_and_etag_together(tmp_path: Path) -> None:
    """A reader beside a writer sees pairs that belong together, in the order in which they were written."""
    writing, reading = FileStore(tmp_path), FileStore(tmp_path)
    written: dict[str, bytes] = {}
    seen: list[Found] = []
    done = trio.Event()

    async def write() -> None:
        for number in itertools.count():
            body = b"%06d" % number * 1000
            written[await writing.put("k", body)] = body
            if done.is_set():
                return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        while len({found.etag for found in seen}) < 20:
            try:
                found = await reading.get("k")
            except ObjectNotFound:
                continue
            assert isinstance(found, Found)
            seen.append(found)
        done.set()
    assert all(written[found.etag] == found.body for found in seen)
    assert [found.body for found in seen] == sorted(found.body for found in seen)


def test_who_comes_first_to_a_new_store_is_not_refused_for_who_made_it_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, real = Directory(tmp_path, patience=5.0), os.path.isdir
    made = False

    def made_meanwhile(path: bytes) -> bool:
        nonlocal made
        found = real(path)
        if not made and path.endswith(HIDDEN.encode()):
            made = True
            store.put("other", b"", ALWAYS)
        return found

    monkeypatch.setattr(os.path, "isdir", made_meanwhile)
    store.put("k", b"", ALWAYS)
    assert made
