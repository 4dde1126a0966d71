"""Two hosts with four processes each append to one file: every line is there once, and whole, for who reads it
meanwhile, too."""

import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from tests.support.commands import Stow
from tests.support.mounting import run

pytestmark = [pytest.mark.fuse, pytest.mark.timeout(900)]

LINES = int(os.environ.get("STOWFS_APPENDS", "50"))
"""Lines of each process. With 1,000 the test takes minutes on a server."""

PROCESSES = 4
"""Processes of each host."""

APPENDERS_TIMEOUT = 600.0
"""Seconds for all appenders together: several times what they need."""

APPEND = """
import os, sys
for line in sys.stdin.buffer:
    log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
    assert os.write(log, line) == len(line)
    os.close(log)
"""


READ = """
import os, re, sys
# A line is cut at most where hosts begin to write to a file at the same time.
for path in sys.argv[1:] * 2:
    log = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(log, b"begin 0 .\\n")
    os.close(log)
print("ready", flush=True)
reads = 0
os.set_blocking(0, False)
while sys.stdin.buffer.read(1) is None:
    for path in sys.argv[1:]:
        with open(path, "rb", buffering=0) as log:
            *lines, rest = b"".join(iter(lambda: log.read(1 << 17), b"")).split(b"\\n")
        torn = [line[:80] for line in lines if not re.fullmatch(rb"[0-9a-z.]+ [0-9]+ [.]*", line)]
        assert not torn, torn
        assert not rest, rest[:80]
        reads += 1
print(reads)
"""


def lines_of(name: str) -> list[bytes]:
    """What one process appends: short lines, some longer than a page of memory, at whose end the kernel may cut a write
    in two, and a few of almost 128 KiB, as much as it sends at once."""
    lengths = [130_000 if n % 25 == 9 else 5_000 if n % 4 == 0 else n * 7 % 90 for n in range(LINES)]
    return [f"{name} {n:04d} {'.' * length}\n".encode() for n, length in enumerate(lengths)]


@pytest.mark.parametrize("kind", ["file", pytest.param("rgw", marks=pytest.mark.rgw)])
def test_lines_of_two_hosts_and_eight_processes(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    store = str(tmp_path / "store") if kind == "file" else request.getfixturevalue("rgw_url")
    hosts = [_host(tmp_path / name) for name in ("a", "b")]
    started: list[subprocess.Popen[bytes]] = []
    try:
        hosts[0].run("mkfs", store)
        roots = [_mounted(host, store) for host in hosts]
        run("touch", roots[0] / "log")
        reader = _python(READ, *(root / "log" for root in roots), stdin=subprocess.PIPE)
        started.append(reader)
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"ready\n"
        written = {f"{host}.{process}": root for host, root in enumerate(roots) for process in range(PROCESSES)}
        for name, root in written.items():
            source = tmp_path / name
            source.write_bytes(b"".join(lines_of(name)))
            with source.open("rb") as lines:
                started.append(_python(APPEND, root / "log", stdin=lines))
        appenders = started[1:]
        assert [appender.wait(APPENDERS_TIMEOUT) for appender in appenders] == [0] * len(appenders)
        reads, _ = reader.communicate(timeout=APPENDERS_TIMEOUT)
        assert reader.returncode == 0
        assert int(reads) > len(roots)
        seen = [run("cat", root / "log").stdout for root in roots]
        assert seen[0] == seen[1]
        lines = seen[0].splitlines(keepends=True)
        assert len(lines) == 2 * len(roots) + len(written) * LINES
        for name in written:
            assert [line for line in lines if line.startswith(name.encode())] == lines_of(name)
        assert run("ls", roots[1]).stdout == b"log\n"
        for host, root in zip(hosts, roots, strict=True):
            assert host.json("umount", root.parent)["queued"] == 0
    finally:
        for host in hosts:
            host.close()
        for process in started:
            process.kill()
            process.wait(APPENDERS_TIMEOUT)


def _python(program: str, *arguments: Path, stdin: int | IO[bytes]) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-S", "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE)


def _host(directory: Path) -> Stow:
    directory.mkdir()
    return Stow(directory)


def _mounted(host: Stow, store: str) -> Path:
    """Mounts the store; the directory of the conversations."""
    mountpoint = host.directory / "mnt"
    mountpoint.mkdir()
    host.run("mount", store, mountpoint)
    return mountpoint / "conversations"
