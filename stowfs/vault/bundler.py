"""Commits of new conversations that are under way at once, gathered into bundles (see `bundling`).

A commit that has its manifest ready waits for the others of its directory: until they are enough, or nobody is under
way who could still join them, or some time has passed. So a lone commit never waits, and of many at once some are being
cut and compressed while others are being sent.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from stowfs.errors import StowError
from stowfs.vault.bundle import BODY_LIMIT, BYTES, ENOUGH
from stowfs.vault.bundled_directories import BundledDirectories
from stowfs.vault.bundled_store import BundledStore
from stowfs.vault.bundling import Manifest
from stowfs.vault.manifest import Snapshot
from stowfs.vault.naming import manifest_key, may_be_bundled, place_of

LEAST = 2
"""Manifests that are worth a bundle, which takes three requests; one alone takes two."""

PATIENCE = 0.25
"""Seconds for which the first one waits for others, at most: some may be uploading segments for longer."""


@dataclass(eq=False)
class _Batch:
    """What is sent together, by name; the `etags` of what was created by it, or why that is not known."""

    prefix: str
    manifests: dict[str, Manifest] = field(default_factory=dict)
    size: int = 0
    done: trio.Event = field(default_factory=trio.Event)
    etags: dict[str, str] = field(default_factory=dict)
    error: Exception | None = None


class Bundler:
    """Gathers the commits of one vault. `enabled`: whether it is to."""

    def __init__(
        self, store: BundledStore, directories: BundledDirectories, nursery: trio.Nursery, *, enabled: bool
    ) -> None:
        self._store = store
        self._directories = directories
        self._nursery = nursery
        self.enabled = enabled
        # Commits under way, those among them that wait in a batch that gathers.
        self._under_way = 0
        self._gathering: dict[str, _Batch] = {}
        # Whether a task looks already whether others come.
        self._looking = False

    @contextmanager
    def commit(self) -> Iterator[None]:
        """Around a commit that may bring a manifest."""
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            self._send_unless_others_come()

    async def publish(self, own: Snapshot) -> str | None:
        """Creates a manifest, within `commit`: its ETag. None: it is to be created by itself, nothing was done.

        Raises store errors; then it may still be created.
        """
        key = manifest_key(own.path)
        if not self.enabled or len(own.body) > BODY_LIMIT or not may_be_bundled(key):
            return None
        prefix, name = place_of(key)
        if not await self._directories.holds(prefix):
            return None
        gathering = self._gathering.get(prefix)
        if gathering is not None and name in gathering.manifests:
            return None  # a bundle has a name once: who is second finds out by itself who is first
        batch = self._join(prefix, Manifest(name, own.manifest.commit, own.body))
        await batch.done.wait()
        if batch.error is not None:
            raise batch.error
        return batch.etags.get(name)

    def _join(self, prefix: str, manifest: Manifest) -> _Batch:
        batch = self._gathering.get(prefix)
        if batch is not None and batch.size + len(manifest.body) > BYTES:
            self._send(batch)
            batch = None
        if batch is None:
            batch = self._gathering[prefix] = _Batch(prefix)
            self._nursery.start_soon(self._send_later, batch)
        batch.manifests[manifest.name] = manifest
        batch.size += len(manifest.body)
        if len(batch.manifests) >= ENOUGH:
            self._send(batch)
        self._send_unless_others_come()
        return batch

    def _all_wait(self) -> bool:
        return sum(len(batch.manifests) for batch in self._gathering.values()) >= self._under_way

    def _send_unless_others_come(self) -> None:
        if self._gathering and not self._looking and self._all_wait():
            self._looking = True
            self._nursery.start_soon(self._look_again)

    async def _look_again(self) -> None:
        # Commits that begin at the same moment do so one after the other, and a small one gets here without a pause.
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        self._looking = False
        if self._all_wait():
            for batch in list(self._gathering.values()):
                self._send(batch)

    async def _send_later(self, batch: _Batch) -> None:
        await trio.sleep(PATIENCE)
        if self._gathering.get(batch.prefix) is batch:
            self._send(batch)

    def _send(self, batch: _Batch) -> None:
        del self._gathering[batch.prefix]
        self._under_way -= len(batch.manifests)
        self._nursery.start_soon(self._put, batch)

    async def _put(self, batch: _Batch) -> None:
        try:
            if len(batch.manifests) >= LEAST:
                batch.etags = await self._store.put_together(batch.prefix, [*batch.manifests.values()])
        except StowError as error:
            batch.error = error
        finally:
            # They are commits like others again, until they end.
            self._under_way += len(batch.manifests)
            batch.done.set()
