"""Bundles: several new manifests of one directory as one object, `manifests/DIRECTORY/%+ID`.

The object is a zstd frame around a JSON header, and then the manifests as they would stand under keys of their own, one
after the other. Its states:

* *pending*: it claims names, and holds nothing yet;
* *committed*: it holds the manifests of those names that nobody else had, and does so for good;
* *void*: somebody was quicker to make it so than its owner was to commit it. It never will be.

It changes only by compare-and-swap, and each version has an id of its own, so that no ETag comes twice. A manifest in a
bundle has a *token* for an ETag: the bundle's id and that of the commit, which no object's ETag looks like.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

import msgspec

from stowfs import codec
from stowfs.config import MIB
from stowfs.errors import CorruptObject, UnsupportedVersion
from stowfs.vault.naming import KEY_LIMIT, bundles_prefix, is_bundle, key_in, may_be_bundled, place_of
from stowfs.vault.ring import new_id
from stowfs.vault.untrusted import OBJECT_LIMIT, Digest, Revision, Size, Word, parse

VERSION = 1

MEMBERS = 1000
"""Manifests in a bundle at most: what a listing has of objects on a page."""

ENOUGH = 64
"""Manifests that are sent together, as soon as there are so many: each then costs a twentieth of a request."""

BODY_LIMIT = 64 * 1024
"""Bytes of a manifest that is bundled: to read one, all of its bundle is read; a larger one has enough to itself."""

BYTES = 4 * MIB
"""Bytes of the manifests of one bundle at most, far below those of an object that is read at all."""

HEADER_LIMIT = 1 * MIB
"""Bytes that the decompressed header may claim: those of a thousand members with names of 255 bytes are half of it."""

_TOKEN = "+"
"""With what tokens begin: the ETags of stores are hexadecimal digits, at most with a '-' between them."""

FRESH = b"\x5e\x2a\x4d\x18\0\0\0\0"
"""What stands before a manifest that was created under a key of its own where a bundle might have claimed its name: an
empty skippable frame of zstd. See `bundled_store`."""

State = Literal["pending", "committed", "void"]


class Member(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A manifest in a bundle, or the claim to a name: the name as it stands in keys, the id of the commit, and the
    bytes of the manifest (0: claimed)."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=KEY_LIMIT)]
    commit: Revision
    size: Size = 0


class Header(msgspec.Struct, frozen=True, omit_defaults=True):
    """`write`: the id of this version of the bundle. `digest`: SHA-256 of what follows the header."""

    write: Word
    state: State
    members: Annotated[tuple[Member, ...], msgspec.Meta(max_length=MEMBERS)] = ()
    digest: Digest | None = None
    # Of the frames: whether they were recompressed with that dictionary.
    dictionary: Word | None = None
    # A factory, since a plain default would be left out of what is stored.
    v: int = msgspec.field(default_factory=lambda: VERSION)


@dataclass(frozen=True)
class Bundle:
    """A version of a bundle as it lies in the store, but for the manifests themselves."""

    key: str
    etag: str
    header: Header

    @property
    def state(self) -> State:
        return self.header.state

    @property
    def prefix(self) -> str:
        """That of the directory it is in."""
        return place_of(self.key)[0]

    @property
    def cost(self) -> int:
        """Bytes it takes in memory, about."""
        return 400 * (1 + len(self.header.members))

    @cached_property
    def _places(self) -> dict[str, int]:
        return {member.name: place for place, member in enumerate(self.header.members)}

    @property
    def held(self) -> tuple[Member, ...]:
        """What it holds, not what it only claims."""
        return self.header.members if self.state == "committed" else ()

    def holds(self, name: str) -> bool:
        """Whether it holds something under a name."""
        return self.state == "committed" and name in self._places

    def member(self, name: str) -> Member | None:
        """What it has, or claims, under a name."""
        place = self._places.get(name)
        return None if place is None else self.header.members[place]

    def token(self, member: Member) -> str:
        """What stands for the ETag of one of its manifests."""
        return token(self.key, member.commit)

    def manifest(self, name: str, payload: memoryview) -> bytes:
        """The manifest under a name that it holds; `payload` is what follows its header."""
        place = self._places[name]
        start = sum(member.size for member in self.header.members[:place])
        return bytes(payload[start : start + self.header.members[place].size])


@dataclass(frozen=True)
class Whole:
    """A version of a bundle, and what follows its header."""

    bundle: Bundle
    payload: memoryview

    def manifests(self) -> Iterator[tuple[Member, bytes]]:
        """What a committed bundle holds."""
        start = 0
        for member in self.bundle.header.members:
            yield member, bytes(self.payload[start : start + member.size])
            start += member.size


def token(key: str, commit: str) -> str:
    """What stands for the ETag of a manifest in the bundle under `key`."""
    return f"{_TOKEN}{id_of(key)}{commit}"


def is_token(etag: str) -> bool:
    """Whether this is the ETag of a manifest that is in a bundle."""
    return etag.startswith(_TOKEN)


def key_of_token(etag: str, prefix: str) -> str:
    """The bundle that a manifest with that token is in; its directory has the prefix `prefix`."""
    return key_of(prefix, etag[len(_TOKEN) : len(_TOKEN) + _ID_LENGTH])


_ID_LENGTH = 32


def key_of(prefix: str, id: str) -> str:
    """The key of a bundle in the directory with that prefix."""
    return bundles_prefix(prefix) + id


def id_of(key: str) -> str:
    """The id of the bundle under a key. Raises `CorruptObject` for a key that none has."""
    prefix, name = place_of(key)
    id = name[-_ID_LENGTH:]
    if not is_bundle(key) or key_of(prefix, id) != key or len(id) != _ID_LENGTH or set(id) - set("0123456789abcdef"):
        raise CorruptObject(f"{key} is not the key of a bundle")
    return id


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Header)


class _Version(msgspec.Struct):
    v: int = 0


_version_decoder = msgspec.json.Decoder(_Version)


def may_have(key: str, members: Iterable[Member]) -> bool:
    """Whether a bundle under that key can have these members, by their names."""
    prefix, _ = place_of(key)
    return all("/" not in member.name and may_be_bundled(key_in(prefix, member.name)) for member in members)


def _encode(header: Header, payload: bytes = b"") -> bytes:
    return codec.compress(_encoder.encode(header)) + payload


def pending(claims: Iterable[tuple[str, str]]) -> bytes:
    """A bundle that claims names for the commits with these ids."""
    return _encode(Header(new_id(), "pending", tuple(Member(name, commit) for name, commit in claims)))


def void() -> bytes:
    """A bundle that claims nothing any more."""
    return _encode(Header(new_id(), "void"))


def committed(manifests: Sequence[tuple[str, str, bytes]], *, dictionary: str | None = None) -> bytes:
    """A bundle of manifests: name, id of the commit, and what is stored. `dictionary`: the name of the one that all
    were recompressed with ('': with none)."""
    payload = b"".join(body for _, _, body in manifests)
    members = tuple(Member(name, commit, len(body)) for name, commit, body in manifests)
    digest = hashlib.sha256(payload).hexdigest()
    return _encode(Header(new_id(), "committed", members, digest, dictionary), payload)


class DamagedPayload(CorruptObject):
    """What a bundle holds cannot be read; but it is known which names it has: see `bundle`."""

    bundle: Bundle


def decode(key: str, etag: str, body: bytes) -> Whole:
    """The bundle that lies under a key. Raises `CorruptObject` (`DamagedPayload`), `UnsupportedVersion`."""
    id_of(key)
    raw, payload = codec.decompress_first(body, limit=HEADER_LIMIT)
    if (version := parse(_version_decoder, raw, key).v) != VERSION:
        raise UnsupportedVersion(f"{key} has format version {version}; this stowfs reads {VERSION}: upgrade it")
    header = parse(_decoder, raw, key)
    bundle = Bundle(key, etag, header)
    sizes = sum(member.size for member in header.members)
    names = {member.name for member in header.members}
    if (
        sizes != len(payload)
        or len(names) != len(header.members)
        or not may_have(key, header.members)
        or (header.state == "committed") != (header.digest is not None)
        or (header.state != "committed" and sizes)
        or (header.state == "void" and names)
    ):
        raise CorruptObject(f"{key} contradicts itself")
    if header.digest is not None and hashlib.sha256(payload).hexdigest() != header.digest:
        damaged = DamagedPayload(f"{key} does not match its SHA-256")
        damaged.bundle = bundle
        raise damaged
    return Whole(bundle, payload)


assert BYTES + HEADER_LIMIT < OBJECT_LIMIT
