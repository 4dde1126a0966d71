"""When another host was last seen to change something in the store, kept for the next process that has the slot.

It is the time of an empty file. A process that cannot write there knows it for as long as it lives. Whoever has the
slot first knows nothing of others: then it is as if one had just been seen.
"""

import math
import time
from pathlib import Path

from stowfs.hot.failures import CacheTrouble

NOTED = 60.0
"""Seconds for which the time in the file will do: what is asked is whether it was within an hour."""


class OtherHosts:
    """What one slot knows of other hosts. Times are those of the clock of this host."""

    def __init__(self, path: Path) -> None:
        """`path`: the file."""
        self._path = path
        self._trouble = CacheTrouble(f"what is known of other hosts ({path})")
        self._noted = self._seen = self._read()
        if self._seen == -math.inf:
            self.see()

    @property
    def unseen(self) -> float:
        """Seconds since another host was last seen to change something, or since it was first asked for here."""
        # A clock that was set back makes it just now.
        return max(0.0, time.time() - self._seen)

    def see(self) -> None:
        """Another host has changed something."""
        self._seen = time.time()
        if abs(self._seen - self._noted) < NOTED:
            return
        self._noted = self._seen
        try:
            self._path.touch(mode=0o600)
        except OSError as error:
            self._trouble.report(error)

    def _read(self) -> float:
        try:
            return self._path.stat().st_mtime
        except FileNotFoundError:
            return -math.inf
        except OSError as error:
            self._trouble.report(error)
            return -math.inf
