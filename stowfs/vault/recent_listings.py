"""Directories as they were listed last, to be shown again without asking the store: whoever reads a tree several times
would wait for each listing longer than for all the files.

What is shown again is at most half the revalidation time old, so that it lasts for going through the files it names;
and nothing in the directory has changed since as far as this host knows. What it does itself shows at once.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from stowfs.vault.naming import split
from stowfs.vault.version import PackedVersion

NAMES = 20_000
"""Names kept in all, some six megabytes. A directory with more is listed each time."""

Entries = Sequence[tuple[str, PackedVersion]]
"""Names and versions, by name."""


@dataclass(frozen=True, slots=True)
class DirectoryListing:
    """What was in a directory. `asked` and `answered`: when the store was asked, and when it had told all (seconds of
    trio's clock)."""

    entries: Entries
    asked: float
    answered: float

    @property
    def cost(self) -> int:
        """What it counts of the names that are kept: an empty one costs memory, too."""
        return len(self.entries) + 1


@dataclass(slots=True, eq=False)
class _Reading:
    """A directory that is being listed, and whether something in it has changed meanwhile."""

    directory: str
    changed: bool = False


class RecentListings:
    """Listings by directory. `revalidate`: the revalidation time, in seconds."""

    def __init__(self, *, revalidate: float) -> None:
        self._believed = revalidate / 2
        self._listings: OrderedDict[str, DirectoryListing] = OrderedDict()
        self._readings: list[_Reading] = []
        self._size = 0

    async def read(self, directory: str, ask: Callable[[], Awaitable[Entries]]) -> DirectoryListing:
        """What is in a directory; `ask` asks the store, and its errors are raised."""
        known = self._listings.get(directory)
        if known is not None and trio.current_time() - known.asked < self._believed:
            self._listings.move_to_end(directory)
            return known
        self._drop(directory)
        reading = _Reading(directory)
        self._readings.append(reading)
        try:
            asked = trio.current_time()
            listing = DirectoryListing(await ask(), asked, trio.current_time())
        finally:
            self._readings.remove(reading)
        if self._believed and not reading.changed:
            self._keep(directory, listing)
        return listing

    def changed(self, path: str) -> None:
        """What is under `path` has changed, or may have."""
        # It may be a directory, too, and removed.
        affected = (split(path)[0], path)
        for directory in affected:
            self._drop(directory)
        for reading in self._readings:
            reading.changed = reading.changed or reading.directory in affected

    def _keep(self, directory: str, listing: DirectoryListing) -> None:
        self._drop(directory)
        self._listings[directory] = listing
        self._size += listing.cost
        while self._size > NAMES:
            self._drop(next(iter(self._listings)))

    def _drop(self, directory: str) -> None:
        dropped = self._listings.pop(directory, None)
        if dropped is not None:
            self._size -= dropped.cost
