"""The S3 server that all share, the Ceph RGW of scripts/rgw: one that runs is used, else one is started and stopped."""

import contextlib
import os
import shlex
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from scripts.benchmark.processes import Failed, run
from scripts.benchmark.settings import ROOT
from stowfs.config import StoreOptions
from stowfs.store.s3_account import make_client

SCRIPT = ROOT / "scripts" / "rgw"
SCRIPT_SECONDS = 180.0
"""Longer than the script itself waits for anything, so that its own message is what is seen."""

DELETE_AT_ONCE = 1000
"""Keys in one request to delete: the most that S3 takes."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What is in a bucket."""

    objects: int
    size: int
    newest: float = field(default=0.0, compare=False)
    """When the last of it came, in seconds since the epoch; 0 where that is not known."""


class Server:
    """A running S3 server. What is asked through it here does not pass the proxy, and is not counted."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self._client: Any = make_client(StoreOptions(endpoint=self.endpoint))

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return self.environment["AWS_ENDPOINT_URL"]

    @property
    def address(self) -> tuple[str, int]:
        """Its host and port."""
        parts = urlsplit(self.endpoint)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    @contextlib.contextmanager
    def bucket(self) -> Iterator[str]:
        """A new bucket, which is removed with all in it."""
        name = f"bench-{uuid.uuid4().hex[:16]}"
        self._client.create_bucket(Bucket=name)
        try:
            yield name
        finally:
            self._remove(name)
            # Large deleted objects would stay for two hours in the memory that all of a run has to share.
            run(SCRIPT, "admin", "gc", "process", "--include-all", timeout=SCRIPT_SECONDS)

    def stored(self, bucket: str) -> Stored:
        """Everything that is in a bucket."""
        entries = list(self._entries(bucket))
        newest = max((entry["LastModified"].timestamp() for entry in entries), default=0.0)
        return Stored(len(entries), sum(entry["Size"] for entry in entries), newest)

    def warm_up(self) -> None:
        """Makes the server ready to be measured: it creates its pools, which takes some seconds, when the first object
        and the first upload in parts ask for them. Whoever is measured first would wait for it."""
        with self.bucket() as bucket:
            self._client.put_object(Bucket=bucket, Key="object", Body=b"")
            self._client.create_multipart_upload(Bucket=bucket, Key="parts")

    def _entries(self, bucket: str) -> Iterator[dict[str, Any]]:
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            yield from page.get("Contents", ())

    def _remove(self, bucket: str) -> None:
        keys = [{"Key": entry["Key"]} for entry in self._entries(bucket)]
        for first in range(0, len(keys), DELETE_AT_ONCE):
            batch = {"Objects": keys[first : first + DELETE_AT_ONCE], "Quiet": True}
            self._client.delete_objects(Bucket=bucket, Delete=batch)
        for upload in self._client.list_multipart_uploads(Bucket=bucket).get("Uploads", ()):
            self._client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        self._client.delete_bucket(Bucket=bucket)


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """The server of scripts/rgw. The environment of this process is set so that it is what is found."""
    try:
        run(SCRIPT, "status", timeout=SCRIPT_SECONDS)
        was_running = True
    except Failed:
        was_running = False
        run(SCRIPT, "start", timeout=SCRIPT_SECONDS)
    try:
        lines = run(SCRIPT, "env", timeout=SCRIPT_SECONDS).decode().splitlines()
        pairs = (shlex.split(line)[1].partition("=") for line in lines)
        environment = {name: value for name, _, value in pairs}
        # Neither an account nor a bundle of certificates of this machine: some peers fail with the latter.
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            del os.environ[name]
        os.environ.update(environment, AWS_CONFIG_FILE="/dev/null", AWS_SHARED_CREDENTIALS_FILE="/dev/null")
        ready = Server(environment)
        ready.warm_up()
        yield ready
    finally:
        if not was_running:
            run(SCRIPT, "stop", timeout=SCRIPT_SECONDS)
