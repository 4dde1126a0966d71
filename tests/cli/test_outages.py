"""The network to a store on S3 goes away under a mount, and returns."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.commands import Stow
from tests.support.mounting import failure, run
from tests.support.s3_servers import S3Server
from tests.support.wire import How, wire

pytestmark = [pytest.mark.fuse, pytest.mark.rgw]

NOTICE = 60.0
"""Seconds within which a daemon must have understood an outage, and its end: a few times what it should take."""

WRITE = "fd = os.open(args[0], os.O_APPEND | os.O_WRONLY)\nos.write(fd, b' and more')\nos.close(fd)"


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + NOTICE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.parametrize("how", ["refusing", "silent"])
def test_a_network_that_goes_and_returns(stow: Stow, rgw: S3Server, rgw_url: str, mountpoint: Path, how: How) -> None:
    with wire(rgw.endpoint) as connection:
        endpoint = ("--endpoint", connection.endpoint)
        stow.run("mkfs", *endpoint, rgw_url)
        stow.run("mount", *endpoint, rgw_url, mountpoint, "-o", "timeout=4")
        root = mountpoint / "conversations"
        (log,) = (stow.state / "logs").glob("*.log")
        run("tee", root / "kept", data=b"kept")
        connection.set(how)
        _until(lambda: failure("os.listdir(args[0])", root) == "EIO" and _in_outage(log))
        assert run("cat", root / "kept").stdout == b"kept"
        assert failure(WRITE, root / "kept") == "EIO"
        assert failure("os.listdir(args[0])", root) == "EIO"
        connection.set("up")
        _until(lambda: not _in_outage(log))
        assert run("ls", root).stdout == b"kept\n"
        assert failure(WRITE, root / "kept") == ""
        text = log.read_text()
        assert text.count("store unreachable: ") == text.count("store answers again after ") == 1
        assert rgw_url in text[text.index("store unreachable: ") :].splitlines()[0]
        assert "Traceback" not in text
        stow.run("umount", mountpoint)
    assert stow.run("cat", rgw_url, "kept").stdout == "kept and more"


def _in_outage(log: Path) -> bool:
    text = log.read_text()
    return text.rfind("store unreachable: ") > text.rfind("store answers again ")
