"""Reference counts of segments: acquire, release, undo, collect and recompress against the store.

Concurrent changes of one record by this process are grouped: while one compare-and-swap is under way, further
operations on the same segment queue up and go together in the next ones; where nobody waits for the answer, the first
one waits for them, too. The writes are made by tasks of the vault,
not of the callers, so that a cancelled caller leaves nothing half-done; what it no longer waits for is in its journal
row.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import trio

from stowfs.codec import Dictionary
from stowfs.errors import CorruptObject, MissingSegment, ObjectNotFound, StoreError, StowError
from stowfs.store.base import Found, ObjectStore
from stowfs.vault import record as records
from stowfs.vault.cas import UNREAD, Swapped, Unread, compare_and_swap
from stowfs.vault.dictionaries import Dictionaries
from stowfs.vault.naming import blob_key, segment_key
from stowfs.vault.record import Operation, Payload, Record
from stowfs.vault.ring import CAPACITY, new_id
from stowfs.vault.untrusted import read_bounded

log = logging.getLogger(__name__)

Kind = Literal["acquire", "release", "undo"]

_SUFFIX: dict[Kind, str] = {"acquire": "+", "release": "-", "undo": "u"}
# In ASCII order of when they happen within one commit, since ids are compared with a ring's floor.


def operation_id(commit: str, kind: Kind, nth: int = 1) -> str:
    """The id under which a commit's `nth` change of a kind of one record stands in the record's ring."""
    return commit + _SUFFIX[kind] * nth


@dataclass(slots=True)
class _Request:
    kind: Kind
    commit: str
    operation: Operation
    payload: Payload | None
    certain: bool = False
    done: trio.Event = field(default_factory=trio.Event)
    error: Exception | None = None
    count: int = 0
    blob: str | None = None


@dataclass(frozen=True, slots=True)
class Acquired:
    """The outcome of an acquire: `saturated` means that from now on nobody counts this segment; `blob` is the revision
    key of its bytes, where they are redirected."""

    digest: str
    count: int
    saturated: bool
    blob: str | None


CLOCK_ALLOWANCE = 3600.0
"""Seconds by which the clocks of two hosts may differ."""


class Counts:
    """The counted references of all segments, as this process changes them.

    `recounted_at`: see `Descriptor`. `believed_from`: that a segment was seen not to be counted any more is to be
    believed only if it was seen after that time.
    """

    def __init__(
        self,
        store: ObjectStore,
        dictionaries: Dictionaries,
        nursery: trio.Nursery,
        *,
        deadline: float,
        many: int = records.MANY,
        gather: float = 0.0,
        recounted_at: float = 0.0,
    ) -> None:
        # Seconds that a first change waits for others of the same segment.
        self._gather = gather
        # Another host's clock may be ahead of the one that noted the time.
        self.believed_from = recounted_at + CLOCK_ALLOWANCE
        self._store = store
        self._dictionaries = dictionaries
        self._nursery = nursery
        self._deadline = deadline
        self._many = many
        self._queues: dict[str, list[_Request]] = {}

    async def acquire(self, commit: str, digest: str, payload: Payload | None, *, exists: bool = False) -> Acquired:
        """Counts one reference of `commit` to the segment, storing it where it is not there.

        Without a `payload` it must be there, else `MissingSegment`, and nothing has happened. `exists`: the caller
        believes that the record is there, which spares a refused write. Raises `RetriesExhausted` and other store
        errors; then it may have happened.
        """
        request = _Request("acquire", commit, Operation(operation_id(commit, "acquire")), payload)
        await self._submit(digest, request, exists=exists or payload is None)
        return Acquired(digest, request.count, request.count >= self._many, request.blob)

    async def release(self, commit: str, digest: str, *, nth: int = 1, retried: bool = False) -> None:
        """Takes away a reference that `commit` gives up: of one that gives up several, the `nth` (from 1).

        `retried`: an earlier attempt may have done it. Errors as `acquire`.
        """
        operation = Operation(operation_id(commit, "release", nth), fresh=not retried)
        await self._submit(digest, _Request("release", commit, operation, None), exists=True)

    async def undo(self, commit: str, digest: str, *, certain: bool = False, retried: bool = False) -> None:
        """Rolls back what `commit` may have acquired, and makes a write of it that is still on its way fail.

        `certain`: it is known to have been counted, whatever the ring has dropped since.
        """
        operation = Operation(operation_id(commit, "undo"), fresh=not retried)
        await self._submit(digest, _Request("undo", commit, operation, None, certain), exists=True)

    async def collect(self, digest: str, *, before: float) -> bool:
        """Makes a segment dead that had no reference since before the time `before`; then deletes its blob, if any.

        Returns whether this call killed it. Never wins against a concurrent acquire.
        """
        transition = _Collect(digest, before)
        await compare_and_swap(self._store, segment_key(digest), transition, deadline=self._deadline)
        if transition.redirect is not None:
            await self._delete_blob(digest, transition.redirect)
        return transition.killed

    async def recompress(self, payload: Payload, *, first: Found | Unread = UNREAD) -> Payload | None:
        """Replaces the stored form of a live segment. Returns it as it is stored then, or None where it is not.

        `first`: the record as the caller has read it. A blob that was replaced stays until `drop_replaced`.
        """
        payload = await self._redirect(payload)
        transition = _Recompress(payload)
        key = segment_key(payload.digest)
        await compare_and_swap(self._store, key, transition, first=first, deadline=self._deadline)
        if not transition.applied:
            await self._drop_own_blob(payload)
            return None
        return payload

    async def drop_replaced(self, digest: str, *, before: float) -> bool:
        """Deletes the blob that was replaced before the time `before`, when no reader can be following the old record
        any more. Returns whether there was one."""
        record = await self.read(digest)
        replaced = record.header.replaced if record else None
        if replaced is None or replaced.since > before:
            return False
        # While the record names it, this is repeated after a crash.
        await self._store.delete(blob_key(digest, replaced.revision))
        forget = _ForgetReplaced(digest, replaced.revision)
        await compare_and_swap(self._store, segment_key(digest), forget, deadline=self._deadline)
        return True

    async def read(self, digest: str) -> Record | None:
        """The record of a segment as it is now, or `None`."""
        try:
            found = await read_bounded(self._store, segment_key(digest))
        except ObjectNotFound:
            return None
        return records.decode(digest, found.body)

    async def _submit(self, digest: str, request: _Request, *, exists: bool) -> None:
        queue = self._queues.get(digest)
        if queue is None:
            self._queues[digest] = [request]
            self._nursery.start_soon(self._drain, digest, exists)
        else:
            queue.append(request)
        await request.done.wait()
        if request.error is not None:
            raise request.error

    async def _drain(self, digest: str, exists: bool) -> None:
        """Carries out what is queued for one segment, everything that is waiting at a time, until nothing is."""
        first: Found | Unread | None = UNREAD if exists else None
        batch: list[_Request] = []
        try:
            if self._gather:
                await trio.sleep(self._gather)
            # No more at a time than a ring holds: after a lost response, every id of the batch has to be found there.
            while batch := self._queues[digest][:CAPACITY]:
                self._queues[digest] = self._queues[digest][CAPACITY:]
                try:
                    first = (await self._change(digest, batch, first)).current
                except Exception as error:  # noqa: BLE001 - handed to every caller that waits
                    first = UNREAD
                    for request in batch:
                        request.error = error
                for request in batch:
                    request.done.set()
        finally:
            # Cancelled (the vault is closing): nobody may wait for ever.
            for request in [*batch, *self._queues.pop(digest)]:
                if not request.done.is_set():
                    request.error = StowError("the vault was closed before the change was made")
                    request.done.set()

    async def _change(self, digest: str, batch: list[_Request], first: Found | Unread | None) -> Swapped:
        payload = next((request.payload for request in batch if request.payload is not None), None)
        if payload is None or len(payload.compressed) > records.REDIRECT_ABOVE:
            # Reading first spares the upload of a large payload that is there already.
            try:
                return await self._swap(digest, _Change(digest, batch, None, self._dictionaries, self._many), UNREAD)
            except _PayloadNeeded as needed:
                if payload is None:
                    raise MissingSegment(digest, f"segment {digest} is referenced, but is not in the store") from None
                payload = await self._redirect(payload)
                first = needed.found
        change = _Change(digest, batch, payload, self._dictionaries, self._many)
        swapped = await self._swap(digest, change, first)
        if payload.redirect is not None and not change.published:
            await self._drop_own_blob(payload)
        return swapped

    async def _swap(self, digest: str, change: "_Change", first: Found | Unread | None) -> Swapped:
        """One grouped compare-and-swap. Raises `_PayloadNeeded` where the segment has to be stored first."""
        return await compare_and_swap(
            self._store,
            segment_key(digest),
            change,
            first=first,
            prepare=change.prepare,
            deadline=self._deadline,
        )

    async def _redirect(self, payload: Payload) -> Payload:
        """Writes a payload that is too large for a record under a revision key of its own."""
        if len(payload.compressed) <= records.REDIRECT_ABOVE:
            return payload
        revision = new_id()
        await self._store.put(blob_key(payload.digest, revision), payload.compressed)
        return replace(payload, redirect=revision)

    async def _drop_own_blob(self, payload: Payload) -> None:
        """Deletes a blob that lost: its revision key was never published, so nobody can refer to it."""
        if payload.redirect is not None:
            await self._delete_blob(payload.digest, payload.redirect)

    async def _delete_blob(self, digest: str, revision: str) -> None:
        """Deletes what no record refers to. The change of the count is made, whatever becomes of this."""
        try:
            await self._store.delete(blob_key(digest, revision))
        except StoreError as error:
            log.warning("a blob of segment %s that nobody needs is left in the store: %s", digest, error)


class _PayloadNeeded(Exception):
    """The segment is not there, and its payload is too large to be sent before that is known. `found`: a record of it
    that is dead."""

    def __init__(self, found: Found | None) -> None:
        super().__init__()
        self.found = found


class _Change:
    """A batch of acquires, releases and undos of one segment as one transition."""

    def __init__(
        self,
        digest: str,
        batch: Sequence[_Request],
        payload: Payload | None,
        dictionaries: Dictionaries,
        many: int,
    ) -> None:
        self._digest = digest
        self._batch = batch
        self._payload = payload
        self._dictionaries = dictionaries
        self._dictionary: Dictionary | None = None
        self._many = many
        self._generation = 0
        self.published = False

    async def prepare(self, current: Found) -> None:
        """Has the dictionary ready with which the payload that is there can be compared."""
        if self._payload is None:
            return
        try:
            self._dictionary = await self._dictionaries.of(records.payload_of(current.body))
        except CorruptObject:
            self._dictionary = None  # what nobody can read is replaced

    def propose(self, current: Found | None) -> bytes | None:
        before = records.decode(self._digest, current.body) if current else None
        self._generation = before.header.ring.generation if before else 0
        if self._needs_payload(before):
            raise _PayloadNeeded(current)
        after = self._apply(before)
        for request in self._batch:
            request.count = after.header.ref_count if after else 0
            request.blob = after.header.redirect if after else None
        redirect = self._payload.redirect if self._payload else None
        self.published = redirect is not None and after is not None and after.header.redirect == redirect
        return None if after is None or after is before else records.encode(after)

    def in_doubt(self) -> None:
        for request in self._batch:
            if request.operation.fresh:
                request.operation = replace(request.operation, fresh=False, since=self._generation)

    def _needs_payload(self, record: Record | None) -> bool:
        acquires = any(request.kind == "acquire" for request in self._batch)
        return acquires and self._payload is None and (record is None or record.header.state == "dead")

    def _apply(self, record: Record | None) -> Record | None:
        """Acquires first, so that a count never touches zero between two operations of one batch."""
        many = self._many
        acquires = [request.operation for request in self._batch if request.kind == "acquire"]
        if acquires:
            record = records.acquire(record, acquires, self._payload, dictionary=self._dictionary, many=many)
        for request in self._batch:
            if request.kind == "undo":
                acquired = operation_id(request.commit, "acquire")
                record = records.undo(
                    record, self._digest, acquired, request.operation, certain=request.certain, many=many
                )
        releases = [request.operation for request in self._batch if request.kind == "release"]
        return records.release(record, releases, many=many)


class _Collect:
    """Live without references since before a time, to dead."""

    def __init__(self, digest: str, before: float) -> None:
        self._digest = digest
        self._before = before
        self._op = new_id()
        self.redirect: str | None = None
        self.killed = False

    def propose(self, current: Found | None) -> bytes | None:
        before = records.decode(self._digest, current.body) if current else None
        if before is not None and self._op in before.header.ring.recent:
            return None
        after = records.collect(before, self._op, before=self._before)
        self.killed = after is not before
        if after is before or after is None or before is None:
            self.redirect = None
            return None
        self.redirect = before.header.redirect
        return records.encode(after)

    def in_doubt(self) -> None:
        """Nothing to note: the id in the ring tells."""


class _Recompress:
    """Live with one payload to live with another."""

    def __init__(self, payload: Payload) -> None:
        self._payload = payload
        self._op = new_id()
        self.applied = False

    def propose(self, current: Found | None) -> bytes | None:
        before = records.decode(self._payload.digest, current.body) if current else None
        if before is not None and (self._op in before.header.ring.recent or self._is_published(before)):
            return None
        after = records.recompress(before, self._op, self._payload)
        self.applied = after is not before
        if after is before or after is None or before is None:
            return None
        return records.encode(after)

    def _is_published(self, record: Record) -> bool:
        """Whether the record has this payload's own blob, if the ring does not tell any more."""
        return self._payload.redirect is not None and record.header.redirect == self._payload.redirect

    def in_doubt(self) -> None:
        """Nothing to note: the id in the ring tells."""


class _ForgetReplaced:
    """A record that names a blob which was deleted, to one that does not."""

    def __init__(self, digest: str, revision: str) -> None:
        self._digest = digest
        self._revision = revision
        self._op = new_id()

    def propose(self, current: Found | None) -> bytes | None:
        before = records.decode(self._digest, current.body) if current else None
        after = records.forget_replaced(before, self._op, self._revision)
        return None if after is before or after is None else records.encode(after)

    def in_doubt(self) -> None:
        """Nothing to note: the record tells."""
