"""Two hosts with four processes each append to one file: every line is there once, and whole."""

import os
import subprocess
import sys
from pathlib import Path

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


def lines_of(name: str) -> list[bytes]:
    """What one process appends: short lines, some longer than a page of memory, at whose end the kernel may cut a write
    in two, and a few of almost 128 KiB, as much as it sends at once."""
    lengths = [130_000 if n % 25 == 9 else 5_000 if n % 4 == 0 else n * 7 % 90 for n in range(LINES)]
    return [f"{name} {n:04d} {'.' * length}\n".encode() for n, length in enumerate(lengths)]


@pytest.mark.parametrize("kind", ["file", pytest.param("rgw", marks=pytest.mark.rgw)])
def test_lines_of_two_hosts_and_eight_processes(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    store = str(tmp_path / "store") if kind == "file" else request.getfixturevalue("rgw_url")
    hosts = [_host(tmp_path / name) for name in ("a", "b")]
    appenders: list[subprocess.Popen[bytes]] = []
    try:
        hosts[0].run("mkfs", store)
        roots = [_mounted(host, store) for host in hosts]
        run("touch", roots[0] / "log")
        written = {f"{host}.{process}": root for host, root in enumerate(roots) for process in range(PROCESSES)}
        for name, root in written.items():
            source = tmp_path / name
            source.write_bytes(b"".join(lines_of(name)))
            command = [sys.executable, "-S", "-c", APPEND, str(root / "log")]
            with source.open("rb") as lines:
                appenders.append(subprocess.Popen(command, stdin=lines))
        assert [appender.wait(APPENDERS_TIMEOUT) for appender in appenders] == [0] * len(appenders)
        seen = [run("cat", root / "log").stdout for root in roots]
        assert seen[0] == seen[1]
        lines = seen[0].splitlines(keepends=True)
        assert len(lines) == len(written) * LINES
        for name in written:
            assert [line for line in lines if line.startswith(name.encode())] == lines_of(name)
        assert run("ls", roots[1]).stdout == b"log\n"
        for host, root in zip(hosts, roots, strict=True):
            assert host.json("umount", root.parent)["queued"] == 0
    finally:
        for host in hosts:
            host.close()
        for appender in appenders:
            appender.kill()
            appender.wait(APPENDERS_TIMEOUT)


def _host(directory: Path) -> Stow:
    directory.mkdir()
    return Stow(directory)


def _mounted(host: Stow, store: str) -> Path:
    """Mounts the store; the directory of the conversations."""
    mountpoint = host.directory / "mnt"
    mountpoint.mkdir()
    host.run("mount", store, mountpoint)
    return mountpoint / "conversations"
