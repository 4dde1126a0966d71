"""Names to keys and back: nothing is lost, nothing collides, nothing leaves its place."""

import os
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stowfs.errors import CorruptObject, NameTooLong
from stowfs.store.file import FileStore
from stowfs.store.rules import check_key
from stowfs.vault.naming import (
    BLOBS,
    COMPONENT_LIMIT,
    KEY_LIMIT,
    MANIFESTS,
    NAME_LIMIT,
    SEGMENTS,
    blob_key,
    children_prefix,
    display,
    escape,
    is_cut,
    is_path,
    join,
    manifest_key,
    path_of_manifest,
    path_of_prefix,
    segment_key,
    split,
    unescape,
)

# Any bytes a file name may have, with what is special here more often than chance would have it.
_ESCAPES = [b".json", b"%", b"%2E", b"%2Ejson", b"%25", b".", b"..", b"~", b"\\"]
_ODD = [b" ", b"\n", b"\x7f", b"\xff", b"\xc3", b"\xed\xa0\x80", "ü".encode(), "\U0001f600".encode()]
_PARTS = st.sampled_from([b"a", b"b", *_ESCAPES, *_ODD])
COMPONENTS = (
    st.lists(_PARTS | st.binary(min_size=1, max_size=4), min_size=1, max_size=6)
    .map(lambda parts: b"".join(parts).replace(b"/", b"_").replace(b"\0", b"0"))
    .filter(lambda name: name not in (b".", b".."))
    .map(os.fsdecode)
)
# So long that they are cut, and at places of every kind; two of them fit into a key.
LONG = st.builds(
    lambda lead, part, end: os.fsdecode((b"n" * lead + part * 255)[: NAME_LIMIT - end]),
    st.integers(0, 5) | st.integers(240, NAME_LIMIT),
    st.sampled_from([b"n", b".", b".json", b"a.", *_ODD]),
    st.integers(0, 8),
).filter(lambda name: len(escape(name).encode()) <= 500)
PATHS = st.lists(COMPONENTS, min_size=1, max_size=4).map("/".join) | LONG | st.builds(join, COMPONENTS, LONG)


@given(COMPONENTS)
def test_any_name_survives_escaping(name: str) -> None:
    assert unescape(escape(name)) == name


@given(PATHS)
def test_any_path_survives_its_key(path: str) -> None:
    assert is_path(path)
    key = manifest_key(path)
    assert path_of_manifest(key) == path
    assert path_of_prefix(children_prefix(path)) == path
    assert key.startswith(children_prefix(split(path)[0]))
    assert join(*split(path)) == path


@given(PATHS)
def test_a_key_is_one_that_every_store_can_hold(path: str) -> None:
    key = manifest_key(path)
    check_key(key)
    assert key.startswith(MANIFESTS)
    assert ".." not in PurePosixPath(key).parts
    assert all(0x20 <= ord(character) != 0x7F for character in key)
    assert all(len(part.encode()) <= COMPONENT_LIMIT for part in key.split("/"))
    check_key(children_prefix(path).rstrip("/"))
    assert all(len(part.encode()) <= COMPONENT_LIMIT for part in children_prefix(path).split("/"))


@given(PATHS, PATHS)
def test_distinct_paths_have_distinct_keys_and_prefixes(one: str, other: str) -> None:
    assume(one != other)
    assert manifest_key(one) != manifest_key(other)
    assert children_prefix(one) != children_prefix(other)


@given(PATHS, PATHS)
def test_no_key_is_a_directory_of_another(one: str, other: str) -> None:
    """Else a directory of files could not hold both."""
    assert not manifest_key(other).startswith(manifest_key(one) + "/")


@given(PATHS, PATHS)
def test_what_is_in_a_directory_and_nothing_else_has_its_prefix(directory: str, path: str) -> None:
    below = path.startswith(directory + "/")
    assert manifest_key(path).startswith(children_prefix(directory)) is below
    assert manifest_key(join(directory, path)).startswith(children_prefix(directory))


async def test_directories_and_conversations_whose_names_end_in_json_live_side_by_side(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    paths = [
        "x",
        "x/y",
        "x.json",
        "x.json/x",
        "x.json/x.json",
        "x.json.json",
        "x.json.json/a",
        "x%2Ejson",
        "x%2Ejson/b",
    ]
    for path in paths:
        await store.put(manifest_key(path), path.encode())
    keys = [info.key async for page in store.list(MANIFESTS) for info in page.objects]
    assert sorted(map(path_of_manifest, keys)) == sorted(paths)


@given(st.text() | st.text(alphabet="manifests/.%json2E"))
def test_a_foreign_key_is_refused_or_is_the_key_of_its_path(text: str) -> None:
    for parse, make in ((path_of_manifest, manifest_key), (path_of_prefix, children_prefix)):
        for key in (text, MANIFESTS + text, MANIFESTS + text + ".json", MANIFESTS + text + "/"):
            try:
                path = parse(key)
            except (CorruptObject, NameTooLong):
                continue
            assert make(path) == key


@pytest.mark.parametrize(
    "key",
    [
        "manifests/.json",
        "manifests/../x.json",
        "manifests/a/%2E%2E/x.json",
        "manifests/%2e.json",
        "manifests/a//x.json",
        "manifests/x",
        "manifests/a%2fb.json",
        "manifests/%00.json",
        "manifests/a.json/b.json",
        "manifests/a%~/b.json",
        "manifests/" + "n" * 249 + "%~/nn.json",
    ],
)
def test_keys_that_no_path_has(key: str) -> None:
    with pytest.raises(CorruptObject):
        path_of_manifest(key)


def test_names_and_paths_that_are_too_long() -> None:
    longest = "n" * NAME_LIMIT
    assert path_of_manifest(manifest_key(longest)) == longest
    depth = "/".join(["d" * 200] * 4)
    assert len(manifest_key(depth)) < KEY_LIMIT
    for path in (
        longest + "n",
        "ü" * 128,
        "d" * 256 + "/x",
        "\udcff" * 200 + "/" + "\udcff" * 200,
        depth + "/" + "e" * 200,
    ):
        with pytest.raises(NameTooLong):
            manifest_key(path)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("n" * 250, "n" * 250 + ".json"),
        ("n" * 251, "n" * 250 + "%~/n.json"),
        ("n" * 249 + "ü", "n" * 249 + "%~/ü.json"),
        ("n" * 248 + "%.", "n" * 248 + "%~/%25..json"),
        ("\udcff" * 255, "%~/".join(["%FF" * 83, "%FF" * 83, "%FF" * 83, "%FF" * 6]) + ".json"),
    ],
)
def test_a_long_name_is_cut_between_characters(name: str, key: str) -> None:
    assert manifest_key(name) == MANIFESTS + key


def test_only_the_beginning_of_a_longer_name_is_cut() -> None:
    beginning, _, _ = manifest_key("n" * NAME_LIMIT).rpartition("/")
    assert is_cut(beginning + "/")
    for name in ("n", "%~", "n" * NAME_LIMIT, "%" * NAME_LIMIT):
        assert not is_cut(children_prefix(name))


def test_keys_of_segments_and_blobs_are_spread() -> None:
    digest = "ab" * 32
    assert segment_key(digest) == f"{SEGMENTS}ab/{digest}"
    assert blob_key(digest, "r") == f"{BLOBS}ab/{digest}/r"


@given(PATHS)
def test_any_path_can_be_displayed(path: str) -> None:
    display(path).encode()
