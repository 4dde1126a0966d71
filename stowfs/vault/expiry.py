"""Deadlines: a conversation may have a time at which it expires. None is the default, and means never.

* An expired conversation is absent as if it had been deleted, from its deadline on, and without anybody doing anything:
  whether a version is live is a function of the time (`Manifest.live`). Nothing brings it back.
* The deadline is fixed when a conversation is created or its whole content replaced (at the end of the lifetime that
  the writer asks for, else never), or set by hand. Appending, editing, other attributes and renaming keep it.
* What was opened before the deadline can be read to the end. What is written to it then goes with it: a draft whose
  deadline has passed is not committed (`Expired`).
* Collection makes an expired conversation an empty tombstone, by a compare-and-swap like every other deletion. It waits
  for `MARGIN`, since not all clocks agree.

The clock is that of the host: `now_ns`, and no other.
"""

import math
import time

NANOSECONDS = 1_000_000_000

MARGIN = 3600.0
"""Seconds after its deadline for which an expired conversation is not destroyed: for a host whose clock is slow it is
still alive, and may get another deadline. S3 refuses whoever is more than 15 minutes off, so two hosts that use one
store are at most half an hour apart; this is twice that."""


def now_ns() -> int:
    """The time by which conversations expire, in nanoseconds since the epoch."""
    return time.time_ns()


def is_over(expires_ns: int | None) -> bool:
    """Whether a deadline has passed."""
    return expires_ns is not None and now_ns() >= expires_ns


def seconds_left(expires_ns: int | None) -> float:
    """Seconds until a deadline: infinite where there is none, 0 where it has passed."""
    return math.inf if expires_ns is None else max(0.0, (expires_ns - now_ns()) / NANOSECONDS)


def deadline(lifetime: float | None) -> int | None:
    """The deadline of what is written now and is to live for `lifetime` seconds."""
    return None if lifetime is None else now_ns() + int(lifetime * NANOSECONDS)
