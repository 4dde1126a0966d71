"""The `file://` store: a plain directory, each operation one call in a worker thread (`directory.py` does the work)."""

import errno
import itertools
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from stowfs.config import StoreOptions
from stowfs.errors import AccessDenied, NameTooLong, StoreError, StoreFull, StoreMissing, StoreUnavailable, UsageError
from stowfs.store.base import ALWAYS, ByteRange, Condition, Found, NotModified, ObjectInfo, Page, PendingUpload
from stowfs.store.directory import Directory
from stowfs.store.rules import PAGE_SIZE

T = TypeVar("T")


class FileStore:
    """`ObjectStore` in `directory`, which must exist (`StoreMissing` otherwise); a key is a path below it.

    A key and another key below it (`a` and `a/b`) cannot both exist: the second put raises `StoreError`.
    """

    def __init__(self, directory: Path, options: StoreOptions | None = None, *, page_size: int = PAGE_SIZE) -> None:
        options = options or StoreOptions()
        self._root = directory.absolute()
        self._directory = Directory(self._root, options.read_timeout)
        self._limiter = trio.CapacityLimiter(options.concurrency)
        self._page_size = page_size

    @property
    def url(self) -> str:
        return self._root.as_uri()

    @property
    def minimum_part(self) -> int:
        return 1

    async def _run(self, function: Callable[[], T]) -> T:
        try:
            # Abandoned when cancelled: a disk that does not answer must not hold up whoever gave up on it.
            return await trio.to_thread.run_sync(function, limiter=self._limiter, abandon_on_cancel=True)
        except OSError as error:
            raise self._translated(error) from error

    def _translated(self, error: OSError) -> StoreError | NameTooLong:
        reason = f"{self.url}: {error.strerror or error}"
        match error.errno:
            case errno.ENOSPC | errno.EDQUOT:
                return StoreFull(f"{reason}: free some space there")
            case errno.EACCES | errno.EPERM | errno.EROFS:
                return AccessDenied(f"{reason}: check the owner and mode of the directory, and how it is mounted")
            case errno.ENAMETOOLONG:
                return NameTooLong(reason)
            case errno.ENOENT | errno.ENOTDIR if self._directory.root.is_missing:
                return StoreMissing(f"{self.url} does not exist or is no directory: make it with `stowfs mkfs`")
        return StoreUnavailable(reason)

    async def get(
        self, key: str, *, byte_range: ByteRange | None = None, if_none_match: str | None = None
    ) -> Found | NotModified:
        return await self._run(partial(self._directory.get, key, byte_range, if_none_match))

    async def put(self, key: str, body: bytes, condition: Condition = ALWAYS) -> str:
        return await self._run(partial(self._directory.put, key, body, condition))

    async def delete(self, key: str, condition: Condition = ALWAYS) -> None:
        await self._run(partial(self._directory.delete, key, condition))

    async def list(self, prefix: str, *, delimiter: str | None = None, start_after: str = "") -> AsyncIterator[Page]:
        if delimiter not in (None, "/"):
            raise UsageError(f"a directory can only be listed with the delimiter '/', not {delimiter!r}")
        entries = self._directory.walk(prefix, start_after, recursive=delimiter is None)
        while batch := await self._run(lambda: list(itertools.islice(entries, self._page_size))):
            yield Page(
                tuple(entry for entry in batch if isinstance(entry, ObjectInfo)),
                tuple(entry for entry in batch if isinstance(entry, str)),
                last=len(batch) < self._page_size,
            )

    async def multipart(self, key: str) -> "FileUpload":
        upload_id = await self._run(partial(self._directory.begin_upload, key))
        return FileUpload(self, self._directory, key, upload_id)

    async def pending_uploads(self, prefix: str) -> AsyncIterator[PendingUpload]:
        for upload in await self._run(partial(self._directory.pending_uploads, prefix)):
            yield upload

    async def abort_upload(self, upload: PendingUpload) -> None:
        await self._run(partial(self._directory.abort_upload, upload.upload_id))

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()


class FileUpload:
    """`MultipartUpload` of a `FileStore`."""

    def __init__(self, store: FileStore, directory: Directory, key: str, upload_id: str) -> None:
        self._store = store
        self._directory = directory
        self._key = key
        self._upload_id = upload_id

    @property
    def upload_id(self) -> str:
        return self._upload_id

    async def part(self, number: int, body: bytes) -> None:
        await self._store._run(partial(self._directory.write_part, self._upload_id, number, body))

    async def complete(self, condition: Condition = ALWAYS) -> str:
        return await self._store._run(partial(self._directory.complete_upload, self._upload_id, self._key, condition))

    async def abort(self) -> None:
        await self._store._run(partial(self._directory.abort_upload, self._upload_id))
