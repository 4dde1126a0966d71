"""The options that show other owners and permissions than those that are stored."""

import pytest

from tests.support.mounting import Mounts, failure, run

pytestmark = pytest.mark.fuse

SHOW = ("stat", "-c", "%n %u %g %A")


def test_one_owner_and_one_mask_are_shown_for_everything(mounts: Mounts) -> None:
    a, b = mounts.start("a"), mounts.start("b", "uid=1234,gid=0,umask=027")
    script = 'cd "$1"; umask 022; mkdir d; echo > file; ln -s file link; chown 7:8 file d; chmod 6755 file'
    run("sh", "-c", script, "sh", a.root)
    shown = run("env", "-C", b.root, *SHOW, ".", "d", "file", "link").stdout.decode().splitlines()
    assert shown == [
        ". 1234 0 drwxr-x---",
        "d 1234 0 drwxr-x---",
        "file 1234 0 -rwxr-x---",
        "link 1234 0 lrwxrwxrwx",
    ]
    assert run(*SHOW, b.mountpoint).stdout.decode().split()[1:] == ["1234", "0", "drwxr-x---"]
    listed = run("find", b.root, "-mindepth", "1", "-printf", "%P %U %G %m\n").stdout.splitlines()
    assert sorted(listed) == [b"d 1234 0 750", b"file 1234 0 750", b"link 1234 0 777"]
    # What is stored is as it was.
    stored = run("env", "-C", a.root, *SHOW, "d", "file").stdout.decode().splitlines()
    assert stored == ["d 7 8 drwxr-xr-x", "file 7 8 -rwsr-sr-x"]


def test_chown_and_chmod_change_what_is_stored(mounts: Mounts) -> None:
    a, b = mounts.start("a", "attr_timeout=0"), mounts.start("b", "uid=1234,umask=077")
    run("tee", b.root / "file", data=b"text")
    run("chown", "5:6", b.root / "file")
    run("chmod", "640", b.root / "file")
    assert run(*SHOW, b.root / "file").stdout.decode().split()[1:] == ["1234", "6", "-rwx------"]
    assert run(*SHOW, a.root / "file").stdout.decode().split()[1:] == ["5", "6", "-rw-r-----"]


def test_what_is_shown_is_what_the_kernel_goes_by(mounts: Mounts) -> None:
    mount = mounts.start("a", "allow_other,uid=65534,umask=077")
    run("tee", mount.root / "file", data=b"text")
    # From within, since the directories above are not for others.
    as_user = "os.chdir(args[0]); os.setgid(65534); os.setuid({})\nopen('file').read()"
    assert failure(as_user.format(65534), mount.root) == ""
    assert failure(as_user.format(65533), mount.root) == "EACCES"
