"""A store in memory, for tests: consistent within one process, and strict wherever a server may be.

The ETag is the MD5 of the body, as on the stores that matter: a body that comes back (A, B, A) brings its ETag back.
Each operation takes effect in one step after its only checkpoint, so cancelling it means that nothing happened.
"""

import bisect
import hashlib
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import trio

from stowfs.errors import ObjectNotFound, StoreError
from stowfs.store.base import (
    ALWAYS,
    ByteRange,
    Condition,
    Found,
    NotModified,
    ObjectInfo,
    Page,
    PendingUpload,
)
from stowfs.store.rules import PAGE_SIZE, check_condition, check_key


@dataclass(frozen=True, slots=True)
class _Object:
    body: bytes
    etag: str
    modified: float


@dataclass(slots=True)
class _Upload:
    key: str
    started: float
    parts: dict[int, bytes] = field(default_factory=dict)


class MemoryStore:
    """`ObjectStore` in a dictionary. Several vaults may share one instance, as hosts share a bucket."""

    def __init__(self, *, minimum_part: int = 1, page_size: int = PAGE_SIZE) -> None:
        self._objects: dict[str, _Object] = {}
        self._keys: list[str] = []  # those of _objects, sorted
        self._uploads: dict[str, _Upload] = {}
        self._upload_ids = itertools.count(1)
        self._minimum_part = minimum_part
        self._page_size = page_size

    @property
    def url(self) -> str:
        return "memory://"

    @property
    def minimum_part(self) -> int:
        return self._minimum_part

    async def get(
        self, key: str, *, byte_range: ByteRange | None = None, if_none_match: str | None = None
    ) -> Found | NotModified:
        check_key(key)
        await trio.lowlevel.checkpoint()
        found = self._objects.get(key)
        if found is None:
            raise ObjectNotFound(f"there is no object {key}")
        if found.etag == if_none_match:
            return NotModified()
        body = found.body if byte_range is None else found.body[byte_range.start : byte_range.end]
        return Found(body, found.etag)

    async def put(self, key: str, body: bytes, condition: Condition = ALWAYS) -> str:
        check_key(key)
        await trio.lowlevel.checkpoint()
        check_condition(key, condition, self._etag(key))
        etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
        if key not in self._objects:
            bisect.insort(self._keys, key)
        self._objects[key] = _Object(bytes(body), etag, time.time())
        return etag

    async def delete(self, key: str, condition: Condition = ALWAYS) -> None:
        check_key(key)
        await trio.lowlevel.checkpoint()
        check_condition(key, condition, self._etag(key))
        if self._objects.pop(key, None) is not None:
            del self._keys[bisect.bisect_left(self._keys, key)]

    async def list(self, prefix: str, *, delimiter: str | None = None, start_after: str = "") -> AsyncIterator[Page]:
        last = start_after
        while True:
            await trio.lowlevel.checkpoint()
            # A fresh look for every page: what changes between two pages shows, as it does on a server.
            batch = list(itertools.islice(self._entries(prefix, delimiter, last), self._page_size))
            if batch:
                yield Page(
                    tuple(entry for entry in batch if isinstance(entry, ObjectInfo)),
                    tuple(entry for entry in batch if isinstance(entry, str)),
                    last=len(batch) < self._page_size,
                )
            if len(batch) < self._page_size:
                return
            final = batch[-1]
            last = final if isinstance(final, str) else final.key

    def _entries(self, prefix: str, delimiter: str | None, after: str) -> Iterator[ObjectInfo | str]:
        folded = None
        first = max(bisect.bisect_left(self._keys, prefix), bisect.bisect_right(self._keys, after))
        for key in itertools.islice(self._keys, first, None):
            if not key.startswith(prefix):
                return
            if delimiter is not None and (cut := key.find(delimiter, len(prefix))) >= 0:
                if folded != (folded := key[: cut + len(delimiter)]) and folded > after:
                    yield folded
            else:
                found = self._objects[key]
                yield ObjectInfo(key, len(found.body), found.etag, found.modified)

    def _etag(self, key: str) -> str | None:
        found = self._objects.get(key)
        return None if found is None else found.etag

    async def multipart(self, key: str) -> "MemoryUpload":
        check_key(key)
        await trio.lowlevel.checkpoint()
        upload_id = str(next(self._upload_ids))
        self._uploads[upload_id] = _Upload(key, time.time())
        return MemoryUpload(self, upload_id)

    async def pending_uploads(self, prefix: str) -> AsyncIterator[PendingUpload]:
        await trio.lowlevel.checkpoint()
        for upload_id, upload in list(self._uploads.items()):
            if upload.key.startswith(prefix):
                yield PendingUpload(upload.key, upload_id, upload.started)

    async def abort_upload(self, upload: PendingUpload) -> None:
        await trio.lowlevel.checkpoint()
        self._uploads.pop(upload.upload_id, None)

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()


class MemoryUpload:
    """`MultipartUpload` of a `MemoryStore`."""

    def __init__(self, store: MemoryStore, upload_id: str) -> None:
        self._store = store
        self._upload_id = upload_id

    @property
    def upload_id(self) -> str:
        return self._upload_id

    def _pending(self) -> _Upload:
        upload = self._store._uploads.get(self._upload_id)
        if upload is None:
            raise StoreError(f"the multipart upload {self._upload_id} was completed or aborted")
        return upload

    async def part(self, number: int, body: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self._pending().parts[number] = bytes(body)

    async def complete(self, condition: Condition = ALWAYS) -> str:
        upload = self._pending()
        bodies = [upload.parts[number] for number in sorted(upload.parts)]
        if not bodies or any(len(body) < self._store.minimum_part for body in bodies[:-1]):
            raise StoreError(f"the multipart upload of {upload.key} has no parts, or one that is too small")
        etag = await self._store.put(upload.key, b"".join(bodies), condition)
        self._store._uploads.pop(self._upload_id, None)
        return etag

    async def abort(self) -> None:
        await trio.lowlevel.checkpoint()
        self._store._uploads.pop(self._upload_id, None)
