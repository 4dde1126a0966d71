"""The `s3://` store by boto3: in worker threads, at most `StoreOptions.concurrency` requests at once.

* Every request is sent once: the SDK's retries are off, because a retried conditional PUT takes its own success for a
  conflict. `retry.py` repeats what is safe to repeat.
* Response bodies are read to their end or the connection is closed, within the worker thread.
* A conditional `put` is always one PUT, whatever its size: there are servers that enforce conditions on PUT and ignore
  them on the completion of a multipart upload.
* An answer in the 500s to a conditional PUT decides nothing, though Ceph RGW 16 gives it to most that lose a race.
* Servers differ in how If-Match must be written, quoted as in the RFC or bare; the probe finds out and says so.
"""

import binascii
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, TypeVar

import trio
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
)
from botocore.parsers import ResponseParserError

from stowfs.config import MIB, StoreOptions
from stowfs.errors import (
    AccessDenied,
    ObjectNotFound,
    PreconditionFailed,
    StoreError,
    StoreUnavailable,
    StowError,
)
from stowfs.store.base import (
    ALWAYS,
    Always,
    ByteRange,
    Condition,
    Found,
    IfAbsent,
    IfMatch,
    NotModified,
    ObjectInfo,
    Page,
    PendingUpload,
)
from stowfs.store.rules import PAGE_SIZE, check_key
from stowfs.store.s3_account import RENEW, Client, translated
from stowfs.store.s3_errors import translate
from stowfs.workers import Workers

T = TypeVar("T")

_MINIMUM_PART = 5 * MIB  # S3's own limit.
_PART = 16 * MIB  # Big enough that the round trip is small beside the transfer, small enough to repeat.
_CLEANUP_SECONDS = 10.0  # For aborting an upload that failed, before it is left to `pending_uploads`.


class S3Store:
    """`ObjectStore` under a prefix ('' or 'x/') of a bucket, which must exist. Made by `open_bucket`."""

    def __init__(
        self, client: Client, bucket: str, prefix: str, options: StoreOptions, *, page_size: int = PAGE_SIZE
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._workers = Workers(options.concurrency)
        self._page_size = page_size
        self._quoted = True
        self._place = f"s3://{bucket} at {client.meta.endpoint_url}"

    @property
    def url(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    @property
    def minimum_part(self) -> int:
        return _MINIMUM_PART

    @property
    def quoted_etags(self) -> bool:
        """Whether If-Match carries the ETag in quotes."""
        return self._quoted

    def use_quoted_etags(self, quoted: bool) -> None:
        """Sets how If-Match is written from now on (`probe.AdaptsIfMatch`)."""
        self._quoted = quoted

    async def _run(self, function: Callable[[], T], key: str = "") -> T:
        try:
            # Abandoned when cancelled: a deadline is kept, and the thread ends by the timeouts of its socket.
            return await self._workers.run(function)
        except ClientError as error:
            details = error.response.get("Error", {})
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            raise translate(
                str(details.get("Code", "")), status, str(details.get("Message", "")), place=self._place, key=key
            ) from error
        except (BotoCoreError, ResponseParserError, OSError) as error:
            raise translated(error, self._place) from error
        except RuntimeError as error:
            # How botocore says that the credentials it was given in place of expired ones are expired, too.
            if "credentials are still expired" not in str(error):
                raise
            raise AccessDenied(f"{self._place}: {error} {RENEW}") from error

    async def get(
        self, key: str, *, byte_range: ByteRange | None = None, if_none_match: str | None = None
    ) -> Found | NotModified:
        request = self._named(key)
        if if_none_match is not None:
            request["IfNoneMatch"] = f'"{if_none_match}"'
        if byte_range is None:
            ranged = request
        else:
            # S3 knows no empty range: the shortest one is asked for and cut.
            last = max(byte_range.start, byte_range.end - 1)
            ranged = {**request, "Range": f"bytes={byte_range.start}-{last}"}
        found = await self._run(partial(_get, self._client, ranged), key)
        if found is None:
            return await self._run(partial(_head, self._client, request), key)
        if isinstance(found, Found) and byte_range is not None and byte_range.end <= byte_range.start:
            return Found(b"", found.etag)
        return found

    async def put(self, key: str, body: bytes, condition: Condition = ALWAYS) -> str:
        if len(body) > _PART and isinstance(condition, Always):
            return await self._put_in_parts(key, body)
        request = {**self._named(key), "Body": body, **self._conditional(condition)}
        try:
            answer = await self._run(lambda: self._client.put_object(**request), key)
        except ObjectNotFound as error:  # How some answer to If-Match where there is nothing.
            raise PreconditionFailed(str(error)) from error
        return bare(_required(answer, "ETag"))

    async def _put_in_parts(self, key: str, body: bytes) -> str:
        upload = await self.multipart(key)
        try:
            await upload.parts_of(body)
            return await upload.complete()
        except BaseException:
            with trio.move_on_after(_CLEANUP_SECONDS, shield=True), contextlib.suppress(StoreError):
                await upload.abort()  # Where that fails too, `pending_uploads` will find it.
            raise

    async def delete(self, key: str, condition: Condition = ALWAYS) -> None:
        request = {**self._named(key), **self._conditional(condition)}
        try:
            await self._run(lambda: self._client.delete_object(**request), key)
        except ObjectNotFound as error:
            if not isinstance(condition, Always):
                raise PreconditionFailed(str(error)) from error

    async def list(self, prefix: str, *, delimiter: str | None = None, start_after: str = "") -> AsyncIterator[Page]:
        request: dict[str, Any] = {
            "Bucket": self._bucket,
            "Prefix": self._prefix + prefix,
            "MaxKeys": self._page_size,
        }
        if delimiter is not None:
            request["Delimiter"] = delimiter
        if start_after:
            request["StartAfter"] = self._prefix + start_after
        while True:
            # boto3 asks for url-encoded keys and decodes them.
            answer = await self._run(lambda: self._client.list_objects_v2(**request))
            truncated = _required(answer, "IsTruncated")
            objects = tuple(self._info(entry) for entry in answer.get("Contents", ()))
            prefixes = tuple(self._relative(entry["Prefix"]) for entry in answer.get("CommonPrefixes", ()))
            # Servers differ in whether a prefix that `start_after` lies in is given.
            prefixes = tuple(found for found in prefixes if found > start_after)
            if objects or prefixes:
                yield Page(objects, prefixes, last=not truncated)
            if not truncated:
                return
            request["ContinuationToken"] = answer["NextContinuationToken"]

    def _info(self, entry: dict[str, Any]) -> ObjectInfo:
        return ObjectInfo(
            self._relative(entry["Key"]), entry["Size"], bare(entry["ETag"]), entry["LastModified"].timestamp()
        )

    async def multipart(self, key: str) -> "S3Upload":
        request = self._named(key)
        answer = await self._run(lambda: self._client.create_multipart_upload(**request), key)
        return S3Upload(self, key, _required(answer, "UploadId"))

    async def pending_uploads(self, prefix: str) -> AsyncIterator[PendingUpload]:
        request: dict[str, Any] = {"Bucket": self._bucket, "Prefix": self._prefix + prefix}
        while True:
            answer = await self._run(lambda: self._client.list_multipart_uploads(**request))
            for entry in answer.get("Uploads", ()):
                yield PendingUpload(self._relative(entry["Key"]), entry["UploadId"], entry["Initiated"].timestamp())
            if not _required(answer, "IsTruncated"):
                return
            request["KeyMarker"] = answer["NextKeyMarker"]
            request["UploadIdMarker"] = answer["NextUploadIdMarker"]

    async def abort_upload(self, upload: PendingUpload) -> None:
        await S3Upload(self, upload.key, upload.upload_id).abort()

    async def close(self) -> None:
        self._workers.close()
        await trio.to_thread.run_sync(self._client.close)

    def _named(self, key: str) -> dict[str, Any]:
        check_key(key)
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    def _relative(self, key: str) -> str:
        return key.removeprefix(self._prefix)

    def _conditional(self, condition: Condition) -> dict[str, str]:
        match condition:
            case Always():
                return {}
            case IfAbsent():
                return {"IfNoneMatch": "*"}
            case IfMatch(etag):
                return {"IfMatch": f'"{etag}"' if self._quoted else etag}


class S3Upload:
    """`MultipartUpload` of an `S3Store`."""

    def __init__(self, store: S3Store, key: str, upload_id: str) -> None:
        self._store = store
        self._key = key
        self._upload_id = upload_id
        self._request = {**store._named(key), "UploadId": upload_id}
        self._etags: dict[int, str] = {}

    @property
    def upload_id(self) -> str:
        return self._upload_id

    async def part(self, number: int, body: bytes) -> None:
        request = {**self._request, "PartNumber": number, "Body": body}
        answer = await self._store._run(lambda: self._store._client.upload_part(**request), self._key)
        self._etags[number] = _required(answer, "ETag")

    async def parts_of(self, body: bytes) -> None:
        """Uploads a whole body, its parts in parallel. Raises the error of the first part that fails."""
        errors: list[StowError] = []

        async def send(number: int) -> None:
            start = (number - 1) * _PART
            try:
                await self.part(number, body[start : start + _PART])
            except StowError as error:
                errors.append(error)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for number in range(1, 2 + (len(body) - 1) // _PART):
                nursery.start_soon(send, number)
        if errors:
            raise errors[0]

    async def complete(self, condition: Condition = ALWAYS) -> str:
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in sorted(self._etags.items())]
        request = {**self._request, "MultipartUpload": {"Parts": parts}, **self._store._conditional(condition)}
        try:
            answer = await self._store._run(lambda: self._store._client.complete_multipart_upload(**request), self._key)
        except ObjectNotFound as error:
            raise PreconditionFailed(str(error)) from error
        # Ceph RGW 16 leaves it empty. Asking for it now might give the ETag of somebody else's later write.
        return bare(_required(answer, "ETag")) or self._expected_etag()

    def _expected_etag(self) -> str:
        try:
            digests = [binascii.unhexlify(bare(etag)) for _, etag in sorted(self._etags.items())]
        except binascii.Error as error:
            raise StoreError(f"{self._store.url}: no ETag was given for the multipart upload of {self._key}") from error
        return f"{hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"

    async def abort(self) -> None:
        try:
            await self._store._run(lambda: self._store._client.abort_multipart_upload(**self._request), self._key)
        except StoreError as error:
            cause = error.__cause__
            if not (isinstance(cause, ClientError) and cause.response["Error"].get("Code") == "NoSuchUpload"):
                raise


def _get(client: Client, request: dict[str, Any]) -> Found | NotModified | None:
    """None: the range lies past the end of the object."""
    try:
        answer = client.get_object(**request)
    except ClientError as error:
        match error.response["ResponseMetadata"]["HTTPStatusCode"]:
            case 304:
                return NotModified()
            case 416:
                return None
        raise
    with contextlib.closing(answer["Body"]) as body:
        headers = answer["ResponseMetadata"]["HTTPHeaders"]
        if "content-length" not in headers and "transfer-encoding" not in headers:
            raise incomplete("Content-Length")  # Nothing would tell that the body ends too soon.
        return Found(body.read(), bare(_required(answer, "ETag")))


def _head(client: Client, request: dict[str, Any]) -> Found | NotModified:
    """The ETag of an object of which no byte is wanted."""
    try:
        return Found(b"", bare(_required(client.head_object(**request), "ETag")))
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 304:
            return NotModified()
        raise


def _required(answer: dict[str, Any], field: str) -> Any:
    """A field of a whole answer. What is left of one whose connection was cut among the headers is still valid HTTP."""
    if field not in answer:
        raise incomplete(field)
    return answer[field]


def incomplete(field: str) -> StoreUnavailable:
    """The error for an answer that lacks a field."""
    return StoreUnavailable(
        f"the store's answer has no {field}: it was cut off, or something else answered in its place"
    )


def bare(etag: str) -> str:
    """An ETag without its quotes."""
    return etag.strip('"')
