"""Credentials that end while a store is in use: what that is called, and that new ones are taken without opening the
store again."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stowfs.config import StoreOptions
from stowfs.errors import AccessDenied
from stowfs.store.base import Found
from stowfs.store.open import S3Location, open_bucket, parse_store_url
from stowfs.store.s3 import S3Store
from tests.support.s3_servers import S3Server

pytestmark = pytest.mark.rgw

SOON = timedelta(minutes=5)
"""So near that the SDK looks for new credentials before each request."""


class Issuer:
    """What the credential_process of a profile says, by way of a file."""

    def __init__(self, server: S3Server, directory: Path) -> None:
        self._environment = server.environment
        self._file = directory / "credentials.json"
        self.configuration = directory / "config"
        self.configuration.write_text(f"[profile issued]\ncredential_process = cat {self._file}\n")

    def issue(self, *, lifetime: timedelta) -> None:
        expiration = datetime.now(UTC) + lifetime
        document = {
            "Version": 1,
            "AccessKeyId": self._environment["AWS_ACCESS_KEY_ID"],
            "SecretAccessKey": self._environment["AWS_SECRET_ACCESS_KEY"],
            "Expiration": expiration.isoformat(),
        }
        self._file.write_text(json.dumps(document))

    def refuse(self) -> None:
        self._file.unlink()


@pytest.fixture
def issuer(rgw: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Issuer:
    issuer = Issuer(rgw, tmp_path)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(issuer.configuration))
    return issuer


@pytest.fixture
async def store(s3_client: str, rgw_url: str, issuer: Issuer) -> AsyncIterator[S3Store]:
    issuer.issue(lifetime=SOON)
    location = parse_store_url(rgw_url)
    assert isinstance(location, S3Location)
    store = await open_bucket(location.bucket, location.prefix, StoreOptions(profile="issued"))
    yield store
    await store.close()


async def _works(store: S3Store) -> None:
    await store.put("k", b"x")
    found = await store.get("k")
    assert isinstance(found, Found)
    assert found.body == b"x"


async def test_credentials_that_have_expired(store: S3Store, issuer: Issuer) -> None:
    await _works(store)
    issuer.issue(lifetime=-SOON)
    for _ in range(2):
        with pytest.raises(AccessDenied, match=r"credentials are still expired\. Renew them"):
            await store.get("k")
    issuer.issue(lifetime=SOON)
    await _works(store)


async def test_credentials_that_are_not_given_any_more(store: S3Store, issuer: Issuer) -> None:
    await _works(store)
    issuer.refuse()
    for _ in range(2):
        with pytest.raises(AccessDenied, match=r"No such file or directory\. Renew them") as caught:
            await store.put("k", b"y")
        assert "\n" not in str(caught.value)
    issuer.issue(lifetime=SOON)
    await _works(store)
