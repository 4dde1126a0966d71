"""Where things lie in the store: paths of conversations and directories, and hashes, to object keys and back.

A path is a relative POSIX path as `str` (bytes that are not UTF-8 as surrogate escapes); '' is the root directory.
Conversation `a/b` and directory `a/b` share one key, `manifests/a/b.json`, so that a store cannot hold both. What
lies in directory `a/b` has keys below `manifests/a/b/`. Each component is percent-escaped where a store or a local
directory could not hold it; a directory's component also where it ends in '.json', since `x.json` is conversation `x`
already. One that is too long for a file name is cut: `%~` at the end of a component says that the next one goes on with
it, and no escape looks like that. Neither does one look like `%+`, with which the name of a bundle of manifests begins:
in the listing of a directory all bundles come before the names that may be in one.
"""

import os
import re
from functools import lru_cache

from stowfs.errors import CorruptObject, NameTooLong

MANIFESTS = "manifests/"
SEGMENTS = "segments/"
BLOBS = "blobs/"
DICTIONARIES = "dictionaries/"
INDEX = "index/"
INDEX_POINTER = INDEX + "current"
INDEX_SHARDS = INDEX + "shards/"
DESCRIPTOR = "stowfs.json"

_SUFFIX = ".json"

COMPONENT_LIMIT = 255
"""Bytes of an escaped component with its suffix: the longest file name of the usual local file systems, so that every
store can be copied to a directory."""

NAME_LIMIT = 255
"""Bytes of a name in a directory, before it is escaped: as on the usual local file systems."""

KEY_LIMIT = 1024
"""Bytes of a whole key: the limit of S3."""

PREFIX_ALLOWANCE = 128
"""Bytes of `KEY_LIMIT` that are left to the prefix of the store, so that a store can be moved below another one."""

RECENT_DIRECTORIES = 1024
"""Directories whose prefixes are remembered: each file in them needs it several times."""

RECENT_NAMES = 1024
"""Paths whose keys are remembered: a commit needs that of its path several times, and many are under way at once."""

_CUT = "%~/"

_BUNDLE = "%+"

_CUT_AFTER = COMPONENT_LIMIT - len(_SUFFIX)
"""Bytes after which a component is cut, at most. What is left of one can always take the suffix."""

_NOT_NAMES = frozenset({"", ".", ".."})
_PART_OF_ESCAPE = re.compile(r"%[0-9A-F]?$")
_PLAIN = re.compile(r"[ -$&-~]*")
_UNSAFE = re.compile(rb"[\x00-\x1f\x7f%]|[\x80-\xff]+")
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_REVISION = re.compile(r"[0-9a-f]{32}", re.ASCII)
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")


def escape(component: str) -> str:
    """One path component as it stands in a key: '%', control characters and what is not UTF-8 become '%XX'."""
    if _PLAIN.fullmatch(component):
        return component

    def replace(match: re.Match[bytes]) -> bytes:
        run = match.group()
        if run[0] >= 0x80:
            try:
                run.decode()
            except UnicodeDecodeError:
                pass  # not text: escaped byte by byte below
            else:
                return run
        return b"".join(b"%%%02X" % byte for byte in run)

    return _UNSAFE.sub(replace, os.fsencode(component)).decode()


def unescape(component: str) -> str:
    """The inverse of `escape`, also of several components with slashes between them."""
    if _PLAIN.fullmatch(component):
        return component
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match.group(1), 16)]), component.encode()))


@lru_cache(RECENT_NAMES)
def manifest_key(path: str) -> str:
    """The key of the manifest of a conversation or directory. Raises `NameTooLong`."""
    parent, name = split(path)
    key = children_prefix(parent) + _cut(escape(name), COMPONENT_LIMIT - len(_SUFFIX)) + _SUFFIX
    # Escaped it is never shorter.
    size = _bytes(key)
    if size > NAME_LIMIT:
        long = any(len(part) > NAME_LIMIT for part in os.fsencode(path).split(b"/"))
        if long or size > KEY_LIMIT - PREFIX_ALLOWANCE:
            raise NameTooLong(f"the name is too long for a store: {display(path)}")
    return key


@lru_cache(RECENT_DIRECTORIES)
def children_prefix(directory: str) -> str:
    """The prefix of the keys of everything in `directory`."""
    if not directory:
        return MANIFESTS
    return MANIFESTS + "".join(_cut(_escape_directory(part), COMPONENT_LIMIT) + "/" for part in directory.split("/"))


def is_cut(prefix: str) -> bool:
    """Whether `prefix` is the beginning of longer names: what lies below it lies in the same directory."""
    return prefix.endswith(_CUT)


def bundles_prefix(prefix: str) -> str:
    """With what the keys of the bundles begin that are below `prefix`, that of a directory's children."""
    return prefix + _BUNDLE


def is_bundle(key: str) -> bool:
    """Whether a bundle lies under `key`."""
    return key.startswith(_BUNDLE, key.rfind("/") + 1) and key.startswith(MANIFESTS)


def place_of(key: str) -> tuple[str, str]:
    """The prefix of the directory that a manifest with that key is in, and its name there, as in a bundle."""
    end = key.rfind("/") + 1
    return key[:end], key[end:].removesuffix(_SUFFIX)


def key_in(prefix: str, name: str) -> str:
    """The inverse of `place_of`."""
    return prefix + name + _SUFFIX


def may_be_bundled(key: str) -> bool:
    """Whether a manifest with that key may be in a bundle: those that come before the bundles in a listing may not, nor
    may those whose names are so long that they are cut; and in the root nothing may, and no bundle in a bundle."""
    prefix, name = place_of(key)
    if not key.endswith(_SUFFIX) or not prefix.startswith(MANIFESTS) or prefix == MANIFESTS or prefix.endswith(_CUT):
        return False
    return name > _BUNDLE and not name.startswith(_BUNDLE)


def path_of_manifest(key: str) -> str:
    """The path whose manifest lies under `key`. Raises `CorruptObject` for a key that no path has."""
    escaped = key.removeprefix(MANIFESTS).replace(_CUT, "")
    path = unescape(escaped.removesuffix(_SUFFIX))
    if not escaped.endswith(_SUFFIX) or not is_path(path) or manifest_key(path) != key:
        raise CorruptObject(f"{key} is not the key of a manifest")
    return path


def path_of_prefix(prefix: str) -> str:
    """The directory whose children lie under `prefix`. Raises `CorruptObject` for a prefix that no directory has."""
    parts = prefix.removeprefix(MANIFESTS).replace(_CUT, "").rstrip("/").split("/")
    path = "/".join(map(unescape, parts))
    if not is_path(path) or children_prefix(path) != prefix:
        raise CorruptObject(f"{prefix} is not the prefix of a directory")
    return path


def is_path(path: str) -> bool:
    """Whether `path` is one that a mounted tree can show: no empty, '.' or '..' component, no NUL."""
    return "\0" not in path and _NOT_NAMES.isdisjoint(path.split("/"))


def split(path: str) -> tuple[str, str]:
    """The directory of `path` and its name in it."""
    parent, _, name = path.rpartition("/")
    return parent, name


def join(directory: str, name: str) -> str:
    """The path of `name` in `directory`."""
    return f"{directory}/{name}" if directory else name


def shard_key(id: str) -> str:
    """The key of a shard of the index; `id` is unique to its writer."""
    return INDEX_SHARDS + id


def segment_key(digest: str) -> str:
    """The key of the record of the segment with this hexadecimal SHA-256."""
    return f"{SEGMENTS}{digest[:2]}/{digest}"


def blob_key(digest: str, revision: str) -> str:
    """The key of a redirected payload; `revision` is unique to its writer."""
    return f"{BLOBS}{digest[:2]}/{digest}/{revision}"


def dictionary_key(id: str) -> str:
    """The key of the dictionary with this id."""
    return f"{DICTIONARIES}{id}"


def id_of_dictionary(key: str) -> str:
    """The dictionary that lies under `key`. Raises `CorruptObject` for a key that none has."""
    id = key.removeprefix(DICTIONARIES)
    if not is_digest(id) or dictionary_key(id) != key:
        raise CorruptObject(f"{key} is not the key of a dictionary")
    return id


def digest_of_segment(key: str) -> str:
    """The segment whose record lies under `key`. Raises `CorruptObject` for a key that no record has."""
    digest = key.rpartition("/")[2]
    if not is_digest(digest) or segment_key(digest) != key:
        raise CorruptObject(f"{key} is not the key of a segment record")
    return digest


def revision_of_blob(key: str) -> tuple[str, str]:
    """Segment and revision of the payload that lies under `key`. Raises `CorruptObject` for a key that none has."""
    digest, _, revision = key.removeprefix(BLOBS)[3:].partition("/")
    if not is_digest(digest) or not _REVISION.fullmatch(revision) or blob_key(digest, revision) != key:
        raise CorruptObject(f"{key} is not the key of a redirected payload")
    return digest, revision


def is_digest(text: str) -> bool:
    """Whether `text` is a SHA-256 as stowfs writes them: 64 lower-case hexadecimal digits."""
    return _DIGEST.fullmatch(text) is not None


def to_text(path: str) -> str:
    """A path as text that can be encoded: itself where it is UTF-8, else its bytes in hexadecimal after a NUL, which no
    path has."""
    if path.isascii():
        return path
    raw = os.fsencode(path)
    try:
        raw.decode()
    except UnicodeDecodeError:
        return "\0" + raw.hex()
    return path


def from_text(text: str) -> str:
    """The path of which this is the text. Raises `ValueError` where it is none."""
    return os.fsdecode(bytes.fromhex(text[1:])) if text.startswith("\0") else text


def display(path: str) -> str:
    """`path` for a message or a log: printable whatever bytes it holds."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _bytes(text: str) -> int:
    """How many bytes `text` has in a key."""
    return len(text) if text.isascii() else len(text.encode())


def _escape_directory(component: str) -> str:
    escaped = escape(component)
    if escaped.endswith(_SUFFIX):
        escaped = escaped.removesuffix(_SUFFIX) + "%2Ejson"
    return escaped


def _cut(escaped: str, room: int) -> str:
    """An escaped component cut into several, the last of at most `room` bytes, where it is longer than that.

    No character and no escape is cut in two.
    """
    if _bytes(escaped) <= room:
        return escaped
    parts = []
    while len(rest := escaped.encode()) > room:
        part = _PART_OF_ESCAPE.sub("", rest[:_CUT_AFTER].decode(errors="ignore"))
        parts.append(part)
        escaped = escaped[len(part) :]
    return _CUT.join([*parts, escaped])
