"""Programs people use, on a real mount: each does what it does on a local disk, and says nothing."""

import shutil
from pathlib import Path

import pytest

from tests.support.corpus import SAMPLES
from tests.support.mounting import Mounts, run

pytestmark = pytest.mark.fuse


def listing(root: Path) -> bytes:
    """Names, modes, owners, sizes and times of everything below `root`."""
    found = run("find", root, "-mindepth", "1", "-printf", "%P %M %U %G %T@ %y\n").stdout
    return b"\n".join(sorted(found.splitlines()))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree with times of its own."""
    tree = tmp_path / "tree"
    shutil.copytree(SAMPLES / "chat", tree)
    run("find", tree, "-exec", "touch", "-d", "2022-03-04 05:06:07.891011", "{}", "+")
    return tree


def test_cp_a(mounts: Mounts, tree: Path) -> None:
    mount = mounts.start()
    result = run("cp", "-a", tree, mount.root)
    assert result.stderr == b""
    run("diff", "-r", tree, mount.root / "tree")
    assert listing(mount.root / "tree") == listing(tree)


def test_rsync(mounts: Mounts, tree: Path) -> None:
    mount = mounts.start()
    assert run("rsync", "-a", f"{tree}/", f"{mount.root}/").stderr == b""
    assert listing(mount.root) == listing(tree)
    mount.requests()
    assert run("rsync", "-a", "--itemize-changes", f"{tree}/", f"{mount.root}/").stdout == b""
    assert not [request for request in mount.requests() if request.startswith("put")]
    victim = next(path for path in sorted(tree.rglob("*")) if path.is_file())
    victim.write_bytes(victim.read_bytes() + b"\n")
    changed = run("rsync", "-a", "--itemize-changes", f"{tree}/", f"{mount.root}/").stdout.decode().splitlines()
    assert [line.split()[1] for line in changed if line.startswith(">f")] == [str(victim.relative_to(tree))]
    run("diff", "-r", tree, mount.root)


def test_tar(mounts: Mounts, tree: Path, tmp_path: Path) -> None:
    mount = mounts.start()
    run("sh", "-c", 'tar --format=posix -C "$1" -c . | tar -C "$2" -x', "sh", tree, mount.root)
    run("diff", "-r", tree, mount.root)
    assert listing(mount.root) == listing(tree)
    run("tar", "--format=posix", "-C", mount.root, "-cf", tmp_path / "out.tar", ".")
    run("tar", "-C", tree, "-df", tmp_path / "out.tar")


def test_vim(mounts: Mounts) -> None:
    mount = mounts.start()
    file = mount.root / "notes.md"
    run("dd", f"of={file}", "status=none", data=b"one\ntwo\nthree\n")
    run("vim", "-u", "NONE", "-es", "-c", "2s/two/2/", "-c", "wq", file)
    assert run("cat", file).stdout == b"one\n2\nthree\n"
    assert run("ls", "-A", mount.root).stdout == b"notes.md\n"


def test_sed_in_place_and_grep(mounts: Mounts, tree: Path) -> None:
    mount = mounts.start()
    run("cp", "-r", f"{tree}/.", mount.root)
    run("sh", "-c", 'find "$1" -type f -exec sed -i "s/e/E/g" {} +', "sh", mount.root)
    run("sh", "-c", 'find "$1" -type f -exec sed -i "s/e/E/g" {} +', "sh", tree)
    run("diff", "-r", tree, mount.root)
    assert run("grep", "-rc", "E", mount.root).stdout.count(b"\n") == run("grep", "-rc", "E", tree).stdout.count(b"\n")


def test_git(mounts: Mounts, tree: Path) -> None:
    mount = mounts.start()
    run("cp", "-r", tree, mount.root)
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    repository = ["git", "-C", str(mount.root / "tree")]
    run(*repository, "init", "-q")
    run(*repository, "add", "-A")
    run(*repository, *identity, "commit", "-q", "-m", "first")
    run(*repository, "fsck", "--strict")
    assert run(*repository, "status", "--porcelain").stdout == b""
