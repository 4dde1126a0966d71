"""`stowfs put` and `get`."""

import json
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


def two_runs(tree: Path) -> None:
    """Two directories with files of the same names in them, and one of its own in each."""
    for name, text in (("1", "first"), ("2", "second")):
        (tree / name / "logs").mkdir(parents=True)
        for file in ("x.json", "logs/same", f"logs/only-{name}"):
            (tree / name / file).write_text(text)


def test_what_would_be_stored_under_the_name_of_another_fails(stow: Stow, store: str, tree: Path) -> None:
    two_runs(tree)
    done = stow.json("put", store, "tree/1/x.json", "tree/2/x.json", status=1)
    assert (done["files"], [error["name"] for error in done["errors"]]) == (1, ["tree/2/x.json"])
    assert "would replace what tree/1/x.json puts at x.json" in done["errors"][0]["error"]
    assert stow.run("cat", store, "x.json").stdout == "first"
    done = stow.json("put", store, "tree/2/logs", "tree/1/logs", "--to", "a", status=1)
    assert (done["files"], [error["name"] for error in done["errors"]]) == (3, ["tree/1/logs/same"])
    assert stow.run("cat", store, "a/logs/only-1", "a/logs/only-2", "a/logs/same").stdout == "firstsecondsecond"
    done = stow.json("put", store, "tree/1/.", "tree/2/x.json", "--to", "b", status=1)
    assert [error["name"] for error in done["errors"]] == ["tree/2/x.json"]
    assert stow.run("cat", store, "b/x.json").stdout == "first"
    # Nor does a file take the place of a directory, or the other way round.
    (tree / "1/y").mkdir()
    (tree / "2/y").touch()
    for one, other in (("1", "2"), ("2", "1")):
        done = stow.json("put", store, f"tree/{one}/y", f"tree/{other}/y", "--to", f"c{one}", status=1)
        assert len(done["errors"]) == 1
    # What is the same file replaces nothing.
    assert stow.json("put", store, "tree/1/x.json", "tree/1/./x.json", "tree/1", "tree/1/")["files"] == 4


def test_what_would_be_copied_to_the_name_of_another_fails(stow: Stow, store: str, tree: Path) -> None:
    two_runs(tree)
    stow.run("put", store, "tree/1", "tree/2")
    done = stow.json("get", store, "1/x.json", "2/x.json", "1/x.json", "out", status=1)
    assert (done["files"], [error["name"] for error in done["errors"]]) == (1, ["2/x.json"])
    assert f"would replace what 1/x.json puts at {stow.directory}/out/x.json" in done["errors"][0]["error"]
    assert (stow.directory / "out/x.json").read_text() == "first"
    done = stow.json("get", store, "2/logs", "1/logs", "out", status=1)
    assert (done["files"], [error["name"] for error in done["errors"]]) == (3, ["1/logs/same"])
    assert (stow.directory / "out/logs/same").read_text() == "second"
    # What was there before is replaced.
    stow.run("get", store, "2/x.json", "1/logs", "out")
    assert (stow.directory / "out/x.json").read_text() == "second"
    assert (stow.directory / "out/logs/same").read_text() == "first"


def test_a_store_is_not_copied_into_itself(stow: Stow, tree: Path) -> None:
    stow.run("mkfs", "tree/a/store")
    (stow.directory / "link").symlink_to("tree/a/store")
    for location, name, found in (
        ("tree/a/store", "tree", "tree/a/store"),
        ("link", "tree/.", "tree/./a/store"),
        ("tree/a/store", "link", "link"),
        ((tree / "a/store").as_uri(), "tree/a/store/.", "tree/a/store/."),
    ):
        done = stow.json("put", location, name, status=1)
        assert [(error["name"], "into" in error["error"]) for error in done["errors"]] == [(found, True)]
    ids = [entry["id"] for entry in stow.json("ls", "tree/a/store", "-R")]
    assert {"tree/a/one", "a/one"} <= set(ids)
    assert not any("store" in id for id in ids)


@pytest.mark.parametrize("name", ["tree/fifo", "/dev/null"])
def test_a_special_file_that_is_named_fails(stow: Stow, store: str, tree: Path, name: str) -> None:
    os.mkfifo(tree / "fifo")
    done = stow.json("put", store, name, "tree/empty", status=1)
    assert [error["name"] for error in done["errors"]] == [name]
    assert "no regular file" in done["errors"][0]["error"]
    assert (done["files"], done["skipped"]) == (1, [])


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


def test_what_is_in_the_way_of_a_copy_is_named(stow: Stow, store: str, tree: Path) -> None:
    (tree / "link").symlink_to("empty")
    stow.run("put", store, "tree")
    for name in ("empty", "link"):
        (stow.directory / "out/tree" / name).mkdir(parents=True)
    done = stow.json("get", store, "tree", "out", status=1)
    assert {error["name"]: error["error"] for error in done["errors"]} == {
        f"tree/{name}": f"{stow.directory}/out/tree/{name}: Is a directory" for name in ("empty", "link")
    }
    assert not any(name.startswith(".stowfs") for name in os.listdir(stow.directory / "out/tree"))


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
    assert done["errors"] == [{"name": "nothing", "error": "no such conversation or directory"}]
    assert done["files"] == 1


@pytest.mark.parametrize("name", ["nothing/x", "/nothing/x/", "o", os.fsdecode(b"caf\xe9")])
def test_what_fails_is_named_once(stow: Stow, store: str, name: str) -> None:
    done = stow.run("get", store, name, "out", "--json", status=1)
    reason = "no such conversation or directory"
    shown = os.fsencode(name).decode(errors="backslashreplace")
    assert json.loads(done.stdout)["errors"] == [{"name": name, "error": reason}]
    assert done.stderr == f"stowfs: {shown}: {reason}\n"


def test_a_path_that_is_not_there_is_named_once(stow: Stow, store: str) -> None:
    done = stow.run("put", store, "nowhere", "--json", status=1)
    assert json.loads(done.stdout)["errors"] == [{"name": "nowhere", "error": "No such file or directory"}]
    assert done.stderr == "stowfs: nowhere: No such file or directory\n"
