"""What a mount does when something fails: an error for the caller, a line in the log, and everything works again
afterwards."""

import os
import signal

import pytest

from tests.support.mounting import DAEMON_TIMEOUT, Mounts, failure, python, run

pytestmark = pytest.mark.fuse


def test_a_store_that_is_down_is_an_error_and_recovers(mounts: Mounts) -> None:
    mount = mounts.start()
    run("dd", f"of={mount.root / 'f'}", "status=none", data=b"stored")
    mount.break_store()
    assert failure("open(args[0])", mount.root / "never seen") == "EIO"
    assert failure("os.listdir(args[0])", mount.root) == "EIO"
    assert failure("os.mkdir(args[0])", mount.root / "d") == "EIO"
    writing = "fd = os.open(args[0], os.O_CREAT | os.O_WRONLY)\nos.write(fd, b'lost')\nos.close(fd)"
    assert failure(writing, mount.root / "g") == "EIO"
    log = mount.log_text()
    assert "lookup /conversations/g: EIO: " in log
    assert "Traceback" not in log
    mount.mend_store()
    assert run("cat", mount.root / "f").stdout == b"stored"
    assert failure(writing, mount.root / "g") == ""
    assert run("cat", mount.root / "g").stdout == b"lost"


def test_a_failed_commit_can_be_tried_again(mounts: Mounts) -> None:
    mount = mounts.start()
    seen = python(
        "down = args[1] + '/down'\n"
        "fd = os.open(args[0], os.O_CREAT | os.O_WRONLY)\n"
        "os.write(fd, b'kept')\n"
        "open(down, 'w').close()\n"
        "try: os.fsync(fd)\n"
        "except OSError as e: print(errno.errorcode[e.errno])\n"
        "os.unlink(down)\n"
        "import time\n"
        "end = time.monotonic() + 20\n"
        "while True:\n"
        "    try: os.fsync(fd)\n"
        "    except OSError: assert time.monotonic() < end\n"
        "    else: break\n"
        "    time.sleep(0.05)\n"
        "print('stored')\n",
        mount.root / "f",
        mount.control,
    )
    assert seen == "EIO\nstored"
    mount.kill()
    assert run("cat", mounts.start().root / "f").stdout == b"kept"


@pytest.mark.parametrize("written", ["", "more"])
def test_a_truncation_that_failed_is_undone_for_who_has_the_file_open(mounts: Mounts, written: str) -> None:
    mount = mounts.start()
    python(
        "import time\n"
        "path, down = args[0], args[1] + '/down'\n"
        "fd = os.open(path, os.O_CREAT | os.O_RDWR)\n"
        "os.write(fd, b'stored '); os.fsync(fd); os.write(fd, args[2].encode())\n"
        "open(down, 'w').close()\n"
        "try: os.truncate(path, 3)\n"
        "except OSError as e: assert e.errno == errno.EIO\n"
        "else: raise AssertionError('it did not fail')\n"
        "os.unlink(down)\n"
        "assert os.pread(fd, 100, 0) == b'stored ' + args[2].encode()\n"
        "os.write(fd, b'!')\n"
        "end = time.monotonic() + 20\n"
        "while True:\n"
        "    try: os.fsync(fd)\n"
        "    except OSError: assert time.monotonic() < end\n"
        "    else: break\n"
        "    time.sleep(0.05)\n",
        mount.root / "f",
        mount.control,
        written,
    )
    assert run("cat", mount.root / "f").stdout.decode() == f"stored {written}!"
    mount.kill()
    assert run("cat", mounts.start().root / "f").stdout.decode() == f"stored {written}!"
    assert run("ls", mount.root).stdout == b"f\n"


def test_what_the_last_close_could_not_store_is_gone_and_said_so(mounts: Mounts) -> None:
    mount = mounts.start()
    run("dd", f"of={mount.root / 'old'}", "status=none", data=b"stored")
    for name, flags in (("old", os.O_TRUNC), ("new", os.O_CREAT)):
        python(
            "fd = os.open(args[0], int(args[1]) | os.O_WRONLY)\n"
            "os.write(fd, b'lost')\n"
            "open(args[2] + '/down', 'w').close()\n"
            "try: os.close(fd)\n"
            "except OSError as e: assert e.errno == errno.EIO\n"
            "else: raise AssertionError('closed')\n"
            # The release comes after the close: it has to fail as well.
            "import time\n"
            "end = time.monotonic() + 20\n"
            "while f'{os.path.basename(args[0])}: what was written last is lost' not in open(args[3]).read():\n"
            "    assert time.monotonic() < end\n"
            "    time.sleep(0.05)",
            mount.root / name,
            str(flags),
            mount.control,
            mount.log,
        )
        mount.mend_store()
    assert run("ls", mount.root).stdout == b"old\n"
    assert run("cat", mount.root / "old").stdout == b"stored"


def test_a_defect_in_a_handler_does_not_end_the_mount(mounts: Mounts) -> None:
    mount = mounts.start()
    run("touch", mount.root / "f")
    mount.break_store("defect")
    assert failure("os.listdir(args[0])", mount.root) == "EIO"
    assert failure("os.mkdir(args[0])", mount.root / "d") == "EIO"
    assert "RuntimeError: injected: a defect" in mount.log_text()
    mount.mend_store()
    assert mount.alive()
    assert run("ls", mount.root).stdout == b"f\n"


def test_a_read_only_mount_refuses_every_change(mounts: Mounts) -> None:
    mount = mounts.start()
    run("sh", "-c", 'mkdir "$1/d"; printf text > "$1/f"', "sh", mount.root)
    mount.unmount()
    mount.requests()
    mount = mounts.start("a", "ro")
    root = mount.root
    assert run("cat", root / "f").stdout == b"text"
    assert run("ls", root).stdout == b"d\nf\n"
    for code in (
        "open(args[0] + '/new', 'w')",
        "open(args[0] + '/f', 'a')",
        "os.truncate(args[0] + '/f', 0)",
        "os.unlink(args[0] + '/f')",
        "os.mkdir(args[0] + '/e')",
        "os.rmdir(args[0] + '/d')",
        "os.rename(args[0] + '/f', args[0] + '/g')",
        "os.chmod(args[0] + '/f', 0o600)",
        "os.utime(args[0] + '/f')",
    ):
        assert failure(code, root) == "EROFS", code
    assert not [request for request in mount.requests() if not request.startswith(("get", "list"))]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stores_what_is_open_and_unmounts(mounts: Mounts, number: signal.Signals) -> None:
    mount = mounts.start()
    python(
        "import signal, time\n"
        "fd = os.open(args[0], os.O_CREAT | os.O_WRONLY)\n"
        "os.write(fd, b'not closed yet')\n"
        "os.kill(int(args[1]), int(args[2]))\n"
        "end = time.monotonic() + 20\n"
        "while os.path.ismount(args[3]):\n"
        "    assert time.monotonic() < end\n"
        "    time.sleep(0.05)\n"
        # The mount is gone: nobody is there to take the close.
        "try: os.close(fd)\n"
        "except OSError: pass",
        mount.root / "f",
        str(mount.process.pid),
        str(int(number)),
        mount.mountpoint,
    )
    assert mount.process.wait(DAEMON_TIMEOUT) == 0, mount.log_text()
    assert run("cat", mounts.start().root / "f").stdout == b"not closed yet"


def test_what_was_closed_survives_a_crash(mounts: Mounts) -> None:
    mount = mounts.start()
    for number in range(20):
        run("dd", f"of={mount.root / str(number)}", "status=none", data=b"%d" % number * 10_000)
    mount.kill()
    mounts.forget_caches("a")
    mount = mounts.start()
    for number in range(20):
        assert run("cat", mount.root / str(number)).stdout == b"%d" % number * 10_000


def test_a_mount_point_that_will_not_do(mounts: Mounts) -> None:
    with pytest.raises(AssertionError, match=r"MountFailed: cannot mount at .*/missing"):
        mounts.start("a", mountpoint=mounts.directory / "missing")


def test_a_second_signal_does_not_wait_for_the_store(mounts: Mounts) -> None:
    mount = mounts.start("a", "timeout=100")
    python(
        "import signal, time\n"
        "fd = os.open(args[0], os.O_CREAT | os.O_WRONLY)\n"
        "os.write(fd, b'not stored')\n"
        "open(args[1] + '/down', 'w').close()\n"
        "os.kill(int(args[2]), signal.SIGTERM)\n"
        # The mount has ended, and its end waits for the store.
        "end = time.monotonic() + 20\n"
        "while 'SIGTERM: unmounting' not in open(args[3]).read():\n"
        "    assert time.monotonic() < end\n"
        "    time.sleep(0.05)\n"
        "os.kill(int(args[2]), signal.SIGTERM)\n"
        "try: os.close(fd)\n"
        "except OSError: pass",
        mount.root / "f",
        mount.control,
        str(mount.process.pid),
        mount.log,
    )
    assert mount.process.wait(DAEMON_TIMEOUT) == 1
    assert "MountFailed" in mount.log_text()
    assert not mount.mountpoint.is_mount()
