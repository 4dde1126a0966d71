"""`kill -9` of the daemon, at every store request of a commit and at random: what a successful close promised is
there."""

import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from stowfs.store.file import FileStore
from tests.support.audit import audit
from tests.support.corpus import samples
from tests.support.killing import NEW, OLD, change, content_of, kill_at_every_request
from tests.support.mounting import CLIENT_TIMEOUT, Mount, Mounts, python, run

pytestmark = [pytest.mark.fuse, pytest.mark.timeout(600)]


def _is_whole_after_restart(mounts: Mounts, name: str, acceptable: list[bytes | None]) -> None:
    """Mounts again; what the file is then (None: not there) is asserted to be one of `acceptable`; and nothing
    leaks."""
    mount = mounts.start(name)
    path = mount.root / "x.jsonl"
    found = content_of(path)
    assert found in acceptable
    assert run("cat", mount.root / "bystander").stdout == OLD
    # Life goes on, and the next close is as good as any.
    run("sh", "-c", f"printf more >> '{path}'")
    assert run("cat", path).stdout == (found or b"") + b"more"
    mount.unmount()
    audited = trio.run(audit, FileStore(mounts.store))
    assert audited.safe, audited
    assert not audited.too_high, audited


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", ["create", "replace", "append", "rename", "remove"])
def test_a_commit_that_is_killed_at_any_request_is_all_or_nothing(kind: str, when: str, tmp_path: Path) -> None:
    kill_at_every_request(tmp_path, lambda mounts, request: _killed_once(mounts, kind, when, request), least=2)


def _killed_once(mounts: Mounts, kind: str, when: str, request: int) -> bool:
    """One commit with the daemon killed at its `request`th request; whether it makes that many."""
    mount = mounts.start()
    path, other = mount.root / "x.jsonl", mount.root / "y.jsonl"
    old: bytes | None = None if kind == "create" else NEW if kind in ("rename", "remove") else OLD
    run("tee", mount.root / "bystander", data=OLD)
    if old is not None:
        run("tee", other if kind == "rename" else path, data=old)
    mount.kill_at(when, request)
    command, new = change(kind, path, other)
    done = run(*command, data=NEW, check=False)
    if not mount.was_killed():
        assert done.returncode == 0
        return False
    before = None if kind == "rename" else old
    _is_whole_after_restart(mounts, "a", [new] if done.returncode == 0 else [before, new])
    return True


@pytest.mark.parametrize(("when", "request_number"), [("after", 4), ("before", 10), ("after", 16), ("after", 25)])
def test_a_directory_that_was_being_renamed_is_under_one_name(when: str, request_number: int, mounts: Mounts) -> None:
    mount = mounts.start()
    content = {"x.jsonl": OLD, "y.jsonl": NEW, "sub/x.jsonl": OLD, "sub/few": b"few"}
    run("mkdir", "-p", mount.root / "old" / "sub")
    for name, data in content.items():
        run("tee", mount.root / "old" / name, data=data)
    run("ln", "-s", "../x.jsonl", mount.root / "old" / "sub" / "link")
    mount.kill_at(when, request_number)
    assert run("mv", "-T", mount.root / "old", mount.root / "new", check=False).returncode != 0
    assert mount.process.wait(CLIENT_TIMEOUT) == -signal.SIGKILL
    mount.mend_store()
    mount.clear()
    mount = mounts.start()
    # Whoever tries it again does no harm, and begins it where it had not begun.
    run("mv", "-T", mount.root / "old", mount.root / "new", check=False)
    _wait_until(lambda: not run("cat", mount.mountpoint / ".stowfs" / "uploads").stdout, mount)
    assert run("ls", mount.root).stdout.split() == [b"new"]
    found = run("find", ".", "-mindepth", "1", cwd=mount.root / "new").stdout.decode().split()
    assert sorted(found) == sorted([*(f"./{name}" for name in content), "./sub", "./sub/link"])
    for name, data in content.items():
        assert run("cat", mount.root / "new" / name).stdout == data
    assert run("cat", mount.root / "new" / "sub" / "link").stdout == OLD
    mount.unmount()
    assert trio.run(audit, FileStore(mounts.store)).exact


def test_a_directory_rename_that_an_outage_interrupts_is_finished_afterwards(mounts: Mounts) -> None:
    mount = mounts.start()
    run("mkdir", mount.root / "old")
    names = [f"{number:03}" for number in range(60)]
    run("sh", "-c", 'for name; do echo "$name" > "$name"; done', "sh", *names, cwd=mount.root / "old")
    mount.requests()
    # Somebody has a file open all the while.
    script = 'exec 3>> "$1/old/007"; read -r _; echo more >&3'
    with subprocess.Popen(["sh", "-c", script, "sh", mount.root], stdin=subprocess.PIPE) as writer:
        renaming = subprocess.Popen(["mv", "-T", mount.root / "old", mount.root / "new"], stderr=subprocess.PIPE)
        _wait_until(lambda: any(line.startswith("put manifests/new/") for line in mount.requests()), mount)
        mount.break_store()
        _, message = renaming.communicate(timeout=CLIENT_TIMEOUT)
        assert renaming.returncode != 0
        assert b"Input/output error" in message
        refused = "try:\n    os.mkdir(args[0])\nexcept OSError as e:\n    print(errno.errorcode[e.errno])"
        assert python(refused, mount.root / "new" / "another") == "EIO"
        mount.mend_store()
        _wait_until(lambda: not run("cat", mount.mountpoint / ".stowfs" / "uploads").stdout, mount)
        writer.communicate(b"go\n", timeout=CLIENT_TIMEOUT)
        assert writer.returncode == 0
    assert run("ls", mount.root).stdout.split() == [b"new"]
    assert run("ls", mount.root / "new").stdout.decode().split() == names
    expected = {name: f"{name}\n" + ("more\n" if name == "007" else "") for name in names}
    assert {name: run("cat", mount.root / "new" / name).stdout.decode() for name in names} == expected
    mount.unmount()
    assert trio.run(audit, FileStore(mounts.store)).exact


@pytest.mark.parametrize("seed", range(4))
def test_files_whose_cp_succeeded_survive_a_kill_during_a_copy(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    sources = samples()
    rng.shuffle(sources)
    mounts = Mounts(tmp_path)
    try:
        copied: list[int] = []
        while len(copied) < len(sources):
            mount = mounts.start()
            copied += _copy_until_killed(mount, sources, range(len(copied), len(sources)), rng.randrange(1, 25))
            mount.kill()
        last = mounts.start("a")
        for mount in (last, mounts.start("b")):
            for number, source in enumerate(sources):
                assert run("cat", mount.root / f"{number}").stdout == source.read_bytes(), source
        for mount in (last,):
            mount.unmount()
    finally:
        mounts.close()
    found = trio.run(audit, FileStore(mounts.store))
    assert found.safe, found


def _wait_until(condition: Callable[[], bool], mount: Mount) -> None:
    end = time.monotonic() + 2 * CLIENT_TIMEOUT
    while not condition():
        assert time.monotonic() < end, mount.log_text()
        time.sleep(0.05)


def _copy_until_killed(mount: Mount, sources: list[Path], numbers: range, count: int) -> list[int]:
    """Copies with one `cp` a file; kills the daemon during one of them. The numbers of the files whose cp succeeded."""
    script = 'while read -r number source; do cp "$source" "$0/$number" || exit 0; echo "$number"; done'
    work = "".join(f"{number} {sources[number]}\n" for number in numbers)
    with subprocess.Popen(["sh", "-c", script, mount.root], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(work.encode())
        client.stdin.close()
        succeeded = []
        for line in client.stdout:
            succeeded.append(int(line))
            if len(succeeded) == count:
                mount.process.kill()
        client.wait(CLIENT_TIMEOUT)
    return succeeded
