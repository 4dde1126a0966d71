"""Extended attributes on a real mount."""

import json
import struct
from pathlib import Path

import pytest

from tests.support.commands import Stow, stow
from tests.support.corpus import SAMPLES
from tests.support.mounting import Mounts, failure, python, run

pytestmark = pytest.mark.fuse

__all__ = ["stow"]

ACL = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, 6, 0xFFFFFFFF) for tag in (0x01, 0x04, 0x20))
"""A list that says no more than a mode: owner, group and others may read and write."""

SHOW = "print(sorted((n, os.getxattr(args[0], n)) for n in os.listxattr(args[0])))"


def shown(path: Path) -> str:
    return python(SHOW, path)


def test_without_the_option_there_are_none(mounts: Mounts) -> None:
    mount = mounts.start()
    run("touch", mount.root / "f")
    assert failure("os.setxattr(args[0], 'user.a', b'x')", mount.root / "f") == "ENOTSUP"
    assert failure("os.getxattr(args[0], 'user.a')", mount.root / "f") == "ENOTSUP"
    assert failure("os.listxattr(args[0])", mount.root / "f") == "ENOTSUP"


@pytest.mark.parametrize("commit", ["sync", "async"])
def test_set_list_change_and_remove(mounts: Mounts, commit: str) -> None:
    mount = mounts.start("a", f"xattr,commit={commit}")
    file, directory = mount.root / "f", mount.root / "d"
    run("tee", file, data=b"text")
    run("mkdir", directory)
    for path in (file, directory):
        python("os.setxattr(args[0], 'user.b', bytes(range(256)))\nos.setxattr(args[0], b'user.\\xff a', b'')", path)
        assert shown(path) == str(sorted([("user.b", bytes(range(256))), ("user.\udcff a", b"")]))
        assert failure("os.setxattr(args[0], 'user.b', b'x', os.XATTR_CREATE)", path) == "EEXIST"
        assert failure("os.setxattr(args[0], 'user.c', b'x', os.XATTR_REPLACE)", path) == "ENODATA"
        assert failure("os.setxattr(args[0], 'user.b', b'x', os.XATTR_REPLACE)", path) == ""
        assert failure("os.setxattr(args[0], 'user.c', b'y', os.XATTR_CREATE)", path) == ""
        assert failure("os.removexattr(args[0], b'user.\\xff a')", path) == ""
        assert failure("os.removexattr(args[0], b'user.\\xff a')", path) == "ENODATA"
        assert failure("os.getxattr(args[0], b'user.\\xff a')", path) == "ENODATA"
    mount.unmount()
    again = mounts.start("b", "xattr").root
    for name in ("f", "d"):
        assert shown(again / name) == "[('user.b', b'x'), ('user.c', b'y')]"
    assert run("cat", again / "f").stdout == b"text"


def test_other_name_spaces_and_limits(mounts: Mounts) -> None:
    mount = mounts.start("a", "xattr")
    file = mount.root / "f"
    run("touch", file)
    for name in ("security.selinux", "trusted.a", "system.posix_acl_access"):
        value = ACL if "acl" in name else b"x"
        assert failure(f"os.setxattr(args[0], {name!r}, {value!r})", file) == "ENOTSUP", name
        assert failure(f"os.getxattr(args[0], {name!r})", file) == "ENOTSUP", name
    assert failure("os.setxattr(args[0], 'user.a', bytes(60000))", file) == ""
    assert failure("os.setxattr(args[0], 'user.b', bytes(6000))", file) == "ENOSPC"
    assert failure("os.setxattr(args[0], 'user.a', bytes(65537))", file) in ("E2BIG", "ERANGE")
    assert shown(file) == str([("user.a", bytes(60000))])
    too_small = (
        "import ctypes\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "if libc.getxattr(os.fsencode(args[0]), b'user.a', ctypes.create_string_buffer(10), 10) < 0:\n"
        "    raise OSError(ctypes.get_errno(), '')"
    )
    assert failure(too_small, file) == "ERANGE"


def test_what_is_not_stored_has_none(mounts: Mounts) -> None:
    mount = mounts.start("a", "xattr")
    for path in (mount.mountpoint, mount.mountpoint / ".stowfs" / "stats.json"):
        assert shown(path) == "[]"
        assert failure("os.setxattr(args[0], 'user.a', b'x')", path) == "EROFS"
    listed = run("ls", "-lR", mount.mountpoint / ".stowfs")
    assert listed.stderr == b""


@pytest.mark.parametrize("copy", ['cp -a "$1" "$2"', 'rsync -aX "$1/" "$2/"'], ids=["cp", "rsync"])
@pytest.mark.parametrize("commit", ["sync", "async"])
def test_copies_keep_them(mounts: Mounts, copy: str, commit: str) -> None:
    mount = mounts.start("a", f"xattr,commit={commit}")
    script = (
        "os.mkdir(args[0])\n"
        "open(args[0] + '/f', 'wb').write(b'text')\n"
        "os.symlink('f', args[0] + '/link')\n"
        "for name in ('', '/f'): os.setxattr(args[0] + name, 'user.origin', b'a\\0b')\n"
        # What its entries do to a directory's time is not stored, and rsync compares the seconds.
        "os.utime(args[0], (1e9, 1e9))"
    )
    python(script, mount.root / "from")
    assert run("sh", "-c", copy, "sh", mount.root / "from", mount.root / "to").stderr == b""
    for name in ("", "f"):
        assert shown(mount.root / "to" / name) == "[('user.origin', b'a\\x00b')]"
    mount.unmount()
    again = mounts.start("b", "xattr")
    for name in ("", "f"):
        assert shown(again.root / "to" / name) == "[('user.origin', b'a\\x00b')]"
    again.requests()
    if "rsync" in copy:
        run("sh", "-c", copy, "sh", again.root / "from", again.root / "to")
        assert not [request for request in again.requests() if request.startswith("put")]


def test_a_new_file_and_its_attributes_are_one_commit(mounts: Mounts) -> None:
    mount = mounts.start("a", "xattr")
    code = (
        "fd = os.open(args[0], os.O_CREAT | os.O_WRONLY)\n"
        "os.write(fd, b'text')\n"
        "os.setxattr(fd, 'user.a', b'x')\n"
        "assert os.getxattr(fd, 'user.a') == b'x'\n"
        "os.close(fd)"
    )
    mount.requests()
    python(code, mount.root / "f")
    assert len([request for request in mount.requests() if request.startswith("put")]) == 1
    assert shown(mount.root / "f") == "[('user.a', b'x')]"


def test_what_is_known_of_a_conversation(mounts: Mounts, stow: Stow) -> None:
    mount = mounts.start("a", "xattr")
    source = next(iter(sorted((SAMPLES / "mixed" / "claude-code-jsonl").glob("9cc4*"))))
    run("cp", source, mount.root / "session.jsonl")
    known = stow.json("stat", mounts.store.as_uri(), "session.jsonl")
    assert known["model"]
    assert known["messages"] > 10
    for name in ("format", "model", "application", "messages", "segments", "stored_bytes", "revision"):
        code = f"print(os.getxattr(args[0], 'user.stowfs.{name}').decode())"
        if known[name] is None:
            assert failure(code, mount.root / "session.jsonl") == "ENODATA"
        else:
            assert python(code, mount.root / "session.jsonl") == str(known[name]), name
        assert failure(f"os.setxattr(args[0], 'user.stowfs.{name}', b'x')", mount.root / "session.jsonl") == "EPERM"
    assert failure("os.removexattr(args[0], 'user.stowfs.model')", mount.root / "session.jsonl") == "EPERM"
    assert failure("os.getxattr(args[0], 'user.stowfs.nonsense')", mount.root / "session.jsonl") == "ENODATA"
    assert failure("os.getxattr(args[0], 'user.stowfs.model')", mount.root) == "ENODATA"
    # Not listed: whoever copies all attributes must not find them.
    assert shown(mount.root / "session.jsonl") == "[]"


def test_a_file_that_is_not_stored_yet(mounts: Mounts) -> None:
    mount = mounts.start("a", "xattr")
    code = "fd = os.open(args[0], os.O_CREAT | os.O_RDWR)\nos.write(fd, b'text')\nos.getxattr(fd, 'user.stowfs.format')"
    assert failure(code, mount.root / "f") == "ENODATA"
    assert json.loads(run("cat", mount.mountpoint / ".stowfs" / "config.json").stdout)["options"]["xattr"] is True


def test_a_lifetime(mounts: Mounts, stow: Stow) -> None:
    mount = mounts.start("a", "xattr")
    file = mount.root / "f"
    store = mounts.store.as_uri()
    run("tee", file, data=b"text")
    left = "print(os.getxattr(args[0], 'user.stowfs.ttl').decode())"
    assert failure(left, file) == "ENODATA"
    assert failure("os.removexattr(args[0], 'user.stowfs.ttl')", file) == "ENODATA"
    for nonsense in ("soon", "0", "-1", "\xff"):
        assert failure(f"os.setxattr(args[0], 'user.stowfs.ttl', {nonsense.encode('latin-1')!r})", file) == "EINVAL"
    assert failure("os.setxattr(args[0], 'user.stowfs.ttl', b'1d')", mount.root) == "EPERM"
    python("os.setxattr(args[0], 'user.stowfs.ttl', b'2h')", file)
    assert 7000 < int(python(left, file)) <= 7200
    assert stow.json("stat", store, "f")["expires"]
    run("sh", "-c", 'printf " and more" >> "$1"', "sh", file)
    assert 7000 < int(python(left, file)) <= 7200
    python("os.removexattr(args[0], 'user.stowfs.ttl')", file)
    assert stow.json("stat", store, "f")["expires"] is None
    # Before it is stored, too: one commit. It is gone when its time has come.
    mount.requests()
    code = (
        "fd = os.open(args[0], os.O_CREAT | os.O_WRONLY)\n"
        "os.setxattr(fd, 'user.stowfs.ttl', b'3s')\n"
        "os.write(fd, b'text')\n"
        "os.close(fd)"
    )
    python(code, mount.root / "short")
    assert len([request for request in mount.requests() if request.startswith("put")]) == 1
    run("sh", "-c", 'while [ -e "$1" ]; do sleep 0.2; done', "sh", mount.root / "short")
    assert "no such conversation" in stow.error("stat", store, "short")
