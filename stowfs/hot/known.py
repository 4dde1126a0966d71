"""Which hashes a table may have, in memory: what is not among them need not be looked for there.

Invariant: whatever is in the table, or was noted for it, is among them; what was dropped from the table since may be,
too. They are read from the table once it has been asked often enough to make that worth while, and again when so many
were noted since that they would take more memory than the sorted ones.
"""

from bisect import bisect_left
from collections.abc import Iterable

PREFIX = 8
"""Bytes of a hash that are kept: of a million hashes, one in 10^13 that are not there is looked for."""

ASKED_FROM = 32
"""Questions to the table from which they are read: that takes a fifth of a second where there are half a million."""

ADDED_LIMIT = 20_000
"""Hashes noted since they were read, at most: two megabytes."""


class KnownHashes:
    """Hashes of one table. Not before they were read does it know of any that is not there."""

    def __init__(self) -> None:
        # The beginnings of those that were read, in order, one after the other.
        self._sorted: bytes | None = None
        self._added: set[bytes] = set()
        self._reading = False
        self._asked = 0

    @property
    def is_due(self) -> bool:
        """Whether it is time to read them from the table."""
        return self._sorted is None and not self._reading and self._asked >= ASKED_FROM

    def may_have(self, hash: bytes) -> bool:
        """Whether the table has to be asked for this hash."""
        if self._sorted is None:
            self._asked += 1
            return True
        prefix = hash[:PREFIX]
        return prefix in self._added or _among(self._sorted, prefix)

    def add(self, hash: bytes) -> None:
        """This one was noted for the table."""
        if self._sorted is not None and len(self._added) >= ADDED_LIMIT:
            self._sorted = None
        if self._sorted is not None or self._reading:
            self._added.add(hash[:PREFIX])

    def begin(self, noted: Iterable[bytes]) -> None:
        """They are about to be read; `noted` are for the table, and not there yet."""
        self._reading = True
        self._asked = 0
        self._added = {hash[:PREFIX] for hash in noted}

    def end(self, prefixes: bytes | None) -> None:
        """What was read: the first `PREFIX` bytes of every hash in the table, in order; None: it failed."""
        self._reading = False
        self._sorted = prefixes


def _among(prefixes: bytes, prefix: bytes) -> bool:
    """Whether `prefix` is one of those that stand in order in `prefixes`."""
    count = len(prefixes) // PREFIX
    number = bisect_left(range(count), prefix, key=lambda at: prefixes[at * PREFIX : (at + 1) * PREFIX])
    return prefixes[number * PREFIX : (number + 1) * PREFIX] == prefix
