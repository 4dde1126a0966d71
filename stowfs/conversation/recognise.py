"""Which format a conversation has, from its first bytes.

The family (document, lines, Markdown, console, bytes) decides how it is cut, so it must not change when the file grows:
it is decided by the shortest beginning that suffices, and until then `decided` is false.
"""

import re
from dataclasses import dataclass

from stowfs.conversation.formats.catalogue import Family, Format, format_of
from stowfs.conversation.formats.turns import CONSOLE_TURN, MARKDOWN_TURN

LINE_HEAD = 1 << 20
"""A first line that goes on beyond this many bytes makes a JSON text a document, not lines."""

TEXT_HEAD = 8 << 10
"""Text is told from other bytes, and Markdown from console output, by this many bytes: several turns of most tools."""

FORMAT_HEAD = 16 << 10
"""The format is told by this many bytes: a few messages far in every known format, unless the preamble is very long."""

LONG_HEAD = 64 << 10
"""Where those tell nothing, by this many."""


@dataclass(frozen=True, slots=True)
class Recognition:
    """A format, and whether no further byte can change the family it belongs to."""

    format: Format
    decided: bool


_START = re.compile(rb"(?:\xef\xbb\xbf)?\s*")
_JSON_LINE = re.compile(rb'(?m)^\{".*\}\r?$')
_OPENING_ALONE = re.compile(rb"[\[{]+\s*")
_CONSOLE_MARK = re.compile("\n(?:● |⏺ |  ⎿)".encode())


def recognise(data: bytes) -> Recognition:
    """The format of a conversation that begins with `data`."""
    match = _START.match(data, 0, TEXT_HEAD)
    begin = match.end() if match else 0
    family, decided = _json(data, begin) if data[begin : begin + 1] in (b"{", b"[") else _text(data)
    entry = format_of(family, data[:FORMAT_HEAD])
    if not entry.marks and len(data) > FORMAT_HEAD:
        entry = format_of(family, data[:LONG_HEAD])
    return Recognition(entry, decided)


def _json(data: bytes, begin: int) -> tuple[Family, bool]:
    first = data.find(b"\n", begin, begin + LINE_HEAD)
    if first < 0:
        return Family.DOCUMENT, len(data) - begin >= LINE_HEAD
    line = data[begin:first].rstrip()
    if _OPENING_ALONE.fullmatch(line):
        return Family.DOCUMENT, True
    if line.endswith(b"}" if line.startswith(b"{") else b"]"):
        # Lines if another value follows. A document whose first line looks like this goes on with a comma or a bracket.
        more = _START.match(data, first, first + TEXT_HEAD)
        after = more.end() if more else first
        if after < min(len(data), first + TEXT_HEAD):
            return (Family.LINES if data[after] in b"{[" else Family.DOCUMENT), True
        return Family.DOCUMENT, after < len(data)
    # The first line may be damaged: then the second tells.
    second = data.find(b"\n", first + 1, first + 1 + LINE_HEAD)
    if second < 0:
        return Family.DOCUMENT, len(data) - first > LINE_HEAD
    return (Family.LINES if _JSON_LINE.match(data, first + 1, second) else Family.DOCUMENT), True


def _text(data: bytes) -> tuple[Family, bool]:
    head = data[:TEXT_HEAD]
    decided = len(head) == TEXT_HEAD
    if len(_JSON_LINE.findall(head)) * 2 > head.count(b"\n"):
        return Family.LINES, decided  # damaged at the beginning, or a part of a log
    if b"\0" in head:
        return Family.BYTES, decided
    console = len(CONSOLE_TURN.findall(head)) > len(MARKDOWN_TURN.findall(head))
    return (Family.CONSOLE if console and _CONSOLE_MARK.search(head) else Family.MARKDOWN), decided
