"""`commit=async` through a real mount: what a close promises, what waits where, and when it reaches the store."""

import random
import subprocess
from pathlib import Path

import pytest
import trio

from stowfs.store.file import FileStore
from tests.support.audit import audit
from tests.support.corpus import samples
from tests.support.killing import NEW, OLD, change, content_of, kill_at_every_request
from tests.support.mounting import CLIENT_TIMEOUT, Mount, Mounts, failure, python, run

pytestmark = [pytest.mark.fuse, pytest.mark.timeout(600)]

WAITS = "commit=async,flush_delay=3600"
"""Nothing goes to the store before somebody asks for it."""


def flush(mount: Mount) -> None:
    """What `stowfs flush` and `sync DIR` do."""
    python("fd = os.open(args[0], os.O_RDONLY)\nos.fsync(fd)\nos.close(fd)", mount.root)


def writes(mount: Mount) -> list[str]:
    """The keys of conversations that were written in the store since the last call."""
    return [request for request in mount.requests() if request.startswith("put manifests/")]


def test_a_close_costs_no_request(mounts: Mounts) -> None:
    mount = mounts.start("a", WAITS)
    counted = python(
        "def requests():\n"
        "    path = args[1] + '/requests'\n"
        "    return len(open(path).readlines()) if os.path.exists(path) else 0\n"
        "for name, flags in (('new', os.O_CREAT | os.O_EXCL), ('new', os.O_TRUNC), ('new', os.O_APPEND)):\n"
        "    fd = os.open(f'{args[0]}/{name}', flags | os.O_WRONLY)\n"
        "    before = requests()\n"
        "    os.write(fd, b'some bytes')\n"
        "    os.fsync(fd)\n"
        "    os.close(fd)\n"
        "    print(requests() - before)\n",
        mount.root,
        mount.control,
    )
    assert counted.split() == ["0", "0", "0"]
    assert run("cat", mount.root / "new").stdout == b"some bytessome bytes"
    assert run("ls", mount.root).stdout == b"new\n"
    assert writes(mount) == []


def test_many_changes_within_the_delay_are_one_commit(mounts: Mounts) -> None:
    mount = mounts.start("a", WAITS)
    for number in range(20):
        run("sh", "-c", f"echo {number} >> '{mount.root}/log'; chmod 6{number % 8}0 '{mount.root}/log'")
    run("sh", "-c", "echo draft > t; echo better > t; mv t final; touch -d @1000000000 final", cwd=mount.root)
    flush(mount)
    assert sorted(writes(mount)) == ["put manifests/final.json", "put manifests/log.json"]
    other = mounts.start("b")
    assert run("cat", other.root / "log").stdout == b"".join(b"%d\n" % number for number in range(20))
    assert run("stat", "-c", "%a %Y", other.root / "final").stdout == b"644 1000000000\n"
    assert run("cat", other.root / "final").stdout == b"better\n"
    assert run("ls", other.root).stdout == b"final\nlog\n"


def test_a_file_that_waits_hides_what_it_replaces_whatever_that_is(mounts: Mounts) -> None:
    mount = mounts.start("a", WAITS)
    run("ln", "-s", "nowhere", mount.root / "name")
    run("sh", "-c", "echo new > t; mv t name", cwd=mount.root)
    listed = "print([(entry.name, entry.is_symlink()) for entry in os.scandir(args[0])], os.lstat(args[1]).st_size)"
    assert python(listed, mount.root, mount.root / "name") == "[('name', False)] 4"
    flush(mount)
    assert python(listed, mount.root, mount.root / "name") == "[('name', False)] 4"
    assert run("cat", mounts.start("b").root / "name").stdout == b"new\n"


def test_files_that_wait_hold_no_descriptors(mounts: Mounts) -> None:
    mount = mounts.start("a", WAITS)
    descriptors = Path(f"/proc/{mount.process.pid}/fd")
    run("tee", mount.root / "first", data=b"waits")
    before = len(list(descriptors.iterdir()))
    run("sh", "-c", "for n in $(seq 100); do echo $n > $n; done", cwd=mount.root)
    assert len(list(descriptors.iterdir())) < before + 50
    assert run("cat", mount.root / "100").stdout == b"100\n"


def test_it_reaches_the_store_by_itself(mounts: Mounts) -> None:
    mount, other = mounts.start("a", "commit=async,flush_delay=0.1"), mounts.start("b")
    run("tee", mount.root / "x", data=NEW)
    python(
        "import time\nend = time.monotonic() + 20\n"
        "while not os.path.exists(args[0]):\n    assert time.monotonic() < end\n    time.sleep(0.1)",
        other.root / "x",
    )
    assert run("cat", other.root / "x").stdout == NEW


def test_what_waits_in_a_directory_that_became_a_file_elsewhere_is_shown_beside_it(mounts: Mounts) -> None:
    mount, other = mounts.start("a", WAITS), mounts.start("b")
    run("mkdir", mount.root / "d")
    run("tee", mount.root / "d" / "x", data=b"waits\n")
    run("sh", "-c", "rmdir d && echo file > d", cwd=other.root)
    flush(mount)
    fresh = mounts.start("c")
    first, beside = run("ls", fresh.root).stdout.decode().split()
    for one in (mount, other, fresh):
        assert run("ls", one.root).stdout.decode().split() == [first, beside]
        assert run("cat", one.root / "d").stdout == b"file\n"
        assert run("cat", one.root / beside / "x").stdout == b"waits\n"


def test_unmounting_waits_for_the_store(mounts: Mounts) -> None:
    mount = mounts.start("a", WAITS)
    run("cp", "-r", *samples()[:5], mount.root)
    mount.unmount()
    other = mounts.start("b")
    for sample in samples()[:5]:
        assert run("cat", other.root / sample.name).stdout == sample.read_bytes()


def test_what_is_removed_before_it_is_stored_never_is(mounts: Mounts) -> None:
    mount = mounts.start("a", WAITS)
    run("tee", mount.root / "x", data=NEW)
    run("rm", mount.root / "x")
    run("mkdir", mount.root / "d")
    run("tee", mount.root / "d" / "y", data=NEW)
    assert failure("os.rmdir(args[0])", mount.root / "d") == "ENOTEMPTY"
    run("rm", "-r", mount.root / "d")
    flush(mount)
    assert [key for key in writes(mount) if "d.json" not in key] == []
    assert run("ls", mount.root).stdout == b""
    mount.kill()
    assert run("ls", mounts.start("a").root).stdout == b""


@pytest.mark.parametrize("stored", [False, True], ids=["new", "stored before"])
def test_after_a_kill_it_is_read_back_and_stored(stored: bool, mounts: Mounts) -> None:
    mount = mounts.start("a", WAITS)
    if stored:
        run("tee", mount.root / "x", data=OLD)
        flush(mount)
        run("tee", "-a", mount.root / "x", data=NEW)
        expected = OLD + NEW
    else:
        run("tee", mount.root / "x", data=NEW)
        expected = NEW
    mount.kill()
    other = mounts.start("b")
    assert run("cat", other.root / "x", check=False).stdout == (OLD if stored else b"")
    mount = mounts.start("a", WAITS)
    assert run("ls", mount.root).stdout == b"x\n"
    assert run("cat", mount.root / "x").stdout == expected
    flush(mount)
    assert run("cat", other.root / "x").stdout == expected
    mount.unmount()
    audited = trio.run(audit, FileStore(mounts.store))
    assert audited.exact, audited


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", ["create", "append", "remove"])
def test_what_was_acknowledged_survives_a_kill_at_any_request(kind: str, when: str, tmp_path: Path) -> None:
    kill_at_every_request(tmp_path, lambda mounts, request: _killed_once(mounts, kind, when, request), least=1)


def _killed_once(mounts: Mounts, kind: str, when: str, request: int) -> bool:
    """A change, and the daemon killed at its `request`th request from then on; whether it makes that many."""
    mount = mounts.start("a", WAITS)
    path = mount.root / "x.jsonl"
    old: bytes | None = None if kind == "create" else NEW if kind == "remove" else OLD
    run("tee", mount.root / "bystander", data=OLD)
    if old is not None:
        run("tee", path, data=old)
    flush(mount)
    if kind == "remove":
        # Stored, and changed again: the removal has to end both.
        run("tee", "-a", path, data=OLD)
        old = NEW + OLD
    mount.kill_at(when, request)
    command, new = change(kind, path, mount.root / "y.jsonl")
    done = run(*command, data=NEW, check=False)
    if not mount.was_killed():
        assert done.returncode == 0
        return False
    acceptable = [new] if done.returncode == 0 else [old, new]
    mount = mounts.start("a", WAITS)
    path = mount.root / "x.jsonl"
    flush(mount)
    found = content_of(path)
    assert found in acceptable, (kind, when, request, None if found is None else len(found))
    assert run("cat", mount.root / "bystander").stdout == OLD
    mount.unmount()
    audited = trio.run(audit, FileStore(mounts.store))
    assert audited.exact, audited
    return True


@pytest.mark.parametrize("seed", range(3))
def test_every_file_whose_cp_succeeded_survives_kills(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    sources = samples()
    rng.shuffle(sources)
    mounts = Mounts(tmp_path)
    try:
        copied = 0
        while copied < len(sources):
            mount = mounts.start("a", "commit=async,flush_delay=0.05")
            script = 'while read -r number source; do cp "$source" "$0/$number" || exit 0; echo "$number"; done'
            work = "".join(f"{number} {sources[number]}\n" for number in range(copied, len(sources)))
            stop = rng.randrange(1, 25)
            with subprocess.Popen(["sh", "-c", script, mount.root], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as p:
                assert p.stdin is not None
                assert p.stdout is not None
                p.stdin.write(work.encode())
                p.stdin.close()
                for count, line in enumerate(p.stdout, 1):
                    copied = int(line) + 1
                    if count == stop:
                        mount.process.kill()
                p.wait(CLIENT_TIMEOUT)
            mount.kill()
        last = mounts.start("a", "commit=async")
        flush(last)
        for mount in (last, mounts.start("b")):
            for number, source in enumerate(sources):
                assert run("cat", mount.root / f"{number}").stdout == source.read_bytes(), source
        last.unmount()
    finally:
        mounts.close()
    found = trio.run(audit, FileStore(mounts.store))
    assert found.safe, found


@pytest.mark.parametrize("how", ["removed", "renamed", "replaced"])
def test_what_was_written_to_a_version_that_was_replaced_goes_where_its_name_went(how: str, mounts: Mounts) -> None:
    """After a kill it was committed under the name that it had when it was closed."""
    a, b = mounts.start("a", WAITS), mounts.start("b")
    run("tee", b.root / "x", data=b"first\n")
    python(
        "first = os.open(args[0], os.O_RDWR)\n"
        "with open(args[1], 'ab') as file: file.write(b'of b\\n')\n"
        "second = os.open(args[0], os.O_RDWR)\n"
        "assert os.fstat(first).st_ino != os.fstat(second).st_ino\n"
        "os.close(second)\n"
        "os.pwrite(first, b'of a\\n', 6)\n"
        "os.close(first)",
        a.root / "x",
        b.root / "x",
    )
    run("tee", b.root / "other", data=b"other\n")
    change = {"removed": ["rm", "x"], "renamed": ["mv", "x", "y"], "replaced": ["mv", "other", "x"]}[how]
    run(*change, cwd=a.root)
    a.kill()
    a = mounts.start("a", WAITS)
    flush(a)
    expected = {
        "removed": {"other": b"other\n"},
        "renamed": {"other": b"other\n", "y": b"first\nof b\nof a\n"},
        "replaced": {"x": b"other\n"},
    }[how]
    names = run("ls", b.root).stdout.decode().split()
    assert {name: run("cat", b.root / name).stdout for name in names} == expected


def test_writers_wait_for_room_and_then_are_told(mounts: Mounts) -> None:
    mount = mounts.start("a", f"{WAITS},backlog_count=3")
    for number in range(3):
        run("tee", mount.root / f"{number}", data=b"waits")
    # There is room as soon as the store takes what waits.
    run("tee", mount.root / "3", data=b"waits")
    flush(mount)
    python(
        "handles = [os.open(f'{args[0]}/{name}', os.O_WRONLY | os.O_APPEND) for name in range(3)]\n"
        "open(args[1] + '/down', 'w').close()\n"
        "for fd in handles:\n"
        "    os.write(fd, b' and more')\n"
        "    os.fsync(fd)\n",
        mount.root,
        mount.control,
    )
    appending = "os.write(os.open(args[0], os.O_WRONLY | os.O_APPEND), b'!')"
    assert failure(appending, mount.root / "0") == "ENOSPC"
    mount.mend_store()
    flush(mount)
    assert failure(appending, mount.root / "0") == ""
    flush(mount)
    assert run("cat", mounts.start("b").root / "0").stdout == b"waits and more!"


def test_while_the_store_is_away_everything_written_here_is_read_here(mounts: Mounts) -> None:
    mount = mounts.start("a", "commit=async,flush_delay=0.05")
    run("tee", mount.root / "x", data=OLD)
    flush(mount)
    with_handle = "fd = os.open(args[0], os.O_RDWR | os.O_APPEND)\nopen(args[1] + '/down', 'w').close()\n"
    python(with_handle + "os.write(fd, b'more')\nos.fsync(fd)\nos.close(fd)", mount.root / "x", mount.control)
    assert run("cat", mount.root / "x").stdout == OLD + b"more"
    assert failure("fd = os.open(args[0], os.O_RDONLY)\nos.fsync(fd)", mount.root) == "EIO"
    mount.mend_store()
    flush(mount)
    assert run("cat", mounts.start("b").root / "x").stdout == OLD + b"more"


def test_two_hosts_that_wait_lose_no_line(mounts: Mounts) -> None:
    a, b = mounts.start("a", WAITS), mounts.start("b", WAITS)
    run("tee", a.root / "log", data=b"first\n")
    flush(a)
    for number in range(10):
        run("sh", "-c", f"echo a{number} >> '{a.root}/log'; echo b{number} >> '{b.root}/log'")
    flush(a)
    flush(b)
    run("sh", "-c", f"echo last >> '{a.root}/log'")
    flush(a)
    lines = run("cat", b.root / "log").stdout.split()
    assert lines == [b"first", *(b"a%d" % n for n in range(10)), *(b"b%d" % n for n in range(10)), b"last"]


def test_a_file_that_two_hosts_create_exclusively_is_kept_twice(mounts: Mounts) -> None:
    """Nobody can be told any more that the name was taken: the later one is kept beside the other."""
    a, b = mounts.start("a", WAITS), mounts.start("b", WAITS)
    creating = "fd = os.open(args[0], os.O_CREAT | os.O_EXCL | os.O_WRONLY)\nos.write(fd, args[1].encode())"
    python(creating, a.root / "x", "by a")
    python(creating, b.root / "x", "by b")
    flush(a)
    flush(b)
    assert run("cat", b.root / "x").stdout == b"by a"
    names = run("ls", b.root).stdout.decode().split()
    assert len(names) == 2
    assert names[1].startswith("x.conflict-")
    assert run("cat", b.root / names[1]).stdout == b"by b"


@pytest.mark.parametrize("made", ["directory", "symbolic link"])
def test_what_is_appended_after_somebody_made_something_else_of_its_name_is_kept_with_the_rest(
    mounts: Mounts, made: str
) -> None:
    a, b = mounts.start("a", f"{WAITS},attr_timeout=0"), mounts.start("b")
    make = "os.mkdir(args[1] + '/log')\n" if made == "directory" else "os.symlink('target', args[1] + '/log')\n"
    python(
        "log = os.open(args[0] + '/log', os.O_WRONLY | os.O_CREAT | os.O_APPEND)\n"
        "os.write(log, b'one\\n'); os.fsync(log)\n" + make + "os.fsync(os.open(args[0], os.O_RDONLY))\n"
        "os.write(log, b'two\\n'); os.fsync(log)\n"
        "os.write(log, b'three\\n'); os.close(log)",
        a.root,
        b.root,
    )
    flush(a)
    for mount in (a, b):
        assert run("stat", "-c", "%F", mount.root / "log").stdout.decode().strip() == made
        first, beside = run("ls", mount.root).stdout.decode().split()
        assert first == "log"
        assert run("cat", mount.root / beside).stdout == b"one\ntwo\nthree\n"


def test_a_mount_with_commit_sync_stores_what_an_asynchronous_one_left(mounts: Mounts) -> None:
    mount = mounts.start("a", WAITS)
    run("tee", mount.root / "x", data=NEW)
    mount.kill()
    mount = mounts.start("a")
    assert run("cat", mount.root / "x").stdout == NEW
    flush(mount)
    assert writes(mount) == ["put manifests/x.json"]
    assert run("cat", mounts.start("b").root / "x").stdout == NEW
