"""Manifests: the commit point of one conversation, directory or symbolic link, and the tombstone it leaves.

The stored object is two zstd frames, made with the same dictionary, if any: a JSON header, and the inline bytes. The
header lists the *pieces* of the
conversation in order: a reference to a segment, a reference to a page of references, or a number: that many of the
inline bytes. The last piece may be the unsealed run (`tail` bytes), which the next append cuts anew.

A directory has no pieces; the inline bytes of a symbolic link are its target, as one piece. A tombstone has `deleted`;
it keeps the pieces (and so their references) as long as the conversation can be undeleted, and the ring always, since a
writer may still have to find out there what became of its commit. What comes after a directory, under the same key,
keeps its `bundles` (see `bundled_directories`).

`blobs` are hints: where the bytes of large segments were when the manifest was written, so that a reader need not ask
their records first. Nothing relies on them: the bytes have to match the SHA-256, and where there are none any more, or
others, the record tells; no collection looks at them. Segments that a page lists have none, since pages are the same
whoever makes them, and never change.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Literal

import msgspec

from stowfs import codec
from stowfs.codec import BytesLike, Dictionary
from stowfs.config import MIB
from stowfs.errors import CorruptObject, UnsupportedVersion
from stowfs.vault import expiry
from stowfs.vault.naming import display
from stowfs.vault.ring import Ring
from stowfs.vault.untrusted import (
    EARLIEST,
    LATEST,
    Count,
    Digest,
    Level,
    Moment,
    Nanoseconds,
    Owner,
    Permissions,
    RevisionHint,
    Size,
    Word,
    parse,
)

VERSION = 1

HEADER_LIMIT = 1 * MIB
"""Bytes a decompressed header may claim. An honest one has some hundreds of references of 80 bytes, a quarter of this
at most; a hostile one costs some ten times its size in memory."""

INLINE_LIMIT = 8 * MIB
"""Bytes the decompressed inline part may claim: 2 MiB of sealed runs (see `placement`), and a last run of any size that
a segment may have."""

LEVEL_LIMIT = 4
"""Levels of pages. Four hold 128^4 segments, far more than any file; a deeper one is hostile."""


TARGET_LIMIT = 4095
"""Bytes of the target of a symbolic link: what Linux takes (PATH_MAX, less the NUL at its end)."""


class Reference(msgspec.Struct, frozen=True, array_like=True):
    """A piece that is stored as a segment: SHA-256 (hexadecimal) of its raw bytes, and the bytes of the conversation
    it stands for. Level 0: the segment holds these bytes; n > 0: it is a page that lists references of level n-1."""

    digest: Digest
    size: Annotated[int, msgspec.Meta(ge=1, le=1 << 60)]
    level: Annotated[int, msgspec.Meta(ge=0, le=LEVEL_LIMIT)] = 0


Piece = Reference | int

Kind = Literal["conversation", "directory", "symlink"]


class Attributes(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """POSIX attributes: permission bits, owner, and times in nanoseconds since the epoch.

    `atime_ns` is a time of access that somebody set; reading does not change it. `extended`: see `extended`.
    `expires_ns` is the deadline (see `expiry`).
    """

    mode: Permissions
    uid: Owner
    gid: Owner
    mtime_ns: Nanoseconds
    ctime_ns: Nanoseconds
    atime_ns: Nanoseconds | None = None
    extended: tuple[tuple[bytes, bytes], ...] = ()
    expires_ns: Nanoseconds | None = None


def representable(time_ns: int) -> int:
    """The time that is stored for one that somebody has set: as in other file systems the nearest there is."""
    return min(max(time_ns, EARLIEST), LATEST)


class Facts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What segmentation found out about a conversation. `time`: its own start, seconds since the epoch.
    `tail_messages`: how many of `messages` lie in the unsealed run. `resumable`: cutting can go on from any sealed
    end."""

    format: Word = "bytes"
    resumable: bool = False
    model: Word | None = None
    application: Word | None = None
    messages: Count | None = None
    time: Moment | None = None
    tail_messages: Count = 0


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """The header of a manifest. `commit` is the id of the write that made it, also the newest in `ring`; `tail` the
    raw size of the unsealed run; `inline` the raw size of all inline bytes and `inline_digest` their SHA-256."""

    commit: Word
    ring: Ring
    attributes: Attributes
    # A factory, since a plain default would be left out of what is stored.
    v: int = msgspec.field(default_factory=lambda: VERSION)
    kind: Kind = "conversation"
    size: Size = 0
    pieces: tuple[Reference | Size, ...] = ()
    tail: Size = 0
    inline: Annotated[int, msgspec.Meta(ge=0, le=INLINE_LIMIT)] = 0
    inline_digest: Word = ""
    facts: Facts = Facts()
    deleted: Moment | None = None
    # Of a directory: whether some of what is in it may be in bundles.
    bundles: bool = False
    # The zstd level of the frames, where they were recompressed (0: that of commits).
    level: Level = 0
    # Revision keys of the first references of level 0 among `pieces`, in their order; see `blobs_of`.
    blobs: tuple[RevisionHint, ...] = ()

    @property
    def live(self) -> bool:
        """Whether this is no tombstone, and has not expired: at this moment, so ask again."""
        return self.deleted is None and not expiry.is_over(self.attributes.expires_ns)

    @property
    def expired(self) -> bool:
        """Whether there is something here, live or in the trash, but for its deadline, which has passed."""
        return self.holds_something and expiry.is_over(self.attributes.expires_ns)

    @property
    def content(self) -> tuple[str, tuple[Reference | int, ...], str]:
        """What tells the bytes of this version from those of any other, whatever its attributes and ring."""
        return self.kind, self.pieces, self.inline_digest

    @property
    def holds_something(self) -> bool:
        """Whether this is more than an empty tombstone."""
        return self.deleted is None or bool(self.pieces)


NO_BLOBS: Mapping[str, str] = {}
"""For who does not know where the bytes of any segment are."""


@dataclass(frozen=True)
class Snapshot:
    """One version of one conversation, directory or symbolic link as it lies in the store; immutable.

    `body` is the stored object, `dictionary` the one that its frames were made with. The inline bytes are in it,
    compressed; `unpacked` are the same, as long as they are at hand (see `pack`)."""

    path: str
    etag: str
    manifest: Manifest
    body: bytes = field(repr=False)
    dictionary: Dictionary | None = field(default=None, compare=False, repr=False)
    unpacked: bytes | None = field(default=None, compare=False, repr=False)

    @property
    def inline(self) -> bytes:
        """The inline bytes; where they are not at hand, decompressed anew each time. Raises `CorruptObject`."""
        # Once: a worker thread may be here while it is packed.
        unpacked = self.unpacked
        if unpacked is not None:
            return unpacked
        try:
            _, frame = codec.decompress_first(self.body, limit=HEADER_LIMIT, dictionary=self.dictionary)
            return _unpack(self.manifest, frame, self.dictionary)
        except CorruptObject as error:
            raise CorruptObject(f"{display(self.path)}: {error}") from error

    def pack(self) -> None:
        """Keeps no inline bytes at hand: for who keeps many snapshots."""
        object.__setattr__(self, "unpacked", None)

    @property
    def stored_size(self) -> int:
        """Bytes of the stored object."""
        return len(self.body)

    @property
    def size(self) -> int:
        """Bytes of the conversation, or of the target of a symbolic link."""
        return self.manifest.size

    @property
    def attributes(self) -> Attributes:
        """POSIX attributes."""
        return self.manifest.attributes

    @property
    def is_directory(self) -> bool:
        """Whether this is a directory."""
        return self.manifest.kind == "directory"

    @property
    def is_symlink(self) -> bool:
        """Whether this is a symbolic link."""
        return self.manifest.kind == "symlink"

    @property
    def is_conversation(self) -> bool:
        """Whether this is neither a directory nor a symbolic link."""
        return self.manifest.kind == "conversation"

    @property
    def target(self) -> bytes:
        """Where a symbolic link leads: any bytes but NUL, as they were given."""
        return self.inline if self.is_symlink else b""

    @property
    def sealed_end(self) -> int:
        """Where the unsealed run begins: what lies before is cut for good."""
        return self.manifest.size - self.manifest.tail

    def has_content_of(self, other: "Snapshot") -> bool:
        """Whether neither is a tombstone and both have the same bytes by their manifests: at most attributes or rings
        differ."""
        a, b = self.manifest, other.manifest
        return a.deleted is None and b.deleted is None and a.content == b.content

    @property
    def content_id(self) -> str:
        """The same for versions that have the same bytes by their manifests: a digest."""
        return hashlib.sha256(_encoder.encode(self.manifest.content)).hexdigest()

    @cached_property
    def blobs(self) -> Mapping[str, str]:
        """Where the bytes of segments probably are that have redirects: revision keys by digest."""
        if not self.manifest.blobs:
            return NO_BLOBS
        digests = (piece.digest for piece in self.top_references if piece.level == 0)
        return {digest: blob for digest, blob in zip(digests, self.manifest.blobs, strict=False) if blob}

    @cached_property
    def top_references(self) -> tuple[Reference, ...]:
        """The references that stand in the manifest itself, in order."""
        return tuple(piece for piece in self.manifest.pieces if isinstance(piece, Reference))


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Manifest)


class _Version(msgspec.Struct):
    v: int = 0


_version_decoder = msgspec.json.Decoder(_Version)


def blobs_of(pieces: Sequence[Piece], *known: Mapping[str, str]) -> tuple[str, ...]:
    """What `Manifest.blobs` is for these pieces. `known`: see `Snapshot.blobs`; what comes first is believed."""
    digests = (piece.digest for piece in pieces if isinstance(piece, Reference) and piece.level == 0)
    blobs = [next((blobs[digest] for blobs in known if digest in blobs), "") for digest in digests]
    last = max((place for place, blob in enumerate(blobs) if blob), default=-1)
    return tuple(blobs[: last + 1])


def encode_header(manifest: Manifest) -> bytes:
    """The header of a manifest before it is compressed."""
    return _encoder.encode(manifest)


def encode(
    manifest: Manifest, inline: bytes, dictionary: Dictionary | None = None, *, level: int = codec.LEVEL
) -> bytes:
    """The object that stores `manifest` with its inline bytes, compressed at `level`, whatever it was before."""
    return b"".join(codec.compress(part, level=level, dictionary=dictionary) for part in parts(manifest, inline, level))


def parts(manifest: Manifest, inline: bytes, level: int = codec.LEVEL) -> list[bytes]:
    """What `encode` makes frames of."""
    noted = 0 if level == codec.LEVEL else level
    if manifest.level != noted:
        manifest = msgspec.structs.replace(manifest, level=noted)
    header = encode_header(manifest)
    return [header, inline] if inline else [header]


def decode(path: str, etag: str, body: bytes, dictionary: Dictionary | None = None) -> Snapshot:
    """The snapshot that `encode` stored with this dictionary. Raises `CorruptObject` or `UnsupportedVersion`."""
    header, rest = codec.decompress_first(body, limit=HEADER_LIMIT, dictionary=dictionary)
    version = parse(_version_decoder, header, "the manifest").v
    if version != VERSION:
        raise UnsupportedVersion(f"the manifest has format version {version}; this stowfs reads {VERSION}: upgrade it")
    manifest = parse(_decoder, header, "the manifest")
    inline = _unpack(manifest, rest, dictionary)
    _check_sizes(manifest)
    if manifest.kind == "symlink" and (manifest.live or manifest.pieces):
        _check_target(manifest, inline)
    return Snapshot(path, etag, manifest, body, dictionary if codec.dictionary_number(body) else None, inline)


def _unpack(manifest: Manifest, frame: BytesLike, dictionary: Dictionary | None) -> bytes:
    """The inline bytes of a manifest from their frame. Raises `CorruptObject` unless they are what it says."""
    if not manifest.inline:
        return b""
    inline = codec.decompress(frame, expected=manifest.inline, dictionary=dictionary)
    if hashlib.sha256(inline).hexdigest() != manifest.inline_digest:
        raise CorruptObject("the inline bytes of the manifest do not match their SHA-256")
    return inline


def _check_sizes(manifest: Manifest) -> None:
    """Refuses sizes that contradict each other: reading relies on them."""
    sizes = [piece if isinstance(piece, int) else piece.size for piece in manifest.pieces]
    inline = sum(piece for piece in manifest.pieces if isinstance(piece, int))
    if (
        any(size <= 0 for size in sizes)
        or sum(sizes) != manifest.size
        or inline != manifest.inline
        or (manifest.tail != 0 and manifest.tail != (sizes or [0])[-1])
    ):
        raise CorruptObject("the sizes in the manifest contradict each other")


def _check_target(manifest: Manifest, target: bytes) -> None:
    """Refuses what no kernel takes for the target of a symbolic link."""
    if manifest.pieces != (len(target),) or len(target) > TARGET_LIMIT or b"\0" in target:
        raise CorruptObject("the target of the symbolic link makes no sense")
