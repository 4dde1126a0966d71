"""Reading JSON that may have been damaged, or made to do harm: every way in which it can be wrong is one error."""

from typing import TypeVar

import msgspec

from stowfs.errors import CorruptObject

T = TypeVar("T")


def parse(decoder: msgspec.json.Decoder[T], data: bytes, what: str) -> T:
    """What `data` says. Raises `CorruptObject`, which names `what`, unless it is JSON of the decoder's type."""
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptObject(f"{what} is not valid: {error}") from error
