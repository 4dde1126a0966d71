"""Compression: the only module that imports zstandard.

Frames always carry their content size and a checksum. Decompression is bounded by the size the caller expects, so that
a hostile frame costs no more memory than an honest one.
"""

import threading

import zstandard

from stowfs.errors import CorruptObject

BytesLike = bytes | bytearray | memoryview

LEVEL = 9
"""zstd level of everything that is stored: on the conversations measured it stores about a tenth less than the
default 3, and still compresses faster than a store takes the result. Higher levels gain little before `compact`."""


class _PerThread(threading.local):
    """zstandard contexts are not safe to share between threads, and are dear to make."""

    def __init__(self) -> None:
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}
        self.decompressor = zstandard.ZstdDecompressor()


_contexts = _PerThread()


def compress(data: BytesLike, *, level: int = LEVEL) -> bytes:
    """One zstd frame that holds `data`."""
    compressor = _contexts.compressors.get(level)
    if compressor is None:
        compressor = zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True)
        _contexts.compressors[level] = compressor
    return compressor.compress(data)


def decompress(frame: BytesLike, *, expected: int) -> bytes:
    """The content of one whole zstd frame, which must be exactly `expected` bytes long.

    Raises `CorruptObject` where the frame is damaged, is followed by other bytes, or claims another size.
    """
    data, rest = decompress_first(frame, limit=expected)
    if len(data) != expected or rest:
        raise CorruptObject(f"a compressed frame holds {len(data)} bytes and {len(rest)} after it, not {expected}")
    return data


def decompress_first(frames: BytesLike, *, limit: int) -> tuple[bytes, memoryview]:
    """The content of the first frame of `frames`, at most `limit` bytes long, and what follows that frame.

    Raises `CorruptObject` where it is damaged, incomplete, or claims more.
    """
    view = memoryview(frames)
    try:
        claimed = zstandard.frame_content_size(view)
        if claimed < 0 or claimed > limit:
            raise CorruptObject(f"a compressed frame claims {claimed} bytes where at most {limit} are allowed")
        stream = _contexts.decompressor.decompressobj()
        data = stream.decompress(view)
        if not stream.eof or len(data) != claimed:
            raise CorruptObject("a compressed frame is truncated")
    except zstandard.ZstdError as error:
        raise CorruptObject(f"a compressed frame is damaged: {error}") from error
    rest = len(stream.unused_data)
    return data, view[len(view) - rest :]
