"""What only the S3 store can get wrong: errors of servers and networks, the environment, requests sent twice."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from botocore.exceptions import ClientError, NoCredentialsError

from stowfs.config import StoreOptions
from stowfs.errors import (
    AccessDenied,
    NameTooLong,
    ObjectNotFound,
    PreconditionFailed,
    StoreError,
    StoreFull,
    StoreMissing,
    StoreUnavailable,
    StowError,
    UsageError,
    WriteConflict,
)
from stowfs.store.base import IF_ABSENT, ByteRange, Found, IfMatch
from stowfs.store.open import S3Location, open_bucket, parse_store_url
from stowfs.store.s3 import S3Store
from stowfs.store.s3_account import make_client
from stowfs.store.s3_errors import translate
from tests.support.s3_servers import S3Server
from tests.support.wire import wire

QUICK = StoreOptions(connect_timeout=1.0, read_timeout=1.0, concurrency=4)


async def opened(url: str, options: StoreOptions = QUICK) -> S3Store:
    location = parse_store_url(url)
    assert isinstance(location, S3Location)
    return await open_bucket(location.bucket, location.prefix, options)


async def assert_all_raise(store: S3Store, expected: type[Exception], match: str) -> None:
    attempts = [store.get("k"), store.put("k", b""), store.put("k", b"", IF_ABSENT), store.delete("k")]
    for attempt in [*attempts, anext(store.list("")), store.multipart("k")]:
        with pytest.raises(expected, match=match) as caught:
            await attempt
        assert "\n" not in str(caught.value)
    await store.close()


async def test_a_missing_bucket(s3_client: str, moto_url: str) -> None:
    await assert_all_raise(await opened("s3://no-such-bucket"), StoreMissing, r"no-such-bucket at http://.*: create it")


@pytest.mark.rgw
async def test_a_missing_bucket_on_rgw(s3_client: str, rgw_url: str) -> None:
    await assert_all_raise(await opened("s3://no-such-bucket"), StoreMissing, r"no-such-bucket at http://.*: create it")


@pytest.mark.rgw
@pytest.mark.parametrize(
    ("variable", "code"),
    [("AWS_ACCESS_KEY_ID", "InvalidAccessKeyId"), ("AWS_SECRET_ACCESS_KEY", "SignatureDoesNotMatch")],
)
async def test_wrong_credentials(
    s3_client: str, rgw_url: str, monkeypatch: pytest.MonkeyPatch, variable: str, code: str
) -> None:
    monkeypatch.setenv(variable, "wrong")
    await assert_all_raise(await opened(rgw_url), AccessDenied, f"{code}.*check AWS_ACCESS_KEY_ID")


async def test_no_credentials(s3_client: str, moto_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    await assert_all_raise(await opened(moto_url), AccessDenied, "set AWS_ACCESS_KEY_ID")


async def test_an_unreachable_endpoint(s3_client: str, moto_url: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # Bound and not listening: connections are refused.
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        options = StoreOptions(endpoint=endpoint, connect_timeout=1.0, read_timeout=1.0)
        await assert_all_raise(await opened(moto_url, options), StoreUnavailable, f"at {endpoint}.*check the endpoint")


async def test_a_silent_endpoint_times_out(s3_client: str, moto_url: str, silent_endpoint: str) -> None:
    store = await opened(moto_url, StoreOptions(endpoint=silent_endpoint, connect_timeout=0.2, read_timeout=0.2))
    await assert_all_raise(store, StoreUnavailable, "timed? ?out")


async def test_whoever_gives_up_does_not_wait_for_the_server(
    s3_client: str, moto_url: str, silent_endpoint: str
) -> None:
    """Cancelling returns at once, far ahead of the timeout of the socket, which is longer than this test may take."""
    store = await opened(moto_url, StoreOptions(endpoint=silent_endpoint, read_timeout=60.0))
    with trio.move_on_after(0.2) as scope:
        await store.get("k")
    assert scope.cancelled_caught


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[tuple[S3Store, list[bytes]]]:
    """A store on a server that answers every connection with these bytes, and the list of requests it got."""
    requests: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            requests.append(bytes(await stream.receive_some()))
            await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        endpoint = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        store = await opened("s3://bucket", StoreOptions(endpoint=endpoint, read_timeout=5.0))
        yield store, requests
        await store.close()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "answer",
    [
        b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\nETag: "a"\r\n\r\nshort',
        b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b'HTTP/1.1 200 OK\r\nETag: "a"\r\n',
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"",
    ],
)
async def test_half_an_answer_is_an_error_and_asked_for_once(s3_client: str, moto_url: str, answer: bytes) -> None:
    async with answering(answer) as (store, requests):
        with pytest.raises(StoreUnavailable):
            await store.get("k")
        assert len(requests) == 1
        with pytest.raises(StoreUnavailable):
            await anext(store.list(""))
        assert len(requests) == 2


async def test_an_answer_to_a_put_without_an_etag_decides_nothing(s3_client: str, moto_url: str) -> None:
    async with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as (store, requests):
        with pytest.raises(StoreUnavailable, match="no ETag"):
            await store.put("k", b"x")
        assert len(requests) == 1


async def test_a_web_page_is_no_answer(s3_client: str, moto_url: str) -> None:
    async with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n<html><p>Log in") as (store, _):
        with pytest.raises(StoreUnavailable):
            await anext(store.list(""))


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("NoSuchKey", 404, ObjectNotFound),
        ("404", 404, ObjectNotFound),
        ("NoSuchBucket", 404, StoreMissing),
        ("NoSuchUpload", 404, StoreError),
        ("PreconditionFailed", 412, PreconditionFailed),
        ("ConditionalRequestConflict", 409, WriteConflict),
        ("OperationAborted", 409, WriteConflict),
        ("AccessDenied", 403, AccessDenied),
        ("", 401, AccessDenied),
        ("InvalidAccessKeyId", 403, AccessDenied),
        ("SignatureDoesNotMatch", 403, AccessDenied),
        ("ExpiredToken", 400, AccessDenied),
        ("RequestTimeTooSkewed", 403, AccessDenied),
        ("ExpiredTokenException", 400, AccessDenied),
        ("QuotaExceeded", 403, StoreFull),
        ("XMinioAdminBucketQuotaExceeded", 400, StoreFull),
        ("", 507, StoreFull),
        ("KeyTooLongError", 400, NameTooLong),
        ("SlowDown", 503, StoreUnavailable),
        ("RequestTimeout", 400, StoreUnavailable),
        ("TooManyRequests", 429, StoreUnavailable),
        ("InternalError", 500, StoreUnavailable),
        ("", 502, StoreUnavailable),
        ("NotImplemented", 501, StoreError),
        ("InvalidArgument", 400, StoreError),
    ],
)
def test_answers_become_the_errors_of_all_stores(code: str, status: int, expected: type[StowError]) -> None:
    error = translate(code, status, "two\nlines", place="s3://bucket at http://host", key="a/k")
    assert type(error) is expected
    assert str(error).startswith("s3://bucket at http://host")
    assert "\n" not in str(error)


class StubClient:
    """A client whose every operation raises one error, and that counts them."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.calls = 0
        self.meta = type("Meta", (), {"endpoint_url": "http://host"})()

    def __getattr__(self, name: str) -> Any:
        def operation(**_: object) -> object:
            self.calls += 1
            raise self.error

        return operation


async def test_if_match_on_a_missing_key_is_a_failed_precondition() -> None:
    answer: Any = {"Error": {"Code": "NoSuchKey"}, "ResponseMetadata": {"HTTPStatusCode": 404}}
    error = ClientError(answer, "PutObject")
    store = S3Store(StubClient(error), "bucket", "", QUICK)
    with pytest.raises(PreconditionFailed):
        await store.put("k", b"", IfMatch("e"))
    with pytest.raises(PreconditionFailed):
        await store.delete("k", IfMatch("e"))
    await store.delete("k")
    with pytest.raises(ObjectNotFound):
        await store.get("k")


async def test_a_custom_client_is_used_and_each_request_sent_once() -> None:
    client = StubClient(NoCredentialsError())
    store = S3Store(client, "bucket", "", QUICK)
    with pytest.raises(AccessDenied):
        await store.put("k", b"")
    assert client.calls == 1


async def test_a_part_that_fails_fails_the_put_and_leaves_no_upload(moto_url: str) -> None:
    location = parse_store_url(moto_url)
    assert isinstance(location, S3Location)
    # On a busy machine moto needs more than a second for as many bytes.
    options = StoreOptions(concurrency=4)
    client = make_client(options)
    store = S3Store(client, location.bucket, "", options)
    real = client.upload_part

    def fail_second(**request: Any) -> Any:
        if request["PartNumber"] == 2:
            error: Any = {"Error": {"Code": "InternalError"}, "ResponseMetadata": {"HTTPStatusCode": 500}}
            raise ClientError(error, "UploadPart")
        return real(**request)

    client.upload_part = fail_second
    with pytest.raises(StoreUnavailable):
        await store.put("k", bytes(33 << 20))
    assert [upload async for upload in store.pending_uploads("")] == []
    with pytest.raises(ObjectNotFound):
        await store.get("k")
    client.upload_part = real
    await store.put("k", bytes(33 << 20))
    found = await store.get("k", byte_range=ByteRange((33 << 20) - 2, 34 << 20))
    assert isinstance(found, Found)
    assert found.body == b"\0\0"
    await store.close()


@pytest.mark.rgw
async def test_connections_are_given_back(s3_client: str, rgw: S3Server, rgw_url: str) -> None:
    """Many requests of every kind, on few connections."""
    with wire(rgw.endpoint) as connection:
        store = await opened(rgw_url, replace(QUICK, endpoint=connection.endpoint))
        await store.put("k", b"0123456789")
        for _ in range(3 * QUICK.concurrency):
            await store.get("k")
            await store.get("k", byte_range=ByteRange(20, 30))
            with pytest.raises(ObjectNotFound):
                await store.get("missing")
            with pytest.raises(PreconditionFailed):
                await store.put("k", b"", IF_ABSENT)
        # obstore opens another where one is not back in time, and boto3 has its own.
        assert connection.connections <= (QUICK.concurrency if s3_client == "obstore" else 1)
        await store.close()


# What the environment says


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    for name in ("ENDPOINT_URL", "ENDPOINT_URL_S3", "DEFAULT_REGION", "REGION", "PROFILE"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return monkeypatch


def described(options: StoreOptions) -> tuple[str, str, str]:
    client = make_client(options)
    return client.meta.endpoint_url, client.meta.region_name, client.meta.config.s3["addressing_style"]


def test_where_nothing_is_set_it_is_aws(clean_environment: pytest.MonkeyPatch) -> None:
    endpoint, region, style = described(StoreOptions())
    assert endpoint.endswith(".amazonaws.com")
    assert (region, style) == ("us-east-1", "auto")


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_an_endpoint_from_the_environment(clean_environment: pytest.MonkeyPatch, variable: str) -> None:
    clean_environment.setenv(variable, "http://store.example:9000")
    clean_environment.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    assert described(StoreOptions()) == ("http://store.example:9000", "eu-central-1", "path")


def test_options_win_over_the_environment(clean_environment: pytest.MonkeyPatch) -> None:
    clean_environment.setenv("AWS_ENDPOINT_URL", "http://other.example")
    clean_environment.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    options = StoreOptions(endpoint="http://store.example:9000", region="eu-west-3")
    assert described(options) == ("http://store.example:9000", "eu-west-3", "path")


def test_a_profile(clean_environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[profile lab]\nregion = eu-north-1\nendpoint_url = http://lab.example\n")
    assert described(StoreOptions(profile="lab")) == ("http://lab.example", "eu-north-1", "path")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (StoreOptions(profile="missing"), "profile.*missing"),
        (StoreOptions(endpoint="not a url"), "not a url"),
    ],
)
async def test_what_makes_no_sense(
    s3_client: str, clean_environment: pytest.MonkeyPatch, options: StoreOptions, match: str
) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        await open_bucket("bucket", "", options)
    assert "\n" not in str(caught.value)


def test_requests_are_sent_once_and_bounded(clean_environment: pytest.MonkeyPatch) -> None:
    config = make_client(StoreOptions(connect_timeout=3.0, read_timeout=7.0, concurrency=5)).meta.config
    assert config.retries["total_max_attempts"] == 1
    assert (config.connect_timeout, config.read_timeout, config.max_pool_connections) == (3.0, 7.0, 5)


async def test_http_endpoints_need_no_certificates(
    s3_client: str, moto: S3Server, moto_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", "/nonexistent/bundle.pem")
    assert moto.endpoint.startswith("http://")
    store = await opened(moto_url)
    await store.put("k", b"x")
    await store.close()
