"""Counting references: every manifest and tombstone of a store is read, with its pages, and visited once.

Bounded however hostile the content is: an object is read up to the size that an honest one can have, a page is
expanded once for each manifest however often it is listed, and levels only go down. Where a page cannot be read, the
references that are known still count, but the census is not complete: nobody may conclude from it that something is
not referenced.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from stowfs.errors import CorruptObject, ObjectNotFound, UnsupportedVersion
from stowfs.store.base import NotModified, ObjectInfo
from stowfs.vault import manifest as manifests
from stowfs.vault import pages
from stowfs.vault.bundled_store import BundledStore
from stowfs.vault.dictionaries import DictionaryLost
from stowfs.vault.findings import Finding, LostDictionary, NewerFormat, StrayObject, Undecodable
from stowfs.vault.inspection import Inspector
from stowfs.vault.lru import Lru
from stowfs.vault.manifest import Piece, Reference, Snapshot
from stowfs.vault.naming import MANIFESTS, is_bundle, is_digest, manifest_key, path_of_manifest, segment_key
from stowfs.vault.parallel import each
from stowfs.vault.progress import UNWATCHED, Progress

MANIFESTS_AT_ONCE = 16
"""Manifests read at once: enough to hide the latency of a store; each may take some 20 MB if it is hostile."""

PAGES_MEMORY = 16 * 1024 * 1024
"""Bytes of pages kept, so that conversations that share pages do not fetch them again and again."""

REREADS = 3
"""Times a manifest is read again because it was changed while its pages were being read."""


@dataclass(slots=True)
class Holder:
    """One version of a conversation, and what it references: by digest, the raw size it claims (`None`: a page).

    `expired`: that is why it is not live, or cannot be brought back.
    """

    path: str
    etag: str
    live: bool
    expired: bool
    conversation: bool
    sizes: dict[str, int | None] = field(default_factory=dict)
    problems: list[Finding] = field(default_factory=list)
    complete: bool = True


class Census:
    """Walks the manifests of a store. `complete`: everything could be read so far."""

    def __init__(self, store: BundledStore, inspector: Inspector) -> None:
        self._store = store
        self._inspector = inspector
        self._pages = Lru[bytes](PAGES_MEMORY, len)
        self.complete = True

    async def walk(
        self, visit: Callable[[Holder], None], report: Callable[[Finding], None], progress: Progress = UNWATCHED
    ) -> None:
        """Visits every version there is. Raises store errors: half a census is none."""

        async def one(info: ObjectInfo) -> None:
            holder = await self._holder(info, report)
            if holder is not None:
                self.complete = self.complete and holder.complete
                for problem in holder.problems:
                    report(problem)
                visit(holder)
            progress.advance(info.size)

        async for page in self._store.list(MANIFESTS):
            progress.expect(sum(info.size for info in page.objects))
            await each(one, page.objects, limit=MANIFESTS_AT_ONCE)

    async def is_current(self, path: str, etag: str) -> bool:
        """Whether this version is still there."""
        try:
            return isinstance(await self._store.get(manifest_key(path), if_none_match=etag), NotModified)
        except ObjectNotFound:
            return False

    async def _holder(self, info: ObjectInfo, report: Callable[[Finding], None]) -> Holder | None:
        if is_bundle(info.key):
            try:
                await self._store.confirm_gone(info.key)
            except (CorruptObject, UnsupportedVersion) as error:
                self.complete = False
                report(_unread(error, info.key, damaged="a bundle of manifests: "))
            return None
        try:
            path = path_of_manifest(info.key)
        except CorruptObject:
            report(StrayObject(key=info.key, size=info.size, temporary=False))
            return None
        holder = None
        for _ in range(REREADS):
            try:
                found = await self._store.read(info)
                dictionary = await self._inspector.dictionaries.of(found.body)
                snapshot = await self._inspector.run(
                    len(found.body), manifests.decode, path, found.etag, found.body, dictionary
                )
            except ObjectNotFound:
                return None
            except DictionaryLost as error:
                self.complete = False
                report(LostDictionary(key=error.key, conversations=(path,), reason=str(error)))
                return None
            except (CorruptObject, UnsupportedVersion) as error:
                self.complete = False
                report(_unread(error, info.key, path))
                return None
            holder = await self._references(snapshot)
            if holder.complete or await self.is_current(path, snapshot.etag):
                break
        return holder

    async def _references(self, snapshot: Snapshot) -> Holder:
        manifest = snapshot.manifest
        holder = Holder(snapshot.path, snapshot.etag, manifest.live, manifest.expired, snapshot.is_conversation)
        expanded = await self._expand(snapshot.manifest.pieces, holder, {})
        if expanded > pages.REFERENCES_LIMIT:
            reason = f"it claims {expanded:,} segments, more than anybody can read"
            key = manifest_key(snapshot.path)
            holder.problems.append(Undecodable(key=key, conversations=(snapshot.path,), reason=reason))
        return holder

    async def _expand(self, pieces: Sequence[Piece], holder: Holder, done: dict[Reference, int]) -> int:
        """Notes every segment that the pieces lead to; returns how many pieces there are in the end."""
        total = 0
        for piece in pieces:
            if not isinstance(piece, Reference):
                total += 1
            elif piece in done:
                total += done[piece]
            else:
                done[piece] = await self._follow(piece, holder, done)
                total += done[piece]
        return total

    async def _follow(self, reference: Reference, holder: Holder, done: dict[Reference, int]) -> int:
        if not is_digest(reference.digest) or reference.level < 0:
            self._unclear(holder, manifest_key(holder.path), f"a reference makes no sense: {reference.digest!r}")
            return 1
        if reference.level == 0:
            known = holder.sizes.setdefault(reference.digest, reference.size)
            if known != reference.size:
                # The other one may be a page; a segment that is claimed twice is wrong at least once.
                self._unclear(holder, manifest_key(holder.path), f"two sizes are given for segment {reference.digest}")
            return 1
        holder.sizes.setdefault(reference.digest, None)
        try:
            children = pages.parse(reference, await self._page(reference.digest))
        except _Unreadable:
            # The page is found damaged or missing when the segments are read.
            holder.complete = False
            return 1
        except CorruptObject as error:
            self._unclear(holder, segment_key(reference.digest), str(error))
            return 1
        return await self._expand(children, holder, done)

    async def _page(self, digest: str) -> bytes:
        raw = self._pages.get(digest)
        if raw is None:
            raw = (await self._inspector.segment(digest)).raw
            if raw is None:
                raise _Unreadable(digest)
            self._pages.put(digest, raw)
        return raw

    def _unclear(self, holder: Holder, key: str, reason: str) -> None:
        holder.complete = False
        holder.problems.append(Undecodable(key=key, conversations=(holder.path,), reason=reason))


def _unread(
    error: CorruptObject | UnsupportedVersion, key: str, *conversations: str, damaged: str = ""
) -> NewerFormat | Undecodable:
    """Why an object was not read. `damaged`: what it should be, where that is not what it is."""
    if isinstance(error, UnsupportedVersion):
        return NewerFormat(key=key, conversations=conversations, reason=str(error))
    return Undecodable(key=key, conversations=conversations, reason=f"{damaged}{error}")


class _Unreadable(Exception):
    """A page that is not there, or damaged."""
