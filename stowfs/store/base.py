"""The protocol every object store implements: get, conditional put, delete, paged list, multipart.

Invariants that the layers above build on:

* a `put` is atomic: a reader sees the old body or the new one, whole;
* a `put` with `IfAbsent` or `IfMatch` takes effect only where the condition holds at that moment, between any number of
  processes; otherwise it changes nothing and raises `PreconditionFailed` (or `WriteConflict`: not decided, try again);
* after `StoreUnavailable` a write may or may not have taken effect, and may still do so later;
* a `get` or `list` that returns is complete; a failure in the middle is an error, never a shorter answer.

ETags are opaque, unquoted strings. Only equality means anything.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Always:
    """No condition: whatever is there is replaced."""


@dataclass(frozen=True, slots=True)
class IfAbsent:
    """Only where there is no object under the key (`If-None-Match: *`)."""


@dataclass(frozen=True, slots=True)
class IfMatch:
    """Only where the object under the key has this ETag (`If-Match`)."""

    etag: str


Condition = Always | IfAbsent | IfMatch

ALWAYS = Always()
IF_ABSENT = IfAbsent()


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes `start` up to but not including `end` (both counted from 0; `end` may be past the object's end)."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Found:
    """A body, or the part of it that was asked for, and the ETag of the whole object."""

    body: bytes
    etag: str


@dataclass(frozen=True, slots=True)
class NotModified:
    """The object still has the ETag the caller knows."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One line of a listing. `size` in bytes, `modified` in seconds since the epoch by the store's clock."""

    key: str
    size: int
    etag: str
    modified: float


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing, in key order: objects and, with a delimiter, the prefixes that stand for deeper ones.

    `last`: nothing follows, as the store has said with it.
    """

    objects: tuple[ObjectInfo, ...]
    prefixes: tuple[str, ...] = ()
    last: bool = False


@dataclass(frozen=True, slots=True)
class PendingUpload:
    """A multipart upload that was begun and neither completed nor aborted. `started` in seconds since the epoch."""

    key: str
    upload_id: str
    started: float


class MultipartUpload(Protocol):
    """One object written in parts; nothing is visible under its key before `complete`."""

    @property
    def upload_id(self) -> str:
        """The store's name for this upload, by which another process can abort it."""

    async def part(self, number: int, body: bytes) -> None:
        """Uploads part `number` (from 1). All parts but the last have at least `minimum_part` bytes.

        Parts may be sent in parallel and again; the last one sent under a number counts.
        """

    async def complete(self, condition: Condition = ALWAYS) -> str:
        """Makes the parts, in order of their numbers, the object's body; returns its ETag. Errors as in `put`.

        Some stores ignore the condition here though they enforce it in `put` (Ceph RGW 16: any; moto 5.2: `IfMatch`):
        under a key that others may write too, use `put`.
        """

    async def abort(self) -> None:
        """Drops the parts. Aborting what is gone already is no error."""


class ObjectStore(Protocol):
    """A flat map from keys to bytes. Keys are non-empty printable strings with '/' as the customary separator.

    Every method raises `AccessDenied`, `StoreMissing` or `StoreUnavailable` where that is the answer. No method waits
    longer than the store's configured timeouts.
    """

    @property
    def url(self) -> str:
        """The store's address as a user would write it, without credentials."""

    @property
    def minimum_part(self) -> int:
        """The least size in bytes of a multipart part that is not the last."""

    async def get(
        self, key: str, *, byte_range: ByteRange | None = None, if_none_match: str | None = None
    ) -> Found | NotModified:
        """The object under `key`; `NotModified` where its ETag is `if_none_match`.

        Raises `ObjectNotFound`. A range wholly past the end gives an empty body.
        """

    async def put(self, key: str, body: bytes, condition: Condition = ALWAYS) -> str:
        """Writes the object where `condition` holds, and returns its new ETag.

        Raises `PreconditionFailed`, `WriteConflict`, `StoreFull`. `IfMatch` on a missing key is `PreconditionFailed`.
        """

    async def delete(self, key: str, condition: Condition = ALWAYS) -> None:
        """Removes the object. Deleting what is not there is no error, except with `IfMatch`.

        Some stores ignore the condition (the probe tells): nothing may depend on it.
        """

    def list(self, prefix: str, *, delimiter: str | None = None, start_after: str = "") -> AsyncIterator[Page]:
        """The objects whose keys begin with `prefix` and are greater than `start_after`, by pages, in key order.

        With a `delimiter`, keys that have it after `prefix` are given once, as the prefix up to and including it; that
        prefix must itself be greater than `start_after`.
        """

    async def multipart(self, key: str) -> MultipartUpload:
        """Begins a multipart upload."""

    def pending_uploads(self, prefix: str) -> AsyncIterator[PendingUpload]:
        """Multipart uploads under `prefix` that were never completed or aborted."""

    async def abort_upload(self, upload: PendingUpload) -> None:
        """Aborts a pending upload, for instance one of a process that died."""

    async def close(self) -> None:
        """Releases connections and threads. Nothing may be called afterwards."""
