"""Dictionaries by the command line: made by `put`, and by `train`."""

from pathlib import Path

import pytest

from tests.support.commands import Stow
from tests.support.dictionaries import conversation

COUNT = 700
"""Conversations of 1.8 KB."""


@pytest.fixture
def conversations(stow: Stow) -> Path:
    """A directory that is enough to train on."""
    top = stow.directory / "in"
    top.mkdir()
    for number in range(COUNT):
        (top / f"{number}.jsonl").write_bytes(conversation(number))
    return top


def dictionaries(stow: Stow, store: str) -> int:
    kinds = stow.json("du", store)["stored"]
    return kinds["dictionaries"]["objects"] if "dictionaries" in kinds else 0


def read_elsewhere(stow: Stow, store: str, name: str, tmp_path: Path) -> bytes:
    """What a host reads that has never seen the store."""
    return stow.run("cat", store, name, env={"STOWFS_STATE_DIR": str(tmp_path / "s")}).stdout.encode()


def test_put_trains_before_it_stores(stow: Stow, store: str, conversations: Path, tmp_path: Path) -> None:
    assert stow.json("put", store, "in/.")["files"] == COUNT
    assert dictionaries(stow, store) == 1
    (made,) = (stow.directory / "store/dictionaries").iterdir()
    found = list((stow.directory / "store/manifests").rglob("*.json"))
    assert len(found) == COUNT
    # The number of the dictionary follows the magic number of a zstd frame and its first byte.
    number = bytes.fromhex(made.name[:8])[::-1]
    assert all(path.read_bytes()[5:9] == number for path in found)
    assert read_elsewhere(stow, store, "3.jsonl", tmp_path) == conversation(3)
    stow.run("get", store, "/", "out")
    for path in conversations.iterdir():
        assert (stow.directory / "out" / path.name).read_bytes() == path.read_bytes()
    assert stow.json("fsck", store)["findings"] == []


def test_train_by_hand(stow: Stow, conversations: Path) -> None:
    stow.run("mkfs", "--no-train", "store")
    stow.run("put", "store", "in/.")
    assert dictionaries(stow, "store") == 0
    done = stow.json("train", "store")
    assert done["used"] is True
    assert done["after"] + done["dictionary"]["stored_bytes"] < done["before"]
    assert dictionaries(stow, "store") == 1
    before = (stow.directory / "store/manifests/1.jsonl.json").stat().st_size
    stow.run("put", "store", "in/1.jsonl", "--to", "again")
    assert (stow.directory / "store/manifests/again/1.jsonl.json").stat().st_size < before
    # Again: nothing to gain.
    assert "is not used" in stow.run("train", "store").stdout
    assert dictionaries(stow, "store") == 1
    assert stow.run("cat", "store", "2.jsonl").stdout.encode() == conversation(2)


def test_too_little_to_train_on(stow: Stow, store: str) -> None:
    done = stow.json("train", store)
    assert done == {"used": False, "dictionary": None, "before": None, "after": None}
    assert "too little" in stow.run("train", store).stdout


def test_fsck_names_what_a_lost_dictionary_touches(stow: Stow, store: str, conversations: Path) -> None:
    stow.run("put", store, "in/.")
    (made,) = (stow.directory / "store/dictionaries").iterdir()
    made.unlink()
    (finding,) = stow.json("fsck", store, status=4)["findings"]
    assert finding["kind"] == "lost-dictionary"
    assert finding["key"] == f"dictionaries/{made.name}"
    assert len(finding["conversations"]) == COUNT
