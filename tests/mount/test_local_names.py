"""Files that are kept out of the store by their names."""

import json
from pathlib import Path

import pytest

from stowfs.mount.local_names import DEFAULT, LocalNames
from tests.support.mounting import Mount, Mounts, failure, python, run

pytestmark = pytest.mark.fuse

COMMITS = ["sync", "async"]


def writes(mount: Mount) -> list[str]:
    """The keys of all objects that were written since the last call."""
    run(
        "python3", "-c", "import os, sys; fd = os.open(sys.argv[1], os.O_RDONLY); os.fsync(fd)", mount.root
    )  # with commit=async, this is what waits for the store
    return [request.split()[1] for request in mount.requests() if request.startswith("put")]


def names(root: Path) -> list[str]:
    return run("ls", "-A", root).stdout.decode().split()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (".notes.md.swp", True),
        (".notes.md.swo", True),
        (".notes.md.swx", True),
        (".notes.md.swpx", True),
        (".swp", True),
        ("4913", True),
        ("d/e/4913", True),
        (".nfs000000000000012300000001", True),
        (".fuse_hidden0000000100000001", True),
        ("notes.md.swp", False),
        (".notes.swift", False),
        ("4913.json", False),
        (".nfs-notes", False),
        (".git", False),
        ("4913/x", False),
    ],
)
def test_the_default(name: str, expected: bool) -> None:
    assert LocalNames(DEFAULT).match(name) is expected


@pytest.mark.parametrize("commit", COMMITS)
def test_they_are_files_like_any_other_here_and_nowhere_else(mounts: Mounts, commit: str) -> None:
    mount = mounts.start("a", f"commit={commit}")
    other = mounts.start("b")
    file = mount.root / ".f.swp"
    run("mkdir", mount.root / "d")
    writes(mount)
    run("tee", file, data=b"text")
    run("sh", "-c", 'printf more >> "$1"; chmod 600 "$1"; touch -d @1600000000 "$1"', "sh", file)
    assert run("cat", file).stdout == b"textmore"
    assert run("stat", "-c", "%s %a %Y", file).stdout == b"8 600 1600000000\n"
    python("fd = os.open(args[0], os.O_RDWR)\nos.pwrite(fd, b'T', 0)\nos.fsync(fd)\nos.ftruncate(fd, 4)", file)
    run("truncate", "-s", "6", file)
    assert run("cat", file).stdout == b"Text\0\0"
    run("mv", file, mount.root / "d" / ".g.swp")
    assert (names(mount.root), names(mount.root / "d")) == (["d"], [".g.swp"])
    assert failure("os.rmdir(args[0])", mount.root / "d") == "ENOTEMPTY"
    assert failure("open(args[0], 'x')", mount.root / "d" / ".g.swp") == "EEXIST"
    stats = json.loads(run("cat", mount.mountpoint / ".stowfs" / "stats.json").stdout)
    assert (stats["local_files"], stats["uncommitted_files"]) == (1, 0)
    assert names(other.root / "d") == []
    run("mv", mount.root / "d", mount.root / "e")
    writes(mount)
    assert run("cat", mount.root / "e" / ".g.swp").stdout == b"Text\0\0"
    run("rm", mount.root / "e" / ".g.swp")
    assert names(mount.root / "e") == []
    assert writes(mount) == []
    stats = json.loads(run("cat", mount.mountpoint / ".stowfs" / "stats.json").stdout)
    assert (stats["local_files"], stats["spool_bytes"]) == (0, 0)
    assert "ERROR" not in mount.log_text()


@pytest.mark.parametrize("commit", COMMITS)
def test_renaming_one_to_an_ordinary_name_is_one_commit(mounts: Mounts, commit: str) -> None:
    mount = mounts.start("a", f"commit={commit},local=*.tmp")
    run("tee", mount.root / "old", data=b"old")
    # Over another one, a first request learns that there is one.
    for name, requests in (("new", 1), ("old", 2)):
        writes(mount)
        temporary = mount.root / f"{name}.tmp"
        run("sh", "-c", 'printf text > "$1"; chmod 640 "$1"; mv -T "$1" "$2"', "sh", temporary, mount.root / name)
        assert writes(mount) == [f"manifests/{name}.json"] * requests
        assert run("cat", mount.root / name).stdout == b"text"
    assert names(mount.root) == ["new", "old"]
    mount.unmount()
    other = mounts.start("b").root
    assert run("stat", "-c", "%a", other / "new").stdout == b"640\n"
    assert run("cat", other / "new", other / "old").stdout == b"texttext"


@pytest.mark.parametrize("commit", COMMITS)
def test_a_rename_while_it_is_open(mounts: Mounts, commit: str) -> None:
    mount = mounts.start("a", f"commit={commit},local=*.tmp")
    code = (
        "os.chdir(args[0])\n"
        "fd = os.open('f.tmp', os.O_CREAT | os.O_RDWR)\n"
        "os.write(fd, b'before ')\n"
        "os.rename('f.tmp', 'f')\n"
        "os.write(fd, b'after')\n"
        "os.close(fd)"
    )
    python(code, mount.root)
    mount.unmount()
    assert run("cat", mounts.start("b").root / "f").stdout == b"before after"


def test_a_rename_that_fails_changes_nothing(mounts: Mounts) -> None:
    mount = mounts.start("a", "local=*.tmp")
    run("mkdir", mount.root / "d")
    run("tee", mount.root / "there", data=b"there")
    run("tee", mount.root / "f.tmp", data=b"text")
    assert failure("os.rename(args[0], args[1])", mount.root / "f.tmp", mount.root / "d") == "EISDIR"
    assert run("mv", "-n", mount.root / "f.tmp", mount.root / "there").returncode == 0
    mount.break_store()
    assert failure("os.rename(args[0], args[1])", mount.root / "f.tmp", mount.root / "there") == "EIO"
    mount.mend_store()
    assert run("cat", mount.root / "f.tmp", mount.root / "there").stdout == b"textthere"
    run("mv", mount.root / "f.tmp", mount.root / "there")
    assert run("cat", mount.root / "there").stdout == b"text"


def test_what_is_stored_stays_stored_under_any_name(mounts: Mounts) -> None:
    mount = mounts.start("a", "local=*.tmp")
    run("tee", mount.root / "f", data=b"stored")
    run("tee", mount.root / "f.tmp", data=b"local")
    run("mv", mount.root / "f", mount.root / "f.tmp")
    assert names(mount.root) == ["f.tmp"]
    run("sh", "-c", 'printf " and more" >> "$1"', "sh", mount.root / "f.tmp")
    mount.unmount()
    assert run("cat", mounts.start("b").root / "f.tmp").stdout == b"stored and more"


def test_they_go_with_the_mount(mounts: Mounts) -> None:
    mount = mounts.start()
    run("tee", mount.root / ".f.swp", data=b"text")
    mount.unmount()
    assert names(mounts.start().root) == []
    again = mounts.start("b")
    run("tee", again.root / ".f.swp", data=b"text")
    again.kill()
    assert names(mounts.start("b").root) == []
    spool = list(mounts.directory.glob("*/state/*/*/spool/*"))
    assert spool == []


def test_none_if_none_are_wanted(mounts: Mounts) -> None:
    mount = mounts.start("a", "local=")
    writes(mount)
    run("tee", mount.root / ".f.swp", data=b"text")
    assert writes(mount) == ["manifests/.f.swp.json"]


def test_a_conversation_called_4913_is_stored(mounts: Mounts) -> None:
    mount = mounts.start()
    writes(mount)
    run("sh", "-c", 'touch "$1" && rm "$1"', "sh", mount.root / "4913")
    assert writes(mount) == []
    run("tee", mount.root / "4913", data=b"text")
    assert writes(mount) == ["manifests/4913.json"]


def test_vim_leaves_nothing_but_the_file(mounts: Mounts) -> None:
    mount = mounts.start()
    file = mount.root / "notes.md"
    run("tee", file, data=b"one\ntwo\n")
    writes(mount)
    # With a swap file, as by default; and no backup, which is a file of its own.
    edit = ("vim", "-u", "NONE", "-n", "-es", "-c", "set swapfile updatecount=1 nowritebackup", "-c", "2s/two/2/")
    run(*edit, "-c", "wq", file)
    assert run("cat", file).stdout == b"one\n2\n"
    assert set(writes(mount)) == {"manifests/notes.md.json"}
    assert names(mount.root) == ["notes.md"]


def test_rsync_with_its_pattern_is_one_commit_a_file(mounts: Mounts, tmp_path: Path) -> None:
    mount = mounts.start("a", "local=.*.??????")
    source = tmp_path / "source"
    source.mkdir()
    for number in range(3):
        (source / f"f{number}").write_text(f"text {number}")
    writes(mount)
    run("rsync", "-a", f"{source}/", f"{mount.root}/")
    written = [key for key in writes(mount) if key != "manifests/.json"]
    assert sorted(written) == [f"manifests/f{number}.json" for number in range(3)]
    assert run("rsync", "-ai", f"{source}/", f"{mount.root}/").stdout == b""
