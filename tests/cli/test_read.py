"""`stowfs ls`, `cat`, `stat` and `du`."""

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import Stow
from tests.support.corpus import SAMPLES

DAY = "2026-01-02"


def chat(model: str, text: str = "hello") -> bytes:
    """A small conversation with a model."""
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}]
    return json.dumps({"model": model, "messages": messages}).encode()


@pytest.fixture
def filled(stow: Stow, store: str) -> str:
    """A store with a few conversations: two models, two directories, three times."""
    top = stow.directory / "in"
    for name, data, time in (
        ("red/1.json", chat("alpha-1"), 1_767_225_600),  # 2026-01-01
        ("red/2.json", chat("beta-1"), 1_767_312_000),  # 2026-01-02
        ("red/deep/3.json", chat("alpha-2"), 1_767_398_400),  # 2026-01-03
        ("note.txt", b"no conversation", 1_767_398_400),
    ):
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (time, time))
    stow.run("put", store, f"{top}/.")
    return store


def lines(stow: Stow, *arguments: str) -> list[str]:
    return stow.run("ls", *arguments).stdout.splitlines()


def test_ls(stow: Stow, filled: str) -> None:
    assert lines(stow, filled) == ["note.txt", "red/"]
    assert lines(stow, filled, "red") == ["1.json", "2.json", "deep/"]
    assert lines(stow, filled, "/conversations/red/deep/") == ["3.json"]
    assert lines(stow, filled, "red/1.json") == ["1.json"]
    assert lines(stow, filled, "red", "-R") == ["red/1.json", "red/2.json", "red/deep/", "red/deep/3.json"]
    assert "nothing: no such conversation or directory" in stow.error("ls", filled, "nothing")


def test_ls_of_an_empty_store(stow: Stow, store: str) -> None:
    assert lines(stow, store) == []
    assert stow.json("ls", store, "-R") == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--model", "alpha-*"], ["red/1.json", "red/deep/3.json"]),
        (["--model", "beta-1"], ["red/2.json"]),
        (["--since", DAY], ["note.txt", "red/2.json", "red/deep/3.json"]),
        (["--until", DAY], ["red/1.json"]),
        (["--since", DAY, "--until", "2026-01-02T00:00:01Z"], ["red/2.json"]),
        (["--since", "2026-01-02T01:00:00+01:00", "--model", "*"], ["note.txt", "red/2.json", "red/deep/3.json"]),
        (["--application", "nobody"], []),
        (["--limit", "2"], ["note.txt", "red/"]),
        (["--limit", "2", "--offset", "1"], ["red/", "red/1.json"]),
        (["--limit", "0"], []),
        (["--offset", "5"], ["red/deep/3.json"]),
    ],
)
def test_ls_narrowed(stow: Stow, filled: str, options: list[str], expected: list[str]) -> None:
    assert sorted(lines(stow, filled, "-R", *options)) == expected


def test_ls_long(stow: Stow, filled: str) -> None:
    directory, *_ = [line.split() for line in lines(stow, filled, "red", "-l") if line.endswith("/")]
    assert directory[0] == "drwxr-xr-x"
    assert directory[-1] == "deep/"
    first = lines(stow, filled, "red", "-l")[0].split()
    assert first == ["-rw-r--r--", str(len(chat("alpha-1"))), "2026-01-01T00:00:00Z", "-", "2", "alpha-1", "1.json"]


def test_ls_json(stow: Stow, filled: str) -> None:
    (entry,) = stow.json("ls", filled, "red", "--model", "beta-1")
    assert entry.pop("revision")
    assert entry.pop("uid") >= 0
    assert entry.pop("gid") >= 0
    assert entry.pop("format") != "bytes"
    assert entry == {
        "id": "red/2.json",
        "type": "conversation",
        "mode": "0644",
        "modified": "2026-01-02T00:00:00Z",
        "size": len(chat("beta-1")),
        "model": "beta-1",
        "application": None,
        "messages": 2,
        "time": None,
        "expires": None,
    }


def test_cat(stow: Stow, filled: str) -> None:
    expected = (chat("alpha-1") + b"no conversation").decode()
    assert stow.run("cat", filled, "red/1.json", "note.txt").stdout == expected
    assert "red is a directory" in stow.error("cat", filled, "red")
    assert "no such conversation" in stow.error("cat", filled, "red/9.json")
    done = stow.run("cat", filled, "red/9.json", "red/1.json", "red", "note.txt", status=1)
    assert done.stdout == expected
    assert [line.split()[1] for line in done.stderr.splitlines()] == ["red/9.json:", "red"]


def test_cat_of_many_segments_is_byte_for_byte(stow: Stow, store: str) -> None:
    data = b"".join(chat("m", f"{number} " + "z" * (number % 3000)) + b"\n" for number in range(6000))
    assert len(data) > 8 << 20
    (stow.directory / "large.jsonl").write_bytes(data)
    stow.run("put", store, "large.jsonl")
    assert stow.run("cat", store, "large.jsonl").stdout.encode() == data


def test_cat_goes_on_after_one_that_is_damaged(stow: Stow, store: str) -> None:
    (stow.directory / "damaged").write_bytes(random.Random(1).randbytes(1 << 20))
    (stow.directory / "whole").write_bytes(b"whole")
    stow.run("put", store, "damaged", "whole")
    for kind in ("segments", "blobs"):
        shutil.rmtree(stow.directory / "store" / kind)
    done = stow.run("cat", store, "damaged", "whole", status=1)
    assert done.stdout == "whole"
    assert done.stderr.count("\n") == 1


def test_stat(stow: Stow, filled: str) -> None:
    known = stow.json("stat", filled, "red/1.json")
    assert (known["size"], known["segments"], known["inline_bytes"]) == (len(chat("alpha-1")),) * 1 + (0, known["size"])
    assert known["stored_bytes"] == known["manifest_bytes"] + known["segment_bytes"]
    alone = stow.json("stat", filled, "note.txt")
    assert alone["manifest_bytes"] == (stow.directory / "store/manifests/note.txt.json").stat().st_size
    text = stow.run("stat", filled, "red/1.json").stdout
    assert "model: alpha-1\n" in text
    assert stow.json("stat", filled, "red")["type"] == "directory"
    # Of the top directory nothing is stored.
    top = stow.json("stat", filled, "/")
    assert (top["id"], top["modified"], top["changed"]) == ("", None, None)
    assert "modified" not in stow.run("stat", filled, "/").stdout


def test_stat_of_segments_counts_what_lies_in_the_store(stow: Stow, store: str) -> None:
    (stow.directory / "random").write_bytes(os.urandom(1 << 20))
    stow.run("put", store, "random")
    known = stow.json("stat", store, "random")
    assert known["segments"] == len(list((stow.directory / "store/segments").glob("*/*")))
    assert known["segments"] > 1
    assert (1 << 20) <= known["segment_bytes"] + known["inline_bytes"] < (1 << 20) + 4096


def test_du_counts_every_byte_of_the_directory(stow: Stow, store: str) -> None:
    stow.run("put", store, SAMPLES)
    used = stow.json("du", store)
    files = [path for path in (stow.directory / "store").rglob("*") if path.is_file() and path.stat().st_size]
    assert used["objects"] == len(files)
    assert used["stored_bytes"] == sum(path.stat().st_size for path in files)
    assert used["raw_bytes"] == sum(path.stat().st_size for path in SAMPLES.rglob("*") if path.is_file())
    assert used["ratio"] == round(used["raw_bytes"] / used["stored_bytes"], 3)
    assert sum(kind["bytes"] for kind in used["stored"].values()) == used["stored_bytes"]
    assert f"{used['raw_bytes']:,} bytes" in stow.run("du", store).stdout


def test_du_of_parts(stow: Stow, store: str) -> None:
    stow.run("put", store, SAMPLES)
    whole = stow.json("du", store)
    parts: list[Any] = [stow.json("du", store, f"samples/{path.name}") for path in sorted(SAMPLES.iterdir())]
    for key in ("raw_bytes", "conversations"):
        assert sum(part[key] for part in parts) == whole[key]


def test_du_counts_a_shared_segment_in_every_part_that_uses_it(stow: Stow, store: str) -> None:
    # The same bytes each time: how much of the end is inline depends on where they are cut.
    (stow.directory / "random").write_bytes(random.Random(1).randbytes(1 << 20))
    for directory in ("one", "two"):
        stow.run("put", store, "random", "--to", directory)
    whole = stow.json("du", store)
    assert 1.5 < whole["ratio"] < 2
    parts = [stow.json("du", store, path) for path in ("one", "two/random")]
    assert [(part["raw_bytes"], part["conversations"]) for part in parts] == [(1 << 20, 1)] * 2
    of_parts = [part["stored"]["blobs"]["bytes"] for part in parts]
    assert max(of_parts) <= whole["stored"]["blobs"]["bytes"] < sum(of_parts)


def test_du_of_an_empty_store(stow: Stow, store: str) -> None:
    used = stow.json("du", store)
    assert (used["conversations"], used["raw_bytes"], used["objects"]) == (0, 0, 1)
    assert "ratio" not in stow.run("du", store).stdout


def test_reading_leaves_the_store_as_it_is(stow: Stow, filled: str) -> None:
    def state() -> dict[str, bytes]:
        root = stow.directory / "store"
        return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    before = state()
    stow.run("ls", filled, "-R")
    stow.run("cat", filled, "note.txt")
    stow.run("du", filled)
    stow.run("get", filled, "/", "out")
    assert state() == before


def test_an_id_may_begin_with_conversations(stow: Stow, filled: str, tmp_path: Path) -> None:
    assert stow.run("cat", filled, "conversations/note.txt").stdout == "no conversation"
    (tmp_path / "own").write_text("mine")
    stow.run("put", filled, "own", "--to", "conversations")
    assert stow.run("cat", filled, "conversations/own").stdout == "mine"
    assert stow.run("cat", filled, "/conversations/conversations/own").stdout == "mine"
    assert stow.run("cat", filled, "conversations/note.txt").stdout == "no conversation"


def test_a_symbolic_link(stow: Stow, store: str) -> None:
    tree = stow.directory / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(b"text")
    os.symlink(b"file", tree / "link")
    os.symlink(b"not \xff text", tree / "odd")
    for link in ("link", "odd"):
        os.utime(tree / link, ns=(10**18, 10**18), follow_symlinks=False)
    stow.run("put", store, "tree")
    assert lines(stow, store, "tree") == ["file", "link", "odd"]
    link = lines(stow, store, "tree", "-l")[1].split()
    assert link == ["lrwxrwxrwx", "4", "2001-09-09T01:46:40Z", "-", "-", "-", "link", "->", "file"]
    assert lines(stow, store, "tree", "--model", "*") == ["file"]
    known = stow.json("stat", store, "tree/link")
    assert (known["type"], known["target"], known["mode"]) == ("symlink", "file", "0777")
    assert os.fsencode(stow.json("stat", store, "tree/odd")["target"]) == b"not \xff text"
    assert "target: file" in stow.run("stat", store, "tree/link").stdout
    assert "tree/link is a symbolic link to file" in stow.error("cat", store, "tree/link")
    usage = stow.json("du", store)
    assert (usage["conversations"], usage["directories"], usage["symlinks"], usage["raw_bytes"]) == (1, 1, 2, 4)
    stow.run("mv", store, "tree/link", "tree/moved")
    stow.run("rm", store, "tree/moved")
    assert [entry["id"] for entry in stow.json("undelete", store, "--list")] == ["tree/moved"]
    stow.run("undelete", store, "tree/moved")
    assert stow.json("stat", store, "tree/moved")["target"] == "file"
    assert stow.json("fsck", store)["clean"]
    stow.run("rm", store, "-r", "tree")
    stow.run("gc", store, "--empty-trash")
    assert stow.json("undelete", store, "--list") == []
