"""Two mounts of one store, as on two hosts: who sees what, and when."""

import os
import time
from pathlib import Path

import pytest

from stowfs.mount.readers import OTHERS
from tests.support.mounting import Mount, Mounts, failure, python, run

pytestmark = pytest.mark.fuse


def write(path: Path, text: str) -> None:
    run("dd", f"of={path}", "status=none", data=text.encode())


def read(path: Path) -> str:
    return run("cat", path).stdout.decode()


def test_an_open_after_a_close_sees_its_bytes(mounts: Mounts) -> None:
    a, b = mounts.start("a"), mounts.start("b")
    for number in range(10):
        # The same size, and the same second: nothing but the store can tell.
        write(a.root / "f", f"from a {number}")
        assert read(b.root / "f") == f"from a {number}"
        write(b.root / "f", f"from b {number}")
        assert read(a.root / "f") == f"from b {number}"


def test_the_same_size_and_times_do_not_hide_a_change(mounts: Mounts) -> None:
    a, b = mounts.start("a"), mounts.start("b")
    write(a.root / "f", "first")
    run("touch", "-d", "@1600000000", a.root / "f")
    assert read(b.root / "f") == "first"
    python(
        "fd = os.open(args[0], os.O_WRONLY)\n"
        "os.write(fd, b'other'); os.utime(fd, (1600000000, 1600000000)); os.close(fd)",
        a.root / "f",
    )
    # The stat takes the new version before the open finds it unchanged: the page cache must go all the same.
    assert run("sh", "-c", 'sleep 1.1; stat -c %s "$1"; cat "$1"', "sh", b.root / "f").stdout == b"5\nother"


def test_appends_of_two_hosts_are_all_kept(mounts: Mounts) -> None:
    a, b = mounts.start("a"), mounts.start("b")
    write(a.root / "log", "start\n")
    read(b.root / "log")
    # With the other host's append unknown to the kernel, at the open and then at the close.
    for number in range(6):
        host = (a, b)[number % 2]
        run("sh", "-c", 'echo "line $1" >> "$2"', "sh", str(number), host.root / "log")
    python(
        "one = os.open(args[0], os.O_WRONLY | os.O_APPEND)\n"
        "two = os.open(args[1], os.O_WRONLY | os.O_APPEND)\n"
        "os.write(one, b'one\\n'); os.write(two, b'two\\n'); os.write(one, b'one again\\n')\n"
        "os.close(one); os.close(two)",
        a.root / "log",
        b.root / "log",
    )
    expected = "start\n" + "".join(f"line {number}\n" for number in range(6)) + "one\none again\ntwo\n"
    assert read(a.root / "log") == expected
    assert read(b.root / "log") == expected


APPENDER = """
for number in range(30):
    with open(args[0], args[1]) as log: log.write(f'{args[2]} {number}\\n')
"""


@pytest.mark.parametrize("mode", ["a", "a+"])
def test_appends_at_the_same_time_are_all_kept(mounts: Mounts, mode: str) -> None:
    a, b = mounts.start("a"), mounts.start("b")
    write(a.root / "log", "")
    writers = [(host, f"{host.name}{number}") for host in (a, b) for number in range(3)]
    python(
        "import subprocess\n"
        "code = 'import sys\\nargs = sys.argv[1:]\\n' + args[0]\n"
        "paths = [args[n:n + 3] for n in range(1, len(args), 3)]\n"
        "children = [subprocess.Popen([sys.executable, '-c', code, *path]) for path in paths]\n"
        "assert [child.wait() for child in children] == [0] * len(children)",
        APPENDER,
        *(argument for host, name in writers for argument in (host.root / "log", mode, name)),
    )
    expected = sorted(f"{name} {number}" for _, name in writers for number in range(30))
    for host in (a, b):
        assert sorted(read(host.root / "log").splitlines()) == expected
        assert run("ls", host.root).stdout == b"log\n"


def test_what_was_appended_after_another_host_reads_back_on_the_same_handle(mounts: Mounts) -> None:
    a, b = mounts.start("a"), mounts.start("b")
    write(a.root / "log", "0123456789")
    assert read(b.root / "log") == "0123456789"
    run("sh", "-c", 'printf abcde >> "$1"', "sh", a.root / "log")
    seen = python(
        "fd = os.open(args[0], os.O_RDWR | os.O_APPEND)\n"
        "os.write(fd, b'XYZ')\n"
        "print(os.pread(fd, 100, 0), os.fstat(fd).st_size, open(args[0], 'rb').read())\n"
        "os.close(fd)\n"
        "print(open(args[0], 'rb').read())",
        b.root / "log",
    )
    assert seen == "b'0123456789abcdeXYZ' 18 b'0123456789abcdeXYZ'\nb'0123456789abcdeXYZ'"


@pytest.mark.parametrize("size", [0, 4096], ids=["empty", "a page"])
@pytest.mark.parametrize("mode", ["commit=sync", "commit=async"])
def test_an_append_where_the_kernel_believes_an_old_end_at_a_page_spares_what_another_host_appended(
    mounts: Mounts, size: int, mode: str
) -> None:
    a, b = mounts.start("a", mode), mounts.start("b")
    write(b.root / "log", "0" * size)
    run("stat", a.root / "log")
    run("sh", "-c", 'printf %100d 1 >> "$1"', "sh", b.root / "log")
    # As long as the other one: it ends where the file does by now.
    python("fd = os.open(args[0], os.O_RDWR | os.O_APPEND)\nos.write(fd, b'a' * 100)\nos.close(fd)", a.root / "log")
    assert read(a.root / "log") == "0" * size + f"{1:100}" + "a" * 100
    a.unmount()
    assert read(b.root / "log") == "0" * size + f"{1:100}" + "a" * 100


def test_whole_pages_appended_after_a_merge_spare_what_another_host_appended(mounts: Mounts) -> None:
    a, b = mounts.start("a"), mounts.start("b")
    write(a.root / "log", "0" * 4096)
    python(
        "ours, theirs = os.open(args[0], os.O_RDWR | os.O_APPEND), os.open(args[1], os.O_WRONLY | os.O_APPEND)\n"
        "os.write(theirs, b'b' * 8192); os.close(theirs)\n"
        "for line in (b'1', b'2'): os.write(ours, line * 4096); os.fsync(ours)\n"
        "os.close(ours)",
        a.root / "log",
        b.root / "log",
    )
    assert read(b.root / "log") == "0" * 4096 + "b" * 8192 + "1" * 4096 + "2" * 4096


@pytest.mark.parametrize("how", ["write", "rename", "unlink"])
def test_an_open_handle_keeps_its_version(mounts: Mounts, how: str) -> None:
    a, b = mounts.start("a"), mounts.start("b")
    old, new = "old " * 100_000, "new " * 5_000
    write(a.root / "f", old)
    change = {
        "write": 'cat > "$1/f"',
        "rename": 'cat > "$1/tmp"; mv "$1/tmp" "$1/f"',
        "unlink": 'cat > "$1/g"; rm "$1/f"; mv "$1/g" "$1/f"',
    }[how]
    seen = python(
        "import subprocess\n"
        "fd = os.open(args[0] + '/f', os.O_RDONLY)\n"
        "start = os.pread(fd, 100, 0)\n"
        "subprocess.run(['sh', '-c', args[2], 'sh', args[1]], input=args[3].encode(), check=True, timeout=20)\n"
        "path = open(args[0] + '/f').read()\n"
        "kept = b''\n"
        "while piece := os.pread(fd, 1 << 20, len(kept)): kept += piece\n"
        "print(kept == b'old ' * 100_000, path == args[3], os.fstat(fd).st_size)",
        a.root,
        b.root,
        change,
        new,
    )
    assert seen == "True True 400000"
    assert read(a.root / "f") == new


BEGIN = "def begin(path, line):\n    log = os.open(path, os.O_WRONLY | os.O_APPEND); os.write(log, line); return log\n"
"""Appends a line that is committed when the descriptor is closed."""


def test_a_reader_keeps_what_it_saw_where_appends_of_two_hosts_are_merged(mounts: Mounts) -> None:
    a, b = mounts.start("a"), mounts.start("b")
    write(a.root / "log", "start\n")
    python(
        "import mmap\n" + BEGIN + "ours, theirs = begin(args[0], b'a1\\n'), begin(args[1], b'b1\\n')\n"
        "os.close(theirs); os.close(ours)\n"
        "reader = os.open(args[0], os.O_RDONLY)\n"
        "ours, theirs = begin(args[0], b'a2\\n'), begin(args[1], b'b2\\n')\n"
        "seen = os.read(reader, 100)\n"
        "assert seen == b'start\\nb1\\na1\\na2\\n', seen\n"
        "os.close(theirs); os.close(ours)\n"
        "assert os.read(reader, 100) == b''\n"
        "assert os.pread(reader, 100, 0) == seen\n"
        # What is appended here follows, for everybody.
        "os.close(begin(args[0], b'a3\\n'))\n"
        "assert os.read(reader, 100) == b'a3\\n'\n"
        "again = os.open(args[0], os.O_RDONLY)\n"
        "whole = os.read(again, 100)\n"
        "assert whole == b'start\\nb1\\na1\\nb2\\na2\\na3\\n', whole\n"
        "assert mmap.mmap(again, 0, mmap.MAP_PRIVATE, mmap.PROT_READ)[:] == whole\n"
        "os.close(reader); os.close(again)",
        a.root / "log",
        b.root / "log",
    )


def keeps_what_it_saw(ours: Mount, theirs: Mount) -> None:
    """A reader does, where something waits here to be appended to `log`, and the other host is quicker."""
    python(
        BEGIN + "ours = begin(args[0], b'ours\\n')\n"
        "reader = os.open(args[0], os.O_RDONLY)\n"
        "seen = os.read(reader, 100)\n"
        "assert seen == b'start\\nours\\n', seen\n"
        "os.close(begin(args[1], b'theirs\\n')); os.close(ours)\n"
        "assert os.read(reader, 100) == b''\n"
        "assert os.pread(reader, 100, 0) == seen\n"
        "os.close(reader)",
        ours.root / "log",
        theirs.root / "log",
    )
    assert read(ours.root / "log") == "start\ntheirs\nours\n"


def alone_for_an_hour(mounts: Mounts, name: str) -> Mount:
    """A mount that has not seen another host change anything for so long."""
    mounts.start(name).unmount()
    (others,) = (mounts.directory / name).glob("**/others")
    os.utime(others, (time.time() - OTHERS, time.time() - OTHERS))
    return mounts.start(name)


def test_a_reader_keeps_what_it_saw_of_the_first_line_that_a_mount_appends_to_what_another_host_made(
    mounts: Mounts,
) -> None:
    a, b = alone_for_an_hour(mounts, "a"), mounts.start("b")
    write(b.root / "log", "start\n")
    keeps_what_it_saw(a, b)


def test_a_reader_keeps_what_it_saw_where_a_new_mount_meets_another_one_for_the_first_time(mounts: Mounts) -> None:
    a, b = mounts.start("a"), mounts.start("b")
    write(a.root / "log", "start\n")
    keeps_what_it_saw(a, b)


def test_a_mount_that_is_restarted_knows_that_it_is_not_alone(mounts: Mounts) -> None:
    """Also where the other host has changed nothing since."""
    a, b = mounts.start("a"), alone_for_an_hour(mounts, "b")
    for text in ("of a", "of a, again"):
        write(a.root / "shared", text)
        assert read(b.root / "shared") == text
    b.kill()
    b = mounts.start("b")
    write(b.root / "log", "start\n")
    keeps_what_it_saw(b, a)


def test_a_file_that_only_this_mount_appends_to_can_be_mapped_meanwhile(mounts: Mounts) -> None:
    """Once it has been alone for an hour."""
    mount = alone_for_an_hour(mounts, "a")
    write(mount.root / "log", "start\n")
    mapped = python(
        "import mmap\n" + BEGIN + "log = begin(args[0], b'more\\n')\n"
        "reader = os.open(args[0], os.O_RDONLY)\n"
        "print(mmap.mmap(reader, 0, mmap.MAP_SHARED, mmap.PROT_READ)[:].decode().split())\n"
        "os.close(log)",
        mount.root / "log",
    )
    assert mapped == "['start', 'more']"


def test_writes_to_a_handle_that_was_overtaken_are_not_lost(mounts: Mounts) -> None:
    a, b = mounts.start("a"), mounts.start("b")
    write(a.root / "f", "base text")
    python(
        "fd = os.open(args[0] + '/f', os.O_RDWR)\n"
        "with open(args[1] + '/f', 'w') as f: f.write('from the other host')\n"
        # On this host, too, the name shows the other version now.
        "assert open(args[0] + '/f').read() == 'from the other host'\n"
        "os.pwrite(fd, b'EDIT', 0)\n"
        "os.close(fd)",
        a.root,
        b.root,
    )
    names = run("ls", b.root).stdout.decode().split()
    assert names[0] == "f"
    assert names[1].startswith("f.conflict-")
    assert len(names) == 2
    assert read(a.root / "f") == read(b.root / "f") == "from the other host"
    assert read(b.root / names[1]) == "EDIT text"


@pytest.mark.parametrize("mode", ["commit=sync", "commit=async,flush_delay=3600"])
def test_what_is_written_to_a_handle_after_its_edit_lost_goes_to_what_was_kept_of_it(mounts: Mounts, mode: str) -> None:
    a, b = mounts.start("a", mode), mounts.start("b")
    write(b.root / "f", "base text")
    python(
        "import time\n"
        "fd = os.open(args[0] + '/f', os.O_RDWR)\n"
        "with open(args[1] + '/f', 'w') as f: f.write('from the other host')\n"
        "os.pwrite(fd, b'EDIT', 0)\n"
        "for path in (fd, os.open(args[0], os.O_RDONLY)): os.fsync(path)\n"
        "assert open(args[0] + '/f').read() == 'from the other host'\n"
        "assert os.pread(fd, 100, 0) == b'EDIT text', 'the handle shows another version'\n"
        # The name shows what won, also to who does not open it.
        "end = time.monotonic() + 20\n"
        "while os.stat(args[0] + '/f').st_size != 19: assert time.monotonic() < end; time.sleep(0.05)\n"
        "os.pwrite(fd, b'more', 5); os.fsync(fd)\n"
        "os.pwrite(fd, b'!', 9)\n"
        "os.close(fd)",
        a.root,
        b.root,
    )
    assert read(a.root / "f") == "from the other host"
    a.unmount()
    names = run("ls", b.root).stdout.decode().split()
    assert names[0] == "f"
    assert len(names) == 2
    assert read(b.root / "f") == "from the other host"
    assert read(b.root / names[1]) == "EDIT more!"


def test_what_is_renamed_while_an_edit_of_it_loses_is_what_its_new_name_shows(mounts: Mounts) -> None:
    """What was kept of the edit took the mode that was meant for the other one."""
    a, b = mounts.start("a"), mounts.start("b")
    write(b.root / "f", "base text")
    python(
        "import time\n"
        "fd = os.open(args[0] + '/f', os.O_RDWR)\n"
        "with open(args[1] + '/f', 'w') as f: f.write('from the other host')\n"
        "os.pwrite(fd, b'EDIT', 0)\n"
        "os.rename(args[0] + '/f', args[0] + '/g')\n"
        "end = time.monotonic() + 20\n"
        "while os.stat(args[0] + '/g').st_size != 19: assert time.monotonic() < end; time.sleep(0.05)\n"
        "os.chmod(args[0] + '/g', 0o600)\n"
        "os.close(fd)",
        a.root,
        b.root,
    )
    listed = run("sh", "-c", "stat -c '%a %s' -- *", cwd=b.root).stdout
    assert listed == b"644 9\n600 19\n"


def test_of_two_exclusive_creators_one_wins(mounts: Mounts) -> None:
    a, b = mounts.start("a"), mounts.start("b")
    both = (
        "one = os.open(args[0], os.O_CREAT | os.O_EXCL | os.O_WRONLY); os.write(one, b'one')\n"
        "two = os.open(args[1], os.O_CREAT | os.O_EXCL | os.O_WRONLY); os.write(two, b'two')\n"
        "os.close(one)\n"
        "os.close(two)"
    )
    assert failure(both, a.root / "lock", b.root / "lock") == "EEXIST"
    assert run("stat", "-c", "%s %h", b.root / "lock").stdout == b"3 1\n"
    assert read(a.root / "lock") == read(b.root / "lock") == "one"


def test_an_exclusive_creator_can_ask_to_know_in_the_open(mounts: Mounts) -> None:
    a, b = mounts.start("a", "excl=open"), mounts.start("b", "excl=open")
    both = (
        "one = os.open(args[0], os.O_CREAT | os.O_EXCL | os.O_WRONLY)\n"
        "assert os.path.getsize(args[1]) == 0\n"
        "two = os.open(args[1], os.O_CREAT | os.O_EXCL | os.O_WRONLY)"
    )
    assert failure(both, a.root / "lock", b.root / "lock") == "EEXIST"


def test_a_removal_elsewhere_is_seen(mounts: Mounts) -> None:
    a, b = mounts.start("a"), mounts.start("b")
    run("mkdir", a.root / "d")
    write(a.root / "d" / "f", "text")
    assert read(b.root / "d" / "f") == "text"
    run("rm", "-r", a.root / "d")
    # The names are cached for a minute: opening must find out all the same.
    assert failure("open(args[0])", b.root / "d" / "f") == "ENOENT"
    write(b.root / "new", "made meanwhile")
    assert run("ls", a.root, b.root).stdout.decode().split() == [f"{a.root}:", "new", f"{b.root}:", "new"]


def test_a_file_that_became_a_directory(mounts: Mounts) -> None:
    a, b = mounts.start("a", "attr_timeout=0"), mounts.start("b", "attr_timeout=0")
    write(a.root / "x", "file")
    assert read(b.root / "x") == "file"
    run("sh", "-c", 'rm "$1"; mkdir "$1"; printf inside > "$1/f"', "sh", a.root / "x")
    # To walk through what it takes for a file the kernel asks nobody; to look at it, it does.
    assert run("stat", "-c", "%F", b.root / "x").stdout == b"directory\n"
    assert read(b.root / "x" / "f") == "inside"
    run("sh", "-c", 'rm -r "$1"; printf file > "$1"', "sh", b.root / "x")
    assert read(a.root / "x") == "file"


def test_a_listing_shows_what_others_changed(mounts: Mounts) -> None:
    a, b = mounts.start("a"), mounts.start("b")
    write(a.root / "f", "1")
    assert run("find", b.root, "-type", "f", "-printf", "%f %s\n").stdout == b"f 1\n"
    write(a.root / "f", "12345")
    write(a.root / "g", "1")
    # A listing tells the kernel the attributes, too, without asking for each file.
    b.requests()
    assert run("ls", "-s", "--block-size=1", "-l", b.root).stdout.decode().count(" 5 ") == 1
    assert [request for request in b.requests() if request.endswith("f.json")] in ([], ["get manifests/f.json"])


def test_readers_during_constant_replacement_see_whole_versions(mounts: Mounts) -> None:
    a, b = mounts.start("a"), mounts.start("b")
    write(a.root / "f", "0" * 50_000)
    seen = python(
        "import subprocess\n"
        "code = '''\n"
        "import sys\n"
        "for number in range(60):\n"
        "    with open(sys.argv[1], 'w') as f: f.write(str(number % 10) * 50_000)\n"
        "'''\n"
        "writer = subprocess.Popen([sys.executable, '-c', code, args[0]])\n"
        "reads = 0\n"
        "while writer.poll() is None:\n"
        "    with open(args[1]) as f: text = f.read()\n"
        "    assert text == text[:1] * len(text) and len(text) == 50_000, (text[:1], len(text), len(set(text)))\n"
        "    reads += 1\n"
        "print(writer.returncode, reads > 0, open(args[1]).read() == '9' * 50_000)",
        a.root / "f",
        b.root / "f",
    )
    assert seen == "0 True True"


def test_a_file_that_was_replaced_while_a_program_held_it_is_looked_at_and_changed_as_it_is_now(mounts: Mounts) -> None:
    a, b = mounts.start("a", "attr_timeout=0"), mounts.start("b", "attr_timeout=0")
    write(a.root / "f", "old")
    seen = python(
        # Names what the kernel knows of the version that was replaced, as a path that it has just walked does.
        "known = os.open(args[0], os.O_PATH)\n"
        "with open(args[0]):\n"
        "    with open(args[1], 'w') as f: f.write('newer')\n"
        "    assert open(args[0]).read() == 'newer'\n"
        "path = f'/proc/self/fd/{known}'\n"
        "os.chmod(path, 0o600)\n"
        "os.utime(path, (1, 1))\n"
        "print(os.stat(path).st_size)",
        a.root / "f",
        b.root / "f",
    )
    assert seen == "5"
    assert run("stat", "-c", "%a %Y %s", b.root / "f").stdout == b"600 1 5\n"
