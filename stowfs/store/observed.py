"""A store whose requests pass through one method, on their way to the store behind it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Literal, TypeVar

from stowfs.store.base import (
    ALWAYS,
    ByteRange,
    Condition,
    Found,
    MultipartUpload,
    NotModified,
    ObjectStore,
    Page,
    PendingUpload,
)

T = TypeVar("T")

Operation = Literal["get", "put", "delete", "list", "multipart", "part", "complete", "abort", "pending", "abort_upload"]


class ObservedStore:
    """`ObjectStore` that passes every request on to `inner` by way of `_pass`, which a subclass overrides.

    A listing is one request for each page, and one where it has none.
    """

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner

    async def _pass(
        self, operation: Operation, key: str, send: Callable[[], Awaitable[T]], *, sent: int = 0, more: bool = False
    ) -> T:
        """Sends one request; `sent`: bytes of its body. With `more` it goes on with a listing: where the answer is
        None, there was nothing left to ask for."""
        return await send()

    @property
    def url(self) -> str:
        return self.inner.url

    @property
    def minimum_part(self) -> int:
        return self.inner.minimum_part

    async def get(
        self, key: str, *, byte_range: ByteRange | None = None, if_none_match: str | None = None
    ) -> Found | NotModified:
        return await self._pass(
            "get", key, lambda: self.inner.get(key, byte_range=byte_range, if_none_match=if_none_match)
        )

    async def put(self, key: str, body: bytes, condition: Condition = ALWAYS) -> str:
        return await self._pass("put", key, lambda: self.inner.put(key, body, condition), sent=len(body))

    async def delete(self, key: str, condition: Condition = ALWAYS) -> None:
        await self._pass("delete", key, lambda: self.inner.delete(key, condition))

    async def list(self, prefix: str, *, delimiter: str | None = None, start_after: str = "") -> AsyncIterator[Page]:
        pages = self.inner.list(prefix, delimiter=delimiter, start_after=start_after)
        first = True
        while (page := await self._pass("list", prefix, lambda: anext(pages, None), more=not first)) is not None:
            yield page
            first = False

    async def multipart(self, key: str) -> "ObservedUpload":
        upload = await self._pass("multipart", key, lambda: self.inner.multipart(key))
        return ObservedUpload(self._pass, key, upload)

    async def pending_uploads(self, prefix: str) -> AsyncIterator[PendingUpload]:
        uploads = self.inner.pending_uploads(prefix)
        first = True
        while (upload := await self._pass("pending", prefix, lambda: anext(uploads, None), more=not first)) is not None:
            yield upload
            first = False

    async def abort_upload(self, upload: PendingUpload) -> None:
        await self._pass("abort_upload", upload.key, lambda: self.inner.abort_upload(upload))

    async def close(self) -> None:
        await self.inner.close()


class ObservedUpload:
    """`MultipartUpload` of an `ObservedStore`."""

    def __init__(self, pass_on: Callable[..., Awaitable[object]], key: str, inner: MultipartUpload) -> None:
        self._pass = pass_on
        self._key = key
        self._inner = inner

    @property
    def upload_id(self) -> str:
        return self._inner.upload_id

    async def part(self, number: int, body: bytes) -> None:
        await self._pass("part", self._key, lambda: self._inner.part(number, body), sent=len(body))

    async def complete(self, condition: Condition = ALWAYS) -> str:
        etag = await self._pass("complete", self._key, lambda: self._inner.complete(condition))
        assert isinstance(etag, str)
        return etag

    async def abort(self) -> None:
        await self._pass("abort", self._key, self._inner.abort)
