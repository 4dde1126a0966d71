"""Compression: the only module that imports zstandard.

Frames always carry their content size and a checksum. Decompression is bounded by the size the caller expects, whatever
a frame claims and whatever it then holds, so that a hostile one costs no more memory than an honest one.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Generic, TypeVar

import zstandard

from stowfs.errors import CorruptObject

T = TypeVar("T")

BytesLike = bytes | bytearray | memoryview

LEVEL = 9
"""zstd level of everything that is stored: on the conversations measured it stores about a tenth less than the
default 3, and still compresses faster than a store takes the result. Higher levels gain little before `compact`."""


STEP = 512
"""Compressed bytes of a frame decompressed at a time where its end is not known beforehand. The claimed size is checked
by the library at the end of a frame only, and four bytes can stand for 128 KiB: so this much for at most 16 MiB."""


class _Contexts(Generic[T]):
    """zstandard contexts, which are not safe to share between threads, dear to make, and megabytes large.

    So there are as many as were ever in use at once, and not one for every thread that has ever used one.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._free: deque[T] = deque()

    @contextmanager
    def one(self) -> Iterator[T]:
        """A context that nobody else uses meanwhile."""
        try:
            context = self._free.pop()
        except IndexError:
            context = self._make()
        try:
            yield context
        finally:
            self._free.append(context)


@cache
def _compressors(level: int) -> _Contexts[zstandard.ZstdCompressor]:
    return _Contexts(lambda: zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True))


_decompressors = _Contexts(zstandard.ZstdDecompressor)


def compress(data: BytesLike, *, level: int = LEVEL) -> bytes:
    """One zstd frame that holds `data`."""
    with _compressors(level).one() as compressor:
        return compressor.compress(data)


def decompress(frame: BytesLike, *, expected: int) -> bytes:
    """The content of one whole zstd frame, which must be exactly `expected` bytes long.

    Raises `CorruptObject` where the frame is damaged, is followed by other bytes, or claims another size.
    """
    if not expected:
        data, rest = decompress_first(frame, limit=0)
        if rest:
            raise CorruptObject(f"a compressed frame is followed by {len(rest)} bytes")
        return data
    with _damage_is_corruption(), _decompressors.one() as decompressor:
        claimed = zstandard.frame_content_size(frame)
        if claimed != expected:
            raise CorruptObject(f"a compressed frame claims {claimed} bytes, not {expected}")
        # In one step: into memory of the claimed size, and not a byte more.
        return decompressor.decompress(frame, allow_extra_data=False)


def decompress_first(frames: BytesLike, *, limit: int) -> tuple[bytes, memoryview]:
    """The content of the first frame of `frames`, at most `limit` bytes long, and what follows that frame.

    Raises `CorruptObject` where it is damaged, incomplete, or claims more.
    """
    view = memoryview(frames)
    with _damage_is_corruption(), _decompressors.one() as decompressor:
        claimed = zstandard.frame_content_size(view)
        if claimed < 0 or claimed > limit:
            raise CorruptObject(f"a compressed frame claims {claimed} bytes where at most {limit} are allowed")
        stream = decompressor.decompressobj()
        parts: list[bytes] = []
        size = position = 0
        while not stream.eof and position < len(view):
            parts.append(stream.decompress(view[position : position + STEP]))
            position += STEP
            size += len(parts[-1])
            if size > claimed:
                raise CorruptObject(f"a compressed frame holds more than the {claimed} bytes it claims")
        if not stream.eof or size != claimed:
            raise CorruptObject("a compressed frame is truncated")
    rest = min(position, len(view)) - len(stream.unused_data)
    return b"".join(parts), view[rest:]


@contextmanager
def _damage_is_corruption() -> Iterator[None]:
    """What zstandard says of a frame as `CorruptObject`."""
    try:
        yield
    except zstandard.ZstdError as error:
        raise CorruptObject(f"a compressed frame is damaged: {error}") from error
