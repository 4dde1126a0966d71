"""Versions without their bytes: what a listing shows of each, cheap enough to keep by the hundred thousand.

A version is a function of the manifest that an ETag stands for: whoever has it under the ETag that a listing names
need not read the manifest.
"""

import stat

import msgspec

from stowfs.errors import CorruptObject
from stowfs.vault import expiry
from stowfs.vault.manifest import Attributes, Kind, Snapshot
from stowfs.vault.untrusted import Size, Word

_TYPE_BITS = {"conversation": stat.S_IFREG, "directory": stat.S_IFDIR, "symlink": stat.S_IFLNK}


class Version(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One version of a conversation, directory or symbolic link. `commit` identifies it; `deleted`: a tombstone."""

    commit: Word
    attributes: Attributes
    size: Size
    kind: Kind = "conversation"
    deleted: bool = False

    @classmethod
    def of(cls, snapshot: Snapshot) -> "Version":
        """The version that a snapshot is."""
        manifest = snapshot.manifest
        return cls(manifest.commit, manifest.attributes, manifest.size, manifest.kind, manifest.deleted is not None)

    @property
    def live(self) -> bool:
        """Whether this is no tombstone, and has not expired: at this moment, so ask again."""
        return not self.deleted and not expiry.is_over(self.attributes.expires_ns)

    @property
    def is_directory(self) -> bool:
        """Whether this is a directory."""
        return self.kind == "directory"

    @property
    def is_symlink(self) -> bool:
        """Whether this is a symbolic link."""
        return self.kind == "symlink"

    @property
    def type_bits(self) -> int:
        """What kind of file this is, as in `st_mode`."""
        return _TYPE_BITS[self.kind]


PackedVersion = bytes
"""An encoded version, which takes a third of its memory."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Version)


def encode(version: Version) -> PackedVersion:
    """The version in some hundred bytes."""
    return _encoder.encode(version)


def decode(data: PackedVersion) -> Version:
    """What `encode` made. Raises `CorruptObject`."""
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptObject(f"what is cached of a version is not valid: {error}") from error
