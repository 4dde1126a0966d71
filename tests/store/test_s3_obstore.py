"""What only the store by obstore can get wrong: its own look at the environment, errors that are texts, and when boto3
is asked instead."""

import contextlib
import datetime
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from stowfs.config import StoreOptions
from stowfs.errors import AccessDenied, PreconditionFailed, StoreError, StoreUnavailable, UsageError
from stowfs.store.base import IF_ABSENT, ByteRange, Found, IfMatch, NotModified
from stowfs.store.open import S3Location, open_bucket, parse_store_url
from stowfs.store.probe import probe
from stowfs.store.s3 import S3Store
from stowfs.store.s3_account import Keys
from stowfs.store.s3_obstore import ObstoreS3Store
from tests.support.s3_servers import S3Server

Answer = Callable[[bytes], bytes]
"""From a request to its answer."""

FOUND = b'HTTP/1.1 206 Partial Content\r\nContent-Length: 1\r\nContent-Range: bytes 0-0/1\r\nETag: "e"\r\n\r\nx'


@pytest.fixture(autouse=True)
def keys_in_the_environment(moto_url: str) -> None:
    """Any do, where the server is none."""


@asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[tuple[str, list[bytes]]]:
    """The address of a server that answers each connection's first request, and the list of requests it got."""
    requests: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            request = b""
            while b"\r\n\r\n" not in request:
                request += await stream.receive_some()
            requests.append(request)
            # Until the client has it: what is closed with unread bytes is reset.
            await stream.send_all(answer(request))
            await stream.send_eof()
            with trio.move_on_after(5):
                while await stream.receive_some():
                    pass

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}", requests
        nursery.cancel_scope.cancel()


def error(status: int, code: str, message: str = "") -> bytes:
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    return b"HTTP/1.1 %d X\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


async def opened(endpoint: str | None, bucket: str = "bucket", region: str | None = None) -> ObstoreS3Store:
    given = StoreOptions(endpoint, region, connect_timeout=2.0, read_timeout=5.0, concurrency=4)
    store = await open_bucket(bucket, "", given)
    assert isinstance(store, ObstoreS3Store)
    return store


async def on_rgw(url: str, options: StoreOptions | None = None) -> S3Store:
    location = parse_store_url(url)
    assert isinstance(location, S3Location)
    return await open_bucket(location.bucket, location.prefix, options or StoreOptions())


async def test_a_client_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOWFS_S3_CLIENT", "curl")
    with pytest.raises(UsageError, match=r"'curl'.*obstore or boto3"):
        await open_bucket("bucket", "", StoreOptions())


# Errors


@pytest.mark.parametrize(
    "key",
    [
        "Server returned non-2xx status code: 404 Not Found: <Code>NoSuchKey</Code>",
        "Server returned non-2xx status code: 412 Precondition Failed: ",
        "Received redirect without LOCATION",
        "InvalidCertificate, InvalidRange, ETag Header missing",
    ],
)
async def test_names_of_objects_are_not_taken_for_answers(key: str) -> None:
    async with server(lambda _: error(500, "InternalError")) as (endpoint, requests):
        store = await opened(endpoint)
        attempts = [
            store.get(key),
            store.put(key, b"", IF_ABSENT),
            store.put(key, b"", IfMatch("e")),
            store.delete(key),
        ]
        for attempt in attempts:
            with pytest.raises(StoreUnavailable):
                await attempt
        assert len(requests) == len(attempts)
        assert not store.useless
        await store.close()


@pytest.mark.parametrize(
    "key", ["redirect without LOCATION", "InvalidCertificate(", "InvalidCertificate", "non-partial response"]
)
async def test_nor_for_failures_of_the_network(silent_endpoint: str, key: str) -> None:
    store = await open_bucket("bucket", "", StoreOptions(endpoint=silent_endpoint, read_timeout=0.1))
    assert isinstance(store, ObstoreS3Store)
    with pytest.raises(StoreUnavailable, match="timed out"):
        await store.get(key)
    assert not store.useless
    await store.close()


async def test_what_the_server_said_reaches_the_user() -> None:
    async with server(lambda _: error(403, "AccessDenied", "not &lt;you&gt;\ntoday")) as (endpoint, _):
        store = await opened(endpoint)
        with pytest.raises(AccessDenied, match=rf"{endpoint}, a/k: .*AccessDenied: not <you> today.*AWS_PROFILE"):
            await store.get("a/k")
        await store.close()


async def test_a_missing_key_is_a_failed_precondition() -> None:
    async with server(lambda _: error(404, "NoSuchKey")) as (endpoint, _):
        store = await opened(endpoint)
        with pytest.raises(PreconditionFailed):
            await store.put("k", b"", IfMatch("e"))
        await store.delete("k")
        await store.close()


async def test_a_body_is_never_the_name_of_a_file(rgw_url: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"of this host")
    store = await on_rgw(rgw_url)
    body = str(tmp_path / "file").encode()
    etag = await store.put("k", body)
    assert await store.get("k") == Found(body, etag)
    await store.close()


# When boto3 is asked instead


@pytest.mark.parametrize(
    "refusal",
    [
        error(301, "PermanentRedirect"),
        error(307, "TemporaryRedirect"),
        error(400, "AuthorizationHeaderMalformed", "the region 'us-east-1' is wrong; expecting 'eu-central-1'"),
    ],
)
async def test_a_bucket_elsewhere_is_left_to_boto3(refusal: bytes) -> None:
    def answer(request: bytes) -> bytes:
        if b"user-agent: boto3" not in request.lower():
            return refusal
        return FOUND if request.startswith(b"GET") else b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: "e"\r\n\r\n'

    async with server(answer) as (endpoint, requests):
        store = await opened(endpoint)
        assert await store.get("k", byte_range=ByteRange(0, 10)) == Found(b"x", "e")
        assert len(requests) == 2
        assert await store.put("k", b"y", IF_ABSENT) == "e"
        await store.delete("k")
        assert len(requests) == 4  # What it is asked for from then on, boto3 alone sends.
        await store.close()


async def test_a_server_that_knows_no_ranges() -> None:
    whole = b'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\nETag: "e"\r\n\r\nabc'
    async with server(lambda _: whole) as (endpoint, _):
        store = await opened(endpoint)
        assert await store.get("k", byte_range=ByteRange(0, 10)) == Found(b"abc", "e")
        await store.close()


@pytest.mark.rgw
async def test_keys_and_bodies_that_obstore_does_not_take(rgw_url: str) -> None:
    store = await on_rgw(rgw_url)
    await probe(store, deadline=30)
    for key, body in (("control/\x01\x7f", b"x"), ("large", bytes(3 << 20))):
        etag = await store.put(key, body, IF_ABSENT)
        assert await store.get(key) == Found(body, etag)
        assert await store.get(key, if_none_match=etag) == NotModified()
        with pytest.raises(PreconditionFailed):
            await store.put(key, body, IF_ABSENT)
        await store.delete(key)
    await store.close()


# What the environment says


@pytest.mark.rgw
async def test_variables_that_only_obstore_knows_change_nothing(
    rgw: S3Server, rgw_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys = [rgw.environment["AWS_ACCESS_KEY_ID"], rgw.environment["AWS_SECRET_ACCESS_KEY"]]
    (tmp_path / "credentials").write_text("[lab]\naws_access_key_id = {}\naws_secret_access_key = {}\n".format(*keys))
    for name, value in {
        "SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        # A profile that is asked for by name wins over all of these.
        "ACCESS_KEY_ID": "other",
        "SECRET_ACCESS_KEY": "other",
        "SESSION_TOKEN": "other",
        "ENDPOINT": "http://other.invalid",
        "REGION": "other",
        "SKIP_SIGNATURE": "true",
        "S3_EXPRESS": "true",
        "CONDITIONAL_PUT": "disabled",
        "VIRTUAL_HOSTED_STYLE_REQUEST": "true",
        "BUCKET": "other",
        "PROXY_URL": "http://other.invalid",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    store = await on_rgw(rgw_url, StoreOptions(profile="lab"))
    assert isinstance(store, ObstoreS3Store)
    await probe(store, deadline=5)
    etag = await store.put("k", b"x", IF_ABSENT)
    assert await store.get("k") == Found(b"x", etag)
    assert not store.useless
    await store.close()


@pytest.mark.parametrize(
    ("endpoint", "bucket", "expected", "virtual"),
    [
        (None, "my-bucket", "https://my-bucket.s3.eu-central-1.amazonaws.com", True),
        (None, "my.bucket", "https://s3.eu-central-1.amazonaws.com", False),
        (None, "My-Bucket", "https://s3.eu-central-1.amazonaws.com", False),
        ("http://store.example:9000", "my-bucket", "http://store.example:9000", False),
    ],
)
async def test_where_a_bucket_is(
    monkeypatch: pytest.MonkeyPatch, endpoint: str | None, bucket: str, expected: str, virtual: bool
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    store = await opened(endpoint, bucket, region="eu-central-1")
    config = store.objects(Keys("access", "secret", None)).config
    assert config["endpoint"] == config["endpoint_url_s3"] == expected
    assert config["region"] == "eu-central-1"
    assert str(config["virtual_hosted_style_request"]).lower() == str(virtual).lower()
    await store.close()


def certify(path: Path, *, authority: bool) -> None:
    """Writes a key and a certificate for localhost that nobody signed, to be trusted itself; with `authority` as
    `openssl req -x509` makes them, which Rust's TLS does not take from a server."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)


@pytest.mark.parametrize("authority", [False, True])
@pytest.mark.parametrize("trusted", [False, True])
async def test_certificates(
    s3_client: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, authority: bool, trusted: bool
) -> None:
    """An HTTPS endpoint is checked against AWS_CA_BUNDLE, where there is one, with the same result by both."""
    certificate = tmp_path / "certificate.pem"
    certify(certificate, authority=authority)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    if trusted:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))

    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        with contextlib.suppress(trio.BrokenResourceError):  # The client does not trust it, or has gone.
            await stream.receive_some()
            await stream.send_all(FOUND)
            await stream.receive_some()

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_ssl_over_tcp, serve, 0, context, host="127.0.0.1"))
        port = listener.transport_listener.socket.getsockname()[1]
        options = StoreOptions(endpoint=f"https://localhost:{port}", read_timeout=5.0)
        store = await open_bucket("bucket", "", options)
        if trusted:
            assert await store.get("k", byte_range=ByteRange(0, 10)) == Found(b"x", "e")
            assert not isinstance(store, ObstoreS3Store) or store.useless == authority
        else:
            with pytest.raises(StoreUnavailable, match=r"(?i)certificate"):
                await store.get("k", byte_range=ByteRange(0, 10))
        await store.close()
        nursery.cancel_scope.cancel()


async def test_a_bundle_that_is_not_there(moto_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", "/nonexistent/bundle.pem")
    store = await opened("https://127.0.0.1:1")
    with pytest.raises(StoreError, match=r"/nonexistent/bundle\.pem"):
        await store.get("k")
    await store.close()
