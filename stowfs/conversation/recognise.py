"""Which format a conversation has, from its first bytes.

The family (document, lines, Markdown, console, bytes) decides how it is cut, so it must not change when the file grows:
it is decided by the shortest beginning that suffices, and until then `decided` is false.
"""

import re
from dataclasses import dataclass
from enum import Enum

from stowfs.conversation.formats.turns import CONSOLE_TURN, MARKDOWN_TURN

LINE_HEAD = 1 << 20
"""A first line that goes on beyond this many bytes makes a JSON text a document, not lines."""

TEXT_HEAD = 8 << 10
"""Text is told from other bytes, and Markdown from console output, by this many bytes: several turns of most tools."""


class Family(Enum):
    """How a conversation is divided into units."""

    DOCUMENT = "document"
    LINES = "lines"
    MARKDOWN = "markdown"
    CONSOLE = "console"
    BYTES = "bytes"


@dataclass(frozen=True, slots=True)
class Recognition:
    """A family, and whether no further byte can change it."""

    family: Family
    decided: bool


_START = re.compile(rb"(?:\xef\xbb\xbf)?\s*")
_JSON_LINE = re.compile(rb"(?m)^\{\".*\}\r?$")
_OPENING_ALONE = re.compile(rb"[\[{]+\s*")


def recognise(data: bytes) -> Recognition:
    """The family of a conversation that begins with `data`."""
    match = _START.match(data, 0, TEXT_HEAD)
    begin = match.end() if match else 0
    if data[begin : begin + 1] in (b"{", b"["):
        return _json(data, begin)
    return _text(data)


def _json(data: bytes, begin: int) -> Recognition:
    first = data.find(b"\n", begin, begin + LINE_HEAD)
    if first < 0:
        return Recognition(Family.DOCUMENT, len(data) - begin >= LINE_HEAD)
    line = data[begin:first].rstrip()
    if _OPENING_ALONE.fullmatch(line):
        return Recognition(Family.DOCUMENT, True)
    if line.endswith(b"}" if line.startswith(b"{") else b"]"):
        more = _START.match(data, first, first + TEXT_HEAD)
        assert more is not None
        if more.end() < len(data):
            # A pretty-printed document may have `{"a": {}` or `[]` as its first line, but goes on with a comma.
            return Recognition(Family.LINES if data[more.end()] in b"{[" else Family.DOCUMENT, True)
        return Recognition(Family.DOCUMENT, False)
    second = data.find(b"\n", first + 1, first + 1 + LINE_HEAD)
    if second < 0:
        return Recognition(Family.DOCUMENT, len(data) - first > LINE_HEAD)
    # The first line may be damaged.
    lines = _JSON_LINE.match(data, first + 1, second) is not None
    return Recognition(Family.LINES if lines else Family.DOCUMENT, True)


def _text(data: bytes) -> Recognition:
    head = data[:TEXT_HEAD]
    decided = len(head) == TEXT_HEAD
    if len(_JSON_LINE.findall(head)) * 2 > head.count(b"\n"):
        return Recognition(Family.LINES, decided)
    if b"\0" in head:
        return Recognition(Family.BYTES, decided)
    console = len(CONSOLE_TURN.findall(head))
    markdown = len(MARKDOWN_TURN.findall(head))
    bullets = head.count("\n● ".encode()) + head.count("\n⏺ ".encode()) + head.count("\n  ⎿".encode())
    family = Family.CONSOLE if bullets and console > markdown else Family.MARKDOWN
    return Recognition(family, decided)
