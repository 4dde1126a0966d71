"""Durations as users write them: 90s, 15m, 12h, 7d, 2w; a number alone is seconds."""

import re

from stowfs.errors import UsageError

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

LONGEST = 100 * 366 * 86400
"""Seconds: a century is as good as for ever, and adding it to any time leaves one that a calendar has."""


def parse_duration(text: str) -> float:
    """The seconds that `text` says: more than none. Raises `UsageError`."""
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,9})?)([smhdw]?)", text.strip().lower(), re.ASCII)
    if match is None:
        raise UsageError(f"{text!r} is no duration: write for example 90s, 15m, 12h, 7d or 2w")
    seconds = float(match[1]) * UNITS[match[2]]
    if not 0 < seconds <= LONGEST:
        raise UsageError(f"{text!r} is no duration from now that makes sense: more than nothing, at most a century")
    return seconds
