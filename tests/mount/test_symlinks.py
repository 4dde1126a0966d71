"""Symbolic links on a real mount."""

import os
from pathlib import Path

import pytest

from tests.mount.test_programs import listing
from tests.support.mounting import Mounts, failure, python, run

pytestmark = pytest.mark.fuse

TARGET_LENGTH = 4095  # What symlink(2) takes.


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree with links of every kind, and times of its own."""
    tree = tmp_path / "tree"
    (tree / "d").mkdir(parents=True)
    (tree / "d" / "file").write_text("text\n")
    (tree / "relative").symlink_to("d/file")
    (tree / "to-directory").symlink_to("d")
    (tree / "d" / "up").symlink_to("../relative")
    (tree / "absolute").symlink_to(tree / "d" / "file")
    os.symlink(b"nowhere/\xff\n", tree / "dangling")
    run("find", tree, "-exec", "touch", "-h", "-d", "2022-03-04 05:06:07.891011", "{}", "+")
    return tree


def links(root: Path) -> bytes:
    """Every link below `root` with its target."""
    return b"\0".join(sorted(run("find", root, "-type", "l", "-printf", "%P -> %l\\0").stdout.split(b"\0")))


def test_links_are_followed_and_shown(mounts: Mounts) -> None:
    mount = mounts.start()
    root = mount.root
    run("mkdir", root / "d")
    run("tee", root / "d" / "file", data=b"text")
    run("ln", "-s", "d/file", root / "link")
    run("ln", "-s", "d", root / "directory")
    assert run("readlink", root / "link").stdout == b"d/file\n"
    assert run("cat", root / "link", root / "directory" / "file").stdout == b"texttext"
    assert run("stat", "-c", "%F %s %A %h", root / "link").stdout == b"symbolic link 6 lrwxrwxrwx 1\n"
    assert run("find", root, "-printf", "%P %y %Y\n", "-type", "l").stdout.splitlines()[1:] == [
        *sorted([b"d d d", b"d/file f f", b"directory l d", b"link l f"])
    ]
    run("tee", root / "link", data=b"written through it")
    assert run("cat", root / "d" / "file").stdout == b"written through it"
    mount.unmount()
    other = mounts.start("b").root
    assert run("readlink", other / "link", other / "directory").stdout == b"d/file\nd\n"
    assert run("cat", other / "link").stdout == b"written through it"


def test_errors(mounts: Mounts) -> None:
    mount = mounts.start()
    root = mount.root
    run("sh", "-c", 'cd "$1"; mkdir d; echo > file; ln -s file link; ln -s loop loop', "sh", root)
    for name in ("d", "file", "link"):
        assert failure("os.symlink('x', args[0])", root / name) == "EEXIST"
    assert failure("os.symlink('x', args[0])", root / "missing" / "x") == "ENOENT"
    assert failure("os.symlink('x', args[0])", root / "file" / "x") == "ENOTDIR"
    assert failure("os.readlink(args[0])", root / "file") == "EINVAL"
    assert failure("open(args[0])", root / "loop") == "ELOOP"
    assert failure("os.rmdir(args[0])", root / "link") == "ENOTDIR"
    assert failure("os.open(args[0], os.O_CREAT | os.O_EXCL)", root / "link") == "EEXIST"
    assert failure("os.symlink('x', args[0])", mount.mountpoint / "x") == "EROFS"
    longest = "t" * TARGET_LENGTH
    assert failure(f"os.symlink('t' * {TARGET_LENGTH}, args[0])", root / "long") == ""
    assert run("readlink", root / "long").stdout.decode() == longest + "\n"
    assert failure(f"os.symlink('t' * {TARGET_LENGTH + 1}, args[0])", root / "longer") == "ENAMETOOLONG"
    # A file that was created and not closed yet has the name already.
    code = "fd = os.open(args[0], os.O_CREAT | os.O_WRONLY)\nos.symlink('x', args[0])"
    assert failure(code, root / "new") == "EEXIST"


def test_a_link_is_renamed_removed_and_made_again(mounts: Mounts) -> None:
    mount = mounts.start()
    root = mount.root
    run("sh", "-c", 'cd "$1"; mkdir d; echo text > file; ln -s file link', "sh", root)
    run("mv", root / "link", root / "moved")
    assert run("readlink", root / "moved").stdout == b"file\n"
    run("ln", "-sfn", "d", root / "moved")
    assert run("readlink", root / "moved").stdout == b"d\n"
    run("mv", "-T", root / "moved", root / "file")
    assert run("stat", "-c", "%F", root / "file").stdout == b"symbolic link\n"
    run("rm", root / "file")
    run("tee", root / "file", data=b"a file again")
    assert run("cat", root / "file").stdout == b"a file again"
    run("mv", root / "d", root / "e")
    assert run("ls", "-A", root).stdout == b"e\nfile\n"


def test_another_host_replaces_a_link(mounts: Mounts) -> None:
    a, b = mounts.start("a", "attr_timeout=0"), mounts.start("b", "attr_timeout=0")
    run("ln", "-s", "first", a.root / "link")
    assert run("readlink", b.root / "link").stdout == b"first\n"
    run("ln", "-sfn", "second", a.root / "link")
    assert run("readlink", b.root / "link").stdout == b"second\n"
    run("rm", a.root / "link")
    run("tee", a.root / "link", data=b"a file")
    assert run("cat", b.root / "link").stdout == b"a file"


def test_owner_and_times_of_a_link_are_its_own(mounts: Mounts) -> None:
    mount = mounts.start()
    link = mount.root / "link"
    run("ln", "-s", "nowhere", link)
    run("chown", "-h", "12:34", link)
    run("touch", "-h", "-d", "@1600000000.123456789", link)
    assert run("stat", "-c", "%u %g %.9Y", link).stdout == b"12 34 1600000000.123456789\n"
    mount.unmount()
    again = mounts.start("b").root / "link"
    assert run("stat", "-c", "%u %g %.9Y", again).stdout == b"12 34 1600000000.123456789\n"
    assert run("readlink", again).stdout == b"nowhere\n"


@pytest.mark.parametrize(
    "copy",
    [
        'cp -a "$1/." "$2"',
        'rsync -a "$1/" "$2/"',
        'tar --format=posix -C "$1" -c . | tar -C "$2" -x',
    ],
    ids=["cp", "rsync", "tar"],
)
@pytest.mark.parametrize("commit", ["sync", "async"])
def test_programs_keep_links(mounts: Mounts, tree: Path, tmp_path: Path, copy: str, commit: str) -> None:
    mount = mounts.start("a", f"commit={commit}")
    assert run("sh", "-c", copy, "sh", tree, mount.root).stderr == b""
    assert links(mount.root) == links(tree)
    assert listing(mount.root) == listing(tree)
    back = tmp_path / "back"
    back.mkdir()
    run("sh", "-c", copy, "sh", mount.root, back)
    assert links(back) == links(tree)
    assert listing(back) == listing(tree)


def test_rsync_of_unchanged_links_writes_nothing(mounts: Mounts, tree: Path) -> None:
    mount = mounts.start()
    run("rsync", "-a", f"{tree}/", f"{mount.root}/")
    mount.requests()
    assert run("rsync", "-a", "--itemize-changes", f"{tree}/", f"{mount.root}/").stdout == b""
    assert not [request for request in mount.requests() if request.startswith("put")]


def test_git_keeps_links(mounts: Mounts, tree: Path) -> None:
    mount = mounts.start()
    repository = ["git", "-C", str(mount.root / "r"), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    run("cp", "-a", tree, mount.root / "r")
    run(*repository, "init", "-q")
    run(*repository, "add", "-A")
    run(*repository, "commit", "-q", "-m", "first")
    assert run(*repository, "ls-files", "-s", "to-directory").stdout.startswith(b"120000 ")
    run("git", "clone", "-q", mount.root / "r", mount.root / "clone")
    mount.unmount()
    root = mounts.start().root
    run("git", "-C", root / "clone", "fsck", "--strict")
    assert run("git", "-C", root / "clone", "status", "--porcelain").stdout == b""
    assert links(root / "clone") == links(tree)


def test_a_link_while_the_store_is_away(mounts: Mounts) -> None:
    mount = mounts.start()
    mount.break_store()
    assert failure("os.symlink('x', args[0])", mount.root / "link") == "EIO"
    mount.mend_store()
    assert python("os.symlink('x', args[0])\nprint(os.readlink(args[0]))", mount.root / "link") == "x"
