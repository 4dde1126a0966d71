"""Units of JSONL: one line each, except lines that hold a whole conversation.

A line is not parsed, so damage in one line (spliced, truncated, NUL bytes) does not touch the others. A request log
repeats the whole conversation so far in every line: such lines are walked like documents, and cut at their system
prompt, their tool schemas and their messages, so that they share segments with the line before and with other logs.
"""

import re
from collections.abc import Iterator

from stowfs.conversation.formats.json_document import SHARED_MINIMUM, json_units
from stowfs.conversation.units import TOO_LONG, Unit

WALK_FROM = 8 << 10
"""Shorter lines are one unit, whatever they hold: segments of so few bytes cost more than they save."""

_HEAD = 4 << 10  # what is looked at to tell what a line holds
_LINE = (b"{", b"\xef\xbb\xbf")  # how a line begins, as against the rest of one
_CONVERSATION = re.compile(
    rb'"(?:messages|conversations?|traj|history|input|contents|tools)"\s*:\s*\[|"(?:base_)?instructions"\s*:'
)
_SYSTEM_LINE = re.compile(rb'"(?:role|from)"\s*:\s*"(?:system|developer)"')
# How the rest of a line begins behind a cut in it.
_FRAGMENT = re.compile(rb"[ \t\r]*[,\]}\[]")


def line_units(
    data: bytes, start: int, stop: int, message_line: re.Pattern[bytes], *, complete: bool
) -> Iterator[Unit]:
    """The lines of `data[start:stop]`; `complete` as for `json_units`.

    A line in which `message_line` is found near its beginning counts as one message, with its end. So does the rest of
    a line that was cut.
    """
    at = start
    while at < stop:
        newline = data.find(b"\n", at, stop)
        end = newline + 1 if newline >= 0 else stop
        fragment = _FRAGMENT.match(data, at, end) is not None
        if fragment or (end - at >= WALK_FROM and _CONVERSATION.search(data, at, at + _HEAD)):
            if newline < 0 and complete:
                yield TOO_LONG
            for unit in json_units(data, at, end, complete=complete or newline >= 0):
                yield unit._replace(messages=0)
            if newline >= 0:
                yield Unit(end, 1)
        elif newline >= 0:
            message = (at == start and not data.startswith(_LINE, at)) or message_line.search(
                data, at, min(end, at + _HEAD)
            )
            shared = message and end - at >= SHARED_MINIMUM and _SYSTEM_LINE.search(data, at, end)
            yield Unit(end, 1 if message else 0, at if shared else None)
        elif complete:
            yield TOO_LONG
            for unit in json_units(data, at, end, complete=True):
                yield unit._replace(messages=0)
        at = end
