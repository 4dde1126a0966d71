"""`stowfs flush`, and mounts with `commit=async` whose store goes away, as a user meets them."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import COMMAND_TIMEOUT, Stow
from tests.support.s3_servers import S3Server
from tests.support.wire import Wire, wire

pytestmark = pytest.mark.fuse

CONTENT = b'{"role": "user", "content": "what was said"}\n' * 2000

ASYNC = "commit=async,flush_delay=3600,timeout=5"


@pytest.fixture
def line(rgw: S3Server, rgw_url: str, stow: Stow) -> Iterator[Wire]:
    """Between `stow` and the S3 server."""
    with wire(rgw.endpoint) as line:
        stow.environment["AWS_ENDPOINT_URL"] = line.endpoint
        yield line


def write(path: Path, data: bytes) -> None:
    subprocess.run(["tee", path], input=data, stdout=subprocess.DEVNULL, timeout=COMMAND_TIMEOUT, check=True)


def read(path: Path) -> bytes:
    return subprocess.run(["cat", path], capture_output=True, timeout=COMMAND_TIMEOUT, check=True).stdout


def kill(stow: Stow) -> None:
    """Ends the daemon as a crash does."""
    pid = stow.daemon()
    os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + COMMAND_TIMEOUT
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    stow.close()


def test_flushing_a_mount(stow: Stow, store: str, mountpoint: Path) -> None:
    stow.run("mount", store, mountpoint, "-o", ASYNC)
    write(mountpoint / "conversations" / "x", CONTENT)
    assert stow.run("ls", store).stdout == ""
    said = stow.run("flush", mountpoint / "conversations").stdout
    assert said == f"{mountpoint}: everything is in the store\n"
    assert stow.run("cat", store, "x").stdout.encode() == CONTENT
    assert stow.json("flush", mountpoint) == {"mountpoint": str(mountpoint), "flushed": True}
    stow.run("umount", mountpoint)


def test_what_a_mount_left_is_stored_without_one(stow: Stow, store: str, mountpoint: Path) -> None:
    stow.run("mount", store, mountpoint, "-o", ASYNC)
    write(mountpoint / "conversations" / "x", CONTENT)
    write(mountpoint / "conversations" / "y", CONTENT[:100])
    assert stow.json("flush", store) == {
        "stored": 0,
        "left": 0,
        "settled_commits": 0,
        "unsettled_commits": 0,
        "busy": 1,
    }
    kill(stow)
    assert stow.run("flush", store).stdout == "2 conversations stored, 0 commits settled\n"
    assert stow.run("cat", store, "x").stdout.encode() == CONTENT
    assert stow.run("cat", store, "y").stdout.encode() == CONTENT[:100]
    assert stow.run("flush", store).stdout == "0 conversations stored, 0 commits settled\n"


def test_a_mount_point_at_which_something_waits_is_not_given_to_another_store(
    stow: Stow, store: str, mountpoint: Path, tmp_path: Path
) -> None:
    stow.run("mount", store, mountpoint, "-o", ASYNC)
    write(mountpoint / "conversations" / "x", CONTENT)
    kill(stow)
    other = f"file://{tmp_path}/other"
    said = stow.error("mount", other, mountpoint)
    assert said.startswith(f"1 conversations written at {mountpoint} wait for another store, {store} ")
    assert f"'stowfs flush {store}'" in said
    stow.run("flush", store)
    stow.run("mount", other, mountpoint)
    stow.run("umount", mountpoint)


def test_written_while_the_store_is_away_and_read_back_after_a_kill(
    stow: Stow, rgw_url: str, line: Wire, mountpoint: Path
) -> None:
    stow.run("mkfs", rgw_url)
    stow.run("mount", rgw_url, mountpoint, "-o", ASYNC)
    new, old = mountpoint / "conversations" / "d" / "new", mountpoint / "conversations" / "old"
    new.parent.mkdir()
    write(old, CONTENT)
    stow.run("flush", mountpoint)
    with new.open("wb") as file, old.open("ab") as appended:
        line.set("refusing")
        file.write(CONTENT[:500])
        appended.write(b"and more\n")
    assert read(new) == CONTENT[:500]
    kill(stow)
    stow.run("mount", rgw_url, mountpoint, "-o", ASYNC)
    assert read(new) == CONTENT[:500]
    assert read(old).endswith(b"and more\n")
    assert "is not flushed: Input/output error: what is left is safe on this host" in stow.error("flush", mountpoint)
    said = stow.run("umount", mountpoint).stdout
    assert "2 conversations not in the store yet, but safe on this host" in said
    # Without a backlog, a store that does not answer cannot be mounted.
    (mountpoint.parent / "elsewhere").mkdir()
    stow.error("mount", rgw_url, mountpoint.parent / "elsewhere")
    line.set("up")
    stow.run("mount", rgw_url, mountpoint, "-o", "commit=async")
    stow.run("flush", mountpoint)
    assert stow.run("cat", rgw_url, "old").stdout.encode() == CONTENT + b"and more\n"
    assert stow.run("cat", rgw_url, "d/new").stdout.encode() == CONTENT[:500]
    assert stow.run("umount", mountpoint).stdout == f"{mountpoint}: unmounted; nothing is left to do\n"
    assert stow.run("fsck", rgw_url).stdout.endswith(": clean\n")


def test_it_reaches_the_store_when_that_returns(stow: Stow, rgw_url: str, line: Wire, mountpoint: Path) -> None:
    stow.run("mkfs", rgw_url)
    stow.run("mount", rgw_url, mountpoint, "-o", "commit=async,flush_delay=0.1,timeout=2")
    path = mountpoint / "conversations" / "x"
    with path.open("wb") as file:
        line.set("refusing")
        file.write(CONTENT)
    assert read(path) == CONTENT
    line.set("up")
    end = time.monotonic() + COMMAND_TIMEOUT
    while stow.run("ls", rgw_url).stdout == "":
        assert time.monotonic() < end
    assert stow.run("cat", rgw_url, "x").stdout.encode() == CONTENT
    stow.run("umount", mountpoint)


@pytest.mark.parametrize("place", ["nowhere", "/"])
def test_what_is_neither_a_mount_nor_a_store(place: str, stow: Stow) -> None:
    stow.error("flush", place)
