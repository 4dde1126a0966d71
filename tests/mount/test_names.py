"""Names and directories on a real mount."""

import os
from pathlib import Path

import pytest

from tests.support.mounting import Mounts, failure, python, run

pytestmark = pytest.mark.fuse


def test_the_root_shows_the_conversations_and_takes_nothing(mounts: Mounts) -> None:
    mount = mounts.start()
    assert run("ls", "-A", mount.mountpoint).stdout == b".stowfs\nconversations\n"
    new = mount.mountpoint / "new"
    assert failure("open(args[0], 'w')", new) == "EROFS"
    assert failure("os.mkdir(args[0])", new) == "EROFS"
    assert failure("os.rmdir(args[0])", mount.root) == "EROFS"
    assert failure("os.rename(args[0], args[1])", mount.root, new) == "EROFS"
    assert failure("os.chmod(args[0], 0o700)", mount.mountpoint) == "EROFS"
    run("touch", mount.root / "f")
    assert failure("os.rename(args[0], args[1])", mount.root / "f", new) == "EROFS"
    # Not stored, but tools that copy a whole tree set it.
    run("chmod", "750", mount.root)
    run("touch", "-d", "@1600000000", mount.root)
    assert run("stat", "-c", "%a", mount.root).stdout == b"750\n"


def test_directories(mounts: Mounts) -> None:
    mount = mounts.start()
    root = mount.root
    run("mkdir", "-p", root / "a" / "b" / "c")
    run("touch", root / "a" / "b" / "f")
    assert failure("os.rmdir(args[0])", root / "a" / "b") == "ENOTEMPTY"
    assert failure("os.mkdir(args[0])", root / "a" / "b") == "EEXIST"
    assert failure("os.rmdir(args[0])", root / "a" / "b" / "f") == "ENOTDIR"
    assert failure("os.unlink(args[0])", root / "a" / "b") == "EISDIR"
    assert failure("os.rmdir(args[0])", root / "missing") == "ENOENT"
    assert run("find", root, "-printf", "%P %y\n").stdout == b" d\na d\na/b d\na/b/c d\na/b/f f\n"
    run("rm", "-r", root / "a")
    assert run("ls", "-A", root).stdout == b""


def test_a_directory_with_a_file_nobody_has_closed_is_not_empty(mounts: Mounts) -> None:
    mount = mounts.start()
    run("mkdir", mount.root / "d")
    code = "fd = os.open(args[0] + '/f', os.O_CREAT | os.O_WRONLY)\nos.rmdir(args[0])"
    assert failure(code, mount.root / "d") == "ENOTEMPTY"
    assert run("ls", mount.root / "d").stdout == b"f\n"


def test_rename(mounts: Mounts) -> None:
    mount = mounts.start()
    root = mount.root
    run("sh", "-c", 'cd "$1"; mkdir d; printf one > a; printf two > b', "sh", root)
    run("mv", root / "a", root / "d" / "c")
    run("mv", "-T", root / "b", root / "d" / "c")
    assert run("find", root, "-type", "f", "-printf", "%P\n").stdout == b"d/c\n"
    assert run("cat", root / "d" / "c").stdout == b"two"
    assert failure("os.rename(args[0], args[1])", root / "missing", root / "x") == "ENOENT"
    run("mkdir", root / "e")
    assert failure("os.rename(args[0], args[1])", root / "d" / "c", root / "e") == "EISDIR"
    assert failure("os.rename(args[0], args[1])", root / "e", root / "d" / "c") == "ENOTDIR"
    other = mounts.start("b")
    assert run("find", other.root, "-type", "f", "-printf", "%P\n").stdout == b"d/c\n"


RENAMEAT2 = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.renameat2(-100, os.fsencode(args[0]), -100, os.fsencode(args[1]), int(args[2])):
    raise OSError(ctypes.get_errno(), '')
"""


def test_rename_without_replacing(mounts: Mounts) -> None:
    mount = mounts.start()
    a, b, c = mount.root / "a", mount.root / "b", mount.root / "c"
    run("sh", "-c", 'printf one > "$1"; printf two > "$2"', "sh", a, b)
    noreplace, exchange = "1", "2"
    assert failure(RENAMEAT2, a, b, noreplace) == "EEXIST"
    assert failure(RENAMEAT2, a, b, exchange) == "EINVAL"
    assert failure(RENAMEAT2, a, c, noreplace) == ""
    assert run("cat", b, c).stdout == b"twoone"


def test_rename_of_open_files(mounts: Mounts) -> None:
    mount = mounts.start()
    seen = python(
        "os.chdir(args[0])\n"
        "for name, text in (('old', b'old'), ('target', b'target')):\n"
        "    with open(name, 'wb') as f: f.write(text)\n"
        "target = os.open('target', os.O_RDONLY)\n"
        "new = os.open('new', os.O_CREAT | os.O_RDWR)\n"
        "os.write(new, b'new')\n"
        "os.rename('new', 'target')\n"
        "os.write(new, b' after')\n"
        "print(os.pread(target, 100, 0), open('target', 'rb').read())\n"
        "os.close(new)\n"
        "print(sorted(os.listdir('.')), open('target', 'rb').read())",
        mount.root,
    )
    assert seen == "b'target' b'new after'\n['old', 'target'] b'new after'"
    mount.unmount()
    assert run("cat", mounts.start().root / "target").stdout == b"new after"


def test_rename_of_a_directory_with_open_files(mounts: Mounts) -> None:
    mount = mounts.start()
    seen = python(
        "os.chdir(args[0])\n"
        "os.makedirs('d/sub')\n"
        "with open('d/sub/stored', 'wb') as f: f.write(b'stored')\n"
        "stored = os.open('d/sub/stored', os.O_RDWR | os.O_APPEND)\n"
        "edited = os.open('d/edited', os.O_CREAT | os.O_RDWR)\n"
        "os.write(edited, b'begin')\n"
        "os.rename('d', 'e')\n"
        "os.write(stored, b' more')\n"
        "os.pwrite(edited, b'BE', 0)\n"
        "print(os.path.exists('d'), sorted(os.listdir('e')), open('e/sub/stored', 'rb').read())\n"
        "os.close(stored); os.close(edited)\n"
        "os.mkdir('d')\n"
        "os.rename('e', 'd')\n"
        "print(sorted(os.listdir('d')), open('d/sub/stored', 'rb').read(), open('d/edited', 'rb').read())",
        mount.root,
    )
    assert seen == "False ['edited', 'sub'] b'stored more'\n['edited', 'sub'] b'stored more' b'BEgin'"
    mount.unmount()
    root = mounts.start().root
    assert run("find", root, "-type", "f", "-printf", "%P %s\n").stdout.splitlines() == [
        b"d/edited 5",
        b"d/sub/stored 11",
    ]


def test_rename_of_a_directory_onto_one_that_is_not_empty(mounts: Mounts) -> None:
    mount = mounts.start()
    run("sh", "-c", 'cd "$1"; mkdir a b; touch a/x b/y', "sh", mount.root)
    assert failure("os.rename(args[0], args[1])", mount.root / "a", mount.root / "b") == "ENOTEMPTY"
    assert failure(RENAMEAT2, mount.root / "a", mount.root / "b", "1") == "EEXIST"
    assert run("ls", mount.root / "a", mount.root / "b").stdout.count(b"\n") == 5


def test_numbers_of_inodes_are_the_same_after_a_remount_and_elsewhere(mounts: Mounts) -> None:
    mount = mounts.start()
    run("mkdir", "-p", mount.root / "d" / "e")
    run("touch", mount.root / "f", mount.root / "d" / "f")

    def numbers(root: Path) -> list[bytes]:
        found = run("find", root, "-mindepth", "1", "-printf", "%P %i\n").stdout.splitlines()
        return sorted(found)

    before = numbers(mount.root)
    assert len({line.split()[1] for line in before}) == 4
    assert numbers(mounts.start("b").root) == before
    mount.unmount()
    assert numbers(mounts.start().root) == before


def test_a_large_directory(mounts: Mounts) -> None:
    mount = mounts.start()
    count = 2000
    python(
        "for number in range(int(args[1])):\n    with open(f'{args[0]}/{number:05d}', 'w') as f: f.write(str(number))",
        mount.root,
        str(count),
    )
    expected = [f"{number:05d}" for number in range(count)]
    other = mounts.start("b")
    assert run("ls", other.root).stdout.decode().split() == expected
    sizes = run("find", other.root, "-type", "f", "-printf", "%f %s\n").stdout.decode().splitlines()
    assert sorted(sizes) == [f"{number:05d} {len(str(number))}" for number in range(count)]
    # What goes and comes during a listing neither hides nor doubles the rest; rewinding reads it anew.
    seen = python(
        "import itertools\n"
        "os.chdir(args[0])\n"
        "with os.scandir('.') as entries:\n"
        "    names = [entry.name for entry in itertools.islice(entries, 10)]\n"
        "    for number in range(1000, 1100): os.unlink(f'{number:05d}')\n"
        "    open('99999', 'w').close()\n"
        "    names += [entry.name for entry in entries]\n"
        "rest = [name for name in names if name != '99999' and not '01000' <= name < '01100']\n"
        "print(len(rest), len(set(rest)), len(os.listdir('.')), os.path.exists('01050'))",
        mount.root,
    )
    assert seen == f"{count - 100} {count - 100} {count - 99} False"


def test_long_names(mounts: Mounts) -> None:
    mount = mounts.start()
    names = sorted([b"n" * 250, b"n" * 255, b"n" * 254 + b"m", b"d" * 255, "ü".encode() * 127, b"\xff" * 255])
    code = (
        "os.chdir(args[0])\n"
        "for name in args[1:]:\n"
        "    if name[0] != 'd':\n"
        "        with open(name, 'wb') as f: f.write(os.fsencode(name)[-3:])\n"
        "    else:\n"
        "        os.mkdir('e'); os.rename('e', name)\n"
        "        os.mkdir(name + '/' + name)\n"
        "        open(name + '/f', 'w').close()"
    )
    python(code, mount.root, *map(os.fsdecode, names))
    mount.unmount()
    mounts.forget_caches("a")
    mount = mounts.start()
    code = (
        "os.chdir(args[0])\n"
        "for name in sorted(os.listdir(b'.')): print(name, os.path.isdir(name) or open(name, 'rb').read())"
    )
    expected = "\n".join(f"{name!r} {True if name[:1] == b'd' else name[-3:]!r}" for name in names)
    assert python(code, mount.root) == expected
    directory = mount.root / ("d" * 255)
    assert run("ls", directory).stdout == b"d" * 255 + b"\nf\n"
    assert failure("os.rmdir(args[0])", directory) == "ENOTEMPTY"
    run("mv", directory, mount.root / ("x" * 255))
    run("rm", "-r", *(mount.root / os.fsdecode(name) for name in names if name[:1] != b"d"))
    assert run("find", mount.root, "-mindepth", "1", "-printf", "%f\n").stdout.split() == [b"x" * 255, b"d" * 255, b"f"]
    for too_long in ("n" * 256, "ü" * 128):
        assert failure("open(args[0], 'w')", mount.root / too_long) == "ENAMETOOLONG"
        assert failure("os.mkdir(args[0])", mount.root / too_long) == "ENAMETOOLONG"
        assert failure("os.stat(args[0])", mount.root / too_long) == "ENAMETOOLONG"
    assert python("print(os.statvfs(args[0]).f_namemax)", mount.root) == "255"


NOT_UTF8 = """
def write(path, data, flags=os.O_TRUNC):
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | flags)
    os.write(file, data)
    os.close(file)

os.chdir(args[0])
write(b"\\xff", b"small")
write(b"large\\xe9", os.urandom(400_000))
write(b"large\\xe9", b"more", 0)
os.rename(b"\\xff", b"\\xfe")
os.symlink(b"x", b"\\xf2")
os.rename(b"\\xf2", b"\\xf3")
os.mkdir(b"d\\xf4")
write(b"d\\xf4/\\xf5", b"inside")
os.rename(b"d\\xf4", b"d\\xf6")
write(b"last\\xf7", b"waits")
"""


@pytest.mark.parametrize("options", ["commit=sync", "commit=async,flush_delay=3600"])
def test_names_that_are_not_utf8(options: str, mounts: Mounts) -> None:
    """Everything that goes through the journal: changes of large files, renames of files, links and directories; and,
    where they wait, all changes, also after a crash."""
    mount = mounts.start("a", options)
    python(
        NOT_UTF8,
        mount.root,
    )
    if "async" in options:
        mount.kill()
        mount = mounts.start("a", options)
    mount.unmount()
    other = mounts.start("b")
    listed = run("find", ".", "-mindepth", "1", "-printf", "%P %s\n", cwd=other.root).stdout
    expected = [b"d\xf6 0", b"d\xf6/\xf5 6", b"large\xe9 400004", b"last\xf7 5", b"\xf3 1", b"\xfe 5"]
    assert sorted(listed.splitlines()) == expected
    assert run("cat", other.root / os.fsdecode(b"\xfe")).stdout == b"small"


@pytest.mark.parametrize(
    ("options", "look"),
    [("attr_timeout=0", "os.fstat(directory)"), ("attr_timeout=60", "os.stat(str(number % 100), dir_fd=directory)")],
    ids=["itself", "a file in it"],
)
def test_who_has_a_directory_open_finds_it_and_what_is_in_it_while_another_above_is_renamed(
    options: str, look: str, mounts: Mounts
) -> None:
    other = mounts.start("b")
    python(
        "os.makedirs(args[0] + '/d/sub')\nfor number in range(100): open(f'{args[0]}/d/sub/{number}', 'w').close()",
        other.root,
    )
    mount = mounts.start("a", options)
    python(
        "import subprocess\n"
        "directory = os.open(args[0] + '/d/sub', os.O_RDONLY)\n"
        "os.fstat(directory)\n"
        "renaming = subprocess.Popen(['mv', args[0] + '/d', args[0] + '/e'])\n"
        "number = 0\n"
        "while renaming.poll() is None:\n"
        f"    {look}\n"
        "    number += 1\n"
        "assert renaming.returncode == 0",
        mount.root,
    )
    assert sorted(run("ls", mount.root / "e" / "sub").stdout.split()) == sorted(b"%d" % number for number in range(100))
