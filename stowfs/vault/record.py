"""Segment records: the mutable object of one segment, and the transitions of its state (DESIGN §6) as pure functions.

A record is one JSON header line and then the payload, unless the header redirects to a blob. The payload sits in the
record so that "collect" and "someone just deduplicated against it" meet in one compare-and-swap. Counts may be too
high after a crash, never too low.
"""

import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec

from stowfs import codec
from stowfs.codec import Dictionary
from stowfs.config import KIB, MIB
from stowfs.errors import CorruptObject, UnsupportedVersion
from stowfs.vault.ring import Ring, Verdict, first_ring
from stowfs.vault.untrusted import Count, Level, Moment, Revision, Size, Word, parse

VERSION = 1

REDIRECT_ABOVE = 128 * KIB
"""Compressed bytes above which a payload is redirected to a blob, since every change of the count rewrites the record.

The largest run (256 KiB) of text stays below, so that sealing it costs one request and reading it one; images in base64
and the like do not."""

RAW_LIMIT = 4 * MIB
"""Raw bytes a segment may claim: sixteen times the largest run, so that other segmenter parameters still fit."""

HEADER_LIMIT = 4 * KIB
"""Bytes in which a header surely ends: a full ring takes some 600 of them, everything else 400."""

MANY = 256
"""The count at which nobody counts any more. Beyond some hundred conversations a segment is a fleet's system prompt:
it will hardly ever be free, and counting it would make one object hot for everybody."""


class Replaced(msgspec.Struct, frozen=True, array_like=True):
    """A blob that was the payload until the time `since`; a reader may be on its way to it. No record will ever name
    it again."""

    revision: Revision
    since: Moment


class Header(msgspec.Struct, frozen=True, omit_defaults=True):
    """The first line of a record. `stored_size` is the compressed size; `dictionary` the name of the one that the
    payload was made with; `level` the zstd level, where it was recompressed (0: that of commits); `replaced`: a blob
    that is to be deleted; times in seconds since the epoch."""

    hash: Word
    state: Literal["live", "dead"]
    ref_count: Count
    ring: Ring
    raw_size: Size
    stored_size: Size
    created_at: Moment
    # A factory, since a plain default would be left out of what is stored.
    v: int = msgspec.field(default_factory=lambda: VERSION)
    dictionary: Word | None = None
    type: Literal["data", "page"] = "data"
    zero_since: Moment | None = None
    redirect: Revision | None = None
    level: Level = 0
    replaced: Replaced | None = None

    @property
    def named(self) -> set[str]:
        """The revision keys of the blobs that belong to this record."""
        of_payload = {self.redirect} if self.state == "live" and self.redirect is not None else set()
        return of_payload | ({self.replaced.revision} if self.replaced is not None else set())


@dataclass(frozen=True, slots=True)
class Record:
    """A segment record: `payload` is the compressed bytes, empty where redirected or dead."""

    header: Header
    payload: bytes


@dataclass(frozen=True, slots=True)
class Payload:
    """A segment's bytes ready to be stored. `dictionary`: the name of the one they were compressed with. `redirect`:
    the revision key under which the compressed bytes were written. `level`: see `Header`."""

    digest: str
    compressed: bytes
    raw_size: int
    type: Literal["data", "page"] = "data"
    dictionary: str | None = None
    redirect: str | None = None
    level: int = 0


@dataclass(frozen=True, slots=True)
class Operation:
    """One counted change: its id (the commit's id and a suffix), and what is known of earlier attempts.

    `fresh`: it was certainly never carried out. Otherwise `since` is the record's generation before the first
    attempt, `None` where a crash has forgotten it.
    """

    id: str
    fresh: bool = True
    since: int | None = None

    def verdict(self, ring: Ring) -> Verdict:
        """Whether this operation is already part of the record."""
        if self.fresh:
            return Verdict.DID_NOT_HAPPEN
        return ring.verdict(self.id, since=self.since)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Header)


def encode(record: Record) -> bytes:
    """The object that stores `record`."""
    return _encoder.encode(record.header) + b"\n" + record.payload


def decode(digest: str, body: bytes) -> Record:
    """The record of segment `digest` that `encode` stored. Raises `CorruptObject` or `UnsupportedVersion`."""
    header = decode_header(digest, body)
    payload = bytes(payload_of(body))
    if header.state == "live" and header.redirect is None and len(payload) != header.stored_size:
        raise CorruptObject(f"the record of segment {digest} contradicts itself")
    return Record(header, payload)


def payload_of(body: bytes) -> memoryview:
    """What follows the header of a record: its payload, as far as that is not redirected."""
    end = body.find(b"\n", 0, HEADER_LIMIT)
    return memoryview(body)[end + 1 :] if end >= 0 else memoryview(b"")


def decode_header(digest: str, start: bytes) -> Header:
    """The header of a record that begins with `start` (`HEADER_LIMIT` bytes of it are enough). Errors as `decode`."""
    line, newline, _ = start[:HEADER_LIMIT].partition(b"\n")
    header = parse(_decoder, line, f"the record of segment {digest}")
    if header.v != VERSION:
        raise UnsupportedVersion(
            f"segment {digest} has format version {header.v}; this stowfs reads {VERSION}: upgrade it"
        )
    if not newline or header.hash != digest:
        raise CorruptObject(f"the record of segment {digest} contradicts itself")
    return header


def unpack(digest: str, raw_size: int, compressed: bytes, dictionary: Dictionary | None = None) -> bytes:
    """The raw bytes of a segment, compressed with this dictionary. Raises `CorruptObject`; the caller still has to
    check the SHA-256."""
    if not 0 <= raw_size <= RAW_LIMIT:
        raise CorruptObject(f"segment {digest} claims {raw_size} bytes")
    try:
        return codec.decompress(compressed, expected=raw_size, dictionary=dictionary)
    except CorruptObject as error:
        raise CorruptObject(f"segment {digest}: {error}") from error


def acquire(
    record: Record | None,
    operations: Iterable[Operation],
    payload: Payload | None,
    *,
    dictionary: Dictionary | None = None,
    many: int = MANY,
) -> Record:
    """Counts one reference for each operation that is not yet counted; a doubt is counted.

    `payload` brings a segment (back) to life that is absent or dead; there it is required. `dictionary`: the one that
    the record's own payload was made with, if it can be had. Returns `record` itself where nothing changes.
    """
    if record is None or record.header.state == "dead":
        if payload is None:
            raise CorruptObject("a segment that is referenced is not in the store")
        ids = tuple(operation.id for operation in operations)
        old = record.header.ring if record else first_ring()
        return Record(
            Header(
                hash=payload.digest,
                state="live",
                ref_count=min(len(ids), many),
                ring=old.add(*ids),
                raw_size=payload.raw_size,
                stored_size=len(payload.compressed),
                created_at=time.time(),
                dictionary=payload.dictionary,
                type=payload.type,
                redirect=payload.redirect,
                replaced=record.header.replaced if record else None,
            ),
            b"" if payload.redirect else payload.compressed,
        )
    if payload is not None and not _holds(record, payload, dictionary):
        header = msgspec.structs.replace(
            record.header,
            raw_size=payload.raw_size,
            stored_size=len(payload.compressed),
            dictionary=payload.dictionary,
            level=payload.level,
        )
        record = Record(header, payload.compressed)
        # Saturated or not, the mended payload has to be written: the id makes the body a new one.
        ids = tuple(op.id for op in operations)
        return _recount(record, len(ids), ids, many)
    if record.header.ref_count >= many:
        return record
    ids = tuple(op.id for op in operations if op.verdict(record.header.ring) is not Verdict.HAPPENED)
    return _recount(record, len(ids), ids, many)


def release(record: Record | None, operations: Iterable[Operation], *, many: int = MANY) -> Record | None:
    """Takes one reference away for each operation that certainly did not happen yet. Returns `record` where nothing
    changes."""
    if record is None or record.header.state == "dead" or record.header.ref_count >= many:
        return record
    ids = tuple(op.id for op in operations if op.verdict(record.header.ring) is Verdict.DID_NOT_HAPPEN)
    return _recount(record, -len(ids), ids, many)


def undo(
    record: Record | None, digest: str, acquired: str, undoing: Operation, *, certain: bool = False, many: int = MANY
) -> Record:
    """Rolls the acquire `acquired` back, for good: where it did not happen, the record still changes (a dead one
    appears, where there was none), so that a write of it that is on its way is refused. In doubt the count stays too
    high; `certain`: there is none.
    """
    if record is None:
        return Record(Header(digest, "dead", 0, first_ring().add(undoing.id), 0, 0, time.time()), b"")
    if record.header.ref_count >= many:
        return record
    ring = record.header.ring
    if undoing.verdict(ring) is not Verdict.DID_NOT_HAPPEN:
        return record
    happened = certain or ring.verdict(acquired) is Verdict.HAPPENED
    return _recount(record, -1 if happened and record.header.state == "live" else 0, (undoing.id,), many)


def collect(record: Record | None, op: str, *, before: float) -> Record | None:
    """A segment that has had no reference since before the time `before` becomes dead; its payload is dropped."""
    if record is None or record.header.state == "dead" or record.header.ref_count > 0:
        return record
    if record.header.zero_since is None or record.header.zero_since > before:
        return record
    header = msgspec.structs.replace(
        record.header, state="dead", ring=record.header.ring.add(op), stored_size=0, redirect=None
    )
    return Record(header, b"")


def recompress(record: Record | None, op: str, payload: Payload) -> Record | None:
    """The same segment with another payload; its count stays. What is dead or absent stays so, and so does what has a
    blob to be deleted already, where there would be a second one."""
    if record is None or record.header.state == "dead":
        return record
    replaced = record.header.replaced
    if record.header.redirect is not None:
        if replaced is not None:
            return record
        replaced = Replaced(record.header.redirect, time.time())
    header = msgspec.structs.replace(
        record.header,
        ring=record.header.ring.add(op),
        stored_size=len(payload.compressed),
        dictionary=payload.dictionary,
        redirect=payload.redirect,
        level=payload.level,
        replaced=replaced,
    )
    return Record(header, b"" if payload.redirect else payload.compressed)


def forget_replaced(record: Record | None, op: str, revision: str) -> Record | None:
    """The blob `revision` that was replaced is deleted."""
    if record is None or record.header.replaced is None or record.header.replaced.revision != revision:
        return record
    return Record(
        msgspec.structs.replace(record.header, ring=record.header.ring.add(op), replaced=None), record.payload
    )


def _holds(record: Record, payload: Payload, dictionary: Dictionary | None) -> bool:
    """Whether a record's own payload is sound, so that a writer may rely on it instead of storing its bytes again.

    A redirected one is believed: it would cost another request, and `fsck` reads it.
    """
    if record.header.redirect is not None:
        return True
    if record.payload == payload.compressed and record.header.raw_size == payload.raw_size:
        return True
    try:
        raw = unpack(payload.digest, record.header.raw_size, record.payload, dictionary)
    except CorruptObject:
        return False
    return hashlib.sha256(raw).hexdigest() == payload.digest


def _recount(record: Record, change: int, ids: tuple[str, ...], many: int) -> Record:
    if not ids:
        return record
    header = record.header
    count = max(0, min(header.ref_count + change, many))
    zero_since = None if count else header.zero_since or time.time()
    header = msgspec.structs.replace(header, ref_count=count, ring=header.ring.add(*ids), zero_since=zero_since)
    return Record(header, record.payload)
