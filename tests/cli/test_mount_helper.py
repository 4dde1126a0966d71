"""`mount.stowfs` and /etc/fstab: mount(8) and umount(8) on a `file://` store, with a helper of their own directory."""

import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import COMMAND_TIMEOUT, Stow
from tests.support.mounting import run

pytestmark = pytest.mark.fuse

HELPER = Path(sys.executable).with_name("mount.stowfs")

PRELUDE = """
mount --make-rprivate /
mount --bind {helpers} {search}
trap 'umount -l {mountpoint} 2>/dev/null || :' EXIT
cd {directory}
mnt={mountpoint}
"""
"""Nobody else sees these mounts, and nothing is put where the system has its own programs."""


class Administrator:
    """Runs shell scripts in which mount(8) finds `mount.stowfs`, with `fstab` beside them and the mount point `mnt`."""

    def __init__(self, stow: Stow, mountpoint: Path) -> None:
        self.stow = stow
        self.fstab = stow.directory / "fstab"
        helpers = stow.directory / "helpers"
        helpers.mkdir()
        # By both names: what mount(8) takes from the mount table is the type with its prefix.
        for name in ("mount.stowfs", "mount.fuse.stowfs"):
            (helpers / name).symlink_to(HELPER)
        self.prelude = PRELUDE.format(
            helpers=shlex.quote(str(helpers)),
            search=os.path.realpath("/sbin"),
            mountpoint=shlex.quote(str(mountpoint)),
            directory=shlex.quote(str(stow.directory)),
        )

    def run(self, script: str) -> list[str]:
        """What a script prints; each of its commands must succeed."""
        command = ["unshare", "--mount", "sh", "-ec", self.prelude + script]
        return run(*command, env=self.stow.environment, timeout=COMMAND_TIMEOUT).stdout.decode().splitlines()


@pytest.fixture
def administrator(stow: Stow, mountpoint: Path) -> Administrator:
    if os.geteuid() != 0:
        pytest.fail("mount(8) with a file system table of its own needs root")
    return Administrator(stow, mountpoint)


def test_a_line_in_fstab(administrator: Administrator, store: str, mountpoint: Path) -> None:
    administrator.fstab.write_text(
        f"{store} {mountpoint} stowfs _netdev,nofail,noatime,allow_other,cache_size=32M 0 0\n"
    )
    script = """
        mount -T fstab -a
        findmnt -no SOURCE,FSTYPE "$mnt"
        findmnt -no OPTIONS "$mnt"
        echo text > "$mnt/conversations/file"
        # There already: nothing is to be done.
        mount -T fstab -a
        findmnt -no TARGET -t fuse.stowfs | grep -c "$mnt"
        umount "$mnt"
        ls -A "$mnt" | wc -l
        mount -T fstab "$mnt"
        cat "$mnt/conversations/file"
        umount "$mnt"
    """
    shown, options, *rest = administrator.run(script)
    assert shown.split() == [store, "fuse.stowfs"]
    assert {"rw", "nosuid", "nodev", "allow_other"} <= set(options.split(","))
    assert rest == ["1", "0", "text"]


def test_read_only_by_fstab(administrator: Administrator, store: str, mountpoint: Path) -> None:
    administrator.fstab.write_text(f"{store} {mountpoint} stowfs ro,noexec 0 0\n")
    script = """
        mount -T fstab -a
        findmnt -no OPTIONS "$mnt"
        touch "$mnt/conversations/x" 2>&1 || :
        umount "$mnt"
    """
    options, said = administrator.run(script)
    assert {"ro", "noexec", "nosuid", "nodev"} <= set(options.split(","))
    assert "Read-only file system" in said


def test_remount(administrator: Administrator, store: str, mountpoint: Path) -> None:
    administrator.fstab.write_text(f"{store} {mountpoint} stowfs cache_size=32M 0 0\n")
    script = """
        mount -T fstab -a
        mount -T fstab -o remount,ro,noexec "$mnt"
        findmnt -no VFS-OPTIONS,FS-OPTIONS "$mnt"
        touch "$mnt/conversations/x" 2>&1 || :
        mount -o remount,rw,exec "$mnt"
        findmnt -no VFS-OPTIONS,FS-OPTIONS "$mnt"
        touch "$mnt/conversations/x"
        mount -o remount,cache_size=64M "$mnt" 2>&1 || echo "status $?"
        mount -o remount,nonsense "$mnt" 2>&1 || echo "status $?"
        umount "$mnt"
        mount -T fstab -o ro "$mnt"
        mount -o remount,rw "$mnt" 2>&1 || echo "status $?"
        umount "$mnt"
    """
    read_only, refused, writable, *rest = administrator.run(script)
    assert read_only.split()[0].split(",")[0] == read_only.split()[1].split(",")[0] == "ro"
    assert "noexec" in read_only
    assert "nosuid,nodev" in read_only
    assert "Read-only file system" in refused
    assert writable.split()[1].split(",")[0] == "rw"
    assert "noexec" not in writable
    assert "only ro, rw, exec and noexec can be changed" in rest[0]
    assert "unknown mount option 'nonsense'" in rest[2]
    assert "was mounted read-only" in rest[4]
    assert (rest[1], rest[3], rest[5]) == ("status 1", "status 1", "status 32")


def helper(stow: Stow, *arguments: str | Path, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """Runs `mount.stowfs` as mount(8) does."""
    return subprocess.run(
        [HELPER, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=stow.directory,
        env={**os.environ, **stow.environment, **(env or {})},
        timeout=COMMAND_TIMEOUT,
        check=False,
    )


def test_done(stow: Stow, store: str, mountpoint: Path) -> None:
    done = helper(stow, store, mountpoint, "-nv", "-o", "rw,noatime", "-t", "stowfs")
    assert (done.returncode, done.stdout) == (0, f"mount.stowfs: {store} mounted on {mountpoint}\n")
    assert stow.mounted() == [str(mountpoint)]


def test_only_checking_mounts_nothing(stow: Stow, store: str, mountpoint: Path) -> None:
    assert helper(stow, store, mountpoint, "-f", "-o", "rw").returncode == 0
    assert helper(stow, store, mountpoint, "-f", "-o", "nonsense").returncode == 1
    assert stow.mounted() == []


def test_sloppy_passes_over_unknown_options(stow: Stow, store: str, mountpoint: Path) -> None:
    assert helper(stow, store, mountpoint, "-o", "ro,nonsense=1").returncode == 1
    assert helper(stow, store, mountpoint, "-s", "-o", "ro,nonsense=1").returncode == 0
    options = run("findmnt", "-no", "OPTIONS", mountpoint).stdout.decode()
    assert options.startswith("ro,")


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        ([], 1, "Missing argument"),
        (["{store}"], 1, "Missing argument"),
        (["ftp://x", "mnt"], 1, "unknown scheme"),
        (["{store}", "mnt", "-o", "timeout=soon"], 1, "not a number of seconds"),
        (["{store}", "mnt", "-o", "umask=999"], 1, "not a mask"),
        (["{store}", "mnt", "-o", "uid=nobody"], 1, "not the number"),
        (["{store}", "store"], 1, "lie in each other"),
        (["{store}", "missing"], 32, "does not exist"),
        (["{store}/no/where", "mnt"], 32, "cannot be made"),
        (["{store}", "mnt", "-o", "remount"], 32, "is no mount of stowfs"),
    ],
)
def test_what_cannot_be_done(
    stow: Stow, store: str, mountpoint: Path, arguments: list[str], status: int, reason: str
) -> None:
    done = helper(stow, *(argument.format(store=store) for argument in arguments))
    assert done.returncode == status, done.stderr
    assert reason in done.stderr
    if arguments:
        assert done.stderr.startswith("mount.stowfs: ")
    assert stow.mounted() == []


def test_a_local_directory_that_cannot_be_used(stow: Stow, store: str, mountpoint: Path) -> None:
    done = helper(stow, store, mountpoint, env={"STOWFS_STATE_DIR": "/dev/null/state"})
    assert done.returncode == 2
    assert "/dev/null" in done.stderr
    assert stow.mounted() == []


def test_an_interrupt(stow: Stow, mountpoint: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environment = {
            **os.environ,
            **stow.environment,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        process = subprocess.Popen([HELPER, "s3://bucket", mountpoint], env=environment, cwd=stow.directory)
        try:
            # Its daemon asks, and gets no answer.
            silent.settimeout(COMMAND_TIMEOUT)
            connection, _ = silent.accept()
            process.send_signal(signal.SIGINT)
            assert process.wait(COMMAND_TIMEOUT) == 8
            connection.close()
        finally:
            process.kill()
            process.wait(COMMAND_TIMEOUT)
    assert stow.mounted() == []
    assert list(stow.state.glob("*/*/mount.json")) == []
