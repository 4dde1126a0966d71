"""Repeating what failed, and only what may be repeated.

`RetryingStore` repeats requests that have the same effect however often they are carried out: get, list, unconditional
put and delete, parts of uploads. It never repeats a conditional write: whoever sent it must look for its own commit id,
because the answer to a repetition does not tell whether the first attempt succeeded. `Backoff` is the waiting on its
own, for the loops that do that. `guarded` adds a breaker, for whoever lives long enough to see a store go and return.
"""

import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import trio

from stowfs.errors import RetriesExhausted, StoreUnavailable, StoreUnreachable, WriteConflict
from stowfs.store.base import (
    ALWAYS,
    Always,
    ByteRange,
    Condition,
    Found,
    MultipartUpload,
    NotModified,
    ObjectStore,
    Page,
    PendingUpload,
)
from stowfs.store.breaker import Breaker
from stowfs.tasks import background

T = TypeVar("T")

FIRST_DELAY = 0.05
"""Seconds: about the round trip to a store in the next region, so that a first retry costs as much again."""

LONGEST_DELAY = 5.0
"""Seconds: short enough that work resumes soon after a store returns, long enough not to keep it down."""

PATIENCE = 0.25
"""The part of the deadline after which a store that answers nobody is taken to be unreachable: by default 15 s, which
a server that is restarted or replaced rarely takes."""


class Backoff:
    """The waits between the attempts of one operation: capped exponential, full jitter, within `deadline` seconds.

    backoff = Backoff(options.deadline)
    while True:
        try:
            return await attempt()
        except PreconditionFailed as error:
            await backoff.wait(error)
    """

    def __init__(self, deadline: float, *, first: float = FIRST_DELAY, longest: float = LONGEST_DELAY) -> None:
        self._started = trio.current_time()
        self._end = self._started + deadline
        self._ceiling = first
        self._longest = longest
        self._attempts = 1

    @property
    def attempts(self) -> int:
        """Attempts so far, the first included."""
        return self._attempts

    @property
    def remaining(self) -> float:
        """Seconds until the deadline, at least 0."""
        return max(0.0, self._end - trio.current_time())

    async def wait(self, cause: Exception) -> None:
        """Sleeps before the next attempt. Raises `RetriesExhausted` from `cause` where the deadline leaves no time.

        A `StoreUnreachable` is raised again at once, unless there is no deadline.
        """
        if isinstance(cause, StoreUnreachable) and self._end != math.inf:
            raise cause
        delay = random.uniform(0, self._ceiling)
        if delay >= self.remaining:
            elapsed = trio.current_time() - self._started
            raise RetriesExhausted(f"{cause} (given up after {self._attempts} attempts in {elapsed:.0f} s)") from cause
        self._ceiling = min(self._ceiling * 2, self._longest)
        self._attempts += 1
        await trio.sleep(delay)


class RetryingStore:
    """`ObjectStore` that repeats failed requests to `inner` for up to `deadline` seconds each, where that is safe.

    Every request, repeated or not, is answered within `deadline`; one that is not raises `StoreUnavailable`. With a
    `breaker`, which then needs somebody to `watch` it, all of them end when the store is unreachable.
    """

    def __init__(self, inner: ObjectStore, deadline: float, breaker: Breaker | None = None) -> None:
        self.inner = inner
        self.breaker = breaker
        self._deadline = deadline

    @property
    def url(self) -> str:
        return self.inner.url

    @property
    def minimum_part(self) -> int:
        return self.inner.minimum_part

    async def once(self, send: Callable[[], Awaitable[T]], seconds: float | None = None) -> T:
        """Sends a request that must not be repeated, bounded by `seconds` (default: the deadline)."""
        bounded = partial(self.bounded, send, self._deadline if seconds is None else seconds)
        return await (self.breaker.attempt(bounded) if self.breaker else bounded())

    async def bounded(self, send: Callable[[], Awaitable[T]], seconds: float) -> T:
        """What `send` gives within `seconds`. Raises `StoreUnavailable` after them."""
        with trio.move_on_after(seconds):
            return await send()
        raise StoreUnavailable(f"{self.url}: no answer within {seconds:.0f} s")

    async def repeatedly(self, send: Callable[[], Awaitable[T]]) -> T:
        """Sends a request again until it is answered by anything but `StoreUnavailable` or `WriteConflict`."""
        backoff = Backoff(self._deadline)
        while True:
            try:
                return await self.once(send, backoff.remaining)
            except (StoreUnavailable, WriteConflict) as error:
                await backoff.wait(error)

    async def get(
        self, key: str, *, byte_range: ByteRange | None = None, if_none_match: str | None = None
    ) -> Found | NotModified:
        return await self.repeatedly(lambda: self.inner.get(key, byte_range=byte_range, if_none_match=if_none_match))

    async def put(self, key: str, body: bytes, condition: Condition = ALWAYS) -> str:
        send = self.repeatedly if isinstance(condition, Always) else self.once
        return await send(lambda: self.inner.put(key, body, condition))

    async def delete(self, key: str, condition: Condition = ALWAYS) -> None:
        send = self.repeatedly if isinstance(condition, Always) else self.once
        await send(lambda: self.inner.delete(key, condition))

    async def list(self, prefix: str, *, delimiter: str | None = None, start_after: str = "") -> AsyncIterator[Page]:
        backoff = Backoff(self._deadline)
        pages = self.inner.list(prefix, delimiter=delimiter, start_after=start_after)
        while True:
            try:
                page = await self.once(partial(anext, pages, None), backoff.remaining)
            except StoreUnavailable as error:
                await backoff.wait(error)
                pages = self.inner.list(prefix, delimiter=delimiter, start_after=start_after)
                continue
            if page is None:
                return
            start_after = max([entry.key for entry in page.objects[-1:]] + list(page.prefixes[-1:]))
            yield page
            backoff = Backoff(self._deadline)  # Anew: what the caller does with a page is not the store's time.

    async def multipart(self, key: str) -> "RetryingUpload":
        # An upload that was begun unnoticed holds nothing, and `pending_uploads` shows it.
        return RetryingUpload(self, await self.repeatedly(lambda: self.inner.multipart(key)))

    async def pending_uploads(self, prefix: str) -> AsyncIterator[PendingUpload]:
        uploads = await self.repeatedly(lambda: self._all_pending(prefix))
        for upload in uploads:
            yield upload

    async def _all_pending(self, prefix: str) -> tuple[PendingUpload, ...]:
        return tuple([upload async for upload in self.inner.pending_uploads(prefix)])

    async def abort_upload(self, upload: PendingUpload) -> None:
        await self.repeatedly(lambda: self.inner.abort_upload(upload))

    async def close(self) -> None:
        await self.inner.close()


class RetryingUpload:
    """`MultipartUpload` that repeats parts and abort, but not `complete`: a repetition may find nothing to complete."""

    def __init__(self, store: RetryingStore, inner: MultipartUpload) -> None:
        self._store = store
        self._inner = inner

    @property
    def upload_id(self) -> str:
        return self._inner.upload_id

    async def part(self, number: int, body: bytes) -> None:
        await self._store.repeatedly(lambda: self._inner.part(number, body))

    async def complete(self, condition: Condition = ALWAYS) -> str:
        return await self._store.once(lambda: self._inner.complete(condition))

    async def abort(self) -> None:
        await self._store.repeatedly(self._inner.abort)


@asynccontextmanager
async def guarded(inner: ObjectStore, deadline: float, *, trial: str) -> AsyncIterator[RetryingStore]:
    """`inner` with retries of up to `deadline` seconds and a breaker, for as long as the block lasts.

    The trials of the breaker ask for the object `trial`. `inner` is not closed.
    """
    breaker = Breaker(inner.url, PATIENCE * deadline)
    store = RetryingStore(inner, deadline, breaker)
    async with background() as nursery:
        nursery.start_soon(breaker.watch, partial(store.bounded, partial(inner.get, trial), deadline))
        yield store
