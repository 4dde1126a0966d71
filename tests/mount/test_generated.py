"""The files in `/.stowfs`, and the access log."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.mounting import Mount, Mounts, failure, python, run
from tests.vault.test_promises import noise

pytestmark = pytest.mark.fuse

FILES = ["config.json", "metrics", "stats.json", "uploads"]


def shown(mount: Mount, name: str) -> str:
    return run("cat", mount.mountpoint / ".stowfs" / name).stdout.decode()


def stats(mount: Mount) -> Any:
    return json.loads(shown(mount, "stats.json"))


def metrics(mount: Mount) -> dict[str, float]:
    """Every sample, by its name and labels."""
    return {
        " ".join([sample.name, *(f"{key}={value}" for key, value in sorted(sample.labels.items()))]): sample.value
        for family in text_string_to_metric_families(shown(mount, "metrics"))
        for sample in family.samples
    }


def test_they_are_there_and_read_only(mounts: Mounts) -> None:
    mount = mounts.start()
    top = mount.mountpoint / ".stowfs"
    assert run("ls", "-A", mount.mountpoint).stdout == b".stowfs\nconversations\n"
    assert run("ls", "-A", top).stdout.decode().split() == FILES
    kinds = run("stat", "-c", "%A", top, *(top / name for name in FILES)).stdout.decode().split()
    assert kinds == ["dr-xr-xr-x", "-r--r--r--", "-r--r--r--", "-r--r--r--", "-r--------"]
    numbers = run("find", mount.mountpoint, "-printf", "%i\n").stdout.split()
    assert len(set(numbers)) == len(numbers) == 3 + len(FILES)
    run("touch", mount.root / "file")
    for name in ("missing", "stats.json"):
        for code in (
            "open(args[0], 'w')",
            "os.mkdir(args[0])",
            "os.symlink('x', args[0])",
            "os.rename(args[1], args[0])",
        ):
            expected = {"EROFS", "EEXIST"} if name == "stats.json" else {"EROFS"}
            assert failure(code, top / name, mount.root / "file") in expected, (name, code)
    for code in (
        "os.unlink(args[0])",
        "os.chmod(args[0], 0o600)",
        "os.truncate(args[0], 0)",
        "os.utime(args[0])",
        "os.open(args[0], os.O_RDWR)",
        "os.rename(args[0], args[1])",
    ):
        assert failure(code, top / "stats.json", mount.root / "x") == "EROFS", code
    assert failure("os.rmdir(args[0])", top) == "EROFS"
    assert failure("open(args[0])", top / "missing") == "ENOENT"
    assert "Traceback" not in mount.log_text()


def test_sizes_are_those_of_what_is_read(mounts: Mounts, tmp_path: Path) -> None:
    mount = mounts.start()
    run("tee", mount.root / "file", data=b"text")
    code = (
        "fd = os.open(args[0], os.O_RDONLY)\n"
        "size = os.fstat(fd).st_size\n"
        "first = os.read(fd, 1 << 20)\n"
        "for n in range(20): open(args[1] + str(n), 'w').close()\n"
        "print(size == len(first) > 0, os.pread(fd, 1 << 20, 0) == first, os.fstat(fd).st_size == size)"
    )
    for name in FILES[:3]:
        top = mount.mountpoint / ".stowfs"
        assert python(code, top / name, mount.root / f"{name}-") == "True True True", name
    copy = tmp_path / "copy"
    run(
        "sh",
        "-c",
        'tar -C "$1" -c .stowfs | tar -C "$2" -x && cp -r "$1/.stowfs" "$3"',
        "sh",
        mount.mountpoint,
        tmp_path,
        copy,
    )
    for directory in (tmp_path / ".stowfs", copy):
        assert sorted(os.listdir(directory)) == FILES
        assert json.loads((directory / "stats.json").read_bytes())["operations"]["create"]["count"] == 61


def test_stats(mounts: Mounts) -> None:
    mount = mounts.start()
    data = noise(300_000)
    run("tee", mount.root / "file", data=data)
    mount.requests()
    before = stats(mount)
    assert failure("open(args[0])", mount.root / "missing") == "ENOENT"
    mount.requests()
    after = stats(mount)
    assert after["bytes_written"] == len(data)
    assert after["uptime"] > before["uptime"] > 0
    create = after["operations"]["create"]
    assert (create["count"], create["errors"]) == (1, {})
    assert create["seconds"] > 0
    missing = after["operations"]["lookup"]["errors"]["ENOENT"] - before["operations"]["lookup"]["errors"]["ENOENT"]
    assert missing == 1
    answered = {operation: counted["count"] for operation, counted in after["requests"].items()}
    assert answered["put"] >= 2
    assert after["requests"]["get"]["errors"]["ObjectNotFound"] >= 1
    assert after["bytes_sent"] > len(data)
    assert (after["open_files"], after["uncommitted_files"], after["spool_bytes"]) == (0, 0, 0)
    mount.unmount()
    again = mounts.start("b")
    assert run("cat", again.root / "file").stdout == data
    read = stats(again)
    assert read["bytes_read"] >= len(data)
    segments = read["segments"]
    assert segments["misses"] > 0
    assert segments["memory_bytes"] > 0
    assert segments["disk_bytes"] > 0
    assert read["bytes_received"] > len(data)
    again.unmount()
    warm = mounts.start("b")
    assert run("cat", warm.root / "file").stdout == data
    found = stats(warm)["segments"]
    assert (found["misses"], found["disk_hits"]) == (0, segments["misses"])


def test_every_request_is_counted(mounts: Mounts) -> None:
    mount = mounts.start()
    mount.requests()
    before = stats(mount)["requests"]
    run("tee", mount.root / "a", mount.root / "b", data=noise(200_000))
    run("sh", "-c", 'cd "$1" && mkdir d && mv a d && rm b && ls -lR && rm -r d', "sh", mount.root)
    after = stats(mount)["requests"]
    sent = [request.split()[0] for request in mount.requests()]
    for operation in ("get", "put", "list"):
        counted = after[operation]["count"] - before.get(operation, {"count": 0})["count"]
        # Releases go on in the background.
        assert 0 < counted <= sent.count(operation) + (operation == "list"), operation


def test_what_is_open_shows(mounts: Mounts) -> None:
    mount = mounts.start()
    code = (
        "import json\n"
        "fd = os.open(args[0] + '/conversations/new', os.O_CREAT | os.O_WRONLY)\n"
        "os.write(fd, b'x' * 1000)\n"
        "os.open(args[0] + '/conversations', os.O_RDONLY | os.O_DIRECTORY)\n"
        "seen = json.load(open(args[0] + '/.stowfs/stats.json'))\n"
        "print(*(seen[name] for name in ('open_files', 'uncommitted_files', 'open_directories', 'spool_bytes')))"
    )
    assert python(code, mount.mountpoint) == "1 1 1 1000"
    assert stats(mount)["uncommitted_files"] == 0


def test_metrics_say_the_same(mounts: Mounts) -> None:
    mount = mounts.start()
    run("tee", mount.root / "file", data=noise(100_000))
    assert failure("os.rmdir(args[0])", mount.root / "file") == "ENOTDIR"
    known, samples = stats(mount), metrics(mount)
    assert samples["stowfs_operations_total operation=create"] == known["operations"]["create"]["count"] == 1
    assert samples["stowfs_operations_failed_total error=ENOENT operation=lookup"] >= 1
    assert samples["stowfs_operations_seconds_total operation=create"] == pytest.approx(
        known["operations"]["create"]["seconds"], abs=1e-5
    )
    assert samples["stowfs_store_requests_total request=put"] == known["requests"]["put"]["count"]
    assert samples["stowfs_store_requests_failed_total error=ObjectNotFound request=get"] >= 1
    assert samples["stowfs_written_bytes_total"] == 100_000
    assert samples["stowfs_segment_cache_bytes cache=memory"] == known["segments"]["memory_bytes"]
    assert samples["stowfs_start_time_seconds"] == pytest.approx(known["started"])
    assert [name for name in samples if name.startswith("stowfs_info ")]


def test_failures_of_the_store_are_counted(mounts: Mounts) -> None:
    mount = mounts.start()
    mount.break_store()
    assert failure("os.mkdir(args[0])", mount.root / "d") == "EIO"
    seen = stats(mount)
    assert seen["operations"]["lookup"]["errors"]["EIO"] >= 1
    assert seen["requests"]["get"]["errors"]["StoreUnavailable"] >= 1


def test_config_shows_what_is_in_force_and_no_secrets(mounts: Mounts) -> None:
    mount = mounts.start("a", "cache_size=32M,endpoint=https://user:secret@s3.example.org:9000/x,umask=022")
    text = shown(mount, "config.json")
    config = json.loads(text)
    assert config["store"] == mounts.store.as_uri()
    assert config["store_id"] == json.loads((mounts.store / "stowfs.json").read_bytes())["store_id"]
    assert (config["mountpoint"], config["pid"]) == (str(mount.mountpoint), mount.process.pid)
    options = config["options"]
    assert (options["cache_size"], options["memory_cache"], options["revalidate"]) == (32 << 20, 64 << 20, 0)
    assert (options["timeout"], options["umask"], options["ro"], options["uid"]) == (2, "022", False, None)
    assert options["commit"] == "sync"
    assert [name for name in ("flush_delay", "backlog_size", "backlog_count", "local") if not options[name]] == []
    assert options["endpoint"] == "https://s3.example.org:9000/x"
    assert "secret" not in text
    assert config["versions"]["stowfs"]
    assert config["versions"]["pyfuse3"] == "3.5.0"


def test_uploads_shows_the_commits_under_way(mounts: Mounts) -> None:
    mount = mounts.start("a", "timeout=60")
    run("mkdir", mount.root / "d")
    assert shown(mount, "uploads") == ""
    # The store goes away after the file is created and before it is committed.
    code = (
        "import threading\n"
        "def write():\n"
        "    with open(args[0] + '/conversations/d/é', 'wb') as f:\n"
        "        f.write(os.urandom(300000))\n"
        "        open(args[1] + '/down', 'w').close()\n"
        "thread = threading.Thread(target=write)\n"
        "thread.start()\n"
        "lines = []\n"
        "while thread.is_alive() and not lines:\n"
        "    lines = open(args[0] + '/.stowfs/uploads').read().splitlines()\n"
        "os.unlink(args[1] + '/down')\n"
        "thread.join()\n"
        "print(lines[0])"
    )
    seen = json.loads(python(code, mount.mountpoint, mount.control))
    assert (seen["kind"], seen["phase"], seen["path"]) == ("commit", "recorded", "d/é")
    assert seen["segments"] > 0
    assert shown(mount, "uploads") == ""


LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\t(\w+)\t(.*)\t(\w+)\t(\d+\.\d{3})\t(\d+)")


def test_an_access_log_has_a_line_for_each_operation(mounts: Mounts) -> None:
    log = mounts.directory / "access"
    log.write_text("what was there\n")
    mount = mounts.start("a", f"access_log={log}")
    run("tee", mount.root / "tab\tand ü", data=b"12345")
    run("cat", mount.root / "tab\tand ü")
    assert failure("open(args[0])", mount.root / "missing") == "ENOENT"
    run("ls", mount.root)
    moved = log.rename(mounts.directory / "moved")
    run("rm", mount.root / "tab\tand ü")
    first, *lines = moved.read_text().splitlines()
    assert first == "what was there"
    parsed = [LINE.fullmatch(line) for line in lines]
    assert None not in parsed
    found = [match.groups() for match in parsed if match is not None]
    name = "/conversations/tab\\tand ü"
    operations = [(operation, path, result, int(size)) for operation, path, result, _, size in found]
    assert ("create", name, "OK", 0) in operations
    assert ("write", name, "OK", 5) in operations
    assert ("read", name, "OK", 5) in operations
    assert ("flush", name, "OK", 0) in operations
    assert ("release", name, "OK", 0) in operations
    assert ("readdir", "/conversations", "OK", 0) in operations
    assert ("lookup", "/conversations/missing", "ENOENT", 0) in operations
    assert any(float(milliseconds) > 0 for *_, milliseconds, _ in found)
    # What follows is in a new file.
    assert LINE.fullmatch(log.read_text().splitlines()[-1])
    assert f"unlink\t{name}\tOK" in log.read_text()


def test_an_access_log_that_cannot_be_written_costs_nothing(mounts: Mounts) -> None:
    mount = mounts.start("a", "access_log=/dev/full")
    run("tee", mount.root / "a", mount.root / "b", data=b"text")
    assert run("cat", mount.root / "a").stdout == b"text"
    assert mount.log_text().count("the access log cannot be written") == 1
