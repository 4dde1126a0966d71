"""The index in the store as this host reads it (see `shards`), and what it has found to be missing there.

It is asked only for what this host does not know, and only where that is much: a few manifests are read as fast. What
is wrong with it costs requests, and is no error for anybody. The last shard stays in memory, as listings go by key; a
few others do as they lie in the store, as who lists a directory and then those in it goes through them twice.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import trio

from stowfs.config import MIB
from stowfs.errors import CorruptObject, ObjectNotFound, StowError, UnsupportedVersion
from stowfs.store.base import NotModified, ObjectInfo, ObjectStore
from stowfs.vault.bundle import ENOUGH, Member
from stowfs.vault.lru import Lru
from stowfs.vault.naming import INDEX_POINTER, bundles_prefix, place_of, shard_key
from stowfs.vault.shards import (
    ENTRIES,
    PackedMembers,
    Pointer,
    Shard,
    ShardInfo,
    decode_members,
    decode_pointer,
    decode_shard,
)
from stowfs.vault.untrusted import get_bounded, read_bounded
from stowfs.vault.version import Version

log = logging.getLogger(__name__)

LEAST = 16
"""Manifests that are not known from which on a shard is read for them: those requests go at once."""

LEAST_BUNDLES = 4
"""The same of bundles: each holds some dozens of manifests, for which a shard would be read next, most often."""

POINTER_AGE = 60.0
"""Seconds for which the pointer is not asked for again: it changes by the minute at most."""

MISSING = 256
"""Manifests that the index lacks from which on somebody should write it: fewer are read by a new host in a second."""

SETTLE = 10.0
"""Seconds for which nothing must be missing before the index is written: who lists a large directory, or one after the
other, is not to be disturbed, and what it needs is written at once."""

OUT_OF_DATE = 10
"""The part of a shard that must be missing, too, so that a busy directory is not written again and again: a tenth."""

MEMORY = 8 * MIB
"""Bytes of shards that stay in memory as they lie in the store: of seven, each of a megabyte or so."""

HELD_MEMORY = 4 * MIB
"""Bytes of what bundles hold, of some 60,000 names: who lists a directory again, or page by page, needs no shard."""

DAMAGED_LIMIT = 1000
"""Shards that cannot be read of which this is remembered."""


@dataclass(slots=True)
class Missing:
    """What was asked for and was not there: how many manifests, and how many are `held` by bundles that were not there
    (often the same), of what keys. They are `within` what a shard is good for, or follow it; None: there is none before
    them."""

    shard: ShardInfo | None
    within: bool
    first: str
    last: str
    count: int = 0
    held: int = 0

    @property
    def joins(self) -> bool:
        """Whether they are written into one shard with the one before them, so that there are few."""
        return self.shard is not None and not self.within and self.shard.count <= ENTRIES // 2

    @property
    def is_too_much(self) -> bool:
        """Whether they should be written."""
        there = self.shard.count if self.shard is not None and (self.within or self.joins) else 0
        count = max(self.count, self.held)
        return count >= MISSING and count * OUT_OF_DATE >= there


class SharedIndex:
    """The index of one store."""

    def __init__(self, store: ObjectStore, threads: trio.CapacityLimiter) -> None:
        self._store = store
        self._threads = threads
        self._lock = trio.Lock()
        self._pointer = Pointer("")
        self._etag: str | None = None
        self._read = -math.inf
        self._has_read = False
        self._noted = -math.inf
        self._loaded: tuple[str, Shard] | None = None
        self._bodies = Lru[bytes](MEMORY, len)
        # By the keys of bundles: their ETags, and what they hold.
        self._held = Lru[tuple[str, PackedMembers]](HELD_MEMORY, lambda held: 300 + len(held[1]))
        self._damaged: set[str] = set()
        # By the id of a shard, and whether it is within that or after it.
        self._missing: dict[tuple[str, bool], Missing] = {}
        self._taken: dict[tuple[str, bool], Missing] = {}
        # Set, and replaced, when something is due.
        self._wake = trio.Event()

    async def find(
        self, objects: Sequence[ObjectInfo], *, note: bool = True, walking: bool = False
    ) -> dict[str, Version]:
        """The versions of those that are in the index under the ETag that was listed, by key. The objects come in the
        order of their keys. `note`: what is missing is to be written some time. `walking`: what follows will be wanted,
        too."""
        found: dict[str, Version] = {}
        async with self._lock:
            ask = len(objects) >= (1 if walking else LEAST)
            if ask:
                await self._read_pointer()
            elif not self._has_read:
                return found
            for info, part in groupby(objects, lambda wanted: self._pointer.covering(wanted.key)):
                shard = None
                if info is not None and (ask or self._is_loaded(info)):
                    shard = await self._shard(info)
                for one in part:
                    version = shard.version(one.key, one.etag) if shard is not None else None
                    if version is not None:
                        found[one.key] = version
                    elif note:
                        self._note_missing(info, one.key).count += 1
        self._wake_if_due()
        return found

    async def held(self, bundles: Sequence[ObjectInfo], *, among: int) -> dict[str, Sequence[Member]]:
        """What those bundles hold that are in the index under the ETag that was listed, by key. They come in the order
        of their keys, and are some of so many that are wanted."""
        found: dict[str, Sequence[Member]] = {}
        wanted = []
        for bundle in bundles:
            held = self._held.get(bundle.key)
            if held is not None and held[0] == bundle.etag:
                found[bundle.key] = decode_members(bundle.key, held[1])
            else:
                wanted.append(bundle)
        if not wanted:
            return found
        async with self._lock:
            ask = among >= LEAST_BUNDLES
            if ask:
                await self._read_pointer()
            for info, part in groupby(wanted, lambda bundle: self._pointer.covering(bundle.key)):
                if info is None or not (ask or self._is_loaded(info)):
                    # If they are missing, so are the manifests they hold, and `find` notes that.
                    continue
                shard = await self._shard(info)
                for bundle in part:
                    row = shard.held(bundle.key) if shard is not None else None
                    members: list[Member] = []
                    try:
                        members = decode_members(bundle.key, row[1]) if row is not None else []
                    except CorruptObject:
                        row = None  # of a later version of stowfs, or made to do harm: then the bundle is read
                    if row is None or row[0] != bundle.etag:
                        # Where nothing is known of a bundle, it is taken to be as full as they become.
                        self._note_missing(info, bundle.key).held += len(members) or ENOUGH
                    else:
                        found[bundle.key] = members
                        self._held.put(bundle.key, row)
        self._wake_if_due()
        return found

    def _wake_if_due(self) -> None:
        if self._is_due:
            self._wake.set()
            self._wake = trio.Event()

    async def wait_until_due(self) -> None:
        """Waits until there is something that should be written, and nothing was found to be missing for a while."""
        while not self._is_due or (left := self._noted + SETTLE - trio.current_time()) > 0:
            if self._is_due:
                await trio.sleep(left)
            else:
                await self._wake.wait()

    @property
    def _is_due(self) -> bool:
        return any(missing.is_too_much for missing in self._missing.values())

    def take_due(self) -> list[tuple[str, str]]:
        """The ranges of keys of which too much was missing: greater than the first, up to the second ('': all). From
        now on what is missing is counted anew there."""
        self._taken = {key: missing for key, missing in self._missing.items() if missing.is_too_much}
        self._missing = {key: missing for key, missing in self._missing.items() if key not in self._taken}
        ranges = [self._range(missing) for missing in self._taken.values()]
        merged: list[tuple[str, str]] = []
        for after, last in sorted(ranges):
            if merged and (not merged[-1][1] or after <= merged[-1][1]):
                before, end = merged.pop()
                merged.append((before, max(end, last) if end and last else ""))
            else:
                merged.append((after, last))
        return merged

    def give_back(self) -> None:
        """What was taken last was not written."""
        self._missing = self._missing | self._taken

    def written(self) -> None:
        """The index has changed: it is read again."""
        self._read = -math.inf

    def _range(self, missing: Missing) -> tuple[str, str]:
        shard = missing.shard
        if missing.within:
            assert shard is not None
            return shard.after, shard.last
        if shard is not None and missing.joins:
            return shard.after, missing.last
        # What is before a key in order begins with less of it; and bundles come before what they hold.
        after = min(missing.first[:-1], bundles_prefix(place_of(missing.first)[0]))
        return max(after, shard.last) if shard is not None else after, missing.last

    def _note_missing(self, info: ShardInfo | None, key: str) -> Missing:
        shard = info or self._pointer.before(key)
        within = info is not None
        missing = self._missing.setdefault((shard.id if shard else "", within), Missing(shard, within, key, key))
        self._noted = trio.current_time()
        missing.first, missing.last = min(missing.first, key), max(missing.last, key)
        return missing

    async def _read_pointer(self) -> None:
        now = trio.current_time()
        if now - self._read < POINTER_AGE:
            return
        self._read = now
        pointer, etag = Pointer(""), None
        try:
            answer = await get_bounded(self._store, INDEX_POINTER, if_none_match=self._etag)
            if isinstance(answer, NotModified):
                return
            pointer, etag = decode_pointer(answer.body), answer.etag
        except ObjectNotFound:
            pass  # nobody has written one
        except (StowError, UnsupportedVersion) as error:
            log.warning("listings go without the index of the store: %s", error)
        self._pointer, self._etag = pointer, etag
        self._has_read = True
        known = {shard.id for shard in pointer.shards}
        self._missing = {key: missing for key, missing in self._missing.items() if not key[0] or key[0] in known}

    def _is_loaded(self, info: ShardInfo) -> bool:
        return self._loaded is not None and self._loaded[0] == info.id

    async def _shard(self, info: ShardInfo) -> Shard | None:
        if self._loaded is not None and self._loaded[0] == info.id:
            return self._loaded[1]
        if info.id in self._damaged:
            return None
        self._loaded = None
        try:
            body = self._bodies.get(info.id) or (await read_bounded(self._store, shard_key(info.id))).body
            shard = await trio.to_thread.run_sync(decode_shard, info, body, limiter=self._threads)
        except (CorruptObject, ObjectNotFound) as error:
            log.warning("a part of the index of the store is of no use: %s", error)
            if len(self._damaged) < DAMAGED_LIMIT:
                self._damaged.add(info.id)
            return None
        except StowError as error:
            log.warning("listings go without a part of the index of the store: %s", error)
            return None
        self._bodies.put(info.id, body)
        self._loaded = info.id, shard
        return shard
