"""The time by which conversations expire, in the hands of a test."""

import time

import pytest

from stowfs.vault import expiry


class Clock:
    """Stands still, at first at the true time; everything else goes by the true time."""

    def __init__(self) -> None:
        # Whole seconds, which floating point has exactly.
        self.ns = int(time.time()) * expiry.NANOSECONDS

    def advance(self, seconds: float) -> None:
        """So much time passes."""
        self.ns += int(seconds * expiry.NANOSECONDS)

    def after(self, seconds: float) -> int:
        """The deadline that lies so far ahead."""
        return self.ns + int(seconds * expiry.NANOSECONDS)

    def time(self) -> float:
        """The time in seconds, as collection is told it."""
        return self.ns / expiry.NANOSECONDS


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of all vaults of this process."""
    own = Clock()
    monkeypatch.setattr(expiry, "now_ns", lambda: own.ns)
    return own
