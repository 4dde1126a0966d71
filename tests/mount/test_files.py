"""What POSIX says about one file, on a real mount: every kind of write, and what is read back."""

import hashlib
from pathlib import Path

import pytest

from tests.support.corpus import SAMPLES
from tests.support.mounting import Mounts, failure, python, run

pytestmark = pytest.mark.fuse


def test_copies_are_identical_here_after_a_remount_and_elsewhere(mounts: Mounts, tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / "empty").touch()
    (odd / "binary").write_bytes(bytes(range(256)) * 4096)
    (odd / "zeros").write_bytes(bytes(300_000))
    for name in ("a b", "ümlaut.json", "100%", "x.json", "-rf", "new\nline", "quote'\""):
        (odd / name).write_text(name)
    # Not UTF-8; the directory is called like the object of a file.
    directory = odd / "x.json.json"
    directory.mkdir()
    Path(str(directory) + "/\udcff\udcfe").write_bytes(b"latin")
    here = mounts.start("a")
    run("cp", "-r", SAMPLES, odd, here.root)
    run("diff", "-r", SAMPLES, here.root / "samples")
    run("diff", "-r", odd, here.root / "odd")
    there = mounts.start("b")
    run("diff", "-r", SAMPLES, there.root / "samples")
    run("diff", "-r", odd, there.root / "odd")
    here.unmount()
    mounts.forget_caches("a")
    again = mounts.start("a")
    run("diff", "-r", SAMPLES, again.root / "samples")
    run("diff", "-r", odd, again.root / "odd")


def test_a_read_at_any_offset_gives_those_bytes(mounts: Mounts, tmp_path: Path) -> None:
    data = b"".join(b'{"role": "user", "content": "message %d"}\n' % number for number in range(40_000))
    source = tmp_path / "source"
    source.write_bytes(data)
    mount = mounts.start()
    run("cp", source, mount.root / "f")
    mount.unmount()
    mount = mounts.start()
    got = python(
        "import hashlib, random\n"
        "random.seed(7)\n"
        "fd, size = os.open(args[0], os.O_RDONLY), int(args[1])\n"
        "digest = hashlib.sha256()\n"
        "for _ in range(60):\n"
        "    digest.update(os.pread(fd, random.randrange(200_000), random.randrange(size + 1000)))\n"
        "print(digest.hexdigest())",
        mount.root / "f",
        str(len(data)),
    )
    want = python(
        "import hashlib, random\n"
        "random.seed(7)\n"
        "data = open(args[0], 'rb').read()\n"
        "digest = hashlib.sha256()\n"
        "for _ in range(60):\n"
        "    size = random.randrange(200_000)\n"
        "    start = random.randrange(len(data) + 1000)\n"
        "    digest.update(data[start:start + size])\n"
        "print(digest.hexdigest())",
        source,
    )
    assert got == want


RANDOM_WRITES = """
import random
random.seed(int(args[1]))
fd = os.open(args[0], os.O_RDWR)
for _ in range(80):
    choice = random.random()
    size = os.fstat(fd).st_size
    if choice < 0.7:
        os.pwrite(fd, random.randbytes(random.randrange(1, 30_000)), random.randrange(size + 5000))
    elif choice < 0.8:
        os.ftruncate(fd, random.randrange(size + 20_000))
    elif choice < 0.9:
        os.fsync(fd)
    else:
        os.close(fd)
        fd = os.open(args[0], os.O_RDWR)
    if random.random() < 0.3:
        os.pread(fd, 10_000, random.randrange(size + 1))
os.close(fd)
"""


@pytest.mark.parametrize("seed", ["1", "2"])
def test_random_writes_give_what_a_local_file_gives(mounts: Mounts, tmp_path: Path, seed: str) -> None:
    mount = mounts.start()
    local, remote = tmp_path / "file", mount.root / "file"
    local.write_bytes(b"x" * 100_000)
    run("cp", local, remote)
    python(RANDOM_WRITES, local, seed)
    python(RANDOM_WRITES, remote, seed)
    run("cmp", local, remote)
    mount.unmount()
    mounts.forget_caches("a")
    run("cmp", local, mounts.start().root / "file")


def test_appends(mounts: Mounts) -> None:
    mount = mounts.start()
    file = mount.root / "log.jsonl"
    for number in range(5):
        run("sh", "-c", 'echo "line $1" >> "$2"', "sh", str(number), file)
    # Two handles, in turns, where the kernel's idea of the end must follow.
    python(
        "one = os.open(args[0], os.O_WRONLY | os.O_APPEND)\n"
        "two = os.open(args[0], os.O_WRONLY | os.O_APPEND)\n"
        "for number in range(5, 9):\n"
        "    os.write(one if number % 2 else two, b'line %d\\n' % number)\n",
        file,
    )
    assert run("cat", file).stdout.decode() == "".join(f"line {number}\n" for number in range(9))


def test_truncation(mounts: Mounts) -> None:
    mount = mounts.start()
    file = mount.root / "f"
    run("dd", f"of={file}", "bs=1M", data=b"0123456789" * 10)
    run("truncate", "-s", "4", file)
    assert run("cat", file).stdout == b"0123"
    run("truncate", "-s", "8", file)
    assert run("cat", file).stdout == b"0123\0\0\0\0"
    # By path, without any handle: it must be in the store when the command ends.
    other = mounts.start("b")
    assert run("cat", other.root / "f").stdout == b"0123\0\0\0\0"
    run("sh", "-c", ': > "$1"', "sh", file)
    assert run("stat", "-c", "%s", file).stdout == b"0\n"
    assert failure("os.truncate(args[0], 2 << 40)", file) == "EFBIG"


def test_o_trunc_cuts_a_file_that_is_opened_for_reading(mounts: Mounts) -> None:
    file = mounts.start().root / "f"
    run("tee", file, data=b"0123456789")
    code = "fd = os.open(args[0], os.O_RDONLY | os.O_TRUNC)\nprint(os.fstat(fd).st_size, os.read(fd, 9))\nos.close(fd)"
    assert python(code, file) == "0 b''"
    assert run("cat", mounts.start("b").root / "f").stdout == b""


def test_a_sparse_file_costs_what_it_holds(mounts: Mounts) -> None:
    mount = mounts.start()
    file = mount.root / "sparse"
    python(
        "fd = os.open(args[0], os.O_RDWR | os.O_CREAT)\nos.pwrite(fd, b'end', 64 << 20)\nos.close(fd)",
        file,
    )
    assert run("stat", "-c", "%s", file).stdout == b"%d\n" % ((64 << 20) + 3)
    assert run("tail", "-c", "5", file).stdout == b"\0\0end"
    assert run("head", "-c", "5", file).stdout == bytes(5)
    stored = sum(path.stat().st_size for path in mounts.store.rglob("*") if path.is_file())
    assert stored < 1 << 20


def test_writes_through_a_memory_mapping(mounts: Mounts) -> None:
    mount = mounts.start()
    file = mount.root / "mapped"
    python(
        "import mmap\n"
        "fd = os.open(args[0], os.O_RDWR | os.O_CREAT)\n"
        "os.write(fd, b'.' * 10_000)\n"
        "m = mmap.mmap(fd, 10_000)\n"
        "m[5:10] = b'MAPPD'\n"
        "m.flush()\n"
        "os.close(fd)\n"
        # No descriptor any more: only the release of the mapping can store this.
        "m[9_000:9_005] = b'AFTER'\n"
        "m.close()",
        file,
    )
    expected = bytearray(b"." * 10_000)
    expected[5:10] = b"MAPPD"
    expected[9_000:9_005] = b"AFTER"
    assert run("cat", file).stdout == expected
    mount.unmount()
    assert run("cat", mounts.start().root / "mapped").stdout == expected


def test_a_mapping_of_an_append_handle_does_not_append(mounts: Mounts) -> None:
    mount = mounts.start()
    file = mount.root / "mapped"
    python(
        "import mmap\n"
        "fd = os.open(args[0], os.O_RDWR | os.O_CREAT | os.O_APPEND)\n"
        "os.write(fd, b'.' * 5000)\n"
        "m = mmap.mmap(fd, 5000)\n"
        "m[0:5] = b'START'\n"
        "m.flush()\n"
        "os.write(fd, b'END')\n"
        "m.close(); os.close(fd)",
        file,
    )
    assert run("cat", file).stdout == b"START" + b"." * 4995 + b"END"


def test_exclusive_creation(mounts: Mounts) -> None:
    mount = mounts.start()
    create = "os.close(os.open(args[0], os.O_CREAT | os.O_EXCL | os.O_WRONLY))"
    assert failure(create, mount.root / "lock") == ""
    assert failure(create, mount.root / "lock") == "EEXIST"


def test_what_is_written_is_seen_before_it_is_closed(mounts: Mounts) -> None:
    mount = mounts.start()
    seen = python(
        "fd = os.open(args[0], os.O_CREAT | os.O_WRONLY)\n"
        "os.write(fd, b'early')\n"
        "print(os.listdir(os.path.dirname(args[0])), os.stat(args[0]).st_size, open(args[0], 'rb').read())\n"
        "os.write(fd, b' late')\n"
        "print(open(args[0], 'rb').read())",
        mount.root / "f",
    )
    assert seen == "['f'] 5 b'early'\nb'early late'"


def test_an_unlinked_file_lives_until_it_is_closed(mounts: Mounts) -> None:
    mount = mounts.start()
    seen = python(
        "fd = os.open(args[0], os.O_CREAT | os.O_RDWR)\n"
        "os.write(fd, b'stored'); os.fsync(fd)\n"
        "os.unlink(args[0])\n"
        "os.write(fd, b' more')\n"
        "print(os.path.exists(args[0]), os.pread(fd, 100, 0), os.fstat(fd).st_nlink)\n"
        "os.fchmod(fd, 0o600)\n"
        "os.close(fd)\n"
        "print(os.listdir(os.path.dirname(args[0])))",
        mount.root / "f",
    )
    assert seen == "False b'stored more' 0\n[]"
    mount.unmount()
    assert run("ls", mounts.start().root).stdout == b""


@pytest.mark.parametrize("stored", [b"", b"stored"], ids=["new", "stored"])
def test_readers_of_an_unlinked_file_see_what_was_written_before_the_writer_closed_it(
    mounts: Mounts, stored: bytes
) -> None:
    mount = mounts.start()
    if stored:
        run("tee", mount.root / "f", data=stored)
    seen = python(
        "writer = os.open(args[0], os.O_CREAT | os.O_RDWR)\n"
        "reader = os.open(args[0], os.O_RDONLY)\n"
        "os.unlink(args[0])\n"
        "os.pwrite(writer, b'written', 3)\n"
        "os.close(writer)\n"
        "print(os.fstat(reader).st_size, os.pread(reader, 100, 3))",
        mount.root / "f",
    )
    assert seen == "10 b'written'"
    mount.unmount()
    assert not list((mounts.directory / "a" / "state").rglob("spool/*"))


def test_a_file_that_was_never_closed_before_it_was_unlinked_is_nowhere(mounts: Mounts) -> None:
    mount = mounts.start()
    mount.requests()
    python(
        "fd = os.open(args[0], os.O_CREAT | os.O_RDWR)\n"
        "os.write(fd, b'scratch')\n"
        "os.unlink(args[0])\n"
        "assert os.pread(fd, 100, 0) == b'scratch'\n"
        "os.close(fd)",
        mount.root / "f",
    )
    assert not [request for request in mount.requests() if request.startswith("put")]


def test_attributes_and_times(mounts: Mounts, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("text")
    source.chmod(0o640)
    run("touch", "-d", "2021-02-03 04:05:06.789", source)
    mount = mounts.start()
    form = "%a %u %g %s %Y %y"
    run("cp", "-p", source, mount.root / "f")
    want = run("stat", "-c", form, source).stdout
    assert run("stat", "-c", form, mount.root / "f").stdout == want
    run("mkdir", "-m", "2750", mount.root / "d")
    run("chown", "7:8", mount.root / "d", mount.root / "f")
    run("chmod", "4711", mount.root / "f")
    run("touch", "-d", "@1600000000", mount.root / "f", mount.root / "d")
    run("touch", mount.root / "d" / "inherits")
    mount.unmount()
    mounts.forget_caches("a")
    mount = mounts.start()
    stat = run("stat", "-c", "%A %u %g", mount.root / "f", mount.root / "d", mount.root / "d" / "inherits").stdout
    assert stat == b"-rws--x--x 7 8\ndrwxr-s--- 7 8\n-rw-r--r-- 0 8\n"
    assert run("stat", "-c", "%Y", mount.root / "f").stdout == b"1600000000\n"
    # A write takes the set-user-ID bit away, and sets the time.
    run("sh", "-c", 'echo more >> "$1"', "sh", mount.root / "f")
    assert run("stat", "-c", "%a", mount.root / "f").stdout == b"711\n"
    assert int(run("stat", "-c", "%Y", mount.root / "f").stdout) > 1_700_000_000


@pytest.mark.parametrize("options", ["commit=sync", "commit=async"])
def test_what_is_touched_later_is_not_older(options: str, mounts: Mounts) -> None:
    """The kernel reckons in ticks where somebody sets a time to now."""
    mount = mounts.start("a", options)
    code = """
for number in range(100):
    first, second = (open(f"{args[0]}/{number}{name}", "w") for name in "ab")
    second.write("later")
    second.close()
    first.close()
    os.utime(first.name)
    assert os.stat(first.name).st_mtime_ns >= os.stat(second.name).st_mtime_ns, number
"""
    python(code, mount.root)


def test_a_time_that_was_set_outlives_the_close(mounts: Mounts) -> None:
    mount = mounts.start()
    python(
        "fd = os.open(args[0], os.O_CREAT | os.O_WRONLY)\n"
        "os.write(fd, b'x')\n"
        "os.utime(fd, ns=(1, 1_234_567_890_123_456_789))\n"
        "os.close(fd)",
        mount.root / "f",
    )
    mount.unmount()
    mtime = python("print(os.stat(args[0]).st_mtime_ns)", mounts.start().root / "f")
    assert mtime == "1234567890123456789"


def test_a_time_that_cannot_be_stored_becomes_the_nearest_that_can(mounts: Mounts) -> None:
    mount = mounts.start()
    source = mount.root / "f"
    python("open(args[0], 'w').write('x')\nos.utime(args[0], (-(10**12), 10**12))", source)
    run("mkdir", mount.root / "d")
    python("os.utime(args[0], (10**12, -(10**12)))", mount.root / "d")
    mount.unmount()
    mounts.forget_caches("a")
    again = mounts.start().root
    assert (again / "f").read_text() == "x"
    times = "status = os.stat(args[0]); print(status.st_atime_ns, status.st_mtime_ns)"
    assert python(times, again / "f") == f"{-(2**63)} {2**63 - 1}"
    assert python(times, again / "d") == f"{2**63 - 1} {-(2**63)}"


def test_each_time_is_set_alone_and_kept(mounts: Mounts) -> None:
    mount = mounts.start()
    file, directory = mount.root / "f", mount.root / "d"
    run("touch", "-d", "@1600000000.5", file)
    run("mkdir", directory)
    for path in (file, directory):
        run("touch", "-d", "1960-01-02 03:04:05.25 UTC", path)
        run("touch", "-a", "-d", "@5000000000.125", path)
    want = b"5000000000.125000000 -315521754.750000000\n"
    assert run("stat", "-c", "%.9X %.9Y", file, directory).stdout == want * 2
    # Neither a read nor a write changes the time of access.
    run("sh", "-c", 'cat "$1"; echo more >> "$1"', "sh", file)
    assert run("stat", "-c", "%.9X", file).stdout == b"5000000000.125000000\n"
    run("touch", "-m", "-d", "@1600000000", file)
    mount.unmount()
    mounts.forget_caches("a")
    mount = mounts.start()
    assert run("stat", "-c", "%X %Y", mount.root / "f").stdout == b"5000000000 1600000000\n"
    # Setting the time of change leaves a time of access alone that nobody ever set.
    run("touch", mount.root / "new")
    before = run("stat", "-c", "%x", mount.root / "new").stdout
    run("touch", "-m", "-d", "@1700000000", mount.root / "new")
    assert run("stat", "-c", "%x %Y", mount.root / "new").stdout == before.strip() + b" 1700000000\n"


def test_permissions_are_checked(mounts: Mounts) -> None:
    mount = mounts.start("a", "allow_other")
    run("sh", "-c", 'cd "$1"; umask 077; echo secret > s; umask 022; echo open > o', "sh", mount.root)
    # The directory is entered before: what lies above the mount must not be what stops the other user.
    attempt = "os.chdir(args[0])\nos.setgid(65534)\nos.setuid(65534)\nprint(open('o').read().strip())\nopen('s')"
    assert failure(attempt, mount.root) == "open\nEACCES"


def test_hard_links_and_special_files_are_refused(mounts: Mounts) -> None:
    mount = mounts.start()
    run("touch", mount.root / "f")
    assert failure("os.link(args[0], args[0] + '2')", mount.root / "f") == "EPERM"
    assert failure("os.mkfifo(args[0] + '2')", mount.root / "f") == "EPERM"
    assert failure("os.mknod(args[0] + '3')", mount.root / "f") == ""
    assert run("ls", mount.root).stdout == b"f\nf3\n"


def test_an_unchanged_file_is_read_again_without_a_request_for_its_bytes(mounts: Mounts) -> None:
    mount = mounts.start()
    data = bytes(hashlib.sha256(b"%d" % number).digest()[0] for number in range(400_000))
    run("dd", f"of={mount.root / 'f'}", "bs=1M", data=data)
    assert run("cat", mount.root / "f").stdout == data
    mount.requests()
    assert run("cat", mount.root / "f").stdout == data
    assert set(mount.requests()) <= {"get manifests/f.json"}


def test_a_close_on_a_read_only_mount_is_no_request_to_the_daemon(mounts: Mounts) -> None:
    mount = mounts.start()
    run("tee", mount.root / "f", data=b"text")
    mount.unmount()
    mount = mounts.start("a", "ro")
    for _ in range(5):
        assert run("cat", mount.root / "f").stdout == b"text"
    counts = mount.counts()
    assert counts["open"] >= 5
    assert counts["flush"] == 1
