"""Objects of a store as damage or malice may leave them: structured mutations of good ones, for hypothesis to draw.

What is changed under good framing (checksums, sizes of frames) gets past the checks that damage never passes.
"""

import struct
from collections.abc import Sequence

import msgspec
from hypothesis import strategies as st

from stowfs import codec
from stowfs.errors import CorruptObject
from stowfs.vault import manifest as manifests

DEEP = msgspec.Raw(b"[" * 100_000 + b"]" * 100_000)
TOKENS = [b"NaN", b"-Infinity", b"1e999", b"-0", b"9" * 30, b"9" * 5000, b'"\\ud800"', b'"\xff"']
NUMBERS = [-(1 << 63), -1, 0, 1, 3, 255, 256, 1 << 20, (1 << 31) - 1, 1 << 40, (1 << 63) - 1, 1 << 63, 0.5, 1e308]
TEXTS = ["", "\0", "../../../manifests/good.json", "/etc/passwd", "x/../..", "0" * 32, "0" * 64, "f" * 33, "~" * 5000]
LISTS = [[], [[]], [None] * 500, ["f" * 33] * 2000, {}, {"x": {"x": []}}, [["0" * 64, 1, 4]] * 600]
HOSTILE: list[object] = [None, True, False, *NUMBERS, *TEXTS, *LISTS, DEEP, *map(msgspec.Raw, TOKENS)]
"""Values for any place in a JSON document."""


def bomb(claimed: int, blocks: int) -> bytes:
    """A zstd frame that claims some bytes and holds 128 KiB in each of its blocks of four bytes."""
    block = struct.pack("<I", 131072 << 3 | 1 << 1)[:3] + b"x"
    last = struct.pack("<I", 131072 << 3 | 1 << 1 | 1)[:3] + b"x"
    return bytes.fromhex("28b52ffd8038") + struct.pack("<I", claimed) + block * (blocks - 1) + last


BOMBS = [bomb(10, 8000), bomb(1 << 20, 8000), bomb((1 << 20) - 1, 20_000), bomb(0, 1), bomb((1 << 32) - 1, 8000)]
GIANT = bytes(24 << 20)
"""More than anything honest has."""


@st.composite
def mutated(draw: st.DrawFn, key: str, body: bytes, others: Sequence[bytes]) -> bytes:
    """The object under `key`, changed: its bytes, what it says, or swapped with pieces of `others`."""
    match draw(st.sampled_from(["json", "json", "json", "bytes", "cut", "splice", "whole"])):
        case "json":
            return draw(_reworded(key, body))
        case "bytes":
            changed = bytearray(body)
            for _ in range(draw(st.integers(1, 4))):
                position = draw(st.integers(0, max(len(changed) - 1, 0)))
                changed[position : position + draw(st.integers(0, 3))] = draw(st.binary(max_size=4))
            return bytes(changed)
        case "cut":
            return body[: draw(st.integers(0, len(body)))]
        case "splice":
            other = draw(st.sampled_from(others))
            return body[: draw(st.integers(0, len(body)))] + other[draw(st.integers(0, len(other))) :]
    return draw(st.sampled_from([*others, b"", b"\0", b"{}", codec.compress(b"{}"), GIANT, *BOMBS]))


@st.composite
def _reworded(draw: st.DrawFn, key: str, body: bytes) -> bytes:
    """The same kind of object with another JSON document, or another payload, in good frames."""
    if key.startswith("manifests/"):
        try:
            header, rest = codec.decompress_first(body, limit=manifests.HEADER_LIMIT)
        except CorruptObject:
            return body
        document = codec.compress(msgspec.json.encode(draw(_edited(msgspec.json.decode(header)))))
        return document + draw(st.sampled_from([bytes(rest)] * 4 + BOMBS[:2]))
    if key.startswith("segments/"):
        line, _, payload = body.partition(b"\n")
        payload = draw(st.sampled_from([payload] * 6 + [codec.compress(b"other"), *BOMBS[:2]]))
        edited = draw(_edited(msgspec.json.decode(line)))
        if isinstance(edited, dict) and draw(st.booleans()):
            edited["stored_size"] = len(payload)
        return msgspec.json.encode(edited) + b"\n" + payload
    if key.endswith(".json"):
        return msgspec.json.encode(draw(_edited(msgspec.json.decode(body))))
    return body[::-1]


@st.composite
def _edited(draw: st.DrawFn, document: object) -> object:
    """A JSON document with one to three of its values replaced, dropped or repeated."""
    for _ in range(draw(st.integers(1, 3))):
        document = draw(_edited_once(document))
    return document


@st.composite
def _edited_once(draw: st.DrawFn, document: object) -> object:
    if isinstance(document, dict) and document and draw(st.integers(0, 9)):
        name = draw(st.sampled_from(sorted(document)))
        changed = dict(document)
        if draw(st.integers(0, 9)):
            changed[name] = draw(_edited_once(document[name]))
        else:
            del changed[name]
        return changed
    if isinstance(document, list) and document and draw(st.integers(0, 9)):
        index = draw(st.integers(0, len(document) - 1))
        match draw(st.sampled_from(["within", "within", "within", "drop", "repeat", "reverse"])):
            case "drop":
                return document[:index] + document[index + 1 :]
            case "repeat":
                return document[:index] + [document[index]] * draw(st.sampled_from([2, 3, 700])) + document[index + 1 :]
            case "reverse":
                return document[::-1]
        return [*document[:index], draw(_edited_once(document[index])), *document[index + 1 :]]
    if isinstance(document, int | float) and draw(st.booleans()):
        return document + draw(st.sampled_from([-1, 1, 0.5, 1 << 32]))
    return draw(st.sampled_from(HOSTILE))


KEYS = [
    "manifests/..json",
    "manifests/%2E%2E.json",
    "manifests/%2e%2e/%2e%2e/x.json",
    "manifests/a%2Fb.json",
    "manifests/%00.json",
    "manifests/x",
    "manifests/.json",
    "manifests/%~/%~/x.json",
    "manifests/" + "%~/" * 300 + "x.json",
    "manifests/" + "d/" * 400 + "x.json",
    "manifests/good.json/x.json",
    "manifests/%GG.json",
    "segments/00/" + "0" * 64,
    "segments/zz/" + "0" * 64,
    "segments/x",
    "segments/00/" + "0" * 63 + "G",
    "blobs/x",
    "blobs/00/" + "0" * 64 + "/x",
    "blobs/00/" + "0" * 64 + "/" + "0" * 32,
    "index/current",
    "index/shards/x",
    "dictionaries/x",
    "elsewhere/x",
    "stowfs.json.bak",
]
"""Keys that stowfs never writes, or that nothing leads to."""
