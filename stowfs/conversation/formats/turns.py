"""Units of text: the turns of a Markdown history or a console transcript.

A turn begins with a line that names its speaker, in the manner of one of the known tools. Text without such lines has
no units and is cut by content.
"""

import re
from collections.abc import Iterator

from stowfs.conversation.units import TOO_LONG, Unit

MARKDOWN_TURN = re.compile(
    rb"\n(?:_\*\*(?:User|Agent|Assistant|Human|System|Tool)"  # SpecStory
    rb"|#{1,4} (?:[^\x00-\x7f]{1,12} )?(?:User|Assistant|Human|System|Agent|Tool|AI|ChatGPT|Claude|Prompt|Response)\b"
    rb"|#### |# aider chat started"  # aider
    rb"|\*\*(?:User|Assistant|Human|System|Agent|AI|You|ChatGPT|Claude)\b"
    rb"|(?:User|Assistant|Human|System|AI): )"
)
"""The beginning of a turn in Markdown, with the line end before it."""

CONSOLE_TURN = re.compile(
    rb"\n(?:> |\xe2\x9d\xaf |\xe2\x97\x8f |\xe2\x8f\xba |\xe2\x80\xba |\xe2\x80\xa2 |\xe2\x95\xad\xe2\x94\x80)"
)
"""The same on a console: the prompt signs and bullets of the common command line agents, and the frame of a banner."""


def turn_units(data: bytes, start: int, stop: int, turn: re.Pattern[bytes], *, complete: bool) -> Iterator[Unit]:
    """The turns of `data[start:stop]`. A turn ends where the next one begins; the last one is still open."""
    for match in turn.finditer(data, start, stop):
        yield Unit(match.start() + 1, 1)
    if complete:
        yield TOO_LONG
