"""Repairing what a check found, where that takes no guess.

Safe beside live mounts: giving up counting a segment whose count is too low, as one that too many share (what it should
be nobody can tell: a commit under way is counted, too, and takes that back, and a host that crashed may still release);
aborting uploads that were given up a day ago; removing the remains of probes.

Only where nothing else uses the store (`exclusive`), because a writer that was stalled for however long may be about
to publish what looks superfluous: setting a count to what it should be, removing an orphan blob, putting back a record
whose payload is still there under a revision key. What is counted anew or put back settles all that was done to the
record before: a host that crashed and comes back later must not release a second time.

Above all, counting a segment again that nobody counted any more: whoever has seen that it is not counted refers to it
without a request, so there is nothing in the store by which such a writer could be noticed, or made to fail. And hosts
remember it: before the first such count is set, the descriptor tells those that come later not to believe it. So it
does before a count that was too low is set, and before a record is put back: what was lost, once or now, may have been
one that nobody counted.
"""

import time
from dataclasses import dataclass

import msgspec
import trio

from stowfs import codec
from stowfs.errors import CorruptObject, ObjectNotFound, PreconditionFailed
from stowfs.hot.segments import CachedSegment
from stowfs.store.base import IF_ABSENT, Found, IfMatch, ObjectStore, PendingUpload
from stowfs.vault import record as records
from stowfs.vault.cas import compare_and_swap, read_or_none
from stowfs.vault.check import Checked
from stowfs.vault.counts import CLOCK_ALLOWANCE
from stowfs.vault.descriptor import Descriptor, note_recount
from stowfs.vault.findings import (
    Corrupt,
    CountTooHigh,
    CountTooLow,
    Dangling,
    Finding,
    LostDictionary,
    MissingBlob,
    NewerFormat,
    OrphanBlob,
    StrayObject,
    Uncounted,
    Undecodable,
    UnfinishedUpload,
)
from stowfs.vault.inspection import RECORD_LIMIT, Inspector
from stowfs.vault.naming import segment_key
from stowfs.vault.parallel import each
from stowfs.vault.record import Header, Record
from stowfs.vault.ring import first_ring, new_id
from stowfs.vault.segments import unpack_verified
from stowfs.vault.vault import THREADS

REPAIRS = 16
"""Findings repaired at once; the store has a limit of its own."""

NEEDS_EXCLUSIVE = "only with --exclusive: a writer that is stalled might be about to need it"
LOST = "its bytes are nowhere in the store: where the same content is stored again, it comes back"
UNCLEAR = "nobody can tell what it was: put the object back from a copy, or delete it and what it stands for is gone"
FOREIGN = "stowfs did not make it: remove it yourself if nobody needs it"
DICTIONARY = (
    "put it back from a copy of the store, or from a host that used it: it has it under the first eight digits of the"
    " name, in 'dictionaries' below its state directory"
)
UPGRADE = "nothing is known to be wrong with it: check with a stowfs that knows its format"
UNREAD = "not every reference could be read: it may hold what one of them needs"
OVERTAKEN = "it was changed meanwhile: check again"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finding, and why it was left as it is (`None`: it is repaired)."""

    finding: Finding
    left: str | None


def hopeless(finding: Finding, checked: Checked) -> str | None:
    """Why nothing that is in the store can repair a finding of `checked`; `None` where something may."""
    match finding:
        case OrphanBlob() if not checked.complete:
            return UNREAD
        case NewerFormat():
            return UPGRADE
        case LostDictionary():
            return DICTIONARY
        case StrayObject(temporary=False):
            return FOREIGN
        case Undecodable(digest=None):
            return UNCLEAR
        case Corrupt(key=key, digest=digest) | Undecodable(key=key, digest=str(digest)) if key != segment_key(digest):
            return UNCLEAR
        case (
            Dangling(digest=digest)
            | MissingBlob(digest=digest)
            | Corrupt(digest=digest)
            | Undecodable(digest=str(digest))
        ):
            return None if checked.spare.get(digest) else LOST
    return None


def takes_exclusive(finding: Finding) -> bool:
    """Whether a finding is repaired only where nothing else uses the store."""
    return not isinstance(finding, CountTooLow | UnfinishedUpload | StrayObject)


async def repair(
    store: ObjectStore, descriptor: Descriptor, checked: Checked, *, exclusive: bool = False, deadline: float
) -> list[Outcome]:
    """Repairs what a check found, or says why not. Raises store errors; what was repaired until then is."""
    repairer = _Repairer(store, descriptor, checked, exclusive=exclusive, deadline=deadline)
    if exclusive and any(_may_have_been_uncounted(finding, checked) for finding in checked.findings):
        await note_recount(store, deadline=deadline)
    # Counts first: they are set on the records that were checked.
    counts = [finding for finding in checked.findings if isinstance(finding, CountTooLow | CountTooHigh | Uncounted)]
    others = [finding for finding in checked.findings if finding not in counts]
    outcomes = await each(repairer.repair, counts, limit=REPAIRS)
    return outcomes + await each(repairer.repair, others, limit=REPAIRS)


def _may_have_been_uncounted(finding: Finding, checked: Checked) -> bool:
    """Whether a repair counts a segment of which some host may remember that nobody does."""
    counted = CountTooLow | Uncounted | Dangling | MissingBlob | Corrupt | Undecodable
    return isinstance(finding, counted) and hopeless(finding, checked) is None


class _Repairer:
    def __init__(
        self, store: ObjectStore, descriptor: Descriptor, checked: Checked, *, exclusive: bool, deadline: float
    ) -> None:
        self._store = store
        self._many = descriptor.many
        self._checked = checked
        self._inspector = Inspector(store, trio.CapacityLimiter(THREADS), dictionary=descriptor.dictionary)
        self._exclusive = exclusive
        self._deadline = deadline

    async def repair(self, finding: Finding) -> Outcome:
        return Outcome(finding, await self._repair(finding))

    async def _repair(self, finding: Finding) -> str | None:
        if (reason := hopeless(finding, self._checked)) is not None:
            return reason
        if takes_exclusive(finding) and not self._exclusive:
            return NEEDS_EXCLUSIVE
        match finding:
            case CountTooLow(digest=digest, references=references, revision=revision):
                exact = self._exclusive and self._checked.complete
                count = min(references, self._many) if exact else self._many
                return await self._recount(_Recount(digest, revision, count))
            case UnfinishedUpload(key=key, upload_id=upload_id, started=started):
                await self._store.abort_upload(PendingUpload(key, upload_id, started))
                return None
            case StrayObject(key=key, temporary=True) | OrphanBlob(key=key):
                await self._store.delete(key)
                return None
            case (
                CountTooHigh(digest=digest, references=references, revision=revision)
                | Uncounted(digest=digest, references=references, revision=revision)
            ):
                return await self._recount(_Recount(digest, revision, references))
            case (
                Dangling(digest=str(digest))
                | MissingBlob(digest=str(digest))
                | Corrupt(digest=str(digest))
                | Undecodable(digest=str(digest))
            ):
                return await self._put_back(digest)
        return UNCLEAR

    async def _recount(self, recount: "_Recount") -> str | None:
        await compare_and_swap(self._store, segment_key(recount.digest), recount, deadline=self._deadline)
        return None if recount.done else OVERTAKEN

    async def _put_back(self, digest: str) -> str | None:
        """Makes a record anew that redirects to a payload of the segment that is still in the store."""
        holders = self._checked.references.get(digest, [])
        for revision in sorted(self._checked.spare.get(digest, ())):
            try:
                payload = await self._inspector.blob(digest, revision, RECORD_LIMIT)
                # The size is in the frame; the hash tells whether it is the segment.
                dictionary = await self._inspector.dictionaries.of(payload)
                raw, _ = codec.decompress_first(payload, limit=records.RAW_LIMIT, dictionary=dictionary)
                name = dictionary.name if dictionary else None
                stored = CachedSegment(name, len(raw), payload)
                await self._inspector.run(len(payload), unpack_verified, digest, stored, dictionary)
            except (ObjectNotFound, CorruptObject):
                continue
            op = new_id()
            now = time.time()
            header = Header(
                hash=digest,
                state="live",
                # Where not every reference is known, it is never given up.
                ref_count=min(len(holders), self._many) if self._checked.complete else self._many,
                ring=first_ring().closed(op, now + CLOCK_ALLOWANCE),
                raw_size=len(raw),
                stored_size=len(payload),
                created_at=now,
                dictionary=name,
                type="page" if any(holder.size is None for holder in holders) else "data",
                zero_since=None if holders else now,
                redirect=revision,
            )
            current = await read_or_none(self._store, segment_key(digest))
            condition = IF_ABSENT if current is None else IfMatch(current.etag)
            try:
                await self._store.put(segment_key(digest), records.encode(Record(header, b"")), condition)
            except PreconditionFailed:
                return OVERTAKEN
            return None
        return LOST


class _Recount:
    """Sets the count of a record that nobody has changed since it was checked."""

    def __init__(self, digest: str, revision: str, count: int) -> None:
        self.digest = digest
        self._revision = revision
        self._count = count
        self._op = new_id()
        self.done = False

    def propose(self, current: Found | None) -> bytes | None:
        if current is None:
            self.done = False
            return None
        record = records.decode(self.digest, current.body)
        ring = record.header.ring
        if self._op in ring.recent:
            self.done = True
            return None
        self.done = current.etag == self._revision
        if not self.done:
            return None
        now = time.time()
        header = msgspec.structs.replace(
            record.header,
            ref_count=self._count,
            ring=ring.closed(self._op, now + CLOCK_ALLOWANCE),
            zero_since=None if self._count else now,
        )
        return records.encode(Record(header, record.payload))

    def in_doubt(self) -> None:
        """Nothing to note: the id in the ring tells."""
