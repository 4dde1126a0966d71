"""Programs people use, on a real mount: each does what it does on a local disk, and says nothing."""

import os
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.corpus import SAMPLES
from tests.support.mounting import CLIENT_TIMEOUT, Mounts, failure, python, run

pytestmark = pytest.mark.fuse

LARGE_MIB = int(os.environ.get("STOWFS_LARGE_MIB", "20"))
"""Mebibytes of what is split and put together again: enough for several pieces, and what takes no second."""


def listing(root: Path) -> bytes:
    """Names, modes, owners, sizes and times of everything below `root`."""
    found = run("find", root, "-mindepth", "1", "-printf", "%P %M %U %G %T@ %y\n").stdout
    return b"\n".join(sorted(found.splitlines()))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree with times of its own."""
    tree = tmp_path / "tree"
    shutil.copytree(SAMPLES / "chat", tree)
    run("find", tree, "-exec", "touch", "-d", "2022-03-04 05:06:07.891011", "{}", "+")
    return tree


def test_cp_a(mounts: Mounts, tree: Path) -> None:
    mount = mounts.start()
    result = run("cp", "-a", tree, mount.root)
    assert result.stderr == b""
    run("diff", "-r", tree, mount.root / "tree")
    assert listing(mount.root / "tree") == listing(tree)


def test_mv(mounts: Mounts, tree: Path, tmp_path: Path) -> None:
    mount = mounts.start()
    (tmp_path / "back").mkdir()
    before = listing(tree)
    run("cp", "-a", tree, tmp_path / "kept")
    assert run("mv", tree, mount.root / "in").stderr == b""
    assert not tree.exists()
    assert listing(mount.root / "in") == before
    run("mkdir", mount.root / "there")
    run("mv", "-T", mount.root / "in", mount.root / "there")
    assert listing(mount.root / "there") == before
    assert run("ls", mount.root).stdout == b"there\n"
    run("tee", mount.root / "new", data=b"new")
    run("tee", mount.root / "old", data=b"old")
    run("mv", "-n", mount.root / "new", mount.root / "old")
    assert run("cat", mount.root / "new", mount.root / "old").stdout == b"newold"
    run("mv", mount.root / "new", mount.root / "old")
    assert run("cat", mount.root / "old").stdout == b"new"
    assert failure("os.stat(args[0])", mount.root / "new") == "ENOENT"
    run("mv", mount.root / "there", tmp_path / "back")
    assert listing(tmp_path / "back" / "there") == before
    run("diff", "-r", tmp_path / "kept", tmp_path / "back" / "there")
    assert run("ls", mount.root).stdout == b"old\n"


def test_rsync(mounts: Mounts, tree: Path) -> None:
    mount = mounts.start()
    assert run("rsync", "-a", f"{tree}/", f"{mount.root}/").stderr == b""
    assert listing(mount.root) == listing(tree)
    mount.requests()
    assert run("rsync", "-a", "--itemize-changes", f"{tree}/", f"{mount.root}/").stdout == b""
    assert run("rsync", "-a", "--checksum", "--itemize-changes", f"{tree}/", f"{mount.root}/").stdout == b""
    assert not [request for request in mount.requests() if request.startswith("put")]
    victim = next(path for path in sorted(tree.rglob("*")) if path.is_file())
    victim.write_bytes(victim.read_bytes() + b"\n")
    changed = run("rsync", "-a", "--itemize-changes", f"{tree}/", f"{mount.root}/").stdout.decode().splitlines()
    assert [line.split()[1] for line in changed if line.startswith(">f")] == [str(victim.relative_to(tree))]
    run("diff", "-r", tree, mount.root)


def test_tar(mounts: Mounts, tree: Path, tmp_path: Path) -> None:
    mount = mounts.start()
    run("sh", "-c", 'tar --format=posix -C "$1" -c . | tar -C "$2" -x', "sh", tree, mount.root)
    run("diff", "-r", tree, mount.root)
    assert listing(mount.root) == listing(tree)
    run("tar", "--format=posix", "-C", mount.root, "-cf", tmp_path / "out.tar", ".")
    run("tar", "-C", tree, "-df", tmp_path / "out.tar")


def test_vim(mounts: Mounts) -> None:
    mount = mounts.start()
    file = mount.root / "notes.md"
    run("dd", f"of={file}", "status=none", data=b"one\ntwo\nthree\n")
    run("vim", "-u", "NONE", "-es", "-c", "2s/two/2/", "-c", "wq", file)
    assert run("cat", file).stdout == b"one\n2\nthree\n"
    assert run("ls", "-A", mount.root).stdout == b"notes.md\n"


def test_sed_in_place_and_grep(mounts: Mounts, tree: Path) -> None:
    mount = mounts.start()
    run("cp", "-r", f"{tree}/.", mount.root)
    run("sh", "-c", 'find "$1" -type f -exec sed -i "s/e/E/g" {} +', "sh", mount.root)
    run("sh", "-c", 'find "$1" -type f -exec sed -i "s/e/E/g" {} +', "sh", tree)
    run("diff", "-r", tree, mount.root)
    assert run("grep", "-rc", "E", mount.root).stdout.count(b"\n") == run("grep", "-rc", "E", tree).stdout.count(b"\n")


def test_rg(mounts: Mounts, tree: Path) -> None:
    mount = mounts.start()
    run("cp", "-r", tree, mount.root)
    for options in (["-c"], ["-c", "--mmap"], ["-on", "--no-mmap"]):
        search = ["rg", "--no-config", "--sort", "path", *options, '"(user|assistant|human)"']
        found = run(*search, mount.root / "tree").stdout.replace(bytes(mount.root / "tree"), bytes(tree))
        assert found == run(*search, tree).stdout
        assert found


def test_jq(mounts: Mounts, tree: Path) -> None:
    mount = mounts.start()
    run("cp", "-r", tree, mount.root)
    contents = '.. | objects | select(has("content")) | .content'
    each = f'jq -c \'{contents}\' "$f" >> all.jsonl && jq . "$f" > "$f.new" && mv "$f.new" "$f"'
    script = f'cd "$1" && for f in *.json; do {each} || exit; done && jq -s length all.jsonl'
    counts = [run("sh", "-c", script, "sh", root / "smile").stdout for root in (mount.root / "tree", tree)]
    assert counts[0] == counts[1]
    assert int(counts[0]) > 0
    run("diff", "-r", tree, mount.root / "tree")


def test_git(mounts: Mounts, tree: Path) -> None:
    mount = mounts.start()
    run("cp", "-r", tree, mount.root)
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    repository = ["git", "-C", str(mount.root / "tree")]
    run(*repository, "init", "-q")
    run(*repository, "add", "-A")
    run(*repository, *identity, "commit", "-q", "-m", "first")
    run(*repository, "fsck", "--strict")
    assert run(*repository, "status", "--porcelain").stdout == b""
    run(*repository, "mv", "smile", "moved")
    run(*repository, *identity, "commit", "-q", "-m", "second")
    run(*repository, "gc", "-q")
    run("git", "clone", "-q", mount.root / "tree", mount.root / "clone")
    mount.unmount()
    root = mounts.start().root
    run("git", "-C", root / "clone", "fsck", "--strict")
    run("diff", "-r", "-x", ".git", root / "tree", root / "clone")
    assert run("git", "-C", root / "clone", "log", "--format=%s").stdout == b"second\nfirst\n"


SQLITE = """
import sqlite3
with sqlite3.connect(args[0], timeout=10) as db:
    print(*db.execute(f'pragma journal_mode={args[1]}').fetchone())
    db.execute('create table t (a integer primary key, b text)')
for start in range(0, 3000, 1000):
    with db:
        db.executemany('insert into t (b) values (?)', [(f'row {n}' * 9,) for n in range(start, start + 1000)])
with db:
    db.execute('delete from t where a % 3 = 0')
db.execute('vacuum')
db.close()
"""


@pytest.mark.parametrize("mode", ["delete", "truncate", "persist", "wal"])
def test_sqlite(mounts: Mounts, mode: str) -> None:
    mount = mounts.start()
    assert python(SQLITE, mount.root / "db", mode) == mode
    mount.unmount()
    check = (
        "import sqlite3\n"
        "db = sqlite3.connect(args[0])\n"
        "print(*db.execute('pragma integrity_check').fetchone(), *db.execute('select count(*) from t').fetchone())"
    )
    assert python(check, mounts.start().root / "db") == "ok 2000"


def test_sqlite3(mounts: Mounts) -> None:
    mount = mounts.start()
    sql = (
        b"create table t (a integer primary key, b text unique);\n"
        b"with recursive n(i) as (select 1 union all select i + 1 from n where i < 5000)"
        b" insert into t select i, hex(randomblob(50)) from n;\n"
        b"begin; delete from t; rollback;\n"
        b"update t set b = 'x' || a where a % 2;\n"
    )
    run("sqlite3", "-bail", mount.root / "db", data=sql)
    mount.unmount()
    check = b"pragma integrity_check; select count(*), sum(b = 'x' || a) from t;\n"
    assert run("sqlite3", "-bail", mounts.start().root / "db", data=check).stdout == b"ok\n5000|2500\n"


def test_inotifywait(mounts: Mounts, tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    seen = events(mounts.start().root)
    assert seen == events(tmp_path / "local")
    assert seen[0] == b"CREATE a\n"


def events(root: Path) -> list[bytes]:
    """What is seen of some work in a directory."""
    run("mkdir", root / "d")
    watched = "create,close_write,moved_to,moved_from,delete,attrib"
    command = ["inotifywait", "-m", "-r", "-e", watched, "--format", "%e %f", str(root)]
    watcher = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
    assert watcher.stdout is not None
    assert watcher.stderr is not None
    try:
        while next_line(watcher.stderr.fileno()) != b"Watches established.\n":
            pass
        # No event twice in a row: of such, the kernel may show one.
        work = "echo 1 > a && mv a d/b && echo 2 >> d/b && chmod 600 d/b && rm d/b"
        run("sh", "-c", f'cd "$1" && {work}', "sh", root)
        seen = [next_line(watcher.stdout.fileno())]
        while seen[-1] != b"DELETE b\n":
            seen.append(next_line(watcher.stdout.fileno()))
        return seen
    finally:
        watcher.kill()
        watcher.wait(CLIENT_TIMEOUT)
        watcher.stdout.close()
        watcher.stderr.close()


def next_line(fd: int) -> bytes:
    """The next line that a process says; fails where none comes in time."""
    line = b""
    while not line.endswith(b"\n"):
        readable, _, _ = select.select([fd], [], [], CLIENT_TIMEOUT)
        assert readable, line
        byte = os.read(fd, 1)
        assert byte, line
        line += byte
    return line


def test_zip(mounts: Mounts, tree: Path) -> None:
    mount = mounts.start()
    run("cp", "-a", tree, mount.root)
    for work in ("zip -qr ../z.zip .", "zip -qd ../z.zip '*.json'", "zip -qT ../z.zip", "zip -qur ../z.zip ."):
        run("sh", "-c", f'cd "$1" && {work}', "sh", mount.root / "tree")
    run("unzip", "-q", mount.root / "z.zip", "-d", mount.root / "unpacked")
    run("diff", "-r", tree, mount.root / "unpacked")


def test_find_newer(mounts: Mounts) -> None:
    mount = mounts.start()
    run(
        "sh", "-c", 'cd "$1" && touch before && sleep 0.01 && touch mark && sleep 0.01 && touch after', "sh", mount.root
    )
    run("touch", "-d", "2020-01-01", mount.root / "old")
    newer = ("find", mount.root, "-type", "f", "-newer", mount.root / "mark", "-printf", "%f\n")
    assert run(*newer).stdout == b"after\n"
    run("sh", "-c", 'echo more >> "$1"', "sh", mount.root / "old")
    assert sorted(run(*newer).stdout.split()) == [b"after", b"old"]


APPENDS = {
    "opened for each line": "for n in range(20):\n    with open(args[0], 'a') as f: f.write(f'line {n}\\n')",
    "kept open": "f = open(args[0], 'a')\nfor n in range(20):\n    f.write(f'line {n}\\n'); f.flush()",
}


@pytest.mark.parametrize("how", APPENDS)
@pytest.mark.parametrize("watch", [[], ["---disable-inotify", "-s", "0.05"]], ids=["inotify", "polling"])
def test_tail_f(mounts: Mounts, how: str, watch: list[str]) -> None:
    mount = mounts.start()
    file = mount.root / "log"
    run("tee", file, data=b"first\n")
    # Unbuffered, so that what follows the first line is left to the next reader.
    tail = subprocess.Popen(["tail", "-n", "+1", "-f", *watch, file], stdout=subprocess.PIPE, bufsize=0)
    assert tail.stdout is not None
    try:
        assert tail.stdout.readline() == b"first\n"
        python(APPENDS[how], file)
        # Ends with the last line, or after the time limit where one never comes.
        head = ["head", "-n", "20"]
        seen = subprocess.run(head, stdin=tail.stdout, capture_output=True, timeout=CLIENT_TIMEOUT, check=True).stdout
        assert seen == b"".join(b"line %d\n" % n for n in range(20))
    finally:
        tail.kill()
        tail.wait(CLIENT_TIMEOUT)
        tail.stdout.close()


@pytest.mark.timeout(120 + 2 * LARGE_MIB)
def test_split_cat_and_checksums(mounts: Mounts, tmp_path: Path) -> None:
    mount = mounts.start()
    source = tmp_path / "source"
    code = "import random\nr = random.Random(1)\nwith open(args[0], 'wb') as f:\n"
    python(f"{code}    for _ in range({LARGE_MIB}): f.write(r.randbytes(1 << 20))", source)
    timeout = CLIENT_TIMEOUT + LARGE_MIB
    run("split", "-b", str((LARGE_MIB << 20) // 7 + 1), source, mount.root / "part.", timeout=timeout)
    together = 'cd "$1" && cat part.* > whole && sha256sum part.* whole > sums'
    run("sh", "-c", together, "sh", mount.root, timeout=timeout)
    run("cmp", source, mount.root / "whole", timeout=timeout)
    mount.unmount()
    root = mounts.start().root
    checked = run("sh", "-c", 'cd "$1" && sha256sum -c sums', "sh", root, timeout=timeout).stdout
    assert checked.count(b": OK\n") == 8


def test_du_and_df(mounts: Mounts) -> None:
    mount = mounts.start()
    run("mkdir", mount.root / "d")
    run("tee", mount.root / "d" / "a", data=b"a" * 100_000)
    run("tee", mount.root / "d" / "b", data=b"b" * 28_000)
    assert run("du", "-sb", mount.root / "d").stdout.split()[0] == b"128000"
    assert int(run("du", "-sk", mount.root / "d").stdout.split()[0]) in range(125, 130)
    on_mount = run("df", "--output=size,target", "-B1", mount.root).stdout.split()
    below = run("df", "--output=size", "-B1", mounts.store).stdout.split()
    assert on_mount[-2:] == [below[-1], bytes(mount.mountpoint)]


def test_several_processes_append_to_one_file(mounts: Mounts) -> None:
    mount = mounts.start()
    code = "for n in range(50):\n    with open(args[0], 'a') as f: f.write(f'{args[1]} {n}\\n')"
    file = mount.root / "log"
    script = 'for p in 1 2 3 4; do "$1" -c "$2" "$3" $p & done; wait'
    run("sh", "-c", script, "sh", sys.executable, "import sys\nargs = sys.argv[1:]\n" + code, file)
    lines = run("cat", file).stdout.decode().splitlines()
    assert sorted(lines) == sorted(f"{p} {n}" for p in range(1, 5) for n in range(50))
    for p in "1234":
        assert [line for line in lines if line.startswith(p)] == [f"{p} {n}" for n in range(50)]
