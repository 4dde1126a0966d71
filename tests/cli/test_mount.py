"""`stowfs mount` and `umount` on a `file://` store, with real daemons."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stowfs.cli.mounts import is_dead
from tests.support.commands import Stow
from tests.support.corpus import SAMPLES
from tests.support.mounting import run

pytestmark = pytest.mark.fuse

END_TIMEOUT = 30.0
"""Seconds within which a daemon that was told to must have ended."""


def test_mount_copy_unmount_mount_again_elsewhere(stow: Stow, mountpoint: Path) -> None:
    stow.run("mount", "store", mountpoint)
    assert stow.mounted() == [str(mountpoint)]
    run("cp", "-r", SAMPLES / "agent", mountpoint / "conversations")
    run("diff", "-r", SAMPLES / "agent", mountpoint / "conversations" / "agent")
    said = stow.json("umount", mountpoint)
    assert (said["mountpoint"], said["daemon_was_dead"], said["queued"]) == (str(mountpoint), False, 0)
    assert stow.mounted() == []
    assert list(stow.state.glob("*/*/mount.json")) == []

    elsewhere = stow.directory / "else where"
    elsewhere.mkdir()
    stow.run("mount", "store", "else where")
    run("diff", "-r", SAMPLES / "agent", elsewhere / "conversations" / "agent")
    assert "nothing is left to do" in stow.run("umount", "else where").stdout


def test_mounting_a_missing_directory_makes_a_store_of_it(stow: Stow, mountpoint: Path) -> None:
    stow.run("mount", f"file://{stow.directory}/new", mountpoint)
    assert (stow.directory / "new" / "stowfs.json").exists()


def test_a_mount_shows_what_it_is(stow: Stow, store: str, mountpoint: Path) -> None:
    stow.run("mount", store, mountpoint)
    source, kind = run("findmnt", "-no", "SOURCE,FSTYPE", mountpoint).stdout.decode().split()
    assert (source, kind) == (store, "fuse.stowfs")


def test_a_mount_shows_what_it_does(stow: Stow, store: str, mountpoint: Path) -> None:
    stow.run("mount", store, mountpoint, "-o", f"access_log={stow.directory}/access,cache_size=32M")
    config = json.loads((mountpoint / ".stowfs" / "config.json").read_bytes())
    assert (config["pid"], config["store"]) == (stow.daemon(), store)
    assert config["options"]["cache_size"] == 32 << 20
    (mountpoint / "conversations" / "file").write_text("text")
    stats = json.loads((mountpoint / ".stowfs" / "stats.json").read_bytes())
    assert stats["requests"]["put"]["count"] == 1
    assert "create\t/conversations/file\tOK" in (stow.directory / "access").read_text()


def test_put_and_a_mount_see_each_other(stow: Stow, store: str, mountpoint: Path) -> None:
    stow.run("mount", store, mountpoint)
    stow.run("put", store, SAMPLES / "chat")
    run("diff", "-r", SAMPLES / "chat", mountpoint / "conversations" / "chat")
    (mountpoint / "conversations" / "note.md").write_text("# A\n")
    assert stow.run("cat", store, "note.md").stdout == "# A\n"


def test_read_only(stow: Stow, store: str, mountpoint: Path) -> None:
    stow.run("put", store, SAMPLES / "chat")
    stow.run("mount", store, mountpoint, "-o", "ro")
    run("diff", "-r", SAMPLES / "chat", mountpoint / "conversations" / "chat")
    done = run("touch", mountpoint / "conversations" / "x", check=False)
    assert done.returncode == 1
    assert b"Read-only file system" in done.stderr


def test_a_mount_that_hides_its_root_from_who_mounted_it(stow: Stow, store: str, mountpoint: Path) -> None:
    stow.run("mount", store, mountpoint, "-o", "umask=777")

    def unprivileged(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        """As a user whom permissions keep out, which root they do not."""
        rights = "-dac_override,-dac_read_search"
        command = ["setpriv", "--bounding-set", rights, "--inh-caps", rights, sys.executable, "-m", "stowfs"]
        environment = {**os.environ, **stow.environment}
        return subprocess.run(
            [*command, *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=60, check=False
        )

    again = unprivileged("mount", store, mountpoint)
    assert (again.returncode, f"{mountpoint} is mounted already" in again.stderr) == (1, True)
    put = unprivileged("put", store, "--json", mountpoint, __file__)
    assert (put.returncode, json.loads(put.stdout)["files"]) == (1, 1)
    assert "Permission denied" in put.stderr
    get = unprivileged("get", store, Path(__file__).name, mountpoint)
    assert (get.returncode, "Permission denied" in get.stderr) == (1, True)
    done = unprivileged("umount", mountpoint)
    assert (done.returncode, done.stderr) == (0, "")
    assert stow.mounted() == []


def test_foreground_ends_with_the_mount(stow: Stow, store: str, mountpoint: Path) -> None:
    command = [sys.executable, "-m", "stowfs", "mount", store, str(mountpoint), "--foreground"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, env={**os.environ, **stow.environment}, cwd=stow.directory, text=True
    )
    try:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        assert any(f"{store} is mounted at {mountpoint}" in line for line in lines)
        stow.run("umount", mountpoint)
        assert process.wait(END_TIMEOUT) == 0
    finally:
        process.kill()
        process.communicate(timeout=END_TIMEOUT)


def test_a_signal_unmounts(stow: Stow, store: str, mountpoint: Path) -> None:
    stow.run("mount", store, mountpoint)
    os.kill(stow.daemon(), signal.SIGTERM)
    end = time.monotonic() + END_TIMEOUT
    while list(stow.state.glob("*/*/mount.json")):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert stow.mounted() == []


@pytest.fixture
def killed(stow: Stow, store: str, mountpoint: Path) -> Path:
    """A mount point whose daemon was killed, with one conversation in it."""
    stow.run("mount", store, mountpoint)
    (mountpoint / "conversations" / "kept.json").write_text("{}")
    os.kill(stow.daemon(), signal.SIGKILL)
    _until_dead(mountpoint)
    return mountpoint


def _until_dead(mountpoint: Path) -> None:
    end = time.monotonic() + END_TIMEOUT
    while not is_dead(str(mountpoint)):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_mount_point_of_a_dead_daemon_is_mounted_again(stow: Stow, store: str, killed: Path) -> None:
    assert "was dead; mounting again" in stow.run("mount", store, killed).stderr
    assert stow.mounted() == [str(killed)]
    assert (killed / "conversations" / "kept.json").read_text() == "{}"


def test_a_mount_point_of_a_dead_daemon_is_unmounted(stow: Stow, store: str, killed: Path) -> None:
    assert stow.json("umount", killed)["daemon_was_dead"] is True
    assert stow.mounted() == []
    assert list(killed.iterdir()) == []


def test_a_dead_mount_point_that_is_in_use_is_freed(stow: Stow, store: str, mountpoint: Path) -> None:
    """By programs in it and with files of it open; what they had open is gone, and they are told so."""
    stow.run("mount", store, mountpoint)
    root = mountpoint / "conversations"
    (root / "kept.json").write_text("{}")
    code = (
        "import sys\nfile = open('kept.json', 'a')\nprint(flush=True)\nsys.stdin.read()\nfile.write('x')\nfile.close()"
    )
    command = [sys.executable, "-c", code]
    user = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert user.stdout is not None
        assert user.stdout.readline() == b"\n"
        os.kill(stow.daemon(), signal.SIGKILL)
        _until_dead(mountpoint)
        assert stow.json("umount", mountpoint)["daemon_was_dead"] is True
        assert stow.mounted() == []
        stow.run("mount", store, mountpoint)
        _, said = user.communicate(timeout=END_TIMEOUT)
        assert b"Transport endpoint is not connected" in said
    finally:
        user.kill()
        user.communicate(timeout=END_TIMEOUT)
    assert (root / "kept.json").read_text() == "{}"


def test_umount_of_a_busy_mount_says_so_and_leaves_it(stow: Stow, store: str, mountpoint: Path) -> None:
    stow.run("mount", store, mountpoint)
    user = subprocess.Popen(["sleep", "120"], cwd=mountpoint)
    try:
        assert f"{mountpoint} is in use" in stow.error("umount", mountpoint)
        assert (mountpoint / "conversations").is_dir()
    finally:
        user.kill()
        user.wait(END_TIMEOUT)
    stow.run("umount", mountpoint)


def test_umount_of_what_is_no_mount(stow: Stow, mountpoint: Path) -> None:
    assert "is not a mount point" in stow.error("umount", mountpoint)
    assert "is a mount of proc, not of stowfs" in stow.error("umount", "/proc")


def test_umount_without_the_state_directory_says_that_it_did_not_wait(
    stow: Stow, store: str, mountpoint: Path, tmp_path: Path
) -> None:
    stow.run("mount", store, mountpoint)
    done = stow.run("umount", mountpoint, env={"STOWFS_STATE_DIR": str(tmp_path / "other")})
    assert "it was not waited for" in done.stdout
    assert stow.mounted() == []


def test_umount_does_not_wait_past_its_timeout(stow: Stow, store: str, mountpoint: Path) -> None:
    stow.run("mount", store, mountpoint)
    pid = stow.daemon()
    os.kill(pid, signal.SIGSTOP)
    try:
        assert f"(process {pid}) still works after 0.5 s" in stow.error("umount", mountpoint, "--timeout", "0.5")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert stow.mounted() == []


def test_a_new_mount_waits_for_the_daemon_before_it(stow: Stow, store: str, mountpoint: Path) -> None:
    stow.run("mount", store, mountpoint)
    pid = stow.daemon()
    os.kill(pid, signal.SIGSTOP)
    command = [sys.executable, "-m", "stowfs", "mount", store, str(mountpoint)]
    try:
        run("fusermount3", "-uz", mountpoint)
        following = subprocess.Popen(command, env={**os.environ, **stow.environment}, cwd=stow.directory)
        log = next(stow.state.glob("logs/*.log"))
        assert log.exists()
        with pytest.raises(subprocess.TimeoutExpired):
            following.wait(2)
        assert stow.mounted() == []
    finally:
        os.kill(pid, signal.SIGCONT)
    assert following.wait(60) == 0
    assert stow.mounted() == [str(mountpoint)]
    assert stow.daemon() != pid
