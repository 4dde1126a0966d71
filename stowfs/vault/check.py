"""Checking a store: everything is read and verified, every reference counted against what the records say.

First look: blobs are listed, manifests counted, records verified, in this order. Beside live mounts that is no picture
of one moment, so what looks wrong is only a suspicion. Second look, at the suspects alone: their references are
counted again, conversation by conversation, and

* "too low" and "dangling" are believed if the record was read while all versions that prove it were there: references
  are counted before a manifest has them and released after it has them no more;
* "orphan" is believed if it was written before the grace period, in which whoever wrote it would have named it;
* "too high" if the record was written so long before that no commit under way can have counted anything in it, and
  nothing about it changes in the grace period, in which a commit that is at its end releases. They only cost space.

What is kept in memory is a digest, a count and a size for each segment, the names of redirected payloads, and what is
known of the suspects: never the content.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import trio

from stowfs.errors import CorruptObject, ObjectNotFound, UnsupportedVersion
from stowfs.store.base import ByteRange, ObjectInfo, ObjectStore
from stowfs.vault.bundled_store import BundledStore
from stowfs.vault.census import Census, Holder
from stowfs.vault.descriptor import Descriptor
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
from stowfs.vault.inspection import Inspection, Inspector
from stowfs.vault.lost_dictionaries import check_dictionaries
from stowfs.vault.naming import (
    BLOBS,
    DESCRIPTOR,
    DICTIONARIES,
    INDEX,
    MANIFESTS,
    SEGMENTS,
    blob_key,
    digest_of_segment,
    manifest_key,
    revision_of_blob,
    segment_key,
)
from stowfs.vault.parallel import each
from stowfs.vault.progress import UNWATCHED, Progress
from stowfs.vault.vault import THREADS

GRACE = 60.0
"""Seconds in which a change comes to its end: as long as one operation is retried."""

COMMIT_AGE = 86400.0
"""Seconds after which no commit is under way any more: it counts all segments of a file before a manifest has one of
them, and the file may be as large as what a slow line takes in a day."""

SEGMENTS_AT_ONCE = 16
"""Segments verified at once: enough to hide the latency of a store, at a few megabytes each if they are hostile."""

UPLOAD_AGE = 86400.0
"""Seconds after which an upload is taken to be abandoned: the next attempt of its writer would have ended it."""

BROKEN = (Dangling, MissingBlob, Corrupt, Undecodable, NewerFormat, LostDictionary)
"""Why the bytes of a segment cannot be had."""

PROBES = "probe/"
KNOWN = (MANIFESTS, SEGMENTS, BLOBS, DESCRIPTOR, DICTIONARIES, INDEX)
"""Where a store of this format has objects. What is under other keys is none of its own."""


@dataclass(slots=True)
class Checked:
    """What a check found. `complete`: all references are known; otherwise nothing may be given up.

    `references`: of the segments with findings, by digest, the versions that hold them. `spare`: for the same
    segments, revisions of payloads in the store that their records do not name.
    """

    findings: list[Finding] = field(default_factory=list)
    conversations: int = 0
    deleted: int = 0
    expired: int = 0
    segments: int = 0
    segment_bytes: int = 0
    complete: bool = True
    references: dict[str, list["Reference"]] = field(default_factory=dict)
    spare: dict[str, set[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reference:
    """A version that references a segment, and the raw size that it expects (`None`: a page)."""

    path: str
    etag: str
    size: int | None


@dataclass(frozen=True, slots=True)
class _Suspect:
    """What the first look saw. `modified`: when the record was last written, by the store's clock."""

    etag: str | None
    references: int
    modified: float


class Checker:
    """One check of one store. `exclusive`: nothing else uses it, so that what is seen is what is there. `recount`, for
    which it takes that: segments that nobody counts any more are counted, too."""

    def __init__(
        self,
        store: ObjectStore,
        descriptor: Descriptor,
        *,
        grace: float = GRACE,
        commit_age: float = COMMIT_AGE,
        exclusive: bool = False,
        recount: bool = False,
        now: Callable[[], float] = time.time,
        progress: Progress = UNWATCHED,
    ) -> None:
        assert exclusive or not recount
        self._store = store
        self._many = descriptor.many
        self._recount = recount
        self._grace = 0.0 if exclusive else grace
        self._commit_age = max(grace, commit_age)
        self._exclusive = exclusive
        self._now = now
        self._progress = progress
        self._active_dictionary = descriptor.dictionary
        self._inspector = Inspector(store, trio.CapacityLimiter(THREADS), dictionary=descriptor.dictionary)
        bundled = BundledStore(store, deadline=GRACE, read_only=True)
        self._census = Census(bundled, self._inspector)
        self._result = Checked()
        self._counts: Counter[bytes] = Counter()
        self._sizes: dict[bytes, int] = {}
        self._contradicted: set[bytes] = set()
        self._blobs: dict[str, dict[str, ObjectInfo]] = {}
        self._suspects: dict[str, _Suspect] = {}
        self._broken: set[str] = set()
        self._wait = False

    async def run(self) -> Checked:
        """Looks at everything. Raises store errors: half a check tells nothing."""
        await self._look_for_strays()
        await self._list_blobs()
        self._result.findings += await check_dictionaries(
            self._store, self._inspector.dictionaries, self._active_dictionary
        )
        await self._census.walk(self._count, self._result.findings.append, self._progress)
        async for page in self._store.list(SEGMENTS):
            self._progress.expect(sum(info.size for info in page.objects))
            await each(self._look_at, page.objects, limit=SEGMENTS_AT_ONCE)
        for digest, references in self._counts.items():
            self._suspects[digest.hex()] = _Suspect(None, references, 0.0)
        self._counts.clear()
        await self._second_look()
        self._result.complete = self._census.complete
        self._result.findings = _merged(self._result.findings)
        return self._result

    # The first look

    async def _look_for_strays(self) -> None:
        async for page in self._store.list("", delimiter="/"):
            for info in page.objects:
                if info.key != DESCRIPTOR:
                    self._stray(info)
            for prefix in page.prefixes:
                if prefix not in KNOWN:
                    async for strays in self._store.list(prefix):
                        for info in strays.objects:
                            self._stray(info)
        async for upload in self._store.pending_uploads(""):
            if upload.started < self._now() - UPLOAD_AGE:
                self._found(UnfinishedUpload(key=upload.key, upload_id=upload.upload_id, started=upload.started))

    def _stray(self, info: ObjectInfo) -> None:
        temporary = info.key.startswith(PROBES)
        if not temporary or self._is_old(info.modified):
            self._found(StrayObject(key=info.key, size=info.size, temporary=temporary))

    async def _list_blobs(self) -> None:
        async for page in self._store.list(BLOBS):
            for info in page.objects:
                try:
                    digest, revision = revision_of_blob(info.key)
                except CorruptObject:
                    self._found(StrayObject(key=info.key, size=info.size, temporary=False))
                else:
                    self._blobs.setdefault(digest, {})[revision] = info

    def _count(self, holder: Holder) -> None:
        if holder.live:
            self._result.conversations += holder.conversation
        elif holder.expired:
            self._result.expired += 1
        elif holder.sizes:
            self._result.deleted += 1
        for digest, size in holder.sizes.items():
            key = bytes.fromhex(digest)
            self._counts[key] += 1
            if size is not None and self._sizes.setdefault(key, size) != size:
                self._contradicted.add(key)

    async def _look_at(self, info: ObjectInfo) -> None:
        try:
            digest = digest_of_segment(info.key)
        except CorruptObject:
            self._found(StrayObject(key=info.key, size=info.size, temporary=False))
            return
        key = bytes.fromhex(digest)
        references = self._counts.pop(key, 0)
        expected = self._sizes.pop(key, None)
        inspection = await self._inspector.segment(digest)
        header = inspection.header
        if header is not None and not inspection.blob_missing:
            blobs = self._blobs.pop(digest, {})
            if left := {revision: blobs[revision] for revision in blobs.keys() - header.named}:
                self._blobs[digest] = left
        if header is not None and header.state == "live":
            self._result.segments += 1
            self._result.segment_bytes += header.stored_size
        lies = key in self._contradicted or (
            inspection.raw is not None and expected is not None and len(inspection.raw) != expected
        )
        faults = self._judge(inspection, references, ())
        if lies or faults:
            self._suspects[digest] = _Suspect(inspection.etag, references, info.modified)
            if any(isinstance(fault, CountTooHigh) for fault in faults):
                self._wait = self._wait or self._is_settled(info.modified)
        self._progress.advance(info.size)

    # The second look

    async def _second_look(self) -> None:
        if not self._suspects and not self._blobs:
            return
        if self._wait:
            await trio.sleep(self._grace)
        holders: dict[str, list[Reference]] = {digest: [] for digest in self._suspects}

        def note(holder: Holder) -> None:
            for digest, size in holder.sizes.items():
                if digest in holders:
                    holders[digest].append(Reference(holder.path, holder.etag, size))

        await self._census.walk(note, lambda _: None)
        await each(lambda digest: self._confirm(digest, holders[digest]), self._suspects, limit=SEGMENTS_AT_ONCE)
        blobs = [info for revisions in self._blobs.values() for info in revisions.values()]
        await each(self._confirm_blob, blobs, limit=SEGMENTS_AT_ONCE)

    async def _confirm(self, digest: str, holders: list[Reference]) -> None:
        inspection = await self._inspector.segment(digest)
        findings = self._judge(inspection, len(holders), _paths(holders))
        if not self._exclusive and any(isinstance(finding, Dangling | CountTooLow) for finding in findings):
            # The record was read between two moments at which these versions were there.
            holders = await self._unchanged(holders)
            findings = self._judge(inspection, len(holders), _paths(holders))
        if not self._stands(inspection, holders, self._suspects[digest]):
            findings = [finding for finding in findings if not isinstance(finding, CountTooHigh | Uncounted)]
        raw = inspection.raw
        if raw is not None:
            for holder in holders:
                if holder.size is not None and holder.size != len(raw):
                    reason = f"segment {digest} has {len(raw)} bytes, and is referenced as {holder.size}"
                    key = manifest_key(holder.path)
                    findings.append(Corrupt(key=key, conversations=(holder.path,), digest=digest, reason=reason))
        if findings:
            self._result.findings += findings
            self._result.references[digest] = holders
            self._result.spare[digest] = set(self._blobs.get(digest, ()))
            if any(isinstance(finding, BROKEN) for finding in findings):
                self._broken.add(digest)

    def _stands(self, inspection: Inspection, holders: list[Reference], suspect: _Suspect) -> bool:
        """Whether "too high" is more than a commit under way, and all references are known."""
        if not self._census.complete:
            return False
        unchanged = inspection.etag == suspect.etag and len(holders) == suspect.references
        return self._exclusive or (unchanged and self._is_settled(suspect.modified))

    async def _unchanged(self, holders: list[Reference]) -> list[Reference]:
        """Leaves out versions that are gone; not all are asked where so many prove as much as any count says."""
        proof, rest = holders[: self._many], holders[self._many :]
        current = await each(
            lambda holder: self._census.is_current(holder.path, holder.etag), proof, limit=SEGMENTS_AT_ONCE
        )
        return [holder for holder, is_current in zip(proof, current, strict=True) if is_current] + rest

    async def _confirm_blob(self, info: ObjectInfo) -> None:
        digest, revision = revision_of_blob(info.key)
        if not self._is_old(info.modified):
            return
        try:
            header = await self._inspector.header(digest)
        except (CorruptObject, UnsupportedVersion):
            return  # it may be what this record names
        if header is not None and revision in header.named:
            return
        if digest in self._broken:
            return  # it may be what mends it
        try:
            await self._store.get(blob_key(digest, revision), byte_range=ByteRange(0, 1))
        except ObjectNotFound:
            return
        self._found(OrphanBlob(key=info.key, size=info.size))

    # What is wrong

    def _judge(self, inspection: Inspection, references: int, conversations: tuple[str, ...]) -> list[Finding]:
        """What is wrong with a segment that has so many references."""
        digest, header, damage = inspection.digest, inspection.header, inspection.damage
        key = segment_key(digest)
        if header is None and damage is not None:
            if inspection.newer:
                return [NewerFormat(key=key, conversations=conversations, reason=damage)]
            return [Undecodable(key=key, conversations=conversations, reason=damage, digest=digest)]
        if header is None or header.state == "dead":
            if not references:
                return []
            return [
                Dangling(
                    key=key,
                    conversations=conversations,
                    digest=digest,
                    collected=header is not None,
                    references=references,
                )
            ]
        found: list[Finding] = []
        if inspection.blob_missing and header.redirect is not None:
            blob = blob_key(digest, header.redirect)
            found.append(MissingBlob(key=blob, conversations=conversations, digest=digest))
        elif inspection.lost_dictionary is not None:
            lost = inspection.lost_dictionary
            found.append(LostDictionary(key=lost, conversations=conversations, reason=str(damage)))
        elif damage is not None:
            found.append(Corrupt(key=key, conversations=conversations, digest=digest, reason=damage))
        counted = header.ref_count
        if self._recount and references < self._many <= counted and inspection.etag is not None:
            found.append(
                Uncounted(
                    key=key,
                    conversations=conversations,
                    digest=digest,
                    references=references,
                    revision=inspection.etag,
                )
            )
        if counted < self._many and counted != references and inspection.etag is not None:
            kind = CountTooLow if counted < references else CountTooHigh
            found.append(
                kind(
                    key=key,
                    conversations=conversations,
                    digest=digest,
                    counted=counted,
                    references=references,
                    revision=inspection.etag,
                )
            )
        return found

    def _is_old(self, modified: float) -> bool:
        """Whether something was written so long ago that the change it belongs to has come to its end."""
        return self._exclusive or modified < self._now() - self._grace

    def _is_settled(self, modified: float) -> bool:
        """Whether a record was written so long ago that no commit under way can have been counted in it."""
        return self._exclusive or modified < self._now() - self._commit_age

    def _found(self, finding: Finding) -> None:
        self._result.findings.append(finding)


def _merged(findings: Iterable[Finding]) -> list[Finding]:
    """Each finding once, with all conversations it touches: a damaged page is found once for each of them."""
    merged: dict[Finding, set[str]] = {}
    for finding in findings:
        merged.setdefault(replace(finding, conversations=()), set()).update(finding.conversations)
    whole = [replace(finding, conversations=tuple(sorted(paths))) for finding, paths in merged.items()]
    return sorted(whole, key=lambda finding: (type(finding).__name__, finding.key))


def _paths(holders: Iterable[Reference]) -> tuple[str, ...]:
    return tuple(sorted({holder.path for holder in holders}))
