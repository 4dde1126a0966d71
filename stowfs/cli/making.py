"""Making a store: what `mkfs` does, and `mount` where a `file://` store is missing."""

from dataclasses import dataclass

from stowfs.cli.session import FIRST_CONTACT, first_requests, raw_store
from stowfs.config import StoreOptions
from stowfs.errors import NotAStore, PathExists, StoreMissing
from stowfs.store.base import ObjectStore
from stowfs.store.open import FileLocation, StoreLocation, create_directory
from stowfs.store.probe import ProbeReport, probe
from stowfs.vault.descriptor import Descriptor, create_descriptor, read_descriptor

PROBE_PREFIX = "probe/"
"""Where the probe writes; what an interrupted one left does not make a directory a foreign one."""


@dataclass(frozen=True, slots=True)
class Made:
    """A store. `created`: just now; `report`: what the probe found then."""

    descriptor: Descriptor
    created: bool
    report: ProbeReport | None


async def make_store(
    location: StoreLocation, options: StoreOptions, *, if_missing: bool, training: bool = True
) -> Made:
    """Makes a store at `location`, and the directory of a `file://` store.

    With `if_missing` a store that is there already will do; otherwise it raises `PathExists`, as does a directory that
    holds other things. `training`: whether hosts make dictionaries by themselves. Raises `ConditionsIgnored`,
    `UnsupportedVersion` and store errors.
    """
    if isinstance(location, FileLocation):
        await create_directory(location)
    async with raw_store(location, options) as store:
        try:
            with first_requests(options):
                descriptor = await read_descriptor(store)
        except NotAStore:
            if isinstance(location, FileLocation):
                await _check_unused(store)
        else:
            return _existing(descriptor, store.url, if_missing=if_missing)
        report = await probe(store, deadline=FIRST_CONTACT)
        try:
            return Made(await create_descriptor(store, training=training), True, report)
        except PathExists:
            # Somebody else has made one at the same moment.
            return _existing(await read_descriptor(store), store.url, if_missing=if_missing)


async def make_directory_store(location: FileLocation, options: StoreOptions) -> None:
    """Makes the `file://` store that a mount is to have, unless it is there."""
    async with raw_store(location, options) as store:
        try:
            await read_descriptor(store)
        except (NotAStore, StoreMissing):
            await make_store(location, options, if_missing=True)


def _existing(descriptor: Descriptor, url: str, *, if_missing: bool) -> Made:
    if not if_missing:
        raise PathExists(f"{url} is a store already: mount it, or pass --if-missing to accept it")
    return Made(descriptor, False, None)


async def _check_unused(store: ObjectStore) -> None:
    """Refuses a directory with other things in it: a slip of the finger must not fill somebody's home directory."""
    async for page in store.list(""):
        for entry in page.objects:
            if not entry.key.startswith(PROBE_PREFIX):
                raise PathExists(
                    f"{store.url} is no store and holds other files ({entry.key}): name a new or empty directory"
                )
