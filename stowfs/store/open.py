"""From what a user writes to a store: addresses, and opening what they name."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import trio

from stowfs.config import StoreOptions
from stowfs.errors import AccessDenied, StoreMissing, UsageError
from stowfs.store.base import ObjectStore
from stowfs.store.file import FileStore
from stowfs.store.retry import RetryingStore
from stowfs.store.rules import PAGE_SIZE, check_key

if TYPE_CHECKING:
    from stowfs.store.s3 import S3Store

_HELP = "write s3://BUCKET/PREFIX, file:///DIRECTORY or the path of a directory"
_BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}")


@dataclass(frozen=True, slots=True)
class S3Location:
    """A bucket and a prefix in it: '' or something that ends in '/'."""

    bucket: str
    prefix: str

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


@dataclass(frozen=True, slots=True)
class FileLocation:
    """A directory, by its absolute path."""

    directory: Path

    @property
    def url(self) -> str:
        return self.directory.as_uri()


StoreLocation = S3Location | FileLocation


def parse_store_url(text: str) -> StoreLocation:
    """What `text` names: `s3://bucket/prefix`, `file:///directory`, or a plain path. Raises `UsageError`."""
    scheme, separator, rest = text.partition("://")
    if not text or "\0" in text:
        raise UsageError(f"not a store: {text!r}: {_HELP}")
    if not separator:
        if text.lower().startswith(("s3:", "file:")):
            raise UsageError(f"not a store: {text!r}: {_HELP}")
        return FileLocation(Path(text).absolute())
    match scheme.lower():
        case "s3":
            return _parse_s3(text, rest)
        case "file":
            # file://localhost/dir is the same place by the standard.
            path = unquote(rest.removeprefix("localhost"))
            if not path.startswith("/") or "\0" in path:
                raise UsageError(f"not a store: {text!r}: after file:// comes an absolute path: {_HELP}")
            return FileLocation(Path(path))
    raise UsageError(f"not a store: {text!r}: unknown scheme {scheme!r}: {_HELP}")


def _parse_s3(text: str, rest: str) -> S3Location:
    bucket, _, prefix = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise UsageError(f"not a store: {text!r}: {bucket!r} is no bucket name: {_HELP}")
    prefix = prefix.strip("/")
    if not prefix:
        return S3Location(bucket, "")
    try:
        check_key(prefix)
    except UsageError as error:
        raise UsageError(f"not a store: {text!r}: bad prefix: {_HELP}") from error
    return S3Location(bucket, prefix + "/")


async def open_store(location: StoreLocation, options: StoreOptions) -> ObjectStore:
    """The store at `location`, with retries. Nothing is sent yet: the first request tells whether it is there.

    STOWFS_S3_CLIENT says what requests to S3 go by, `obstore` (the default) or `boto3`.
    """
    match location:
        case S3Location(bucket, prefix):
            inner: ObjectStore = await open_bucket(bucket, prefix, options)
        case FileLocation(directory):
            inner = FileStore(directory, options)
    return RetryingStore(inner, options.deadline)


async def open_bucket(bucket: str, prefix: str, options: StoreOptions, *, page_size: int = PAGE_SIZE) -> "S3Store":
    """The store under `prefix` ('' or 'x/') of a bucket, without retries: each request is sent once.

    Raises `UsageError` for a profile, an endpoint or a client that makes no sense.
    """
    # Imported here, since boto3 takes longer to load than the rest of stowfs together.
    from stowfs.store.s3 import S3Store
    from stowfs.store.s3_account import make_account

    # In a thread: boto3 reads its service descriptions, which takes a tenth of a second.
    account = await trio.to_thread.run_sync(make_account, options)
    match os.environ.get("STOWFS_S3_CLIENT") or "obstore":
        case "obstore":
            from stowfs.store.s3_obstore import ObstoreS3Store

            return ObstoreS3Store(account, bucket, prefix, options, page_size=page_size)
        case "boto3":
            return S3Store(account.client, bucket, prefix, options, page_size=page_size)
        case other:
            raise UsageError(f"STOWFS_S3_CLIENT is {other!r}: set it to obstore or boto3, or not at all")


async def create_directory(location: FileLocation) -> None:
    """Makes the directory of a `file://` store, readable by its owner only, if it is not there; its parent must be.

    Raises `StoreMissing`, `AccessDenied`.
    """
    try:
        await trio.to_thread.run_sync(lambda: location.directory.mkdir(mode=0o700, exist_ok=True))
    except FileExistsError as error:
        raise StoreMissing(f"{location.url} cannot be made: it is a file: name a new or empty directory") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreMissing(f"{location.url} cannot be made: {error.strerror}: {location.directory.parent}") from error
    except OSError as error:
        raise AccessDenied(f"{location.url} cannot be made: {error.strerror}") from error
