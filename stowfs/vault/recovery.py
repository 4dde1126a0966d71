"""Bringing journal rows to their end: after a crash, after a failed commit, and the releases that follow a successful
one.

A row in phase *written* may have a PUT on its way that lands late. So before anything that its commit acquired is
given up, that PUT is made to fail for good: a compare-and-swap of the manifest key (the fence). Everything here is
idempotent by operation ids, and every doubt leaves a count too high, which `fsck` repairs.

A rename that was cut off between its two names leaves both, for however long. Whoever has deleted or replaced the new
one since relies on the old one: it goes only while the new one has its content.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Set
from contextlib import contextmanager
from enum import Enum
from functools import partial

import msgspec
import trio

from stowfs.errors import CorruptObject, StowError, UnsupportedVersion
from stowfs.hot.journal import Journal
from stowfs.store.base import Found, ObjectStore
from stowfs.store.retry import Backoff
from stowfs.vault import manifest as manifests
from stowfs.vault import transaction
from stowfs.vault.cas import Prepare, Swapped, Transition, compare_and_swap, read_or_none
from stowfs.vault.catalog import Catalog
from stowfs.vault.counts import Counts
from stowfs.vault.dictionaries import Dictionaries
from stowfs.vault.manifest import Attributes, Manifest, Snapshot
from stowfs.vault.naming import display, manifest_key
from stowfs.vault.parallel import each
from stowfs.vault.ring import Verdict, first_ring, new_id
from stowfs.vault.transaction import Phase, Row

log = logging.getLogger(__name__)

RETRY_PAUSE = 30.0
"""Seconds between attempts to settle a row while the store is away, at most: it is background work, and the store may
have many clients that wait for it."""


class Fate(Enum):
    """What became of a commit's PUT."""

    TOOK_EFFECT = "took effect"
    LOST = "lost for good"
    UNKNOWN = "unknown"


Attempt = Callable[[bool], Awaitable[None]]
"""Settles a row, or raises why it could not; told whether that was tried before."""


class Recovery:
    """Settles rows in tasks of the vault; nobody waits for them but `drain`."""

    def __init__(
        self,
        store: ObjectStore,
        journal: Journal,
        catalog: Catalog,
        counts: Counts,
        dictionaries: Dictionaries,
        nursery: trio.Nursery,
        *,
        deadline: float,
    ) -> None:
        self._store = store
        self._journal = journal
        self._catalog = catalog
        self._counts = counts
        self._dictionaries = dictionaries
        self._nursery = nursery
        self._deadline = deadline
        self._pending: dict[str, Row] = {}
        self._settled = trio.Condition()

    async def recover(self, move: Callable[[Row, Phase], Attempt]) -> None:
        """Begins to settle what an earlier process left in the journal.

        `move` tells how that is done for the rename of a directory. A row that cannot be read is given up: nothing that
        anybody wrote is in it.
        """
        for journalled in await self._journal.rows():
            try:
                row, phase = transaction.decode(journalled), msgspec.convert(journalled.phase, Phase)
            except ValueError as error:
                log.error(
                    "commit %s, left in phase %s, is damaged in the journal (%s) and cannot be settled: what it counts "
                    "stays counted (stowfs fsck --recount), and what it was renaming may have both names: %r",
                    journalled.commit_id,
                    journalled.phase,
                    error,
                    journalled.payload,
                )
                await self._journal.remove(journalled.commit_id)
                continue
            log.info("settling commit %s of %s, left in phase %s", row.commit, display(row.path), phase)
            self.start(row, move(row, phase) if row.kind == "move" else partial(self._settle_left, row, phase))

    def settle_later(self, row: Row, phase: Phase, counted: Set[str]) -> None:
        """Finds out what became of a commit of this process that failed, and finishes it or rolls it back.

        `counted`: the segments that it is known to have acquired.
        """
        self.start(row, lambda retried: self._settle(row, phase, counted, retried=retried))

    def complete_later(self, row: Row) -> None:
        """Releases what a commit that took effect gave up."""
        self.start(row, lambda retried: self._complete(row, retried=retried))

    async def drain(self, timeout: float) -> int:
        """Waits until nothing is left to settle, or `timeout` seconds; returns how many rows are left."""
        with trio.move_on_after(timeout):
            await self._wait_while(lambda: bool(self._pending))
        return len(self._pending)

    async def renames_settled(self, directory: str) -> None:
        """Waits until no rename of a conversation below `directory` is to be settled."""

        def is_below(row: Row) -> bool:
            return row.kind == "rename" and row.source is not None and row.source.path.startswith(directory + "/")

        await self._wait_while(lambda: any(map(is_below, self._pending.values())))

    async def _wait_while(self, condition: Callable[[], bool]) -> None:
        async with self._settled:
            while condition():
                await self._settled.wait()

    async def retire_source(self, row: Row, renamed: Snapshot | None = None) -> bool:
        """Puts a tombstone over the old name of a rename, unless somebody wrote to it since. Returns whether it is
        one of ours.

        `renamed`: the version that was renamed a moment ago. A later one of the same bytes (with other attributes, or a
        recovery's fence) is that one still; where time has passed, it may be somebody's new conversation, and the old
        name may be all that is left (see above).
        """
        assert row.source is not None
        retire = _Retire(row, renamed, self._dictionaries)

        async def prepare(current: Found) -> None:
            await self._dictionaries.of(current.body)
            if renamed is None and current.etag == retire.source.base:
                retire.target = await self._read(row.path)

        swapped = await self._swap(row.source.path, retire, prepare)
        self._catalog.forget(row.source.path)
        return swapped.written or retire.done

    async def _read(self, path: str) -> Snapshot | None:
        found = await read_or_none(self._store, manifest_key(path))
        if found is not None:
            await self._dictionaries.of(found.body)
        return _decode(path, found, self._dictionaries)

    def start(self, row: Row, attempt: Attempt) -> None:
        """Attempts to settle a row until that succeeds."""
        self._pending[row.commit] = row
        self._nursery.start_soon(self._until_done, row, attempt)

    async def _until_done(self, row: Row, attempt: Attempt) -> None:
        backoff = Backoff(math.inf, longest=RETRY_PAUSE)
        retried = False
        told: type[StowError] | None = None
        while True:
            try:
                await attempt(retried)
                break
            except StowError as error:
                # An outage may last for days: once for each kind of cause.
                if type(error) is not told:
                    log.warning("commit %s of %s is not settled yet: %s", row.commit, display(row.path), error)
                told = type(error)
                retried = True
                await backoff.wait(error)
        del self._pending[row.commit]
        async with self._settled:
            self._settled.notify_all()

    async def _settle(self, row: Row, phase: Phase, counted: Set[str], *, retried: bool) -> None:
        async def undo(digest: str) -> None:
            with _left_counted(row):
                await self._counts.undo(row.commit, digest, certain=digest in counted, retried=retried)

        fate = await self._fate(row, phase)
        match fate:
            case Fate.TOOK_EFFECT:
                await self._complete(row, retried=retried)
            case Fate.LOST:
                await each(undo, row.acquire)
                await self._journal.remove(row.commit)
            case Fate.UNKNOWN:
                log.error(
                    "so many others wrote %s that the fate of commit %s cannot be told: its references stay counted",
                    display(row.path),
                    row.commit,
                )
                await self._journal.remove(row.commit)

    async def _settle_left(self, row: Row, phase: Phase, _: bool) -> None:
        """Settles a row of another process, which may have tried already."""
        await self._settle(row, phase, frozenset(), retried=True)

    async def _fate(self, row: Row, phase: Phase) -> Fate:
        match phase:
            case "recorded":
                return Fate.LOST
            case "updated":
                return Fate.TOOK_EFFECT
            case "written":
                fence = _Fence(row, self._dictionaries)
                self._catalog.forget(row.path)
                with _left_counted(row):
                    await self._swap(row.path, fence)
                    return fence.fate
                return Fate.UNKNOWN

    async def _swap(self, path: str, transition: Transition, prepare: Prepare | None = None) -> Swapped:
        async def load(current: Found) -> None:
            await self._dictionaries.of(current.body)

        return await compare_and_swap(
            self._store, manifest_key(path), transition, prepare=prepare or load, deadline=self._deadline
        )

    async def _complete(self, row: Row, *, retried: bool) -> None:
        released = list(row.release)
        if row.source is not None:
            with _left_counted(row):
                if await self.retire_source(row):
                    released += row.source.digests

        async def release(given_up: tuple[str, int]) -> None:
            digest, times = given_up
            # Each time under an id of its own.
            for nth in range(1, times + 1):
                with _left_counted(row):
                    await self._counts.release(row.commit, digest, nth=nth, retried=retried)

        await each(release, Counter(released).items())
        await self._journal.remove(row.commit)


@contextmanager
def _left_counted(row: Row) -> Iterator[None]:
    """What is damaged stays so however often it is asked: what was to be given up there stays counted."""
    try:
        yield
    except (CorruptObject, UnsupportedVersion) as error:
        log.error("commit %s of %s leaves references counted: %s", row.commit, display(row.path), error)


class _Fence:
    """Finds out whether a commit took effect; if it did not, changes the manifest so that its PUT cannot any more."""

    def __init__(self, row: Row, dictionaries: Dictionaries) -> None:
        self._row = row
        self._dictionaries = dictionaries
        self._id = new_id()
        self.fate = Fate.LOST

    def propose(self, current: Found | None) -> bytes | None:
        snapshot = _decode(self._row.path, current, self._dictionaries)
        # An ETag never comes twice: the base itself is still there, so nothing was written over it.
        untouched = snapshot is not None and snapshot.etag == self._row.base
        match Verdict.DID_NOT_HAPPEN if untouched else _verdict(snapshot, self._row.commit):
            case Verdict.HAPPENED:
                self.fate = Fate.TOOK_EFFECT
                return None
            case Verdict.UNKNOWN:
                self.fate = Fate.UNKNOWN
                return None
            case Verdict.DID_NOT_HAPPEN:
                self.fate = Fate.LOST
        if (snapshot.etag if snapshot else None) != self._row.base:
            return None  # what its PUT is conditional on is gone, and no ETag comes twice
        if snapshot is None:
            nobody = Attributes(0, 0, 0, 0, 0)
            return manifests.encode(Manifest(self._id, first_ring().add(self._id), nobody, deleted=time.time()), b"")
        return manifests.encode(_with_ring(snapshot.manifest, self._id, snapshot), snapshot.inline)

    def in_doubt(self) -> None:
        """Nothing to note: if the fence is there, the ETag is another one."""


class _Retire:
    """The old name of a rename becomes a tombstone, if it still is the version that was renamed.

    `target`: what is under the new name, where time has passed since it was renamed.
    """

    def __init__(self, row: Row, renamed: Snapshot | None, dictionaries: Dictionaries) -> None:
        assert row.source is not None
        self._dictionaries = dictionaries
        self.source = row.source
        self.target: Snapshot | None = None
        self._renamed = renamed
        self._commit = row.commit
        self.done = False

    def propose(self, current: Found | None) -> bytes | None:
        snapshot = _decode(self.source.path, current, self._dictionaries)
        self.done = snapshot is not None and self._commit in snapshot.manifest.ring.recent
        if snapshot is None or self.done or not self._is_renamed(snapshot):
            return None
        bare = Manifest(
            self._commit, snapshot.manifest.ring, snapshot.attributes, kind=snapshot.manifest.kind, deleted=time.time()
        )
        return manifests.encode(_with_ring(bare, self._commit, snapshot), b"")

    def _is_renamed(self, snapshot: Snapshot) -> bool:
        unchanged = snapshot.etag == self.source.base
        if self._renamed is not None:
            return unchanged or snapshot.has_content_of(self._renamed)
        target = self.target
        return unchanged and target is not None and target.manifest.live and target.has_content_of(snapshot)

    def in_doubt(self) -> None:
        """Nothing to note: the id in the ring tells."""


def _decode(path: str, current: Found | None, dictionaries: Dictionaries) -> Snapshot | None:
    """What is there, for a compare-and-swap, which has its dictionary loaded."""
    if current is None:
        return None
    return manifests.decode(path, current.etag, current.body, dictionaries.loaded(current.body))


def _verdict(snapshot: Snapshot | None, commit: str) -> Verdict:
    return (snapshot.manifest.ring if snapshot else first_ring()).verdict(commit)


def _with_ring(manifest: Manifest, commit: str, previous: Snapshot) -> Manifest:
    ring = previous.manifest.ring.add(commit)
    return msgspec.structs.replace(manifest, commit=commit, ring=ring, bundles=previous.manifest.bundles)
