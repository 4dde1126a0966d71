"""`stowfs expire`, `put --ttl`, and what the other commands show of deadlines."""

import re
import time
from datetime import datetime
from pathlib import Path

import msgspec
import pytest
import trio

from stowfs.durations import parse_duration
from stowfs.errors import UsageError
from stowfs.store.base import Found
from stowfs.store.file import FileStore
from stowfs.vault import manifest as manifests
from stowfs.vault.naming import manifest_key
from tests.support.commands import Stow
from tests.vault.test_promises import log_lines

DAY = 86400.0


@pytest.fixture
def filled(stow: Stow, store: str) -> str:
    """A store with the conversations d/1, d/2 and kept."""
    for number, name in enumerate(("d/1", "d/2", "kept")):
        path = stow.directory / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(log_lines(500, number))
    stow.run("put", store, "in/.")
    return store


def seconds(text: str) -> float:
    """The time that a command shows."""
    return datetime.fromisoformat(text).timestamp()


def backdate(stow: Stow, name: str, age: float) -> None:
    """Sets the deadline of a conversation to `age` seconds ago, which no command does."""

    async def change() -> None:
        store = FileStore(stow.directory / "store")
        found = await store.get(manifest_key(name))
        assert isinstance(found, Found)
        snapshot = manifests.decode(name, found.etag, found.body)
        expires_ns = time.time_ns() - int(age * 1e9)
        attributes = msgspec.structs.replace(snapshot.attributes, expires_ns=expires_ns)
        manifest = msgspec.structs.replace(snapshot.manifest, attributes=attributes)
        await store.put(manifest_key(name), manifests.encode(manifest, snapshot.inline))
        await store.close()

    trio.run(change)


def test_a_deadline_is_set_shown_and_taken_back(stow: Stow, filled: str) -> None:
    (one, two) = stow.json("expire", filled, "d/1", "/conversations/d/2", "--at", "2131-01-31T18:30:00+01:00")
    assert one == {"id": "d/1", "expires": "2131-01-31T17:30:00Z"}
    assert two == {"id": "d/2", "expires": "2131-01-31T17:30:00Z"}
    assert stow.json("stat", filled, "d/1")["expires"] == "2131-01-31T17:30:00Z"
    assert re.search(r"^ +expires: 2131-01-31T17:30:00Z$", stow.run("stat", filled, "d/1").stdout, re.MULTILINE)
    assert "expires" not in stow.run("stat", filled, "kept").stdout
    assert stow.json("stat", filled, "kept")["expires"] is None
    assert [entry["expires"] for entry in stow.json("ls", filled, "d")] == ["2131-01-31T17:30:00Z"] * 2
    assert [line.split()[3] for line in stow.run("ls", "-l", filled, "d").stdout.splitlines()] == [one["expires"]] * 2
    assert stow.run("expire", filled, "d/1", "--never").stdout == "never                d/1\n"
    assert stow.json("stat", filled, "d/1")["expires"] is None


def test_a_deadline_after_so_long(stow: Stow, filled: str) -> None:
    before = time.time()
    (one,) = stow.json("expire", filled, "d/1", "--in", "12h")
    assert before - 1 < seconds(one["expires"]) - DAY / 2 <= time.time()


def test_every_command_agrees_that_it_is_gone(stow: Stow, filled: str) -> None:
    stow.run("expire", filled, "d/1", "--in", "1s")
    time.sleep(1.1)
    assert stow.run("ls", "-R", filled).stdout.split() == ["d/", "d/2", "kept"]
    for command in ("cat", "stat", "rm", "undelete"):
        assert "d/1: " in stow.error(command, filled, "d/1")
    assert "d/1: no such conversation" in stow.error("expire", filled, "d/1", "--never")
    stow.error("mv", filled, "d/1", "d/3")
    stow.run("get", filled, "/", "out")
    assert sorted(path.name for path in Path(stow.directory / "out").rglob("*")) == ["2", "d", "kept"]
    assert stow.json("du", filled)["conversations"] == 2
    checked = stow.json("fsck", filled)
    assert (checked["clean"], checked["conversations"], checked["expired"]) == (True, 2, 1)
    assert "2 conversations, 0 deleted, 1 expired" in stow.run("fsck", filled).stdout
    # Not yet: the clock of another host may be slow.
    assert stow.json("gc", filled, "--grace", "0", "--empty-trash")["expired"] == {"conversations": 0, "raw_bytes": 0}
    stow.run("mv", "-n", filled, "kept", "d/1")
    assert stow.run("cat", filled, "d/1").stdout.encode() == log_lines(500, 2)


def test_gc_gives_its_space_back(stow: Stow, filled: str) -> None:
    stow.run("rm", filled, "d/2")
    # By which it leaves the bundle that it was put into.
    stow.run("expire", filled, "d/1", "--in", "1d")
    backdate(stow, "d/1", DAY)
    backdate(stow, "d/2", DAY)
    assert stow.run("undelete", "--list", filled).stdout == ""
    dry = stow.json("gc", filled, "--grace", "0", "--dry-run")
    size = len(log_lines(500, 0)) + len(log_lines(500, 1))
    assert dry["expired"] == {"conversations": 2, "raw_bytes": size}
    assert "2 expired conversations would be given up" in stow.run("gc", filled, "--dry-run").stdout
    done = stow.json("gc", filled, "--grace", "0")
    assert done["expired"] == dry["expired"]
    assert done["emptied"]["conversations"] == 0
    assert done["freed"]["segments"] > 0
    assert stow.json("gc", filled, "--grace", "0")["expired"]["conversations"] == 0
    checked = stow.json("fsck", filled)
    assert (checked["clean"], checked["conversations"], checked["deleted"], checked["expired"]) == (True, 1, 0, 0)


def test_what_is_in_the_trash_is_kept_until_its_deadline(stow: Stow, filled: str) -> None:
    stow.run("expire", filled, "d/1", "--in", "1d")
    deadline = stow.json("stat", filled, "d/1")["expires"]
    stow.run("rm", "-r", filled, "d")
    kept = {entry["id"]: entry["kept_until"] for entry in stow.json("undelete", "--list", filled)}
    assert kept["d/1"] == deadline < kept["d/2"]
    stow.run("undelete", filled, "d/1")
    assert stow.json("stat", filled, "d/1")["expires"] == deadline


def test_put_with_a_lifetime(stow: Stow, filled: str) -> None:
    before = time.time()
    stow.run("put", "--ttl", "1d", filled, "in/d")
    for entry in stow.json("ls", filled, "d"):
        assert before - 1 < seconds(entry["expires"]) - DAY <= time.time()
    assert stow.json("stat", filled, "kept")["expires"] is None
    # What replaces it has a deadline of its own, or none.
    stow.run("put", filled, "in/d/1", "--to", "d")
    assert stow.json("stat", filled, "d/1")["expires"] is None


def test_one_that_is_not_there_does_not_keep_the_others(stow: Stow, filled: str) -> None:
    done = stow.run("expire", filled, "none", "d", "/", "d/1", "--in", "1d", status=1)
    said = done.stderr.splitlines()
    assert "none: no such conversation" in said[0]
    assert all("only conversations expire" in line for line in said[1:])
    assert len(said) == 3
    assert done.stdout.endswith(" d/1\n")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "by one of --in, --at and --never"),
        (["--in", "1d", "--never"], "by one of --in, --at and --never"),
        (["--in", "soon"], "write for example 90s"),
        (["--at", "soon"], "write for example 2026-01-31"),
        (["--at", "2001-01-01"], "that time is over"),
    ],
)
def test_times_that_make_no_sense_change_nothing(stow: Stow, filled: str, options: list[str], reason: str) -> None:
    done = stow.run("expire", filled, "d/1", *options, status=2)
    assert reason in done.stderr
    assert stow.json("stat", filled, "d/1")["expires"] is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("90s", 90), ("1.5m", 90), ("12h", 43200), ("7d", 7 * DAY), ("2W", 14 * DAY), (" 5 ", 5)],
)
def test_durations(text: str, expected: float) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize("text", ["", "s", "0", "0d", "-1d", "1y", "1 d", "1d2h", "1e3", "inf", "nan", "5300w", "९d"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError):
        parse_duration(text)
