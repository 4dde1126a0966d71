"""What a user may write to name a store."""

from pathlib import Path

import pytest

from stowfs.config import StoreOptions
from stowfs.errors import StoreMissing, UsageError
from stowfs.store.base import Found
from stowfs.store.open import FileLocation, S3Location, create_directory, open_store, parse_store_url


@pytest.mark.parametrize(
    ("text", "bucket", "prefix", "url"),
    [
        ("s3://bucket", "bucket", "", "s3://bucket"),
        ("s3://bucket/", "bucket", "", "s3://bucket"),
        ("S3://my.bucket-1/a", "my.bucket-1", "a/", "s3://my.bucket-1/a"),
        ("s3://bucket/a/b/", "bucket", "a/b/", "s3://bucket/a/b"),
        ("s3://bucket//a", "bucket", "a/", "s3://bucket/a"),
        ("s3://bucket/a b%20c?d#e", "bucket", "a b%20c?d#e/", "s3://bucket/a b%20c?d#e"),
    ],
)
def test_s3(text: str, bucket: str, prefix: str, url: str) -> None:
    location = parse_store_url(text)
    assert location == S3Location(bucket, prefix)
    assert location.url == url
    assert parse_store_url(url) == location


@pytest.mark.parametrize(
    ("text", "directory"),
    [
        ("file:///srv/store", "/srv/store"),
        ("file:///srv/a%20b", "/srv/a b"),
        ("file://localhost/srv", "/srv"),
        ("/srv/store", "/srv/store"),
        ("/srv/100%25", "/srv/100%25"),
        ("store", "{cwd}/store"),
        ("./a:b", "{cwd}/a:b"),
    ],
)
def test_directories(text: str, directory: str) -> None:
    location = parse_store_url(text)
    assert location == FileLocation(Path(directory.format(cwd=Path.cwd())))
    assert location.url.startswith("file:///")
    assert parse_store_url(location.url) == location


@pytest.mark.parametrize(
    "text",
    [
        *("", "s3://", "s3:///key", "s3:bucket", "s3://bu cket", "s3://b/a//b", "s3://b/../x", "s3://b/\ud800"),
        *("file://relative", "file://", "file:x", "http://host/bucket", "gs://bucket", "a\0b"),
    ],
)
def test_what_names_no_store_is_refused_with_help(text: str) -> None:
    with pytest.raises(UsageError, match="write s3://BUCKET/PREFIX, file:///DIRECTORY or") as caught:
        parse_store_url(text)
    assert len(str(caught.value).splitlines()) == 1


async def test_a_directory_is_made_and_opened(tmp_path: Path) -> None:
    location = FileLocation(tmp_path / "store")
    store = await open_store(location, StoreOptions(deadline=5))
    with pytest.raises(StoreMissing, match="mkfs"):
        await store.get("k")
    await create_directory(location)
    await create_directory(location)
    assert location.directory.stat().st_mode & 0o777 == 0o700
    etag = await store.put("k", b"x")
    assert await store.get("k") == Found(b"x", etag)
    assert store.url == location.url
    await store.close()


async def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for directory in (tmp_path / "missing" / "store", tmp_path / "file", tmp_path / "file" / "store"):
        with pytest.raises(StoreMissing, match="cannot be made"):
            await create_directory(FileLocation(directory))


async def test_two_prefixes_of_a_bucket_are_two_stores(moto_url: str) -> None:
    options = StoreOptions(deadline=5)
    one, two = [await open_store(parse_store_url(f"{moto_url}/{name}"), options) for name in ("one", "two")]
    await one.put("k", b"1")
    await two.put("k", b"22")
    assert [(entry.key, entry.size) async for page in one.list("") for entry in page.objects] == [("k", 1)]
    whole = await open_store(parse_store_url(moto_url), options)
    assert [entry.key async for page in whole.list("") for entry in page.objects] == ["one/k", "two/k"]
    for store in (one, two, whole):
        await store.close()
