"""Units of JSON: the messages of a document, of whatever shape, and of a long JSON line.

The text is walked item by item with the scanner of the standard library, on a latin-1 view of the bytes, in which a
character is a byte. The walk keeps no stack: an item is a value, or a key with its value; a closing bracket just ends
the list or object. So it can begin behind any item. Lists of objects, and objects too large to be one message, are
entered; a message is taken whole. Text that is not JSON is skipped up to the next place where one object of a list
ends and another begins.
"""

import json
import json.scanner
import re
from collections.abc import Iterator

from stowfs.conversation.units import TOO_LONG, Unit

ENTER_FROM = 8 << 10
"""Objects that are not messages are entered from this size on: cuts in smaller ones are of no use to a run."""

SHARED_MINIMUM = 1 << 10
"""A shared block (system prompt, tool schemas) of fewer bytes costs more as an object of its own than it saves."""

DESCENTS = 32
"""Objects entered between two cuts: real conversations nest about a dozen deep. Each entering may scan a whole run, so
this bounds the time that hostile nesting can take."""

SCALAR_UNIT = 1 << 10
"""Strings of fewer bytes (ids, times, names) are no units: a cut between two of them serves nobody."""

SHARED_KEYS = frozenset({"tools", "functions", "system", "system_prompt", "instructions", "base_instructions"})
"""Members that hold a system prompt or the schemas of tools."""

ROLE_KEYS = frozenset({"role", "from", "author"})
"""An object with one of these members is a message. In an object that is entered, the member stands for the message."""

SYSTEM_ROLES = frozenset({"system", "developer"})

# Integers as floats: Python refuses to convert integers of many thousand digits.
_scan = json.scanner.make_scanner(json.JSONDecoder(strict=False, parse_int=float))  # type: ignore[arg-type]
_SPACE = re.compile(r"[ \t\r\n]*")
_BETWEEN = re.compile(r"[ \t\r\n,\]}]*")
_MARK = "\xef\xbb\xbf"  # a byte order mark, as latin-1
_COLON = re.compile(r"[ \t\r\n]*(:?)[ \t\r\n]*")
_LIST_OF_CONTAINERS = re.compile(r"\[[ \t\r\n]*[\[{]")
# A quote inside a string is escaped, so this occurs between two objects of a list and hardly ever in a text.
_NEXT_OBJECT = re.compile(r'\}(?=[ \t\r\n]*,[ \t\r\n]*\{[ \t\r\n]*")')


def json_units(data: bytes, start: int, stop: int, *, complete: bool) -> Iterator[Unit]:
    """The units of the JSON text `data[start:stop]`.

    `complete` says that an item which does not end before `stop` will not become whole by more bytes (the line has
    ended) or is too long for a run in any case; otherwise the walk waits for them, that is, it ends there.
    """
    text = data[start:stop].decode("latin-1")
    length = len(text)
    at = len(_MARK) if text.startswith(_MARK) else 0
    space = _SPACE.match(text, at)
    record = space.end() if space else at
    before = 0  # where a cut would go that is to lie before the next item
    descents = 0
    while True:
        if between := _BETWEEN.match(text, at):
            at = between.end()
        if at >= length:
            return
        key, item = _key(text, at) if text[at] == '"' else ("", at)
        if item >= length:
            return
        character = text[item]
        if character == "[" and key not in SHARED_KEYS:
            enter = _LIST_OF_CONTAINERS.match(text, item) is not None
        else:
            enter = character == "{" and item == record
        if enter:
            before, at = item, item + 1
            continue
        whole, value, end = _decode(text, item)
        if not whole:
            if not complete:
                return
            yield TOO_LONG
            descents += 1
            if character in "[{" and descents <= DESCENTS:
                before, at = item, item + 1
                continue
            found = _NEXT_OBJECT.search(text, item)
            if found is None:
                return
            before = at = found.end()
            yield Unit(start + at)
            continue
        size = end - item
        message = isinstance(value, dict) and is_message(value)
        if size > ENTER_FROM and character in "[{" and not message and key not in SHARED_KEYS and descents < DESCENTS:
            descents += 1
            before, at = item, item + 1
            continue
        shared = size >= SHARED_MINIMUM and (key in SHARED_KEYS or (message and _role(value) in SYSTEM_ROLES))
        speaker = key in ROLE_KEYS and character == '"'
        # Never after a number or a word, which more bytes may continue.
        if character in "[{" or (character == '"' and (size >= SCALAR_UNIT or speaker)):
            messages = 1 if message or speaker else _messages_in(value)
            yield Unit(start + end, messages, start + before if shared else None)
        before = at = end


def _key(text: str, at: int) -> tuple[object, int]:
    """The key that the string at `at` is, if it is one, and where its value begins; else the string is the value.

    Where the text ends behind the string or the colon, that is where the value begins.
    """
    whole, key, end = _decode(text, at)
    if whole and (colon := _COLON.match(text, end)):
        if colon[1]:
            return key, colon.end()
        if colon.end() == len(text):
            return "", len(text)
    return "", at


def is_message(value: dict[str, object]) -> bool:
    """Whether a decoded object is one message, a node or an event that holds one, or an event of an agent."""
    return (
        not ROLE_KEYS.isdisjoint(value)
        or isinstance(value.get("message"), dict)
        or ("source" in value and ("action" in value or "observation" in value))
    )


def _messages_in(value: object) -> int:
    """How many messages a decoded conversation holds in its lists."""
    if not isinstance(value, dict):
        return 0
    lists = (inner for inner in value.values() if isinstance(inner, list))
    return sum(isinstance(item, dict) and is_message(item) for inner in lists for item in inner)


def _role(value: object) -> str | None:
    """The role that a message names; in some exports it is an object, and names none."""
    role = value.get("role", value.get("from")) if isinstance(value, dict) else None
    return role if isinstance(role, str) else None


def _decode(text: str, at: int) -> tuple[bool, object, int]:
    """Whether a whole value begins at `at`, the value, and where it ends."""
    try:
        value, end = _scan(text, at)
    except (ValueError, StopIteration, RecursionError):
        return False, None, at
    return True, value, end
