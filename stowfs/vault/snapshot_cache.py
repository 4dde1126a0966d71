"""The versions that are kept in memory, by path: headers decoded, inline bytes compressed as they were stored.

Who opens a file that the kernel has in its page cache needs the header alone. So only the inline bytes of what came
last are kept decompressed, for whoever is about to read them.

Where there is no more room, some of the older half go, whichever. A program that goes through a tree again and again
still finds most of it that way; of the ones used longest ago, it would always need the one that has just gone.
"""

import random
from collections import Counter, OrderedDict
from dataclasses import dataclass
from itertools import islice

from stowfs.codec import Dictionary
from stowfs.config import MIB
from stowfs.vault.manifest import Snapshot

MEMORY = 32 * MIB
"""Bytes of versions, inline bytes compressed: some ten thousand small conversations, a few hundred large ones."""

UNPACKED = 8 * MIB
"""Bytes of inline bytes kept decompressed: of as many files as are fetched ahead of a program."""

OVERHEAD = 1500
"""Bytes of Python objects that a version costs besides its stored ones, about."""

PIECE = 250
"""Bytes that each piece adds to that, about."""

DICTIONARY = 3
"""How many times its size a dictionary takes: as it is stored, with its number, and digested for reading."""

PART = 8
"""The part of the older half that goes at once: choosing takes a pass through that half."""


@dataclass(slots=True)
class Entry:
    """A version, and when the store was asked for it last (seconds of trio's clock)."""

    snapshot: Snapshot
    checked: float


class SnapshotCache:
    """Versions by path, bounded in bytes."""

    def __init__(self) -> None:
        # The one that was used last comes last, and of those with inline bytes at hand, the one that came last.
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._unpacked: OrderedDict[str, Snapshot] = OrderedDict()
        # How many versions keep each in memory.
        self._dictionaries: Counter[Dictionary] = Counter()
        self._size = self._unpacked_size = 0

    def get(self, path: str) -> Entry | None:
        """What is kept of `path`."""
        entry = self._entries.get(path)
        if entry is not None:
            self._entries.move_to_end(path)
        return entry

    def put(self, snapshot: Snapshot, checked: float) -> None:
        """Keeps a version in place of what was kept of its path."""
        entry = self._entries.get(snapshot.path)
        if entry is not None and entry.snapshot is snapshot:
            entry.checked = checked
            return
        self.drop(snapshot.path)
        self._entries[snapshot.path] = Entry(snapshot, checked)
        self._size += _cost(snapshot)
        dictionary = snapshot.dictionary
        if dictionary is not None:
            self._size += 0 if dictionary in self._dictionaries else DICTIONARY * len(dictionary.data)
            self._dictionaries[dictionary] += 1
        if snapshot.unpacked:
            self._unpacked[snapshot.path] = snapshot
            self._unpacked_size += len(snapshot.unpacked)
            while self._unpacked_size > UNPACKED:
                self._pack(next(iter(self._unpacked)))
        while self._size > MEMORY:
            older = list(islice(self._entries, -(-len(self._entries) // 2)))
            for path in random.sample(older, -(-len(older) // PART)):
                self.drop(path)

    def drop(self, path: str) -> None:
        """Keeps nothing of `path`."""
        entry = self._entries.pop(path, None)
        if entry is None:
            return
        self._pack(path)
        self._size -= _cost(entry.snapshot)
        dictionary = entry.snapshot.dictionary
        if dictionary is not None:
            self._dictionaries[dictionary] -= 1
            if not self._dictionaries[dictionary]:
                del self._dictionaries[dictionary]
                self._size -= DICTIONARY * len(dictionary.data)

    def _pack(self, path: str) -> None:
        snapshot = self._unpacked.pop(path, None)
        if snapshot is not None:
            self._unpacked_size -= snapshot.manifest.inline
            snapshot.pack()


def _cost(snapshot: Snapshot) -> int:
    return OVERHEAD + snapshot.stored_size + PIECE * len(snapshot.manifest.pieces)
