"""A user of RGW of a test's own, who can be given limits, forbidden to write, or lose the keys."""

import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from stowfs.config import StoreOptions
from stowfs.store.s3_account import make_client
from tests.support.s3_servers import S3Server

ADMIN_TIMEOUT = 60.0
"""Seconds for one command of radosgw-admin; on an idle machine they take one."""


class RgwUser:
    """A user with a bucket. What is changed holds for the next request."""

    def __init__(self) -> None:
        self.uid = f"stowfs-{uuid.uuid4().hex[:12]}"
        self.bucket = f"{self.uid}-bucket"
        self.access_key = uuid.uuid4().hex[:20].upper()
        self.secret_key = uuid.uuid4().hex
        keys = ("--access-key", self.access_key, "--secret-key", self.secret_key)
        self._admin("user", "create", "--display-name", "a test", *keys)

    def _admin(self, *arguments: str) -> None:
        script = Path(__file__).parents[2] / "scripts" / "rgw"
        subprocess.run(
            [sys.executable, script, "admin", *arguments, "--uid", self.uid],
            capture_output=True,
            timeout=ADMIN_TIMEOUT,
            check=True,
        )

    def fill_quota(self) -> None:
        """From now on the bucket is full."""
        quota = ("--quota-scope", "bucket", "--bucket", self.bucket)
        self._admin("quota", "set", *quota, "--max-objects", "1")
        self._admin("quota", "enable", *quota)

    def lift_quota(self) -> None:
        self._admin("quota", "disable", "--quota-scope", "bucket", "--bucket", self.bucket)

    def forbid_writing(self) -> None:
        self._admin("user", "modify", "--op-mask", "read")

    def allow_writing(self) -> None:
        self._admin("user", "modify", "--op-mask", "read,write,delete")

    def revoke_keys(self) -> None:
        """From now on the keys are nobody's."""
        self._admin("key", "rm", "--key-type", "s3", "--access-key", self.access_key)

    def restore_keys(self) -> None:
        keys = ("--access-key", self.access_key, "--secret-key", self.secret_key)
        self._admin("key", "create", "--key-type", "s3", *keys)

    def remove(self) -> None:
        """The user goes, with everything stored."""
        self._admin("user", "rm", "--purge-data")


@pytest.fixture
def rgw_user(rgw: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[RgwUser]:
    """A user with an empty bucket, whose keys are in the environment."""
    user = RgwUser()
    try:
        for name, value in rgw.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", user.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", user.secret_key)
        client = make_client(StoreOptions())
        client.create_bucket(Bucket=user.bucket)
        client.close()
        yield user
    finally:
        user.remove()
