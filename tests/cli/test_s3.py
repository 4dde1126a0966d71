"""The commands on a real S3 server."""

from pathlib import Path

import pytest

from tests.support.commands import Stow
from tests.support.corpus import SAMPLES
from tests.support.mounting import run
from tests.support.s3_servers import S3Server

pytestmark = [pytest.mark.rgw, pytest.mark.fuse]


def test_from_mkfs_to_a_second_host(stow: Stow, rgw_url: str, mountpoint: Path, tmp_path: Path) -> None:
    store = f"{rgw_url}/some/prefix"
    assert stow.json("mkfs", store)["created"] is True
    stow.run("mount", store, mountpoint)
    run("cp", "-r", SAMPLES, mountpoint / "conversations")
    run("diff", "-r", SAMPLES, mountpoint / "conversations/samples")
    assert stow.json("umount", mountpoint)["queued"] == 0

    (tmp_path / "other").mkdir()
    other = Stow(tmp_path / "other")
    other.run("get", store, "samples", "copy")
    run("diff", "-r", SAMPLES, other.directory / "copy/samples")
    other.run("put", store, SAMPLES / "chat", "--to", "more")
    other.run("mv", store, "more/chat", "talk")
    other.run("rm", "-r", store, "samples")
    stow.run("mount", store, mountpoint)
    assert sorted(path.name for path in (mountpoint / "conversations").iterdir()) == ["more", "talk"]
    run("diff", "-r", SAMPLES / "chat", mountpoint / "conversations/talk")


def test_endpoint_and_region_as_options(stow: Stow, rgw: S3Server, rgw_url: str) -> None:
    env = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_DEFAULT_REGION": ""}
    options = ["--endpoint", rgw.endpoint, "--region", "us-east-1"]
    stow.run("mkfs", rgw_url, *options, env=env)
    stow.run("ls", *options, rgw_url, env=env)


def test_doctor_knows_what_the_server_ignores(stow: Stow, rgw_url: str) -> None:
    stow.run("mkfs", rgw_url)
    checks = {check["name"]: check for check in stow.json("doctor", rgw_url)["checks"]}
    assert checks["conditional delete"]["detail"] == "If-Match is ignored on DELETE; stowfs does not depend on it"


def test_du_counts_what_the_server_holds(stow: Stow, rgw_url: str) -> None:
    stow.run("mkfs", f"{rgw_url}/a")
    stow.run("put", f"{rgw_url}/a", SAMPLES / "agent-requests")
    used = stow.json("du", f"{rgw_url}/a")
    assert used["ratio"] > 5
    assert used["conversations"] == len(list(SAMPLES.glob("agent-requests/*/*")))
