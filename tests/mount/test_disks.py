"""Disks that are full or read-only, under a mount: those of its hot tier, and the one that a `file://` store is on."""

import random
import subprocess
import time
from pathlib import Path

import pytest
import trio

from stowfs.store.file import FileStore
from tests.support.audit import audit
from tests.support.disks import Disk, Disks
from tests.support.mounting import CLIENT_TIMEOUT, Mount, Mounts, failure, python, run

pytestmark = pytest.mark.fuse

LINE = b'{"role": "user", "content": "%s"}\n'


def _lines(start: int, count: int) -> bytes:
    return b"".join(LINE % random.Random(n).randbytes(300).hex().encode() for n in range(start, start + count))


KEPT, OTHER, LARGE = _lines(0, 900), _lines(1000, 900), _lines(2000, 9000)
"""Several segments each, and none in common; the last one of 6 MB."""

COPY = (
    "with open(args[1], 'rb') as source, open(args[0], 'wb', buffering=0) as file:\n"
    "    data = source.read()\n"
    "    while data: data = data[file.write(data):]"
)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A file with `OTHER` in it."""
    path = tmp_path / "other"
    path.write_bytes(OTHER)
    return path


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file with `LARGE` in it."""
    path = tmp_path / "large"
    path.write_bytes(LARGE)
    return path


def _errors(mount: Mount, name: str) -> list[str]:
    """The lines of handlers that answered with this errno."""
    return [line for line in mount.log_text().splitlines() if line.startswith("ERROR") and f": {name}: " in line]


def _is_all_there(mounts: Mounts, **files: bytes) -> None:
    """On another host, from the store alone, and with exact counts."""
    mount = mounts.start("elsewhere")
    assert run("ls", mount.root).stdout.decode().split() == sorted(files)
    for name, content in files.items():
        assert run("cat", mount.root / name).stdout == content
    mount.unmount()
    found = trio.run(audit, FileStore(mounts.store))
    assert found.exact, found


def test_a_full_disk_for_what_is_not_stored_yet(disks: Disks, mounts: Mounts, other: Path, large: Path) -> None:
    disk = disks.mount(mounts.directory / "a" / "state", size="4m")
    mount = mounts.start()
    run("tee", mount.root / "kept", data=KEPT)
    # Larger than the disk. What there is room for once it is given up is stored all the same.
    assert failure(COPY, mount.root / "large", large) == "ENOSPC"
    lines = _errors(mount, "ENOSPC")
    # A write(2) that got a part done is told so; the next one is refused.
    assert len([line for line in lines if " write /conversations/large: " in line]) == 2
    assert "the local disk is full" in lines[0]
    run("rm", "-f", mount.root / "large")
    run("tee", mount.root / "between", data=OTHER)

    disk.fill()
    assert failure(COPY, mount.root / "other", other) == "ENOSPC"
    lines = _errors(mount, "ENOSPC")
    assert len([line for line in lines if " write /conversations/other: " in line]) == 1
    assert run("cat", mount.root / "kept").stdout == KEPT
    assert run("cat", mount.root / "between").stdout == OTHER

    disk.empty()
    assert failure(COPY, mount.root / "other", other) == ""
    assert run("cat", mount.root / "other").stdout == OTHER
    assert "Traceback" not in mount.log_text()
    mount.unmount()
    _is_all_there(mounts, kept=KEPT, between=OTHER, other=OTHER)


def test_a_full_disk_when_the_journal_is_written(disks: Disks, mounts: Mounts, other: Path) -> None:
    """The bytes have room, and the commit has not: what could not be stored is stored when there is room."""
    disk = disks.mount(mounts.directory / "a" / "state", size="4m")
    mount = mounts.start()
    run("tee", mount.root / "kept", data=KEPT)
    done = python(
        "fd = os.open(args[0], os.O_CREAT | os.O_WRONLY)\n"
        "with open(args[1], 'rb') as source: os.write(fd, source.read())\n"
        "with open(args[2] + '/filler', 'wb', buffering=0) as filler:\n"
        "    try:\n"
        "        while True: filler.write(bytes(4096))\n"
        "    except OSError: pass\n"
        "said = set()\n"
        "for _ in range(200):\n"
        # A log that has room left takes some more commits.
        "    try:\n"
        "        os.pwrite(fd, os.urandom(50000).hex().encode(), 0)\n"
        "        os.fsync(fd)\n"
        "    except OSError as e:\n"
        "        said.add(errno.errorcode[e.errno])\n"
        "        break\n"
        "os.unlink(args[2] + '/filler')\n"
        "with open(args[1], 'rb') as source: os.pwrite(fd, source.read(), 0)\n"
        "os.fsync(fd)\n"
        "os.ftruncate(fd, os.path.getsize(args[1]))\n"
        "os.close(fd)\n"
        "print(*said)",
        mount.root / "other",
        other,
        disk.path,
    )
    assert done == "ENOSPC"
    (line,) = _errors(mount, "ENOSPC")
    assert "fsync /conversations/other: ENOSPC: the local disk is full: writing the journal" in line
    assert "Traceback" not in mount.log_text()
    mount.unmount()
    _is_all_there(mounts, kept=KEPT, other=OTHER)


@pytest.mark.parametrize("killed", [False, True])
def test_a_removal_ends_as_was_said_where_the_disk_is_full_and_the_store_away(
    killed: bool, disks: Disks, mounts: Mounts
) -> None:
    """That it failed could not be noted: so it has not, and is carried out, by this process or by the next one."""
    disk = disks.mount(mounts.directory / "a" / "state", size="4m")
    mount = mounts.start("a", "commit=async,flush_delay=3600")
    run("tee", mount.root / "x", data=KEPT)
    run("sync", mount.root)
    run("tee", "-a", mount.root / "x", data=b"waits")
    mount.requests()
    mount.break_store("silent")
    with subprocess.Popen(["rm", mount.root / "x"]) as removing:
        _wait_for_removal(mount, disk)
        disk.fill()
        assert removing.wait(CLIENT_TIMEOUT) == 0
    assert "x is removed as soon as the store answers" in mount.log_text()
    if killed:
        mount.kill()
    disk.empty()
    mount.mend_store()
    if killed:
        mount = mounts.start("a")
    run("sync", mount.root)
    assert run("ls", mount.root).stdout == b""
    mount.unmount()
    _is_all_there(mounts)


def _wait_for_removal(mount: Mount, disk: Disk) -> None:
    """Until a mount has noted on its disk that it removes something, and waits for the store to do it."""
    (log,) = disk.path.rglob("journal.db-wal")
    end = time.monotonic() + CLIENT_TIMEOUT
    while b"removal" not in log.read_bytes() or not (mount.control / "requests").exists():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_full_disk_for_caches_costs_nothing_but_time(disks: Disks, mounts: Mounts, other: Path) -> None:
    disk = disks.mount(mounts.directory / "a" / "cache", size="2m")
    mount = mounts.start()
    run("tee", mount.root / "kept", data=KEPT)
    disk.fill()
    for name in ("b", "c", "d"):
        assert failure(COPY, mount.root / name, other) == ""
    assert run("cat", mount.root / "kept").stdout == KEPT
    mount.unmount()
    # It starts with the full disk, too, and reads what it has not cached.
    mount = mounts.start("a", "memory_cache=0")
    for _ in range(2):
        for name in ("b", "c", "d"):
            assert run("cat", mount.root / name).stdout == OTHER
    assert run("ls", mount.root).stdout == b"b\nc\nd\nkept\n"
    log = mount.log_text()
    assert "going on without it where it fails" in log
    assert "ERROR" not in log
    # However often it happens, once in each of the two mounts: ENOSPC for either cache, SQLITE_FULL for the index.
    assert log.count("going on without it where it fails") <= 6, log
    disk.empty()
    assert run("cat", mount.root / "d").stdout == OTHER
    mount.unmount()
    _is_all_there(mounts, kept=KEPT, b=OTHER, c=OTHER, d=OTHER)


def test_a_full_store(disks: Disks, mounts: Mounts, other: Path) -> None:
    disk = disks.mount(mounts.store, size="4m")
    mount = mounts.start()
    run("tee", mount.root / "kept", data=KEPT)
    disk.fill()
    assert failure(COPY, mount.root / "other", other) == "ENOSPC"
    (line,) = _errors(mount, "ENOSPC")
    assert "flush /conversations/other: " in line
    assert "No space left on device: free some space there" in line
    assert run("cat", mount.root / "kept").stdout == KEPT
    assert run("ls", mount.root).stdout == b"kept\n"
    disk.empty()
    assert failure(COPY, mount.root / "other", other) == ""
    mount.unmount()
    _is_all_there(mounts, kept=KEPT, other=OTHER)


def test_a_store_that_becomes_read_only(disks: Disks, mounts: Mounts, other: Path) -> None:
    disk = disks.mount(mounts.store, size="16m")
    mount = mounts.start()
    run("tee", mount.root / "kept", data=KEPT)
    disk.set_writable(False)
    for code, handler in (
        (COPY, "flush /conversations/other"),
        ("os.mkdir(args[0])", "mkdir /conversations/other"),
        ("os.rename(args[0][:-5] + 'kept', args[0])", "rename /conversations/kept"),
        ("os.unlink(args[0][:-5] + 'kept')", "unlink /conversations/kept"),
    ):
        assert failure(code, mount.root / "other", other) == "EACCES", code
        line = _errors(mount, "EACCES")[-1]
        assert handler in line
        assert "Read-only file system" in line
    assert len(_errors(mount, "EACCES")) == 4
    assert run("cat", mount.root / "kept").stdout == KEPT
    disk.set_writable(True)
    assert failure(COPY, mount.root / "other", other) == ""
    mount.unmount()
    _is_all_there(mounts, kept=KEPT, other=OTHER)
