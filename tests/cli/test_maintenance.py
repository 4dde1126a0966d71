"""`stowfs gc`, `undelete` and `fsck`."""

import fcntl
import json
import os
import re
from pathlib import Path

import pytest

from tests.support.commands import Stow
from tests.vault.test_promises import log_lines, noise

SHARED = log_lines(700, 1)
FILES = {"runs/1": SHARED + log_lines(600, 2), "runs/2": SHARED, "kept": log_lines(700, 3), "small": b"few bytes\n"}


@pytest.fixture
def filled(stow: Stow, store: str) -> str:
    """A store with FILES; `runs/1` and `runs/2` share segments."""
    for name, data in FILES.items():
        path = stow.directory / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    stow.run("put", store, "in/.")
    return store


def stored(stow: Stow) -> int:
    """Bytes of all objects."""
    return sum(path.stat().st_size for path in objects(stow))


def objects(stow: Stow, kind: str = "") -> list[Path]:
    top = stow.directory / "store"
    found = [path for path in top.joinpath(kind).rglob("*") if path.is_file()]
    return sorted(path for path in found if not path.relative_to(top).parts[0].startswith("."))


def text(stow: Stow, store: str, name: str) -> bytes:
    return stow.run("cat", store, name).stdout.encode()


def test_gc_gives_the_space_of_what_was_deleted_back(stow: Stow, filled: str) -> None:
    before = stored(stow)
    stow.run("rm", "-r", filled, "runs")
    nothing = stow.json("gc", filled, "--grace", "0")
    assert nothing["emptied"] == {"conversations": 0, "raw_bytes": 0}  # it is in the trash
    assert nothing["freed"] == {"segments": 0, "bytes": 0}
    dry = stow.json("gc", filled, "--empty-trash", "--grace", "0", "--dry-run")
    assert dry["dry_run"] is True
    assert dry["emptied"]["conversations"] == 2
    done = stow.json("gc", filled, "--empty-trash", "--grace", "0")
    assert done["emptied"] == dry["emptied"]
    assert done["emptied"]["raw_bytes"] == len(FILES["runs/1"]) + len(FILES["runs/2"])
    assert done["freed"]["bytes"] > 30_000
    assert done["kept"] == []
    assert stored(stow) < before - done["freed"]["bytes"] * 3 // 4
    assert text(stow, filled, "kept") == FILES["kept"]
    assert stow.json("fsck", filled)["findings"] == []


def test_gc_says_what_it_did(stow: Stow, filled: str) -> None:
    stow.run("rm", filled, "runs/1")
    done = stow.run("gc", filled, "--empty-trash")
    assert re.search(r"^1 deleted conversation given up \([0-9.]+ KiB raw\)$", done.stdout, re.MULTILINE)
    assert re.search(r"^[1-9]\d* segments? not needed, within the grace period \(", done.stdout, re.MULTILINE)
    assert done.stderr == ""  # no progress where there is no terminal
    dry = stow.run("gc", filled, "--grace", "0", "--dry-run").stdout
    assert re.search(r"^[1-9]\d* segments? would be freed \([0-9.]+ KiB\)$", dry, re.MULTILINE)


def test_gc_keeps_what_it_cannot_read(stow: Stow, filled: str) -> None:
    (stow.directory / "store" / "manifests" / "broken.json").write_bytes(b"no manifest")
    done = stow.run("gc", filled, "--json")
    (kept,) = json.loads(done.stdout)["kept"]
    assert kept["key"] == "manifests/broken.json"
    assert "stowfs: manifests/broken.json is kept: " in done.stderr


def test_gc_exclusively(stow: Stow, filled: str) -> None:
    stow.run("rm", filled, "small")
    done = stow.json("gc", filled, "--exclusive")
    assert done["removed"] == {"objects": 0, "bytes": 0}  # nothing is a month old


@pytest.mark.parametrize("command", [["gc"], ["fsck"], ["fsck", "--repair"]])
def test_exclusive_means_that_nothing_else_on_this_host_uses_the_store(
    command: list[str], stow: Stow, filled: str
) -> None:
    (slot,) = stow.state.glob("*/cli-0")
    other = slot.with_name("mount-other")
    other.mkdir(mode=0o700)
    with (other / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "mount-other is in use by" in stow.error(*command, filled, "--exclusive")
    stow.run(*command, filled, "--exclusive")


def test_undelete(stow: Stow, filled: str) -> None:
    stow.run("rm", "-r", filled, "runs")
    stow.run("rm", filled, "small")
    listed = stow.json("undelete", filled, "--list")
    assert [entry["id"] for entry in listed] == ["runs/1", "runs/2", "small"]
    assert listed[2]["size"] == len(FILES["small"])
    assert listed[2]["deleted"] < listed[2]["kept_until"]
    assert [entry["id"] for entry in stow.json("undelete", filled, "--list", "runs")] == ["runs/1", "runs/2"]
    assert stow.run("undelete", filled, "--list", "/").stdout.split()[-1] == "small"
    assert stow.run("undelete", filled, "small").stdout == "small\n"
    assert text(stow, filled, "small") == FILES["small"]
    assert stow.json("undelete", filled, "-r", "runs") == {"restored": ["runs/1", "runs/2"]}
    for name in ("runs/1", "runs/2"):
        assert text(stow, filled, name) == FILES[name]
    assert stow.json("undelete", filled, "--list") == []
    assert stow.json("fsck", filled)["findings"] == []


def test_what_cannot_be_brought_back_does_not_keep_the_others(stow: Stow, filled: str) -> None:
    stow.run("rm", filled, "small", "kept")
    (stow.directory / "kept").write_bytes(b"another")
    stow.run("put", filled, "kept")
    done = stow.run("undelete", filled, "nothing", "kept", "small", status=1)
    assert done.stdout == "small\n"
    assert "nothing: there is no deleted conversation of that name" in done.stderr
    assert "kept exists" in done.stderr
    assert text(stow, filled, "kept") == b"another"


def test_undelete_needs_to_be_told_what(stow: Stow, filled: str) -> None:
    assert "name what to bring back, or pass --list" in stow.error("undelete", filled, status=2)
    assert "pass -r" in stow.error("undelete", filled, "/", status=2)
    assert "nothing that was deleted below it" in stow.error("undelete", "-r", filled, "runs")


def test_fsck_of_a_sound_store(stow: Stow, filled: str) -> None:
    done = stow.run("fsck", filled)
    assert re.fullmatch(r"4 conversations, 0 deleted, 0 expired, \d+ segments \([0-9.]+ KiB\): clean\n", done.stdout)
    assert done.stderr == ""
    for options in ([], ["--repair"], ["--repair", "--exclusive"]):
        report = stow.json("fsck", filled, *options)
        assert report["clean"] is True
        assert report["complete"] is True
        assert report["conversations"] == 4


def test_fsck_names_damage_and_the_conversations_it_touches(stow: Stow, filled: str) -> None:
    damaged = objects(stow, "segments")[0]
    damaged.write_bytes(damaged.read_bytes()[:-20] + bytes(20))
    done = stow.run("fsck", filled, status=4)
    (line, summary) = done.stdout.splitlines()
    key = f"segments/{damaged.parent.name}/{damaged.name}"
    assert re.match(rf"corrupt: {key}: .* \[(kept|runs/1.*)\]: its bytes are nowhere in the store: .*$", line)
    assert summary.endswith(": 1 finding, 1 left")
    report = stow.json("fsck", filled, "--repair", "--exclusive", status=4)
    assert report["clean"] is False
    (finding,) = report["findings"]
    assert (finding["kind"], finding["key"], finding["repaired"]) == ("corrupt", key, False)
    assert finding["conversations"]
    assert "stored again" in finding["left"]


def test_fsck_repairs(stow: Stow, filled: str) -> None:
    low, high = objects(stow, "segments")[:2]
    for path, counted in ((low, 0), (high, 9)):
        header, _, payload = path.read_bytes().partition(b"\n")
        changed = json.loads(header) | {"ref_count": counted}
        path.write_bytes(json.dumps(changed).encode() + b"\n" + payload)
    kinds = [found["kind"] for found in stow.json("fsck", filled, "--grace", "0", status=4)["findings"]]
    assert kinds == ["count-too-low"]  # the other one may be that of a commit under way
    os.utime(high, (1, 1))
    assert {f["kind"]: f["left"] for f in stow.json("fsck", filled, "--grace", "0", status=4)["findings"]} == {
        "count-too-low": "not repaired: pass --repair",
        "count-too-high": "not repaired: pass --repair --exclusive while no host uses the store",
    }
    alone = stow.json("fsck", filled, "--exclusive", status=4)["findings"]
    assert {f["left"] for f in alone} == {"not repaired: pass --repair"}
    beside = stow.json("fsck", filled, "--repair", "--grace", "0", status=4)["findings"]
    assert {f["kind"]: f["repaired"] for f in beside} == {"count-too-low": True, "count-too-high": False}
    (finding,) = stow.json("fsck", filled, "--repair", "--exclusive")["findings"]
    assert (finding["kind"], finding["repaired"], finding["left"]) == ("count-too-high", True, None)
    assert stow.json("fsck", filled)["findings"] == []


def test_fsck_counts_again_what_nobody_counts_any_more(stow: Stow, filled: str) -> None:
    path = objects(stow, "segments")[0]
    header, _, payload = path.read_bytes().partition(b"\n")
    counted = json.loads(header)["ref_count"]
    path.write_bytes(json.dumps(json.loads(header) | {"ref_count": 256}).encode() + b"\n" + payload)
    assert stow.json("fsck", filled, "--exclusive")["findings"] == []
    assert "--recount needs --exclusive" in stow.error("fsck", filled, "--recount", "--repair", status=2)
    report = stow.json("fsck", filled, "--exclusive", "--recount", status=4)
    assert [(found["kind"], found["references"]) for found in report["findings"]] == [("uncounted", counted)]
    done = stow.run("fsck", filled, "--exclusive", "--recount", "--repair")
    assert (
        f"nobody counts it any more, and it is referenced {'once' if counted == 1 else f'{counted} times'}"
        in done.stdout
    )
    assert json.loads(path.read_bytes().partition(b"\n")[0])["ref_count"] == counted
    assert stow.json("fsck", filled, "--exclusive", "--recount")["findings"] == []


def test_fsck_says_where_it_could_not_count(stow: Stow, filled: str) -> None:
    manifest = stow.directory / "store" / "manifests" / "kept.json"
    manifest.write_bytes(manifest.read_bytes()[:-3])
    done = stow.run("fsck", filled, "--repair", "--exclusive", status=4)
    assert done.stdout.startswith("undecodable: manifests/kept.json: ")
    # No advice to try what was found to be of no use.
    assert stow.run("fsck", filled, "--exclusive", status=4).stdout == done.stdout
    assert "counts that are too high were not looked for" in done.stderr


def test_fsck_that_fails_is_no_clean_store(stow: Stow, store: str) -> None:
    assert "stowfs mkfs" in stow.error("fsck", (stow.directory / "nowhere").as_uri())
    (stow.directory / "store" / "stowfs.json").write_bytes(b"{}")
    assert "stowfs.json" in stow.error("fsck", store)


@pytest.mark.rgw
def test_on_s3(stow: Stow, rgw_url: str) -> None:
    store = f"{rgw_url}/prefix"
    # Without a dictionary, which would hold a part of what is collected.
    stow.run("mkfs", "--no-train", store)
    for name, data in {"bulky": noise(600_000), **FILES}.items():
        path = stow.directory / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    stow.run("put", store, "in/.")
    before = stow.json("du", store)
    assert before["stored"]["blobs"]["objects"] > 0
    stow.run("rm", "-r", store, "runs", "bulky")
    assert stow.json("undelete", store, "-r", "runs")["restored"] == ["runs/1", "runs/2"]
    assert stow.json("gc", store, "--empty-trash", "--grace", "0")["emptied"]["conversations"] == 1
    after = stow.json("du", store)
    assert "blobs" not in after["stored"]
    # What was brought back has left its bundle, which is written without it only after days.
    assert after["stored_bytes"] < before["stored_bytes"] - 550_000
    assert text(stow, store, "runs/1") == FILES["runs/1"]
    for options in ([], ["--repair", "--exclusive"]):
        report = stow.json("fsck", store, *options)
        assert report["findings"] == []
        assert report["conversations"] == 4
