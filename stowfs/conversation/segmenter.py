"""Where a conversation is cut into segments: runs of messages whose ends are determined by their content.

Invariant: the end of a run is a function of the bytes from its beginning up to `maximum` bytes further, and is given
only when no later byte can change it. Two conversations that agree from some cut on therefore agree in their cuts for
as long as they agree in their bytes, an append changes nothing that was sealed, and cutting can go on from any cut.

A run ends, whichever comes first,
* before a shared block (system prompt, tool schemas) large enough to be worth an object, and after any shared block;
* past `minimum`, after a message whose bytes say so: a hash of its end is under a bound that is proportional to its
  size, so that runs have about the size `target` whether messages are long or short;
* before the message with which it would exceed `maximum`: then after the message whose hash came nearest to the bound;
* where content-defined chunking says, in a message that alone exceeds `maximum` and in bytes without messages.
"""

import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap

from stowfs.conversation.chunking import chunk_end
from stowfs.conversation.formats.catalogue import Family, Format, format_named, message_line
from stowfs.conversation.formats.json_document import json_units
from stowfs.conversation.formats.lines import line_units
from stowfs.conversation.formats.turns import CONSOLE_TURN, MARKDOWN_TURN, turn_units
from stowfs.conversation.metadata import Metadata, describe
from stowfs.conversation.recognise import Recognition, recognise
from stowfs.conversation.units import Unit


@dataclass(frozen=True, slots=True)
class SegmenterParameters:
    """Sizes of a run in raw bytes. All hosts of a store must cut alike, so they are part of its descriptor.

    Raises ValueError unless 64 <= minimum < target < maximum, target >= 256 and maximum >= 1024, what chunking can do.
    """

    minimum: int
    target: int
    maximum: int

    def __post_init__(self) -> None:
        if not (64 <= self.minimum < self.target < self.maximum and self.target >= 256 and self.maximum >= 1024):
            raise ValueError(f"run sizes out of range: {self.minimum}, {self.target}, {self.maximum}")


DEFAULT_PARAMETERS = SegmenterParameters(minimum=64 << 10, target=192 << 10, maximum=256 << 10)
"""Chosen by measurement: on real sessions larger runs store less (larger frames, fewer objects), up to the point where
the tail that an append uploads again, at most `maximum` raw bytes, would cost more than the runs save."""

HASHED = 4 << 10
"""How many of a message's last bytes are hashed: enough to tell messages apart, and quick for large ones."""

SHARED_ALONE = 4 << 10
"""A shared block of at least so many bytes is set apart from what comes before it, too, so that it is the same segment
in every conversation, whatever ids and times stand before it."""

LEAD = 40
"""So many bytes before a shared block may stay with it: opening brackets and the name of its key, but no id or time."""

SMALL_RUN = 4 << 10
"""A message that does not fit is put in a run of its own rather than cut, when the run before it has so many bytes."""


@dataclass(frozen=True, slots=True)
class Segmentation:
    """How some bytes are cut, and what is known about them.

    `ends` are the end offsets of the sealed runs, ascending; what follows the last is the unsealed tail. `resumable`
    says that cutting can go on from any of them with `segment(..., resume=format)`, without the bytes before, and gives
    the same cuts as cutting the whole. `sealed_messages` is how many of `metadata.messages` lie before the last end.
    """

    format: str
    ends: tuple[int, ...]
    resumable: bool
    metadata: Metadata
    sealed_messages: int | None


def segment(
    data: bytes | bytearray | memoryview | mmap,
    *,
    parameters: SegmenterParameters = DEFAULT_PARAMETERS,
    resume: str | None = None,
    final: bool = True,
    until: int = sys.maxsize,
) -> Segmentation:
    """Cuts `data`, any bytes at all. What is not `bytes` is copied once.

    `resume` is the format recorded for the conversation when `data` begins at a sealed end inside it. `final` is false
    when more bytes follow in the file: then only those cuts are made that they cannot change. No run is looked for that
    begins at `until` or later: others go on there.
    """
    content = data if isinstance(data, bytes) else bytes(data)
    recognition = recognise(content) if resume is None else Recognition(format_named(resume), True)
    entry = recognition.format
    ends: list[int] = []
    start = sealed = messages = 0
    while (recognition.decided or final) and start < until:
        end, counted = _next_end(content, start, entry, parameters)
        messages += counted
        if end is None:
            break
        sealed += counted
        ends.append(end)
        start = end
    counts = entry.family is not Family.BYTES
    return Segmentation(
        entry.name,
        tuple(ends),
        recognition.decided,
        describe(content, entry, messages if counts else None),
        sealed if counts else None,
    )


def _units(data: bytes, start: int, stop: int, entry: Format, *, complete: bool) -> Iterator[Unit]:
    match entry.family:
        case Family.DOCUMENT:
            return json_units(data, start, stop, complete=complete)
        case Family.LINES:
            return line_units(data, start, stop, message_line(entry), complete=complete)
        case Family.MARKDOWN:
            return turn_units(data, start, stop, MARKDOWN_TURN, complete=complete)
        case Family.CONSOLE:
            return turn_units(data, start, stop, CONSOLE_TURN, complete=complete)
        case Family.BYTES:
            return iter(())


def _next_end(data: bytes, start: int, entry: Format, parameters: SegmenterParameters) -> tuple[int | None, int]:
    """The end of the run that begins at `start`, and the messages in it.

    The end is None where the data do not suffice to tell; then the messages are those seen so far.
    """
    minimum, maximum = parameters.minimum, parameters.maximum
    limit = start + maximum
    overflow = len(data) > limit
    spread = parameters.target - minimum
    begin = start
    messages = 0
    best_score = best_messages = best_end = 0
    for unit in _units(data, start, min(limit, len(data)), entry, complete=overflow):
        end = unit.end
        if end > limit:
            if best_end:
                return best_end, best_messages
            if begin - start >= SMALL_RUN:
                return begin, messages
            continue
        if (block := unit.shared_from) is not None:
            if end - block >= SHARED_ALONE and block - start > LEAD:
                return block, messages
            return end, messages + unit.messages
        messages += unit.messages
        if end - start >= minimum:
            # Scaled so that a unit's chance to be under the bound grows with its size.
            score = zlib.crc32(data[max(begin, end - HASHED) : end]) * spread // max(end - begin, 1)
            if score < 1 << 32:
                return end, messages
            if not best_end or score < best_score:
                best_score, best_messages, best_end = score, messages, end
        begin = end
    if best_end and overflow:
        return best_end, best_messages
    if entry.family is not Family.BYTES and not overflow:
        return None, messages
    end_of_chunk = chunk_end(data, start, minimum=minimum, target=parameters.target, maximum=maximum)
    return end_of_chunk, messages
