"""The index of a store, as it lies there: what listings show, for hosts that have not read the manifests.

`index/current`, the pointer, names *shards* and the ranges of keys that each is good for, which do not overlap; what
lies between them is in none. It changes by compare-and-swap only. A shard is written once, under a key that is never
used again: the ETag that a listing gave for each manifest, and the version that this ETag stands for. So a shard is
never wrong, only out of date: it tells nothing about a manifest that has another ETag now. The pointer has the SHA-256
of each.

A bundle has a row, too: what the version with that ETag holds, whether or not the names have rows. So a listing in
which each manifest has a line of its own needs no bundle to be read.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec

from stowfs import codec
from stowfs.config import MIB
from stowfs.errors import CorruptObject, UnsupportedVersion
from stowfs.vault import version as versions
from stowfs.vault.bundle import MEMBERS, Member, id_of, may_have
from stowfs.vault.naming import INDEX_POINTER, KEY_LIMIT, MANIFESTS, shard_key
from stowfs.vault.ring import new_id
from stowfs.vault.untrusted import Count, Digest, Revision, Word, parse
from stowfs.vault.version import Version

VERSION = 1

ENTRIES = 25_000
"""Manifests and bundles in a shard: a hundred thousand take four requests, a shard of two megabytes some eight of
memory, and one conversation that is new makes no more than that out of date."""

ROWS_LIMIT = 4 * ENTRIES
"""Rows of a shard that are read: none has as many."""

RAW_LIMIT = 16 * MIB
"""Bytes of a decompressed shard or pointer: an honest shard has about five megabytes."""

FULL = 8 * MIB
"""Bytes of rows at which a shard is complete, however few they are."""

SHARDS_LIMIT = 20_000
"""Shards that a pointer may name: a store of half a billion conversations, in four megabytes."""

Key = Annotated[str, msgspec.Meta(max_length=KEY_LIMIT)]
Row = tuple[Key, Word, msgspec.Raw]
"""Key and ETag of a manifest, and the packed version; or of a bundle, and its packed members, which are no version."""

PackedMembers = bytes
"""What a bundle holds (nothing, unless it is committed), which takes a third of the memory so."""


class ShardInfo(msgspec.Struct, frozen=True):
    """What the pointer says of a shard: good for the keys greater than `after` up to `last` itself (''; to the end),
    with the SHA-256 of the object and the number of its rows."""

    id: Revision
    digest: Digest
    after: Key
    last: Key
    count: Count

    def covers(self, key: str) -> bool:
        """Whether it is good for a key."""
        return self.after < key and (not self.last or key <= self.last)


class Pointer(msgspec.Struct, frozen=True):
    """The shards by their keys. `commit` is the id of the write that made it."""

    commit: Word
    shards: Annotated[tuple[ShardInfo, ...], msgspec.Meta(max_length=SHARDS_LIMIT)] = ()
    v: int = msgspec.field(default_factory=lambda: VERSION)

    def covering(self, key: str) -> ShardInfo | None:
        """The shard that is good for a key."""
        index = bisect_left(self.shards, key, key=lambda shard: shard.after) - 1
        return self.shards[index] if index >= 0 and self.shards[index].covers(key) else None

    def before(self, key: str) -> ShardInfo | None:
        """The last shard before a key that is in none."""
        index = bisect_left(self.shards, key, key=lambda shard: shard.after) - 1
        return self.shards[index] if index >= 0 else None

    def having(self, new: Sequence[ShardInfo]) -> "Pointer":
        """The pointer with consecutive new shards; earlier ones keep what these are not good for."""
        after, last = new[0].after, new[-1].last
        kept = [part for shard in self.shards for part in _outside(shard, after, last)]
        return Pointer(new_id(), tuple(sorted([*kept, *new], key=lambda shard: shard.after)))


def _outside(shard: ShardInfo, after: str, last: str) -> Iterator[ShardInfo]:
    """What is left of a shard that another one, for `after` to `last`, takes keys from."""
    if shard.last and shard.last <= after:
        yield shard
        return
    if last and shard.after >= last:
        yield shard
        return
    if shard.after < after:
        yield msgspec.structs.replace(shard, last=after)
    if last and (not shard.last or shard.last > last):
        yield msgspec.structs.replace(shard, after=last)


class Shard:
    """The rows of a shard that was read: they stay packed, in the memory they were read into."""

    def __init__(self, rows: Sequence[msgspec.Raw]) -> None:
        self._rows = rows
        self._next = 0

    def version(self, key: str, etag: str) -> Version | None:
        """The version of a manifest, if this is the ETag it was indexed under."""
        try:
            found = self._row(key)
            return versions.decode(bytes(found[2])) if found is not None and found[:2] == (key, etag) else None
        except (CorruptObject, msgspec.MsgspecError, UnicodeDecodeError):
            return None  # of a later version of stowfs, or made to do harm: then it is fetched

    def held(self, key: str) -> tuple[str, PackedMembers] | None:
        """What a bundle held, and the ETag it was indexed under."""
        try:
            found = self._row(key)
            # A copy: it is kept when the shard is not any more.
            return (found[1], bytes(found[2])) if found is not None and found[0] == key else None
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None  # as above

    def _row(self, key: str) -> Row | None:
        """The row of a key, or another one where there is none."""
        found = self._unpack(self._next)
        if found is None or found[0] != key:
            # Most often it is the next one: who asks goes by key.
            self._next = bisect_left(self._rows, key, key=_key)
            found = self._unpack(self._next)
        self._next += 1
        return found

    def _unpack(self, index: int) -> Row | None:
        return _row_decoder.decode(self._rows[index]) if index < len(self._rows) else None


def _key(packed: msgspec.Raw) -> str:
    return _row_decoder.decode(packed)[0]


_row_encoder = msgspec.msgpack.Encoder()
_row_decoder: msgspec.msgpack.Decoder[Row] = msgspec.msgpack.Decoder(Row)
_members_decoder: msgspec.msgpack.Decoder[list[Member]] = msgspec.msgpack.Decoder(
    Annotated[list[Member], msgspec.Meta(max_length=MEMBERS)]
)
_rows_decoder = msgspec.msgpack.Decoder(Annotated[list[msgspec.Raw], msgspec.Meta(max_length=ROWS_LIMIT)])
_pointer_decoder = msgspec.json.Decoder(Pointer)


class _Version(msgspec.Struct):
    v: int


_version_decoder = msgspec.json.Decoder(_Version)


def row(key: str, etag: str, version: Version) -> Row:
    """What a shard has of a manifest."""
    return key, etag, msgspec.Raw(versions.encode(version))


def bundle_row(key: str, etag: str, members: Sequence[Member]) -> Row:
    """What a shard has of a bundle."""
    return key, etag, msgspec.Raw(_row_encoder.encode(members))


def decode_members(key: str, packed: PackedMembers) -> list[Member]:
    """What the bundle with that key holds. Raises `CorruptObject`."""
    try:
        members = _members_decoder.decode(packed)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptObject(f"what is indexed of {key} is not valid: {error}") from error
    id_of(key)
    if not may_have(key, members):
        raise CorruptObject(f"what is indexed of {key} cannot be in a bundle")
    return members


def encode_shard(rows: Sequence[Row], after: str, last: str) -> tuple[ShardInfo, bytes]:
    """The object that stores `rows`, which are in the order of their keys, and what the pointer says of it; blocks."""
    body = codec.compress(_row_encoder.encode(rows))
    return ShardInfo(new_id(), hashlib.sha256(body).hexdigest(), after, last, len(rows)), body


def decode_shard(info: ShardInfo, body: bytes) -> Shard:
    """The rows of a shard; blocks. Raises `CorruptObject`."""
    if hashlib.sha256(body).hexdigest() != info.digest:
        raise CorruptObject(f"{shard_key(info.id)} does not match its SHA-256")
    raw, _ = codec.decompress_first(body, limit=RAW_LIMIT)
    try:
        rows = _rows_decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptObject(f"{shard_key(info.id)} is not valid: {error}") from error
    return Shard(rows)


def encode_pointer(pointer: Pointer) -> bytes:
    """The object that stores the pointer."""
    return codec.compress(msgspec.json.encode(pointer))


def decode_pointer(body: bytes) -> Pointer:
    """The pointer. Raises `CorruptObject`, `UnsupportedVersion`."""
    raw, _ = codec.decompress_first(body, limit=RAW_LIMIT)
    if parse(_version_decoder, raw, INDEX_POINTER).v != VERSION:
        raise UnsupportedVersion(f"{INDEX_POINTER} has another version: the index is left to those who know it")
    pointer = parse(_pointer_decoder, raw, INDEX_POINTER)
    bounds = [bound for shard in pointer.shards for bound in (shard.after, shard.last or _END)]
    if bounds != sorted(bounds):
        raise CorruptObject(f"the shards in {INDEX_POINTER} overlap")
    return pointer


_END = MANIFESTS[:-1] + chr(ord(MANIFESTS[-1]) + 1)
"""Greater than the key of any manifest."""
