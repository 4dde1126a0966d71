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
        # The time in the file, or that which it should have.
        self._noted = -math.inf
        try:
            self._noted = path.stat().st_mtime
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                self._trouble.report(error)
            self.see()

    @property
    def unseen(self) -> float:
        """Seconds since another host was last seen to change something, or since it was first asked for here: up to
        `NOTED` too many."""
        # A clock that was set back makes it just now.
        return max(0.0, time.time() - self._noted)

    def see(self) -> None:
        """Another host has changed something."""
        now = time.time()
        if abs(now - self._noted) < NOTED:
            return
        self._noted = now
        try:
            self._path.touch(mode=0o600)
        except OSError as error:
            self._trouble.report(error)
