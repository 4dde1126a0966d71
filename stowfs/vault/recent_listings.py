"""Directories as they were listed last, to be shown again without asking the store: whoever reads a tree several times
would wait for each listing longer than for all the files.

What is shown again is at most half the revalidation time old, so that it lasts for going through the files it names;
and nothing in the directory has changed since as far as this host knows. What it does itself shows at once.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import msgspec
import trio

from stowfs import codec
from stowfs.config import MIB
from stowfs.hot.index import id_of, key_of
from stowfs.store.base import ObjectStore
from stowfs.vault.listing_ahead import DirectoryRead, ListingAhead
from stowfs.vault.lru import Lru
from stowfs.vault.naming import split
from stowfs.vault.version import PackedVersion

MEMORY = 8 * MIB
"""Bytes of listings kept, compressed to some 20 to 40 bytes a name: of 200,000 names at least. A directory that takes
more is listed each time."""

LEVEL = 3
"""zstd level for that: a millisecond for a thousand names. Higher ones take no less room."""

OVERHEAD = 500
"""Bytes of Python objects that a kept listing costs besides, about."""

SMALL = 100
"""Names up to which a listing is packed and unpacked on the event loop: it takes less than a change of thread."""

T = TypeVar("T")

Entries = Sequence[tuple[str, PackedVersion]]
"""Names and versions, by name."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[tuple[bytes, bytes]])


@dataclass(frozen=True, slots=True)
class DirectoryListing:
    """What was in a directory. `asked` and `answered`: when the store was asked, and when it had told all (seconds of
    trio's clock)."""

    entries: Entries
    asked: float
    answered: float


@dataclass(frozen=True, slots=True)
class _Kept:
    """A listing of `names` names: their entries take `size` bytes, compressed to `packed`."""

    packed: bytes
    size: int
    names: int
    asked: float
    answered: float

    @classmethod
    def of(cls, listing: DirectoryListing) -> "_Kept":
        raw = _encoder.encode([(key_of(name), version) for name, version in listing.entries])
        packed = codec.compress(raw, level=LEVEL)
        return cls(packed, len(raw), len(listing.entries), listing.asked, listing.answered)

    def listing(self) -> DirectoryListing:
        raw = codec.decompress(self.packed, expected=self.size)
        entries = [(id_of(name), version) for name, version in _decoder.decode(raw)]
        return DirectoryListing(entries, self.asked, self.answered)

    @property
    def cost(self) -> int:
        """Bytes of memory it takes, about."""
        return OVERHEAD + len(self.packed)


@dataclass(slots=True, eq=False)
class _Reading:
    """A directory that is being listed, and whether something in it has changed meanwhile."""

    directory: str
    changed: bool = False


class RecentListings:
    """Listings by directory. `revalidate`: the revalidation time, in seconds."""

    def __init__(self, store: ObjectStore, *, revalidate: float) -> None:
        self._believed = revalidate / 2
        self._ahead = ListingAhead(store, believed=self._believed)
        self._listings = Lru[_Kept](MEMORY, lambda kept: kept.cost)
        self._readings: list[_Reading] = []

    async def read(self, directory: str, ask: Callable[[DirectoryRead], Awaitable[Entries]]) -> DirectoryListing:
        """What is in a directory; `ask` asks the store, as it is told to, and its errors are raised."""
        known = self._listings.get(directory)
        if known is not None and trio.current_time() - known.asked < self._believed:
            return await _run(known.names, known.listing)
        self._listings.drop(directory)
        reading = _Reading(directory)
        self._readings.append(reading)
        try:
            read = self._ahead.begin(directory)
            entries = await ask(read)
            listing = DirectoryListing(entries, read.asked, read.answered)
            kept = await _run(len(listing.entries), partial(_Kept.of, listing)) if self._believed else None
        finally:
            self._readings.remove(reading)
        if kept is not None and kept.cost <= MEMORY and not reading.changed:
            self._listings.put(directory, kept)
        return listing

    def changed(self, path: str) -> None:
        """What is under `path` has changed, or may have."""
        # It may be a directory, too, and removed.
        affected = (split(path)[0], path)
        for directory in affected:
            self._listings.drop(directory)
            self._ahead.changed(directory)
        for reading in self._readings:
            reading.changed = reading.changed or reading.directory in affected


async def _run(names: int, function: Callable[[], T]) -> T:
    """What `function` does with so many names: here, or in a thread where that takes long."""
    return function() if names <= SMALL else await trio.to_thread.run_sync(function)
