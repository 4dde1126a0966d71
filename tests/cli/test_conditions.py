"""A server that ignores a condition on PUT is not written to."""

from pathlib import Path

import pytest

from tests.support.commands import Stow
from tests.support.corpus import SAMPLES
from tests.support.forgetful import forgetting
from tests.support.mounting import run
from tests.support.s3_servers import S3Server

pytestmark = pytest.mark.fuse


@pytest.mark.parametrize("header", ["If-Match", "If-None-Match"])
def test_it_is_refused_by_name(
    stow: Stow, moto: S3Server, moto_url: str, mountpoint: Path, tmp_path: Path, header: str
) -> None:
    stow.run("mkfs", f"{moto_url}/good")
    (tmp_path / "file").write_text("x")
    with forgetting(moto.endpoint, header) as endpoint:
        there = ["--endpoint", endpoint, f"{moto_url}/good"]
        for arguments in (
            ["mkfs", "--endpoint", endpoint, f"{moto_url}/new"],
            ["mount", *there, str(mountpoint)],
            ["put", *there, "file"],
            ["rm", *there, "file"],
        ):
            message = stow.error(*arguments)
            assert f"ignores {header} on PUT" in message
            assert "Use a store that heeds conditional writes" in message
        assert stow.mounted() == []
        assert "BROKEN" in stow.run("doctor", *there, status=1).stdout
        # Nothing was made in what is no store.
        assert "is not a stowfs store" in stow.error("ls", f"{moto_url}/new")


def test_it_can_be_read(stow: Stow, moto: S3Server, moto_url: str, mountpoint: Path) -> None:
    stow.run("mkfs", moto_url)
    stow.run("put", moto_url, SAMPLES / "chat")
    with forgetting(moto.endpoint, "If-Match") as endpoint:
        stow.run("mount", "--endpoint", endpoint, moto_url, mountpoint, "-o", "ro")
        run("diff", "-r", SAMPLES / "chat", mountpoint / "conversations/chat")
        stow.run("umount", mountpoint)
