"""`stowfs put` and `get`."""

import os
import shutil
import socket
from pathlib import Path

import pytest

from tests.support.commands import Stow
from tests.support.corpus import SAMPLES, samples
from tests.support.mounting import run

RAW = sum(path.stat().st_size for path in samples())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with files of several sizes, modes and times, and directories in it."""
    top = tmp_path / "tree"
    for name, data, mode in (
        ("empty", b"", 0o644),
        ("a/one", b"\x00\xff" * 5, 0o600),
        ("a/b/large.bin", os.urandom(5 << 20), 0o640),
        ("a/b/ünïcode \n name.json", b"{}", 0o444),
    ):
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(mode)
        os.utime(path, ns=(1, 1_600_000_000_123_456_789))
    (top / "void").mkdir(mode=0o750)
    for directory in (top / "a/b", top / "a", top / "void", top):
        os.utime(directory, ns=(1, 1_500_000_000_000_000_000))
    return top


def described(top: Path) -> dict[str, tuple[int, int, bytes | None]]:
    """Mode, time and content of everything below a directory, by relative path."""
    return {
        str(path.relative_to(top)): (
            path.stat().st_mode,
            path.stat().st_mtime_ns,
            path.read_bytes() if path.is_file() else None,
        )
        for path in [top, *top.rglob("*")]
    }


def test_a_tree_comes_back_with_modes_and_times(stow: Stow, store: str, tree: Path) -> None:
    put = stow.json("put", store, "tree")
    size = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())
    assert put.pop("seconds") > 0
    assert put == {"files": 4, "directories": 4, "bytes": size, "errors": [], "skipped": []}
    got = stow.json("get", store, "tree", "out/deep")
    assert (got["files"], got["directories"], got["bytes"], got["errors"]) == (4, 4, size, [])
    assert described(stow.directory / "out/deep/tree") == described(tree)


def test_a_time_that_cannot_be_stored_becomes_the_nearest_that_can(stow: Stow, store: str, tree: Path) -> None:
    os.utime(tree / "a/one", ns=(0, 10_000_000_000_000_000_000))  # in the year 2286
    stow.run("put", store, "tree/a/one")
    stow.run("get", store, "one", "out")
    assert (stow.directory / "out/one").stat().st_mtime_ns == (1 << 63) - 1
    assert (stow.directory / "out/one").read_bytes() == (tree / "a/one").read_bytes()


def test_samples_there_and_back(stow: Stow, store: str) -> None:
    put = stow.json("put", store, f"{SAMPLES}/.", "--to", "all/of them")
    assert put["bytes"] == RAW + (SAMPLES / "PROVENANCE.md").stat().st_size
    stow.run("get", store, "all/of them", "out")
    run("diff", "-r", SAMPLES, stow.directory / "out/of them")


def test_where_things_go(stow: Stow, store: str, tree: Path) -> None:
    stow.run("put", store, "tree/a/one", "tree/a/", "--to", "/conversations/x/y/")
    stow.run("put", store, f"{tree}/.")
    ids = [entry["id"] for entry in stow.json("ls", store, "-R") if entry["type"] == "conversation"]
    below_a = ["b/large.bin", "b/ünïcode \n name.json", "one"]
    assert sorted(ids) == sorted(["empty", "x/y/one"] + [f"{a}/{name}" for a in ("a", "x/y/a") for name in below_a])


def test_get_of_everything_and_of_single_conversations(stow: Stow, store: str, tree: Path) -> None:
    stow.run("put", store, f"{tree}/.")
    stow.run("get", store, "/", "whole")
    copied, original = described(stow.directory / "whole"), described(tree)
    # The directory that is given is the user's, and stays as it is.
    del copied["."], original["."]
    assert copied == original
    stow.run("get", store, "a/one", "/conversations/empty", "conversations/a/b/large.bin", "single")
    assert sorted(path.name for path in (stow.directory / "single").iterdir()) == ["empty", "large.bin", "one"]


def test_put_replaces_and_leaves_what_others_made(stow: Stow, store: str, tree: Path) -> None:
    stow.run("put", store, "tree")
    (tree / "a/one").write_bytes(b"longer than it was before")
    (tree / "a/b/large.bin").unlink()
    stow.run("put", store, "tree")
    assert stow.run("cat", store, "tree/a/one").stdout == "longer than it was before"
    assert stow.json("stat", store, "tree/a/b/large.bin")["size"] == 5 << 20


def test_one_file_that_fails_does_not_keep_the_others(stow: Stow, store: str, tree: Path) -> None:
    stow.run("put", store, "tree/empty", "--to", "in/the/way")
    (tree / "way").mkdir()
    (tree / "way/empty").mkdir()
    (tree / "way/empty/below").touch()
    (tree / "x").write_bytes(b"x" * 10)
    # Longer than a key can be: each percent sign takes three bytes there.
    directory, long = "%" * 100, "%" * 255
    (tree / directory).mkdir()
    (tree / directory / long).touch()
    done = stow.json(
        "put", store, "tree/way", "tree/x", f"tree/{directory}", "tree/nowhere", "--to", "in/the", status=1
    )
    assert done["files"] == 1
    failed = {os.path.basename(error["name"]): error["error"] for error in done["errors"]}
    assert sorted(failed) == sorted(["empty", "below", long, "nowhere"])
    assert "No such file" in failed["nowhere"]
    assert "too long" in failed[long]
    assert stow.run("cat", store, "in/the/x").stdout == "x" * 10
    assert stow.json("stat", store, "in/the/way/empty")["type"] == "conversation"


def test_special_files_are_skipped_with_a_note(stow: Stow, store: str, tree: Path) -> None:
    os.mkfifo(tree / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(tree / "socket"))
        done = stow.run("put", store, "tree")
    assert "put: 4 files, 5.0 MiB in " in done.stdout
    assert "2 skipped" in done.stdout
    assert sorted(line.rpartition("/")[2] for line in done.stderr.splitlines()) == [
        "fifo: skipped: not a regular file",
        "socket: skipped: not a regular file",
    ]


def test_symbolic_links_are_copied_as_they_are(stow: Stow, store: str, tree: Path) -> None:
    os.symlink(b"nowhere/\xff", tree / "dangling")
    (tree / "directory").symlink_to("a")
    (tree / "a" / "up").symlink_to("/etc/passwd")
    for link in ("dangling", "directory", "a/up"):
        os.utime(tree / link, ns=(10**18, 10**18), follow_symlinks=False)
    assert stow.json("put", store, "tree")["files"] == 7
    (tree / "directory").unlink()
    (tree / "directory").symlink_to("a/b")
    assert stow.json("put", store, "tree")["files"] == 7
    assert stow.json("get", store, "tree", "out")["files"] == 7
    out = stow.directory / "out/tree"
    assert os.readlink(os.fsencode(out / "dangling")) == b"nowhere/\xff"
    assert (os.readlink(out / "directory"), os.readlink(out / "a" / "up")) == ("a/b", "/etc/passwd")
    assert os.lstat(out / "a" / "up").st_mtime_ns == 10**18
    # Again, over what is there.
    assert stow.json("get", store, "tree", "out")["errors"] == []
    assert sorted(os.listdir(out)) == ["a", "dangling", "directory", "empty", "void"]
    # One that is named is meant for what it leads to.
    (tree / "link").symlink_to("empty")
    stow.run("put", store, "tree/link")
    assert stow.json("stat", store, "link")["type"] == "conversation"


def test_a_link_in_a_store_does_not_lead_what_is_copied_outside(stow: Stow, store: str, tree: Path) -> None:
    """A store may hold a link and a directory of the same name, if somebody hostile wrote it."""
    outside = stow.directory / "outside"
    outside.mkdir()
    stow.run("put", store, "tree")
    for name in ("link", "evil"):
        (tree / name).symlink_to(outside)
        stow.run("put", store, f"{tree}/.", "--to", "tree")
    manifests = stow.directory / "store/manifests/tree"
    (manifests / "evil").mkdir()
    shutil.copy(manifests / "empty.json", manifests / "evil/inside.json")
    for _ in range(2):
        done = stow.json("get", store, "tree", "out", status=1)
        assert "evil" in done["errors"][0]["name"]
        assert list(outside.iterdir()) == []
    assert os.readlink(stow.directory / "out/tree/link") == str(outside)


def test_get_writes_nothing_outside_its_directory(stow: Stow, store: str, tree: Path) -> None:
    outside = stow.directory / "outside"
    (outside / "b").mkdir(parents=True)
    stow.run("put", store, "tree")
    target = stow.directory / "out/tree"
    target.mkdir(parents=True)
    (target / "a").symlink_to(outside)
    (target / "empty").symlink_to(outside / "file")
    done = stow.json("get", store, "tree", "out", status=1)
    assert done["files"] == 1
    assert sorted(error["name"] for error in done["errors"]) == sorted(
        [f"{target}/a", f"{target}/a/b", "tree/a/one", "tree/a/b/large.bin", "tree/a/b/ünïcode \n name.json"]
    )
    assert [str(path.relative_to(outside)) for path in outside.rglob("*")] == ["b"]
    assert not (target / "empty").is_symlink()


def test_a_name_with_dots_is_refused(stow: Stow, store: str) -> None:
    assert "may not contain '..'" in stow.error("get", store, "../x", "out", status=2)
    assert "may not contain '..'" in stow.error("put", store, "mnt", "--to", "a/../../b", status=2)


def test_a_file_that_cannot_be_read_whole_does_not_appear(stow: Stow, store: str, tree: Path) -> None:
    stow.run("put", store, "tree")
    damaged = list((stow.directory / "store").glob("blobs/*/*/*")) + list(
        (stow.directory / "store").glob("segments/*/*")
    )
    assert damaged
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-20] + bytes(20))
    done = stow.json("get", store, "tree", "out", status=1)
    assert [error["name"] for error in done["errors"]] == ["tree/a/b/large.bin"]
    assert done["files"] == 3
    assert list((stow.directory / "out/tree/a/b").iterdir()) == [stow.directory / "out/tree/a/b/ünïcode \n name.json"]


def test_set_user_id_is_not_taken_from_a_store(stow: Stow, store: str, tree: Path) -> None:
    (tree / "empty").chmod(0o4755)
    stow.run("put", store, "tree/empty")
    stow.run("get", store, "empty", "out")
    assert (stow.directory / "out/empty").stat().st_mode & 0o7777 == 0o755


def test_get_of_what_is_not_there_still_gets_the_rest(stow: Stow, store: str, tree: Path) -> None:
    stow.run("put", store, "tree/empty")
    done = stow.json("get", store, "nothing", "empty", "out", status=1)
    assert [error["name"] for error in done["errors"]] == ["nothing"]
    assert done["files"] == 1
