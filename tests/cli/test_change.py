"""`stowfs mkfs`, `rm`, `mv` and `doctor`."""

import pytest

from tests.support.commands import Stow


@pytest.fixture
def filled(stow: Stow, store: str) -> str:
    """A store with the conversations a/1, a/b/2 and c."""
    for name in ("a/1", "a/b/2", "c"):
        path = stow.directory / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    stow.run("put", store, "in/.")
    return store


def ids(stow: Stow, store: str) -> list[str]:
    return stow.run("ls", store, "-R").stdout.split()


def test_mkfs_makes_a_store_once(stow: Stow) -> None:
    made = stow.json("mkfs", "new")
    assert made["created"] is True
    assert made["store"] == (stow.directory / "new").as_uri()
    assert "is a store already" in stow.error("mkfs", "new")
    assert stow.json("mkfs", "new", "--if-missing") == {**made, "created": False}
    assert "is a stowfs store already" in stow.run("mkfs", "new", "--if-missing").stdout


def test_mkfs_needs_the_directory_above(stow: Stow) -> None:
    assert "cannot be made" in stow.error("mkfs", "no/where")
    (stow.directory / "file").touch()
    assert "cannot be made" in stow.error("mkfs", "file")


def test_rm(stow: Stow, filled: str) -> None:
    stow.run("rm", filled, "c", "/conversations/a/1")
    assert ids(stow, filled) == ["a/", "a/b/", "a/b/2"]
    assert "a is a directory: pass -r" in stow.error("rm", filled, "a")
    stow.run("rm", filled, "-r", "a")
    assert ids(stow, filled) == []


def test_rm_goes_on_after_what_is_not_there(stow: Stow, filled: str) -> None:
    assert "nothing: no such conversation" in stow.error("rm", filled, "nothing", "c")
    assert ids(stow, filled) == ["a/", "a/1", "a/b/", "a/b/2"]
    stow.run("rm", "-f", filled, "nothing")


def test_rm_of_everything(stow: Stow, filled: str) -> None:
    stow.run("rm", "-r", filled, "/")
    assert ids(stow, filled) == []


def test_mv_of_a_conversation(stow: Stow, filled: str) -> None:
    stow.run("mv", filled, "c", "a/d")
    assert ids(stow, filled) == ["a/", "a/1", "a/b/", "a/b/2", "a/d"]
    stow.run("mv", filled, "a/d", "a/b")
    assert stow.run("cat", filled, "a/b/d").stdout == "c"


def test_mv_replaces_unless_told_not_to(stow: Stow, filled: str) -> None:
    stow.error("mv", "-n", filled, "c", "a/1")
    assert stow.run("cat", filled, "a/1").stdout == "a/1"
    stow.run("mv", filled, "c", "a/1")
    assert stow.run("cat", filled, "a/1").stdout == "c"
    assert ids(stow, filled) == ["a/", "a/1", "a/b/", "a/b/2"]


def test_mv_of_a_directory(stow: Stow, filled: str) -> None:
    stow.run("mv", filled, "a", "z")
    assert ids(stow, filled) == ["c", "z/", "z/1", "z/b/", "z/b/2"]
    stow.run("mv", filled, "z/b", "/")
    assert ids(stow, filled) == ["b/", "b/2", "c", "z/", "z/1"]


@pytest.mark.parametrize(
    ("old", "new", "status"), [("a", "a/b", 2), ("a", "a", 2), ("/", "x", 2), ("c", "c", 2), ("no", "x", 1)]
)
def test_mv_that_makes_no_sense(stow: Stow, filled: str, old: str, new: str, status: int) -> None:
    before = ids(stow, filled)
    stow.error("mv", filled, old, new, status=status)
    assert ids(stow, filled) == before


def test_doctor_finds_a_store_well(stow: Stow, store: str) -> None:
    found = stow.json("doctor", store)
    assert found["ok"] is True
    assert all(check["ok"] for check in found["checks"])
    names = ["fuse", "pyfuse3", "open files", "state", "cache"]
    of_store = ["descriptor", "conditional writes", "conditional delete", "listing", "latency"]
    assert [check["name"] for check in found["checks"]] == names + of_store
    assert [check["name"] for check in stow.json("doctor")["checks"]] == names


def test_doctor_says_what_is_broken(stow: Stow) -> None:
    (stow.directory / "file").touch()
    done = stow.run("doctor", "nothing", status=1, env={"STOWFS_CACHE_DIR": str(stow.directory / "file")})
    broken = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("BROKEN")]
    assert broken == ["cache", "store"]
    assert "set STOWFS_CACHE_DIR to a directory" in done.stdout
    assert done.stderr == ""


def test_doctor_finds_a_descriptor_missing_and_looks_on(stow: Stow) -> None:
    (stow.directory / "empty").mkdir()
    checks = {check["name"]: check for check in stow.json("doctor", "empty", status=1)["checks"]}
    assert "stowfs mkfs" in checks["descriptor"]["detail"]
    assert checks["conditional writes"]["ok"] is True
