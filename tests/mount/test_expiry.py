"""Deadlines through a mount: `-o ttl=`, what the kernel has cached, and who has a file open."""

from pathlib import Path

import pytest

from tests.support.mounting import Mounts, failure, python, run
from tests.vault.test_promises import log_lines

pytestmark = pytest.mark.fuse

CONTENT = log_lines(700, 1)

TTL = "os.getxattr(args[0], 'user.stowfs.ttl')"

RENAME_NOREPLACE = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.renameat2(-100, os.fsencode(args[0]), -100, os.fsencode(args[1]), 1):
    raise OSError(ctypes.get_errno(), '')
"""


def write(path: Path, data: bytes) -> None:
    run("sh", "-c", 'cat > "$1"', "sh", path, data=data)


@pytest.mark.parametrize("commit", ["sync", "async"])
def test_what_the_kernel_has_cached_does_not_outlast_the_deadline(mounts: Mounts, commit: str) -> None:
    a = mounts.start("a", f"ttl=2,attr_timeout=60,revalidate=60,commit={commit},flush_delay=60")
    python(
        "import time\n"
        "one, other = args\n"
        "for path in args:\n"
        "    with open(path, 'w') as file: file.write('text')\n"
        "deadline = time.time() + 2\n"
        "try:\n"
        "    for path in args: os.stat(path), open(path).close()\n"
        "    os.listdir(os.path.dirname(one))\n"
        "except FileNotFoundError: pass\n"
        "time.sleep(max(0, deadline - time.time()))\n"
        "assert not os.path.exists(one)\n"
        "assert os.listdir(os.path.dirname(one)) == []\n"
        "try: open(one)\n"
        "except FileNotFoundError: pass\n"
        "else: raise AssertionError\n"
        "os.close(os.open(other, os.O_CREAT | os.O_EXCL | os.O_WRONLY))",
        a.root / "one",
        a.root / "other",
    )


def test_it_is_gone_on_every_host_while_handles_keep_it(mounts: Mounts) -> None:
    a, b = mounts.start("a", "ttl=1h,attr_timeout=0"), mounts.start("b", "attr_timeout=0")
    write(a.root / "f", CONTENT)
    assert run("cat", b.root / "f").stdout == CONTENT
    python(
        "path, there, *clocks = args\n"
        "with open(path, 'rb') as reader, open(path, 'ab', buffering=0) as writer:\n"
        "    writer.write(b'before'); os.fsync(writer.fileno())\n"
        "    for clock in clocks:\n"
        "        with open(clock, 'w') as file: file.write('3601')\n"
        "    for name in (path, there):\n"
        "        try: open(name)\n"
        "        except FileNotFoundError: pass\n"
        "        else: raise AssertionError(name)\n"
        "    assert os.listdir(os.path.dirname(there)) == os.listdir(os.path.dirname(path)) == []\n"
        "    size = os.fstat(reader.fileno()).st_size\n"
        "    writer.write(b'after'); os.fsync(writer.fileno())\n"
        "    data = reader.read()\n"
        "    assert data.endswith(b'beforeafter') and len(data) == size + 5\n"
        "    with open(there, 'x') as new: new.write('new')\n"
        "    writer.write(b'still'); os.fsync(writer.fileno())\n"
        "with open(path) as file: assert file.read() == 'new'",
        a.root / "f",
        b.root / "f",
        a.control / "clock",
        b.control / "clock",
    )
    assert run("cat", b.root / "f").stdout == b"new"
    assert "ERROR" not in a.log_text() + b.log_text()


@pytest.mark.parametrize("commit", ["sync", "async"])
def test_its_name_is_free(mounts: Mounts, commit: str) -> None:
    a = mounts.start("a", f"ttl=1h,attr_timeout=0,commit={commit},flush_delay=0")
    for name in ("x", "y", "z"):
        write(a.root / name, CONTENT)
    a.put_clock_ahead(1800)
    write(a.root / "source", b"later")
    assert failure(RENAME_NOREPLACE, a.root / "source", a.root / "x") == "EEXIST"
    a.put_clock_ahead(3601)
    assert failure(RENAME_NOREPLACE, a.root / "source", a.root / "x") == ""
    assert failure("os.close(os.open(args[0], os.O_CREAT | os.O_EXCL))", a.root / "y") == ""
    assert failure("os.mkdir(args[0])", a.root / "z") == ""
    assert sorted(run("ls", a.root).stdout.split()) == [b"x", b"y", b"z"]
    assert run("cat", a.root / "x").stdout == b"later"
    # What was renamed has kept its deadline.
    a.put_clock_ahead(1800 + 3601)
    assert sorted(run("ls", a.root).stdout.split()) == [b"y", b"z"]


def test_what_keeps_a_deadline_and_what_gives_another(mounts: Mounts) -> None:
    a = mounts.start("a", "ttl=1h,xattr")
    plain = mounts.start("plain", "xattr")

    def left() -> int:
        return int(python(f"print({TTL}.decode())", a.root / "f"))

    write(a.root / "f", CONTENT)
    assert 3000 < left() <= 3600
    for mount in (a, plain):
        mount.put_clock_ahead(1800)
    run("sh", "-c", 'cat >> "$1"', "sh", a.root / "f", data=b"more")
    python("with open(args[0], 'r+') as file: file.write('edited')", plain.root / "f")
    run("chmod", "600", a.root / "f")
    run("mv", a.root / "f", a.root / "g")
    run("mv", a.root / "g", a.root / "f")
    assert 1200 < left() <= 1800
    write(a.root / "f", b"replaced")
    assert 3000 < left() <= 3600
    write(plain.root / "f", b"replaced without a lifetime")
    assert failure(TTL, plain.root / "f") == "ENODATA"


def test_a_deadline_is_set_as_an_extended_attribute(mounts: Mounts) -> None:
    a = mounts.start("a", "xattr,attr_timeout=0")
    python(
        "path = args[0]\n"
        "with open(path, 'w') as file:\n"
        "    os.setxattr(path, 'user.stowfs.ttl', b'1h')\n"
        "    file.write('text')\n"
        "assert 3000 < int(os.getxattr(path, 'user.stowfs.ttl')) <= 3600\n"
        "os.removexattr(path, 'user.stowfs.ttl')\n"
        "assert os.listxattr(path) == []",
        a.root / "f",
    )
    assert failure(TTL, a.root / "f") == "ENODATA"
    assert failure("os.setxattr(args[0], 'user.stowfs.ttl', b'soon')", a.root / "f") == "EINVAL"
    assert failure("os.setxattr(args[0], 'user.stowfs.ttl', b'1h')", a.root) == "EPERM"
    python("os.setxattr(args[0], 'user.stowfs.ttl', b'2d')", a.root / "f")
    a.put_clock_ahead(86400)
    assert run("cat", a.root / "f").stdout == b"text"
    a.put_clock_ahead(2 * 86400 + 1)
    assert failure("os.stat(args[0])", a.root / "f") == "ENOENT"
