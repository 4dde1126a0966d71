"""What keeps a mount from being made: one line that says what to do, exit status 1, nothing left mounted."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import Stow
from tests.support.s3_servers import S3Server

pytestmark = pytest.mark.fuse

PATIENCE = 20.0
"""Seconds after which a user takes a command for hung; a first contact with a store has half of them."""


@pytest.fixture(autouse=True)
def _nothing_is_left(stow: Stow) -> Iterator[None]:
    yield
    assert stow.mounted() == []
    assert list(stow.state.glob("*/*/mount.json")) == []


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of this machine at which nobody listens, and nobody will."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield listening.getsockname()[1]


def test_a_mount_point_that_is_not_there(stow: Stow, store: str) -> None:
    assert stow.error("mount", store, "nowhere").endswith("nowhere does not exist: make it with mkdir")


def test_a_mount_point_that_is_a_file(stow: Stow, store: str) -> None:
    (stow.directory / "file").touch()
    assert "is not a directory" in stow.error("mount", store, "file")


def test_a_mount_point_that_is_not_empty(stow: Stow, store: str, mountpoint: Path) -> None:
    (mountpoint / "there").touch()
    assert "is not empty: mount on an empty directory" in stow.error("mount", store, mountpoint)


def test_a_mount_point_of_something_else(stow: Stow, store: str) -> None:
    assert "/proc is mounted already (proc)" in stow.error("mount", store, "/proc")


def test_a_store_below_its_mount_point(stow: Stow, mountpoint: Path) -> None:
    assert "lie in each other" in stow.error("mount", mountpoint, mountpoint, status=2)
    assert "lie in each other" in stow.error("mount", mountpoint / "store", mountpoint, status=2)
    assert list(mountpoint.iterdir()) == []


def test_a_directory_with_other_files_is_not_made_a_store(stow: Stow, mountpoint: Path) -> None:
    precious = stow.directory / "home"
    precious.mkdir()
    (precious / "thesis.tex").touch()
    message = stow.error("mount", precious, mountpoint)
    assert "is no store and holds other files (thesis.tex)" in message
    assert not (precious / "stowfs.json").exists()


def test_a_file_is_no_store(stow: Stow, mountpoint: Path) -> None:
    (stow.directory / "file").write_bytes(b"x")
    for arguments in (["mkfs", "file"], ["mount", "file", str(mountpoint)]):
        message = stow.error(*arguments)
        assert message == f"{stow.directory.as_uri()}/file cannot be made: it is a file: name a new or empty directory"
    assert (
        stow.error("ls", "file")
        == f"{stow.directory.as_uri()}/file is no store: it is a file, and a store is a directory"
    )


def test_a_newer_format_version(stow: Stow, store: str, mountpoint: Path) -> None:
    descriptor = stow.directory / "store" / "stowfs.json"
    document = json.loads(descriptor.read_bytes())
    descriptor.write_text(json.dumps({**document, "v": document["v"] + 1, "unheard_of": {}}))
    for arguments in (["mount", store, str(mountpoint)], ["mount", "-o", "ro", store, str(mountpoint)], ["ls", store]):
        message = stow.error(*arguments)
        assert f"has format version {document['v'] + 1}" in message
        assert "upgrade stowfs" in message


def test_a_damaged_descriptor(stow: Stow, store: str, mountpoint: Path) -> None:
    (stow.directory / "store" / "stowfs.json").write_text("{")
    assert "the descriptor stowfs.json of" in stow.error("mount", store, mountpoint)


def test_a_read_only_mount_makes_no_store(stow: Stow, mountpoint: Path) -> None:
    assert "make one with 'stowfs mkfs" in stow.error("mount", "nothing", mountpoint, "-o", "ro")
    assert not (stow.directory / "nothing").exists()


def test_a_state_directory_that_cannot_be(stow: Stow, store: str, mountpoint: Path) -> None:
    (stow.directory / "file").touch()
    message = stow.error("mount", store, mountpoint, env={"STOWFS_STATE_DIR": str(stow.directory / "file")})
    assert str(stow.directory / "file") in message


@pytest.mark.rgw
def test_a_bucket_without_a_store(stow: Stow, rgw_url: str, mountpoint: Path) -> None:
    assert f"prepare it with 'stowfs mkfs {rgw_url}'" in stow.error("mount", rgw_url, mountpoint)


@pytest.mark.rgw
@pytest.mark.parametrize("command", ["mkfs", "mount", "ls"])
def test_a_bucket_that_is_not_there(stow: Stow, rgw_url: str, mountpoint: Path, command: str) -> None:
    arguments = [f"{rgw_url}-no", *([str(mountpoint)] if command == "mount" else [])]
    assert "there is no such bucket: create it" in stow.error(command, *arguments)


@pytest.mark.rgw
@pytest.mark.parametrize("command", ["mkfs", "mount", "ls"])
@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials(stow: Stow, rgw_url: str, mountpoint: Path, variable: str, command: str) -> None:
    arguments = [rgw_url, *([str(mountpoint)] if command == "mount" else [])]
    message = stow.error(command, *arguments, env={variable: "wrong"})
    assert "access denied" in message
    assert "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in message


@pytest.mark.rgw
def test_no_credentials(stow: Stow, rgw: S3Server, rgw_url: str, mountpoint: Path) -> None:
    nothing = str(stow.directory / "none")
    env = {
        "AWS_ACCESS_KEY_ID": "",
        "AWS_SECRET_ACCESS_KEY": "",
        "AWS_SHARED_CREDENTIALS_FILE": nothing,
        "AWS_CONFIG_FILE": nothing,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    assert "AWS_ACCESS_KEY_ID" in stow.error("mount", rgw_url, mountpoint, env=env)


@pytest.mark.parametrize(
    ("server", "command"),
    [("closed_port", "mount"), ("closed_port", "mkfs"), ("silent_port", "mount"), ("silent_port", "ls")],
)
def test_an_endpoint_that_does_not_answer(
    stow: Stow, mountpoint: Path, command: str, server: str, request: pytest.FixtureRequest
) -> None:
    endpoint = f"http://127.0.0.1:{request.getfixturevalue(server)}"
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    arguments = ["--endpoint", endpoint, "s3://bucket", *([str(mountpoint)] if command == "mount" else [])]
    started = time.monotonic()
    message = stow.error(command, *arguments, env=keys)
    assert time.monotonic() - started < PATIENCE
    assert message.count(endpoint) == 1
    assert message.count("check the endpoint") == 1


def test_a_host_name_that_is_not_there(stow: Stow, mountpoint: Path) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    endpoint = "http://no-such-host.invalid"
    assert endpoint in stow.error("mount", "--endpoint", endpoint, "s3://bucket", mountpoint, env=keys)


def test_an_environment_that_must_not_matter(stow: Stow, store: str) -> None:
    """A proxy or a profile of S3 has nothing to do with a directory."""
    stow.run("ls", store, env={"AWS_PROFILE": "no-such-profile", "HTTPS_PROXY": "http://127.0.0.1:1"})
    assert os.listdir(stow.directory / "store")


def test_a_process_that_may_not_mount(stow: Stow, store: str, mountpoint: Path) -> None:
    """As root in a container that was not given the right to."""
    command = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin", sys.executable, "-m", "stowfs"]
    done = subprocess.run(
        [*command, "mount", store, str(mountpoint)],
        capture_output=True,
        text=True,
        env={**os.environ, **stow.environment},
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "Operation not permitted; a container needs" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_access_log_in_the_mount_itself(stow: Stow, store: str, mountpoint: Path) -> None:
    where = f"access_log={mountpoint}/conversations/log"
    assert "would lie in the mount itself" in stow.error("mount", store, mountpoint, "-o", where, status=2)


def test_an_access_log_that_cannot_be_opened(stow: Stow, store: str, mountpoint: Path) -> None:
    assert "/dev/null/log: Not a directory" in stow.error("mount", store, mountpoint, "-o", "access_log=/dev/null/log")
