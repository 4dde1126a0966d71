"""Extended attributes in the manifest: pairs of name and value, in the order of the names. Any bytes, no meaning."""

import msgspec

from stowfs.config import KIB
from stowfs.errors import AttributesFull, NoSuchAttribute
from stowfs.vault.manifest import Attributes
from stowfs.vault.naming import display

LIMIT = 64 * KIB
"""Bytes of all names and values of one file: what Linux allows for one value."""


def names(attributes: Attributes) -> list[bytes]:
    """All names."""
    return [name for name, _ in attributes.extended]


def value(attributes: Attributes, name: bytes) -> bytes:
    """The value of one. Raises `NoSuchAttribute`."""
    for known, data in attributes.extended:
        if known == name:
            return data
    raise _missing(name)


def having(attributes: Attributes, name: bytes, data: bytes) -> Attributes:
    """`attributes` with this one set. Raises `AttributesFull`."""
    pairs = {**dict(attributes.extended), name: data}
    if sum(len(known) + len(held) for known, held in pairs.items()) > LIMIT:
        raise AttributesFull(f"the extended attributes of a file may have {LIMIT} bytes together")
    return msgspec.structs.replace(attributes, extended=tuple(sorted(pairs.items())))


def lacking(attributes: Attributes, name: bytes) -> Attributes:
    """`attributes` without this one. Raises `NoSuchAttribute`."""
    pairs = tuple(pair for pair in attributes.extended if pair[0] != name)
    if len(pairs) == len(attributes.extended):
        raise _missing(name)
    return msgspec.structs.replace(attributes, extended=pairs)


def _missing(name: bytes) -> NoSuchAttribute:
    return NoSuchAttribute(f"there is no extended attribute {display(name.decode(errors='surrogateescape'))}")
