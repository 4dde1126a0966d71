"""`commit=async` on a host that was off for so long that what it wrote to is gone for good."""

from pathlib import Path

import pytest

from tests.support.commands import Stow
from tests.support.mounting import Mount, Mounts, run
from tests.vault.test_promises import log_lines

pytestmark = [pytest.mark.fuse, pytest.mark.timeout(600)]

LONG = log_lines(1500, 1)

WAITS = "commit=async,flush_delay=3600"


def gone(mounts: Mounts, written: Mount, tmp_path: Path) -> None:
    """The file `x`, which the other host has written, is deleted there, and what it held is collected."""
    run("rm", written.root / "x")
    written.unmount()
    directory = tmp_path / "stow"
    directory.mkdir()
    Stow(directory).run("gc", mounts.store, "--empty-trash", "--grace", "0")


def test_what_was_appended_is_shown_where_it_is_kept(mounts: Mounts, tmp_path: Path) -> None:
    other = mounts.start("b")
    run("tee", other.root / "x", data=LONG)
    mount = mounts.start("a", WAITS)
    run("sh", "-c", f"echo waits >> '{mount.root}/x'")
    gone(mounts, other, tmp_path)
    run("sync", mount.root)
    (name,) = run("ls", mount.root).stdout.decode().split()
    assert name.startswith("x.conflict-")
    assert not (mount.root / "x").exists()
    assert run("cat", mount.root / name).stdout == b"waits\n"
    assert mount.log_text().count("x was deleted or replaced elsewhere") == 1
    run("sh", "-c", f"echo new > '{mount.root}/x'; echo more >> '{mount.root}/{name}'")
    mount.unmount()
    again = mounts.start("b")
    assert run("cat", again.root / "x", again.root / name).stdout == b"new\nwaits\nmore\n"


def test_who_has_it_open_goes_on_with_what_is_kept(mounts: Mounts, tmp_path: Path) -> None:
    other = mounts.start("b")
    run("tee", other.root / "x", data=LONG)
    mount = mounts.start("a", WAITS)
    with (mount.root / "x").open("ab", buffering=0) as file:
        file.write(b"one\n")
        gone(mounts, other, tmp_path)
        run("sync", mount.root)
        file.write(b"two\n")
    run("sync", mount.root)
    (name,) = run("ls", mount.root).stdout.decode().split()
    assert name.startswith("x.conflict-")
    assert run("cat", mount.root / name).stdout == b"one\ntwo\n"
    mount.unmount()
    again = mounts.start("b")
    assert run("cat", again.root / name).stdout == b"one\ntwo\n"
