"""Reading what may have been damaged, or made to do harm: every way in which it can be wrong is one error, at a bounded
cost.

Objects are read up to the size that an honest one can have. What JSON says is checked against these types when it is
decoded, so that nothing behind a decoder meets a number that the kernel cannot take, a hash that is a path, or a list
without end.
"""

from typing import Annotated, TypeVar

import msgspec

from stowfs.config import MIB
from stowfs.errors import CorruptObject
from stowfs.store.base import ByteRange, Found, NotModified, ObjectStore

T = TypeVar("T")

OBJECT_LIMIT = 10 * MIB
"""Bytes of any object that are read: somewhat more than the largest manifest and the largest record."""

Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 60)]
"""Bytes: far above what a file may have, and such that no sum of a few overflows what the kernel counts in."""
Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Revision = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
RevisionHint = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{32})?\Z")]
"""Or nothing, where it is not known."""
Word = Annotated[str, msgspec.Meta(max_length=1024)]
"""An id or a name: stowfs writes at most 200 characters of any."""
Moment = Annotated[float, msgspec.Meta(ge=0, le=2e11)]
"""Seconds since the epoch, up to the year 8307: whatever period is added, it is a date still."""
EARLIEST, LATEST = -(1 << 63), (1 << 63) - 1
Nanoseconds = Annotated[int, msgspec.Meta(ge=EARLIEST, le=LATEST)]
"""Since the epoch, from the year 1677 to 2262."""
Level = Annotated[int, msgspec.Meta(ge=0, le=22)]
"""Of zstd; 0: the one of commits."""
Owner = Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)]
Permissions = Annotated[int, msgspec.Meta(ge=0, le=0o7777)]


def parse(decoder: msgspec.json.Decoder[T], data: bytes | memoryview, what: str) -> T:
    """What `data` says. Raises `CorruptObject`, which names `what`, unless it is JSON of the decoder's type."""
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptObject(f"{what} is not valid: {error}") from error


async def get_bounded(
    store: ObjectStore, key: str, *, limit: int = OBJECT_LIMIT, if_none_match: str | None = None
) -> Found | NotModified:
    """An object of at most `limit` bytes. Raises `ObjectNotFound`, and `CorruptObject` where it is longer."""
    answer = await store.get(key, byte_range=ByteRange(0, limit + 1), if_none_match=if_none_match)
    if isinstance(answer, Found) and len(answer.body) > limit:
        raise CorruptObject(f"{key} has more than {limit} bytes, which nothing honest has")
    return answer


async def read_bounded(store: ObjectStore, key: str, *, limit: int = OBJECT_LIMIT) -> Found:
    """As `get_bounded`, unconditionally."""
    answer = await get_bounded(store, key, limit=limit)
    assert isinstance(answer, Found)
    return answer
