"""A store that goes away under a mount: what is cached stays readable, everything else is an error soon, and nobody has
to mount again."""

import random
import signal
import subprocess
import sys
import time

import pytest
import trio

from stowfs.store.file import FileStore
from tests.support.audit import audit
from tests.support.mounting import DAEMON_TIMEOUT, Mount, Mounts, failure, python, run

pytestmark = pytest.mark.fuse

LINE = b'{"role": "user", "content": "%s"}\n'
LONG = b"".join(LINE % random.Random(n).randbytes(300).hex().encode() for n in range(900))
OTHER = b"".join(LINE % random.Random(n).randbytes(300).hex().encode() for n in range(1000, 1900))
"""Several segments each, and none in common."""

WRITE = "fd = os.open(args[0], os.O_CREAT | os.O_WRONLY)\nos.write(fd, b'new')\nos.close(fd)"
"""A client that fails, if it does, in its close."""


@pytest.fixture(params=["down", "silent"])
def how(request: pytest.FixtureRequest) -> str:
    """How a store can be away."""
    name: str = request.param
    return name


def _with_files(mounts: Mounts) -> Mount:
    """A mount on which "cached", "d/cached" and "short" were read, and "other" was only looked at."""
    writer = mounts.start("writer")
    run("mkdir", writer.root / "d")
    for name in ("cached", "d/cached"):
        run("tee", writer.root / name, data=LONG + name.encode())
    run("tee", writer.root / "other", data=OTHER)
    run("tee", writer.root / "short", data=b"short")
    writer.unmount()
    mount = mounts.start()
    for name in ("cached", "d/cached"):
        assert run("cat", mount.root / name).stdout == LONG + name.encode()
    assert run("cat", mount.root / "short").stdout == b"short"
    run("stat", mount.root / "other")
    return mount


def _meet_the_outage(mount: Mount, how: str) -> None:
    """Breaks the store, and calls until the daemon has understood."""
    mount.break_store(how)
    _call_until_understood(mount)
    mount.requests()


def _call_until_understood(mount: Mount) -> None:
    for _ in range(20):
        if mount.in_outage():
            break
        assert failure("os.listdir(args[0])", mount.root) == "EIO"
    assert mount.in_outage()


def _without_trials(mount: Mount) -> list[str]:
    return [request for request in mount.requests() if request != "get stowfs.json"]


def test_what_is_cached_stays_readable_and_the_rest_is_an_error(mounts: Mounts, how: str) -> None:
    mount = _with_files(mounts)
    _meet_the_outage(mount, how)
    root = mount.root
    assert run("cat", root / "cached").stdout == LONG + b"cached"
    assert run("cat", root / "d" / "cached").stdout == LONG + b"d/cached"
    assert run("stat", "-c", "%s", root / "other").stdout == b"%d\n" % len(OTHER)
    assert failure("open(args[0], 'rb').read()", root / "other") == "EIO"
    # A directory that cannot be read is not an empty one, and a file that cannot be asked for is not a missing one.
    for directory in (root, root / "d"):
        assert failure("os.listdir(args[0])", directory) == "EIO"
    assert failure("os.stat(args[0])", root / "unheard-of") == "EIO"
    for code in (
        "os.unlink(args[0] + '/short')",
        "os.rename(args[0] + '/short', args[0] + '/cached')",
        "os.chmod(args[0] + '/short', 0o600)",
        "os.mkdir(args[0] + '/new')",
        "os.rmdir(args[0] + '/d')",
        "os.truncate(args[0] + '/short', 0)",
    ):
        assert failure(code, root) == "EIO", code
    assert failure(WRITE, root / "short") == "EIO"
    assert run("cat", root / "short").stdout == b"short"
    assert _without_trials(mount) == []
    log = mount.log_text()
    assert log.count("store unreachable: ") == 1
    assert log.count("files are shown as this host saw them last") == 1
    assert log.count("flush /conversations/short: EIO: no answer for ") == 1
    assert "Traceback" not in log

    mount.mend_store()
    assert mount.log_text().count("store answers again after ") == 1
    assert run("cat", root / "other").stdout == OTHER
    assert run("ls", root).stdout == b"cached\nd\nother\nshort\n"
    assert failure(WRITE, root / "short") == ""
    assert run("cat", root / "short").stdout == b"newrt"


def test_a_store_in_a_directory_whose_disk_is_unmounted_is_away(mounts: Mounts) -> None:
    """It is not empty, and nothing is written below the mount point."""
    mount = _with_files(mounts)
    away = mounts.directory / "away"
    mounts.store.rename(away)
    mounts.store.mkdir()
    try:
        _call_until_understood(mount)
        assert "is its file system mounted?" in mount.log_text()
        assert run("cat", mount.root / "cached").stdout == LONG + b"cached"
        assert failure("os.stat(args[0])", mount.root / "unheard-of") == "EIO"
        assert failure(WRITE, mount.root / "short") == "EIO"
        assert failure(WRITE, mount.root / "new") == "EIO"
        assert list(mounts.store.iterdir()) == []
    finally:
        mounts.store.rmdir()
        away.rename(mounts.store)
    mount.mend_store()
    assert run("ls", mount.root).stdout == b"cached\nd\nother\nshort\n"
    assert run("cat", mount.root / "other").stdout == OTHER
    assert failure(WRITE, mount.root / "short") == ""
    assert run("cat", mount.root / "short").stdout == b"newrt"


def test_many_calls_cost_a_store_that_is_away_no_more_than_one(mounts: Mounts, how: str) -> None:
    mount = _with_files(mounts)
    _meet_the_outage(mount, how)
    failed = python(
        "failed = 0\n"
        "for number in range(200):\n"
        "    try: os.stat(f'{args[0]}/{number}')\n"
        "    except OSError as e: failed += e.errno == errno.EIO\n"
        "print(failed)",
        mount.root,
    )
    assert failed == "200"
    assert _without_trials(mount) == []


def test_a_file_that_is_open_is_read_on(mounts: Mounts) -> None:
    mount = _with_files(mounts)
    code = (
        "with open(args[0], 'rb') as file:\n"
        "    first = file.read(10)\n"
        "    print('open', flush=True)\n"
        "    sys.stdin.read()\n"
        "    sys.stdout.buffer.write(first + file.read())"
    )
    command = [sys.executable, "-c", f"import sys\nargs = sys.argv[1:]\n{code}", str(mount.root / "cached")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        try:
            assert reader.stdout is not None
            assert reader.stdout.readline() == b"open\n"
            _meet_the_outage(mount, "down")
            content, _ = reader.communicate(timeout=30)
        finally:
            reader.kill()
    assert content == LONG + b"cached"


def test_the_work_of_others_is_seen_when_the_store_is_back(mounts: Mounts) -> None:
    mount = _with_files(mounts)
    other = mounts.start("b")
    _meet_the_outage(mount, "down")
    run("tee", other.root / "cached", data=b"newer")
    run("rm", other.root / "short")
    assert run("cat", mount.root / "cached").stdout == LONG + b"cached"
    assert run("cat", mount.root / "short").stdout == b"short"
    # What is written on the strength of an old version does not overwrite the newer one.
    mount.mend_store()
    run("sh", "-c", 'printf " and appended" >> "$0"', mount.root / "cached")
    assert run("cat", mount.root / "cached").stdout == b"newer and appended"
    assert run("cat", other.root / "cached").stdout == b"newer and appended"
    assert failure("open(args[0])", mount.root / "short") == "ENOENT"


def test_after_a_crash_nothing_is_older_than_what_was_done_here(mounts: Mounts) -> None:
    mount = mounts.start()
    for name in ("changed", "removed"):
        run("tee", mount.root / name, data=b"old")
        assert run("cat", mount.root / name).stdout == b"old"
    mount.unmount()
    mount = mounts.start()
    run("tee", mount.root / "changed", data=b"new")
    run("rm", mount.root / "removed")
    mount.kill()
    mount = mounts.start()
    _meet_the_outage(mount, "down")
    assert run("cat", mount.root / "changed").stdout == b"new"
    assert failure("open(args[0])", mount.root / "removed") == "EIO"


def test_a_signal_ends_what_waits_for_the_store_at_the_end(mounts: Mounts) -> None:
    """The mount is gone, and what its daemon has still to settle waits in the journal for the next one."""
    mount = mounts.start()
    run("tee", mount.root / "kept", data=LONG)
    _meet_the_outage(mount, "down")
    code = "with open(args[0], 'ab') as file: file.write(os.urandom(3_000_000))"
    assert failure(code, mount.root / "kept") == "EIO"
    mount.process.send_signal(signal.SIGTERM)
    end = time.monotonic() + DAEMON_TIMEOUT
    while mount.mountpoint.is_mount():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert mount.alive()
    mount.process.send_signal(signal.SIGTERM)
    assert mount.process.wait(DAEMON_TIMEOUT) == -signal.SIGTERM
    mount.mend_store()
    mount = mounts.start()
    assert run("cat", mount.root / "kept").stdout == LONG
    mount.unmount()
    found = trio.run(audit, FileStore(mounts.store))
    assert found.exact, found
