"""The format of bundles: what is put in comes out, and whatever is wrong with one is said, not believed."""

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stowfs import codec
from stowfs.errors import CorruptObject, UnsupportedVersion
from stowfs.vault import bundle as bundles
from stowfs.vault.bundle import BODY_LIMIT, BYTES, FRESH, HEADER_LIMIT, MEMBERS, Whole, decode
from stowfs.vault.naming import COMPONENT_LIMIT, is_bundle, key_in, manifest_key, may_be_bundled, place_of
from stowfs.vault.ring import new_id
from stowfs.vault.untrusted import OBJECT_LIMIT

PREFIX = "manifests/d/"
KEY = bundles.key_of(PREFIX, new_id())
NAMES = (
    st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=40)
    .filter(lambda name: name not in (".", ".."))
    .map(lambda name: place_of(manifest_key(f"d/{name}")))
    .filter(lambda place: place[0] == PREFIX and may_be_bundled(key_in(*place)))
    .map(lambda place: place[1])
)
CONTENTS = st.dictionaries(NAMES, st.binary(max_size=200), min_size=1, max_size=20)


def committed(contents: dict[str, bytes]) -> tuple[bytes, dict[str, str]]:
    """A bundle, and the ids of the commits by name."""
    commits = {name: new_id() for name in contents}
    return bundles.committed([(name, commits[name], data) for name, data in contents.items()]), commits


def read(body: bytes) -> Whole:
    return decode(KEY, "etag", body)


def with_header(payload: bytes = b"onetwo", **change: Any) -> bytes:
    """A bundle of x and y with something else in its header; what is None is left out."""
    header = {
        "write": new_id(),
        "state": "committed",
        "members": [["x", new_id(), 3], ["y", new_id(), 3]],
        "digest": hashlib.sha256(payload).hexdigest(),
        "v": 1,
        **change,
    }
    encoded = json.dumps({key: value for key, value in header.items() if value is not None})
    return codec.compress(encoded.encode()) + payload


@given(CONTENTS)
def test_what_is_put_in_comes_out(contents: dict[str, bytes]) -> None:
    body, commits = committed(contents)
    whole = read(body)
    assert (whole.bundle.key, whole.bundle.etag, whole.bundle.prefix) == (KEY, "etag", PREFIX)
    assert whole.bundle.state == "committed"
    assert [member.name for member in whole.bundle.header.members] == list(contents)
    for name, data in contents.items():
        assert whole.bundle.manifest(name, whole.payload) == data
        member = whole.bundle.member(name)
        assert member is not None
        assert member.commit == commits[name]
    assert whole.bundle.member("no such name") is None


@given(st.lists(NAMES, min_size=1, max_size=20, unique=True))
def test_a_claim_names_what_it_claims_and_holds_nothing(names: list[str]) -> None:
    claims = [(name, new_id()) for name in names]
    whole = read(bundles.pending(claims))
    assert whole.bundle.state == "pending"
    assert [(member.name, member.commit) for member in whole.bundle.header.members] == claims
    assert len(whole.payload) == 0


def test_what_is_void_claims_nothing() -> None:
    whole = read(bundles.void())
    assert (whole.bundle.state, whole.bundle.header.members, len(whole.payload)) == ("void", (), 0)


def test_no_version_comes_twice() -> None:
    """Otherwise an ETag would, and a late write could take effect."""
    claims = [("x", new_id())]
    members = [("x", claims[0][1], b"x")]
    for make in (bundles.void, lambda: bundles.pending(claims), lambda: bundles.committed(members)):
        assert make() != make()


def test_the_dictionary_is_noted() -> None:
    assert read(bundles.committed([("x", new_id(), b"x")], dictionary="d1")).bundle.header.dictionary == "d1"
    assert read(bundles.committed([("x", new_id(), b"x")], dictionary="")).bundle.header.dictionary == ""
    assert read(bundles.committed([("x", new_id(), b"x")])).bundle.header.dictionary is None


@settings(max_examples=300)
@given(CONTENTS, st.data())
def test_damage_is_found(contents: dict[str, bytes], data: st.DataObject) -> None:
    """A byte that is another one is noticed: or else nothing has changed for whoever reads it."""
    body, _ = committed(contents)
    # The ids in the header are others each time, and so is its length.
    position = data.draw(st.integers(0, 1 << 16)) % len(body)
    damaged = bytearray(body)
    damaged[position] ^= data.draw(st.integers(1, 255))
    try:
        whole = read(bytes(damaged))
    except (CorruptObject, UnsupportedVersion):
        return
    # The header has no digest of its own: a letter of a name or of an id may have become another one.
    assert position < len(body) - sum(map(len, contents.values()))
    assert whole.payload == b"".join(contents.values())


@given(CONTENTS, st.data())
def test_a_bundle_that_is_cut_off_or_goes_on_is_damaged(contents: dict[str, bytes], data: st.DataObject) -> None:
    body, _ = committed(contents)
    with pytest.raises(CorruptObject):
        read(body[: data.draw(st.integers(0, 1 << 16)) % len(body)])
    with pytest.raises(CorruptObject):
        read(body + b"!")


HOSTILE: dict[str, dict[str, Any]] = {
    "no state": {"state": None},
    "another state": {"state": "open"},
    "no members where bytes are": {"members": []},
    "a name twice": {"members": [["x", new_id(), 3], ["x", new_id(), 3]]},
    "an empty name": {"members": [["", new_id(), 3], ["y", new_id(), 3]]},
    "a name in another directory": {"members": [["../x", new_id(), 3], ["y", new_id(), 3]]},
    "a name in a directory below": {"members": [["s/x", new_id(), 3], ["y", new_id(), 3]]},
    "a name that comes before all bundles": {"members": [["!x", new_id(), 3], ["y", new_id(), 3]]},
    "the name of a bundle": {"members": [["%+x", new_id(), 3], ["y", new_id(), 3]]},
    "a name that is too long": {"members": [["x" * 2000, new_id(), 3], ["y", new_id(), 3]]},
    "an id that is none": {"members": [["x", "../../x", 3], ["y", new_id(), 3]]},
    "an id with an end of line": {"members": [["x", new_id() + "\n", 3], ["y", new_id(), 3]]},
    "fewer bytes than there are": {"members": [["x", new_id(), 2], ["y", new_id(), 3]]},
    "more bytes than there are": {"members": [["x", new_id(), 1 << 59], ["y", new_id(), 3]]},
    "bytes below zero": {"members": [["x", new_id(), -3], ["y", new_id(), 9]]},
    "bytes in a fraction": {"members": [["x", new_id(), 3.5], ["y", new_id(), 2.5]]},
    "members that are no list": {"members": {"x": 3}},
    "no digest": {"digest": None},
    "another digest": {"digest": "0" * 64},
    "a digest that is none": {"digest": "0" * 63},
    "pending with bytes": {"state": "pending"},
    "void with bytes": {"state": "void", "digest": None},
    "void with claims": {"state": "void", "digest": None, "members": [["x", new_id(), 0]], "payload": b""},
    "void with a digest": {"state": "void", "members": []},
    "an endless dictionary": {"dictionary": "d" * 2000},
}


def test_the_bundle_that_hostile_ones_are_made_of_is_right() -> None:
    whole = read(with_header())
    assert [whole.bundle.manifest(name, whole.payload) for name in "xy"] == [b"one", b"two"]


@pytest.mark.parametrize("what", HOSTILE)
def test_a_bundle_that_contradicts_itself_is_damaged(what: str) -> None:
    with pytest.raises(CorruptObject):
        read(with_header(**HOSTILE[what]))


def test_more_members_than_a_bundle_may_have() -> None:
    claims = [(f"x{number}", new_id()) for number in range(MEMBERS + 1)]
    assert len(read(bundles.pending(claims[:-1])).bundle.header.members) == MEMBERS
    with pytest.raises(CorruptObject):
        read(bundles.pending(claims))


def test_a_header_that_claims_too_much_is_not_decompressed() -> None:
    with pytest.raises(CorruptObject, match="claims"):
        read(codec.compress(bytes(HEADER_LIMIT + 1)))
    with pytest.raises(CorruptObject):
        read(codec.compress(bytes(HEADER_LIMIT)))


@pytest.mark.parametrize("body", [b"", b"{}", codec.compress(b""), codec.compress(b"[]"), codec.compress(b"\xff")])
def test_what_is_no_bundle_is_damaged(body: bytes) -> None:
    with pytest.raises((CorruptObject, UnsupportedVersion)):
        read(body)


def test_a_later_version_is_not_guessed_at() -> None:
    with pytest.raises(UnsupportedVersion, match="version 2"):
        read(with_header(v=2, state="split", members="elsewhere"))


def test_the_largest_honest_bundle_can_be_read() -> None:
    """By whoever reads no more than `OBJECT_LIMIT` of anything."""
    share = BYTES // MEMBERS
    names = [f"{number:04}" + "é" * 100 for number in range(MEMBERS)]
    contents = {place_of(manifest_key(f"d/{name}"))[1]: bytes(share) for name in names}
    assert max(map(len, contents)) <= COMPONENT_LIMIT
    body, _ = committed(contents)
    assert len(body) < OBJECT_LIMIT
    assert len(read(body).bundle.header.members) == MEMBERS
    assert BODY_LIMIT < BYTES


TOKENS = st.builds(lambda: (new_id(), new_id()))


@given(TOKENS)
def test_a_token_names_the_bundle_and_the_commit(ids: tuple[str, str]) -> None:
    id, commit = ids
    key = bundles.key_of(PREFIX, id)
    token = bundles.token(key, commit)
    assert bundles.is_token(token)
    assert bundles.key_of_token(token, PREFIX) == key
    assert bundles.id_of(key) == id
    assert token.endswith(commit)
    assert token != bundles.token(key, new_id())
    assert token != bundles.token(bundles.key_of(PREFIX, new_id()), commit)


@pytest.mark.parametrize("etag", ["", "d41d8cd98f00b204e9800998ecf8427e", "d41d8cd98f00b204e9800998ecf8427e-12", '"+"'])
def test_no_etag_of_an_object_is_a_token(etag: str) -> None:
    assert not bundles.is_token(etag)


def test_a_member_has_its_token() -> None:
    body, commits = committed({"x": b"one"})
    bundle = read(body).bundle
    member = bundle.member("x")
    assert member is not None
    assert bundle.token(member) == bundles.token(KEY, commits["x"])


@pytest.mark.parametrize(
    "key",
    [
        "manifests/d/x.json",
        "manifests/d/%+",
        f"manifests/d/%+{'g' * 32}",
        f"manifests/d/%+{'0' * 31}",
        f"manifests/d/%+{'0' * 33}",
        f"manifests/d/%+{'0' * 32}.json",
        f"segments/d/%+{'0' * 32}",
    ],
)
def test_a_key_that_no_bundle_has(key: str) -> None:
    with pytest.raises(CorruptObject, match="not the key of a bundle"):
        decode(key, "etag", bundles.void())


def test_no_name_is_that_of_a_bundle() -> None:
    for name in ("%+", "%+" + "0" * 32, "+", "%"):
        key = manifest_key(f"d/{name}")
        assert not is_bundle(key)
        assert is_bundle(bundles.key_of(PREFIX, "0" * 32))
    assert not may_be_bundled(bundles.key_of(PREFIX, "0" * 32))
    assert not may_be_bundled(bundles.key_of(PREFIX, "0" * 32) + ".json")


@pytest.mark.parametrize(
    ("path", "may"),
    [
        ("d/x", True),
        ("d/s/x", True),
        ("x", False),
        ("d/!x", False),
        ("d/ x", False),
        ("d/" + "x" * COMPONENT_LIMIT, False),
        ("d/é", True),
    ],
)
def test_what_may_be_bundled(path: str, may: bool) -> None:
    assert may_be_bundled(manifest_key(path)) is may


@given(st.binary(max_size=50))
def test_nothing_that_is_stored_looks_fresh(data: bytes) -> None:
    assert not codec.compress(data).startswith(FRESH)
    assert not FRESH.startswith(codec.compress(data)[:4])
