"""Manifests: what is stored is read again, and nothing else is."""

import hashlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stowfs import codec
from stowfs.errors import CorruptObject, UnsupportedVersion
from stowfs.vault import manifest as manifests
from stowfs.vault.manifest import HEADER_LIMIT, INLINE_LIMIT, Attributes, Facts, Manifest, Piece, Reference
from stowfs.vault.ring import CAPACITY, Ring

OWNERS = st.integers(0, (1 << 32) - 1)
TIMES = st.integers(-(1 << 63), (1 << 63) - 1)
REFERENCES = st.builds(
    Reference, st.binary(min_size=32, max_size=32).map(bytes.hex), st.integers(1, 1 << 40), st.integers(0, 4)
)
RINGS = st.lists(st.binary(min_size=16, max_size=16).map(bytes.hex), max_size=40).map(lambda ids: Ring().add(*ids))


@st.composite
def manifests_with_inline(draw: st.DrawFn) -> tuple[Manifest, bytes]:
    """Any that a commit could write."""
    pieces: list[Piece] = []
    inline = b""
    for piece in draw(st.lists(REFERENCES | st.binary(min_size=1, max_size=200), max_size=12)):
        if isinstance(piece, bytes):
            inline += piece
            pieces.append(len(piece))
        else:
            pieces.append(piece)
    sizes = [piece if isinstance(piece, int) else piece.size for piece in pieces]
    return Manifest(
        commit=draw(st.text(max_size=40)),
        ring=draw(RINGS),
        attributes=draw(st.builds(Attributes, st.integers(0, 0o7777), OWNERS, OWNERS, TIMES, TIMES)),
        kind=draw(st.sampled_from(["conversation", "directory"])),
        size=sum(sizes),
        pieces=tuple(pieces),
        tail=draw(st.sampled_from([0, sizes[-1]])) if sizes else 0,
        inline=len(inline),
        inline_digest=hashlib.sha256(inline).hexdigest() if inline else "",
        facts=draw(st.builds(Facts, st.text(), st.booleans(), st.none() | st.text(), st.none() | st.text())),
        deleted=draw(st.none() | st.floats(0, 2e11)),
        blobs=tuple(draw(st.lists(st.just("") | st.binary(min_size=16, max_size=16).map(bytes.hex), max_size=8))),
    ), inline


@settings(max_examples=200)
@given(manifests_with_inline())
def test_what_was_encoded_is_decoded(written: tuple[Manifest, bytes]) -> None:
    manifest, inline = written
    body = manifests.encode(manifest, inline)
    snapshot = manifests.decode("path", "etag", body)
    assert (snapshot.manifest, snapshot.inline) == (manifest, inline)
    assert (snapshot.path, snapshot.etag, snapshot.stored_size) == ("path", "etag", len(body))
    assert snapshot.sealed_end == manifest.size - manifest.tail
    assert snapshot.top_references == tuple(p for p in manifest.pieces if isinstance(p, Reference))
    assert manifest.live is (manifest.deleted is None)


INLINE = b"the words of a short conversation\n" * 5
PLAIN = Manifest(
    commit="0" * 32,
    ring=Ring().add(*(f"{n:032x}" for n in range(CAPACITY + 2))),
    attributes=Attributes(0o644, 1000, 1000, 1, 2),
    size=len(INLINE) + 500,
    pieces=(Reference("ab" * 32, 500), len(INLINE)),
    tail=len(INLINE),
    inline=len(INLINE),
    inline_digest=hashlib.sha256(INLINE).hexdigest(),
)
BODY = manifests.encode(PLAIN, INLINE)


def decode(body: bytes) -> Manifest:
    return manifests.decode("path", "etag", body).manifest


def framed(header: object, inline: bytes = INLINE) -> bytes:
    return codec.compress(msgspec.json.encode(header)) + (codec.compress(inline) if inline else b"")


def fields(**changes: object) -> dict[str, object]:
    found: dict[str, object] = msgspec.json.decode(msgspec.json.encode(PLAIN))
    return found | changes


def test_the_plain_one_is_good() -> None:
    assert decode(framed(fields())) == PLAIN


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_any_bytes_are_refused(body: bytes) -> None:
    with pytest.raises((CorruptObject, UnsupportedVersion)):
        decode(body)


@settings(max_examples=300)
@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_header_in_a_good_frame_is_refused(header: bytes) -> None:
    with pytest.raises((CorruptObject, UnsupportedVersion)):
        decode(codec.compress(header))


@settings(max_examples=500)
@given(st.data())
def test_any_damage_is_noticed(data: st.DataObject) -> None:
    """Every frame has a checksum."""
    body = bytearray(BODY)
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    body = body[: data.draw(st.integers(0, len(body)))] if data.draw(st.booleans()) else body
    try:
        decoded = decode(bytes(body))
    except (CorruptObject, UnsupportedVersion):
        return
    assert decoded == PLAIN


@settings(max_examples=500)
@given(st.data())
def test_any_damage_under_good_checksums_is_refused_or_consistent(data: st.DataObject) -> None:
    """What a hostile writer can do: change the JSON and frame it anew."""
    header = bytearray(msgspec.json.encode(PLAIN))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(header) - 1))
        header[position : position + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    try:
        snapshot = manifests.decode("path", "etag", codec.compress(bytes(header)) + codec.compress(INLINE))
    except (CorruptObject, UnsupportedVersion):
        return
    found = snapshot.manifest
    sizes = [piece if isinstance(piece, int) else piece.size for piece in found.pieces]
    assert sum(sizes) == found.size >= 0
    assert all(size > 0 for size in sizes)
    assert len(snapshot.inline) == found.inline
    assert 0 <= snapshot.sealed_end <= found.size


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 499},
        {"size": -1},
        {"tail": 1},
        {"tail": -len(INLINE)},
        {"inline": len(INLINE) - 1},
        {"inline": 0},
        {"inline": -1},
        {"inline": INLINE_LIMIT + 1},
        {"inline_digest": "0" * 64},
        {"pieces": [["ab" * 32, 500], len(INLINE), 0], "tail": 0},
        {"pieces": [["ab" * 32, 500 + len(INLINE) + 1], len(INLINE), -len(INLINE) - 1], "tail": 0},
        {"pieces": [["ab" * 32, -500], 1000, len(INLINE)]},
        {"pieces": None},
        {"pieces": [["ab" * 32]]},
        {"kind": "device"},
        {"ring": None},
        {"attributes": [1, 2, 3]},
        {"commit": None},
        {"deleted": "yes"},
        {"deleted": -1.0},
        {"deleted": 1e300},
        {"pieces": [["../" * 21 + "x", 500], len(INLINE)]},
        {"pieces": [["AB" * 32, 500], len(INLINE)]},
        {"pieces": [["ab" * 32, 500, 5], len(INLINE)]},
        {"pieces": [["ab" * 32, 500, -1], len(INLINE)]},
        {"pieces": [["ab" * 32, 1 << 62], len(INLINE)], "size": (1 << 62) + len(INLINE)},
        {"attributes": [0o100644, 0, 0, 0, 0]},
        {"attributes": [-1, 0, 0, 0, 0]},
        {"attributes": [0, -1, 0, 0, 0]},
        {"attributes": [0, 0, 1 << 32, 0, 0]},
        {"attributes": [0, 0, 0, 1 << 63, 0]},
        {"attributes": [0, 0, 0, 0, 0, -(1 << 63) - 1]},
        {"facts": {"format": "x" * 2000}},
        {"facts": {"time": 1e300}},
        {"facts": {"messages": -1}},
        {"ring": [["0" * 32] * 257]},
        {"kind": "symlink", "pieces": [], "size": 0, "tail": 0, "inline": 0, "inline_digest": ""},
    ],
)
def test_a_header_that_contradicts_itself_is_corrupt(changes: dict[str, object]) -> None:
    with pytest.raises(CorruptObject):
        decode(framed(fields(**changes)))


@pytest.mark.parametrize("version", [0, 2, 1000, 1 << 70])
def test_another_version_is_named(version: int) -> None:
    """Whatever else it has."""
    header = b'{"v":%d,"new":{"x":[]}}' % version
    with pytest.raises(UnsupportedVersion, match="upgrade"):
        decode(codec.compress(header))


def test_fields_of_the_future_are_ignored() -> None:
    assert decode(framed(fields(later={"x": [1, 2]}))) == PLAIN


@pytest.mark.parametrize(
    "header",
    [
        b'{"v":1,"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"x":' + b'{"x":' * 200_000 + b"1" + b"}" * 200_000 + b"}",
        b'{"v":1,"commit":"\x80"}',
        b'{"v":' + b"9" * 10_000 + b"}",
        b'{"v":1,"size":1e400}',
        b"",
        b"null",
    ],
)
def test_json_that_is_made_to_harm_is_corrupt(header: bytes) -> None:
    with pytest.raises(CorruptObject):
        decode(codec.compress(header))


def test_what_a_frame_claims_is_bounded() -> None:
    header = codec.compress(bytes(HEADER_LIMIT + 1))
    assert len(header) < 1000
    with pytest.raises(CorruptObject, match="at most"):
        decode(header)
    huge = bytes(INLINE_LIMIT + 1)
    with pytest.raises(CorruptObject):
        decode(framed(fields(), huge))
    with pytest.raises(CorruptObject):
        decode(framed(fields(inline=len(huge), pieces=[len(huge)], size=len(huge), tail=0), huge))


def test_bytes_after_the_frames_are_corrupt() -> None:
    with pytest.raises(CorruptObject):
        decode(BODY + b"\0")
    with pytest.raises(CorruptObject):
        decode(BODY[:-1])
