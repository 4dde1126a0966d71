"""A store that refuses under a mount: full, read only, or with keys that are not valid any more. The documented errno,
one line in the log for each call, nothing lost that was acknowledged, and it works again without a remount."""

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.commands import Stow
from tests.support.mounting import CLIENT_TIMEOUT, failure, python, run
from tests.support.rgw_user import RgwUser

pytestmark = [pytest.mark.fuse, pytest.mark.rgw]

LINE = b'{"role": "user", "content": "%s"}\n'
KEPT = b"".join(LINE % random.Random(n).randbytes(300).hex().encode() for n in range(900))
OTHER = b"".join(LINE % random.Random(n).randbytes(300).hex().encode() for n in range(1000, 1900))
"""Several segments each, and none in common."""

APPEND = "fd = os.open(args[0], os.O_APPEND | os.O_WRONLY)\nos.write(fd, args[1].encode())\nos.close(fd)"
COPY = "with open(args[1], 'rb') as source, open(args[0], 'wb', buffering=0) as file:\n    file.write(source.read())"


@pytest.fixture
def root(stow: Stow, rgw_user: RgwUser, mountpoint: Path) -> Iterator[Path]:
    """The conversations of a mount of the user's bucket, with "kept" among them. Whatever the store refused, in the end
    all is well."""
    url = f"s3://{rgw_user.bucket}"
    stow.run("mkfs", url)
    stow.run("mount", url, mountpoint)
    root = mountpoint / "conversations"
    run("tee", root / "kept", data=KEPT)
    run("tee", root / "short", data=b"short")
    (stow.directory / "other").write_bytes(OTHER)
    yield root
    assert "nothing is left to do" in stow.run("umount", mountpoint).stdout
    stow.run("mount", url, mountpoint)
    assert run("cat", root / "kept").stdout == KEPT + b"appended"
    assert run("cat", root / "other").stdout == OTHER
    assert run("ls", root).stdout == b"kept\nnew\nother\nshort\n"
    stow.run("umount", mountpoint)
    assert stow.json("fsck", url)["clean"]


@contextmanager
def refused(stow: Stow) -> Iterator[Callable[[str, str], list[str]]]:
    """Gives the lines that were logged since, as errors of a handler about a path."""
    (log,) = (stow.state / "logs").glob("*.log")
    before = len(log.read_text())

    def lines(handler: str, path: str) -> list[str]:
        return [line for line in log.read_text()[before:].splitlines() if f" {handler} {path}: " in line]

    yield lines
    assert "Traceback" not in log.read_text()


def _writes_fail(stow: Stow, root: Path, name: str, cause: str) -> None:
    with refused(stow) as lines:
        assert failure(APPEND, root / "kept", "lost") == name
        (line,) = lines("flush", "/conversations/kept")
        assert f": {name}: " in line
        assert cause in line
        assert failure(COPY, root / "other", stow.directory / "other") == name
        (line,) = lines("flush", "/conversations/other")
        assert f": {name}: " in line
        assert cause in line
        for code, handler, path in (
            ("os.mkdir(args[0] + '/new')", "mkdir", "new"),
            ("os.rename(args[0] + '/kept', args[0] + '/moved')", "rename", "kept"),
            ("os.unlink(args[0] + '/kept')", "unlink", "kept"),
            ("os.chmod(args[0] + '/kept', 0o600)", "setattr", "kept"),
        ):
            assert failure(code, root) == name, code
            (line,) = lines(handler, f"/conversations/{path}")
            assert cause in line


def _reads_work(root: Path) -> None:
    assert run("cat", root / "kept").stdout == KEPT
    assert run("ls", root).stdout == b"kept\nshort\n"


def _all_works(stow: Stow, root: Path) -> None:
    assert failure(APPEND, root / "kept", "appended") == ""
    assert failure(COPY, root / "other", stow.directory / "other") == ""
    python("os.mkdir(args[0])", root / "new")


def test_a_full_store(stow: Stow, rgw_user: RgwUser, root: Path) -> None:
    rgw_user.fill_quota()
    _writes_fail(stow, root, "ENOSPC", "the store has no room left (QuotaExceeded): raise its quota")
    _reads_work(root)
    rgw_user.lift_quota()
    _all_works(stow, root)


def test_a_store_that_may_only_be_read(stow: Stow, rgw_user: RgwUser, root: Path) -> None:
    rgw_user.forbid_writing()
    _writes_fail(stow, root, "EACCES", "access denied (AccessDenied)")
    _reads_work(root)
    # A mount says so at once, and one that is read only works.
    mountpoint = stow.directory / "second"
    mountpoint.mkdir()
    assert "access denied" in stow.error("mount", f"s3://{rgw_user.bucket}", mountpoint)
    stow.run("mount", f"s3://{rgw_user.bucket}", mountpoint, "-o", "ro")
    _reads_work(mountpoint / "conversations")
    stow.run("umount", mountpoint)
    rgw_user.allow_writing()
    _all_works(stow, root)


def test_keys_that_were_revoked(stow: Stow, rgw_user: RgwUser, root: Path) -> None:
    rgw_user.revoke_keys()
    # The kernel knows these names for a while; what it must ask for is refused.
    for code in ("os.listdir(args[0])", "os.stat(args[0] + '/unheard-of')", "open(args[0] + '/kept')"):
        assert failure(code, root) == "EACCES", code
    with refused(stow) as lines:
        assert failure("open(args[0] + '/short')", root) == "EACCES"
        # Which handler meets it depends on how old the attributes are that the kernel has.
        (line,) = [line for name in ("lookup", "getattr", "open") for line in lines(name, "/conversations/short")]
        assert "access denied (InvalidAccessKeyId): check AWS_ACCESS_KEY_ID" in line
    rgw_user.restore_keys()
    _all_works(stow, root)


def test_keys_that_are_revoked_while_a_file_is_open(stow: Stow, rgw_user: RgwUser, root: Path) -> None:
    """What could not be stored is stored by the next fsync that may."""
    code = (
        "fd = os.open(args[0], os.O_APPEND | os.O_WRONLY)\n"
        "os.write(fd, b'appended')\n"
        "for _ in range(2):\n"
        "    print('ready', flush=True)\n"
        "    sys.stdin.readline()\n"
        "    try: os.fsync(fd)\n"
        "    except OSError as e: print(errno.errorcode[e.errno], flush=True)\n"
        "    else: print('stored', flush=True)\n"
        "os.close(fd)"
    )
    command = [sys.executable, "-c", f"import errno, os, sys\nargs = sys.argv[1:]\n{code}", str(root / "kept")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        try:
            assert writer.stdin is not None
            assert writer.stdout is not None
            for change, expected in ((rgw_user.revoke_keys, "EACCES\n"), (rgw_user.restore_keys, "stored\n")):
                assert writer.stdout.readline() == "ready\n"
                change()
                writer.stdin.write("\n")
                writer.stdin.flush()
                assert writer.stdout.readline() == expected
            assert writer.wait(CLIENT_TIMEOUT) == 0
        finally:
            writer.kill()
    assert failure(COPY, root / "other", stow.directory / "other") == ""
    python("os.mkdir(args[0])", root / "new")
