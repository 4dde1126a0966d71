"""Fixtures for S3 servers on this machine: moto in the test process, and the Ceph RGW of scripts/rgw.

`rgw` and `moto` are the running servers, for the whole session. `rgw_url` and `moto_url` give a test the address of an
empty bucket of its own, with the process environment set so that `open_store`, and commands the test starts, find it.
"""

import itertools
import logging
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from stowfs.config import StoreOptions
from stowfs.store.s3_account import make_client

_SCRIPT = Path(__file__).parents[2] / "scripts" / "rgw"
_START_SECONDS = 180  # Longer than the script itself waits, so that its own message is what is seen.
_buckets = itertools.count(1)


@dataclass(frozen=True)
class S3Server:
    """A running server: what must be in the environment of whoever uses it."""

    environment: Mapping[str, str]

    @property
    def endpoint(self) -> str:
        return self.environment["AWS_ENDPOINT_URL"]


@pytest.fixture(scope="session")
def rgw() -> Iterator[S3Server]:
    """The Ceph RGW: the one that runs already, or one that is started here and stopped afterwards."""
    was_running = _rgw("status").returncode == 0
    if not was_running:
        started = _rgw("start")
        if started.returncode != 0:
            pytest.fail(f"scripts/rgw start failed:\n{started.stderr}", pytrace=False)
    try:
        lines = _rgw("env").stdout.splitlines()
        pairs = [line.removeprefix("export ").partition("=") for line in lines]
        yield S3Server({name: value.strip("'") for name, _, value in pairs})
    finally:
        if not was_running:
            _rgw("stop")


def _rgw(command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(_SCRIPT), command], capture_output=True, text=True, timeout=_START_SECONDS, check=False
    )


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    """moto's S3 server, on a port of this machine, in a thread of this process."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        yield S3Server(
            {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
                "AWS_DEFAULT_REGION": "us-east-1",
            }
        )
    finally:
        server.stop()


@pytest.fixture
def rgw_url(rgw: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty bucket on RGW."""
    yield from _bucket(rgw, monkeypatch)


@pytest.fixture
def moto_url(moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty bucket on moto."""
    yield from _bucket(moto, monkeypatch)


def _bucket(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in [name for name in os.environ if name.startswith("AWS_") and name != "AWS_CA_BUNDLE"]:
        monkeypatch.delenv(name)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    client = make_client(StoreOptions())
    bucket = f"stowfs-{next(_buckets)}-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=bucket)
    try:
        yield f"s3://{bucket}"
    finally:
        _remove(client, bucket)


def _remove(client: Any, bucket: str) -> None:
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for entry in page.get("Contents", ()):
            client.delete_object(Bucket=bucket, Key=entry["Key"])
    for upload in client.list_multipart_uploads(Bucket=bucket).get("Uploads", ()):
        client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    client.delete_bucket(Bucket=bucket)
    client.close()
