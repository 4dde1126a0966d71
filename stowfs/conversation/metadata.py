"""What can be known about a conversation without reading it: model, application, time, number of messages.

Only the first bytes (and the last few, where JSON often has the model) are looked at, so that this costs little beside
the cutting. Nothing is guessed: what is not written there is None.
"""

import json
import json.scanner
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from stowfs.conversation.formats.catalogue import Family, Format

HEAD = 32 << 10
"""How many of the first bytes are looked at. The first answer, which names the model, is nearly always within them."""

TAIL = 4 << 10
"""How many of the last bytes are looked at: request bodies often have their model and settings after the messages."""

ELEMENTS = 8
"""How many messages of a document are looked at for a model or a time: if these have none, the others rarely do."""

# From the first to the last year a conversation may plausibly claim (2000 to 2200), in seconds since the epoch.
_EARLIEST, _LATEST = 946_684_800.0, 7_258_118_400.0


@dataclass(frozen=True, slots=True)
class Metadata:
    """What is known of some bytes of a conversation. None: not written there.

    `application` is the tool or benchmark that wrote it. `messages` counts the messages of a document or text, and the
    lines that hold a message or a conversation of JSONL. `time` is that of creation or of the first message, in seconds
    since the epoch.
    """

    format: str
    model: str | None = None
    application: str | None = None
    messages: int | None = None
    time: float | None = None


_TIME_KEYS = ("create_time", "created_at", "start_time", "created", "started_at", "timestamp")
# A quick test whether any of the names occurs at all, and the pattern for each member.
_TIME_NAME = re.compile(f'"(?:{"|".join(_TIME_KEYS)})"'.encode())
_TIME_MEMBERS = tuple(
    re.compile(f'"{key}"'.encode() + rb'\s*:\s*(?:"([^"\\]{10,40})"|([0-9.]{9,20}))') for key in _TIME_KEYS
)
_MODEL_MEMBER = re.compile(
    rb'"(?:default_)?model(?:_slug|_name)?"\s*:\s*(?:\{\s*"name"\s*:\s*)?"((?:[^"\\]|\\.){1,200})"'
)
_LIST = re.compile(
    rb'"(?:messages|traj|conversations|history|loglines|trajectory|simulations)"\s*:\s*\[|"mapping"\s*:\s*\{|\A\s*\['
)
_SEPARATOR = re.compile(r'[\s,]*(?:"[^"\\]*"\s*:\s*)?')
_SPECSTORY_TOOL = re.compile(rb"<!-- ([A-Za-z][A-Za-z ]{1,30}) Session ")
_TEXT_MODEL = re.compile(rb"(?m)^_\*\*Agent[^(\n]{0,30}\(([A-Za-z][\w.:/-]{1,100})[ )]|^> Models?: (\S{1,100})")
_TEXT_TIME = re.compile(rb"\b(20[0-9]{2}-[01][0-9]-[0-3][0-9])[ T_]([0-2][0-9]:[0-5][0-9]:[0-5][0-9])(?=[^0-9])")
_CONSOLE_TOOL = re.compile(rb"Claude Code v[0-9]")

_scan = json.scanner.make_scanner(json.JSONDecoder(strict=False, parse_int=float))  # type: ignore[arg-type]


def describe(data: bytes, entry: Format, messages: int | None) -> Metadata:
    """What is known of `data`, a conversation in the format `entry` (or the rest of one), with so many messages."""
    head = data[:HEAD]
    model: str | None = None
    time: float | None = None
    application = entry.application
    match entry.family:
        case Family.DOCUMENT:
            model, time = _of_document(head, data[len(head) :][-TAIL:])
        case Family.LINES:
            model, time = _first_known(head, _lines(head))
        case Family.MARKDOWN:
            model, time = _of_markdown(head)
            tool = _SPECSTORY_TOOL.search(head)
            if tool and application is None:
                application = tool[1].decode("ascii").lower().replace(" ", "-")
        case Family.CONSOLE:
            application = "claude-code" if _CONSOLE_TOOL.search(head) else None
        case Family.BYTES:
            pass
    return Metadata(entry.name, model, application, messages, time)


def _of_document(head: bytes, tail: bytes) -> tuple[str | None, float | None]:
    """Members before the messages go before what the messages say, and that before the last members."""
    found = _LIST.search(head)
    outside = head[: found.start()] if found else head
    model, time = _model_member(outside), _time_member(outside)
    if found and (model is None or time is None):
        inner_model, inner_time = _first_known(head, _elements(head, found.end()))
        model, time = model or inner_model, time or inner_time
    tail = tail or head[-TAIL:]
    return model or _model_member(tail), time or _time_member(tail)


def _model_member(text: bytes) -> str | None:
    found = _MODEL_MEMBER.search(text) if b"model" in text else None
    return _name(found[1].decode("latin-1")) if found else None


def _time_member(text: bytes) -> float | None:
    """The first time in `text` under the most telling of the keys that are there."""
    if _TIME_NAME.search(text):
        for pattern in _TIME_MEMBERS:
            if found := pattern.search(text):
                return _seconds((found[1] or found[2]).decode("latin-1"))
    return None


def _first_known(head: bytes, records: Iterator[object]) -> tuple[str | None, float | None]:
    """The first model and the first time that the records tell; records are decoded no longer than necessary."""
    model: str | None = None
    time: float | None = None
    wants_model, wants_time = b'"model' in head, _TIME_NAME.search(head) is not None
    while wants_model or wants_time:
        record = next(records, None)
        if record is None:
            break
        if isinstance(record, dict):
            if wants_model and (model := _model_of(record)):
                wants_model = False
            if wants_time and (time := _time_in(record)):
                wants_time = False
    return model, time


def _elements(head: bytes, at: int) -> Iterator[object]:
    """The first elements of the list (or members of the object) whose inside begins at `at`."""
    text = head[at:].decode("latin-1")
    position = 0
    for _ in range(ELEMENTS):
        separator = _SEPARATOR.match(text, position)
        try:
            value, position = _scan(text, separator.end() if separator else position)
        except (ValueError, StopIteration, RecursionError):
            return
        yield value


def _lines(head: bytes) -> Iterator[object]:
    for line in head.split(b"\n"):
        try:
            yield _scan(line.decode("latin-1"), 0)[0]
        except (ValueError, StopIteration, RecursionError):
            yield ()


def _model_of(record: dict[str, object]) -> str | None:
    """The model that a message or event names: its own, or that of the raw answer kept in it."""
    places = [record]
    nested = record.get("message"), record.get("payload"), record.get("metadata"), record.get("tool_call_metadata")
    places += [inner for inner in nested if isinstance(inner, dict)]
    places += [
        inner
        for place in places[1:]
        for inner in (place.get("metadata"), place.get("model_response"))
        if isinstance(inner, dict)
    ]
    # A user message may hold the raw answer of the model that plays the user.
    if record.get("role") == "assistant" and isinstance(raw := record.get("raw_data"), dict):
        places.append(raw)
    for place in places:
        for key in ("model", "model_slug"):
            name = place.get(key)
            # Names in angle brackets stand for messages that no model wrote.
            if isinstance(name, str) and 0 < len(name) <= 200 and not name.startswith("<"):
                return _unicode(name)
    return None


def _name(quoted: str) -> str | None:
    """The text of a JSON string, given as the bytes between its quotes in latin-1."""
    try:
        return _unicode(json.loads(f'"{quoted}"', strict=False))
    except ValueError:
        return None


def _unicode(text: str) -> str | None:
    """A text decoded from latin-1 as what it is in UTF-8. With characters beyond latin-1 it came from escapes: one that
    names half a character names nothing."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text if text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text) else None


def _time_in(record: dict[str, object]) -> float | None:
    places = [record, *(inner for inner in (record.get("message"), record.get("payload")) if isinstance(inner, dict))]
    for place in places:
        for key in _TIME_KEYS:
            if (time := _seconds(place.get(key))) is not None:
                return time
    return None


def _of_markdown(head: bytes) -> tuple[str | None, float | None]:
    named = _TEXT_MODEL.search(head)
    stamp = _TEXT_TIME.search(head)
    model = (named[1] or named[2]).decode("utf-8", "replace") if named else None
    time = _seconds(f"{stamp[1].decode()}T{stamp[2].decode()}") if stamp else None
    return model, time


def _seconds(value: object) -> float | None:
    """Seconds since the epoch of an ISO 8601 text (UTC where it names no zone) or a number of (milli)seconds."""
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
            seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            try:
                seconds = float(value)
            except ValueError:
                return None
    elif isinstance(value, (int, float)):
        seconds = float(value)
    else:
        return None
    if seconds > _LATEST:
        seconds /= 1000
    return seconds if _EARLIEST <= seconds <= _LATEST else None
