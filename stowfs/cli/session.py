"""Opening a store for one command or mount: store, descriptor, hot tier, vault; all closed again in the opposite
order.

The first contact has a short deadline of its own, so that a wrong endpoint is an error within seconds; what follows
has the store's, and a breaker for when it goes away. A session that writes probes the store first: one that ignores
conditions would lose updates.
"""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace

import msgspec
import trio

from stowfs.cli.mounts import TREE_ROOT
from stowfs.config import HotTierOptions, StoreOptions, VaultOptions
from stowfs.errors import NoSuchPath, StoreMissing, StoreUnavailable, UsageError
from stowfs.hot.tier import HotTier
from stowfs.store.base import ObjectStore
from stowfs.store.counting import CountingStore, RequestCounts
from stowfs.store.open import FileLocation, StoreLocation, open_store
from stowfs.store.probe import ProbeReport, WrapsStore, probe
from stowfs.store.retry import RetryingStore, guarded
from stowfs.vault.descriptor import Descriptor, read_descriptor
from stowfs.vault.manifest import Snapshot
from stowfs.vault.naming import DESCRIPTOR, is_path
from stowfs.vault.vault import Vault, open_vault

FIRST_CONTACT = 10.0
"""Seconds for which a store that does not answer is asked again before a command fails: a second attempt after a lost
packet, and still an answer while the user is looking."""


@dataclass(frozen=True, slots=True)
class Contact:
    """A store that answers as it must. `requests`: those sent through `store`. `report` is `None` where it was not
    probed."""

    store: RetryingStore
    requests: RequestCounts
    descriptor: Descriptor
    report: ProbeReport | None


@dataclass(frozen=True, slots=True)
class Session:
    """What a command works with."""

    store: ObjectStore
    vault: Vault
    hot: HotTier

    async def find(self, name: str) -> Snapshot:
        """What is live under `name`: an id, or a path as in a mounted tree. Raises `NoSuchPath`, `UsageError`."""
        path = store_path(name)
        try:
            return await self.vault.head(path)
        except NoSuchPath:
            inside = path.removeprefix(TREE_ROOT).lstrip("/")
            if inside == path:
                raise
            return await self.vault.head(inside)


def store_path(name: str) -> str:
    """The path in the store that a user means by `name`; '' is the root. Raises `UsageError`.

    '/conversations/a' and '/a' are 'a'; so is 'a/'. 'conversations/a' is left, since a store may hold such a
    directory.
    """
    path = name.rstrip("/")
    if path.startswith("/"):
        path = path.lstrip("/")
        if path == TREE_ROOT or path.startswith(TREE_ROOT + "/"):
            path = path.removeprefix(TREE_ROOT).lstrip("/")
    path = "/".join(part for part in path.split("/") if part not in ("", "."))
    if path and not is_path(path):
        raise UsageError(f"{name!r} is no path in a store: it may not contain '..'")
    return path


@asynccontextmanager
async def raw_store(location: StoreLocation, options: StoreOptions) -> AsyncIterator[ObjectStore]:
    """The store at `location`, with the short deadline of a first contact."""
    store = await open_store(location, replace(options, deadline=min(options.deadline, FIRST_CONTACT)))
    try:
        yield store
    finally:
        with trio.CancelScope(shield=True):
            await store.close()


@contextmanager
def first_requests(options: StoreOptions) -> Iterator[None]:
    """Around what is asked first of a store: no answer then mostly means that something is set wrong."""
    try:
        yield
    except StoreUnavailable as error:
        if "check the endpoint" in str(error):
            raise  # Who could not connect at all says so already, and where to.
        endpoint = options.endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        where = f" ({endpoint})" if endpoint and endpoint not in str(error) else ""
        raise StoreUnavailable(f"{error}: check the endpoint{where} and the network") from error


@asynccontextmanager
async def contact(location: StoreLocation, options: StoreOptions, *, writing: bool) -> AsyncIterator[Contact]:
    """The store at `location`, read its descriptor and, for `writing`, probed.

    Raises `NotAStore`, `UnsupportedVersion`, `ConditionsIgnored` and store errors.
    """
    async with raw_store(location, options) as store:
        try:
            with first_requests(options):
                descriptor = await read_descriptor(store)
                report = await probe(store, deadline=FIRST_CONTACT) if writing else None
        except StoreMissing as error:
            if not isinstance(location, FileLocation):
                raise
            if await trio.to_thread.run_sync(os.path.lexists, location.directory):
                raise StoreMissing(f"{location.url} is no store: it is a file, and a store is a directory") from error
            advice = f"make one with 'stowfs mkfs {location.url}'"
            raise StoreMissing(f"{location.url}: there is no store: {advice}") from error
        async with _working(store, options, descriptor, report) as reached:
            yield reached


@asynccontextmanager
async def without_contact(
    location: StoreLocation, options: StoreOptions, descriptor: Descriptor
) -> AsyncIterator[Contact]:
    """The store at `location`, which does not answer, and which was seen before: `descriptor`."""
    # Nothing is compressed with a dictionary that may not be in the store any more.
    descriptor = msgspec.structs.replace(descriptor, dictionary="")
    async with raw_store(location, options) as store, _working(store, options, descriptor, None) as reached:
        yield reached


@asynccontextmanager
async def _working(
    store: ObjectStore, options: StoreOptions, descriptor: Descriptor, report: ProbeReport | None
) -> AsyncIterator[Contact]:
    """The store with what stands between it and the vault."""
    assert isinstance(store, WrapsStore)
    counting = CountingStore(store.inner)
    async with guarded(counting, options.deadline, trial=DESCRIPTOR) as working:
        yield Contact(working, counting.counts, descriptor, report)


@asynccontextmanager
async def open_session(
    location: StoreLocation, options: StoreOptions, *, writing: bool, bundles: bool = False
) -> AsyncIterator[Session]:
    """A session for one command, with a hot tier of its own. `bundles`: see `VaultOptions`. Errors as in `contact`, and
    those of the hot tier."""
    async with contact(location, options, writing=writing) as reached, AsyncExitStack() as stack:
        hot = await HotTier.open_free(HotTierOptions(), reached.descriptor.store_id)
        stack.push_async_callback(hot.close)
        vault_options = VaultOptions(read_only=not writing, deadline=options.deadline, bundles=bundles)
        vault = await stack.enter_async_context(open_vault(reached.store, hot, reached.descriptor, vault_options))
        yield Session(reached.store, vault, hot)
