"""Compression: the only module that imports zstandard.

Frames always carry their content size, a checksum, and the number of the dictionary they were made with.
Decompression is bounded by the size the caller expects, whatever a frame claims and whatever it then holds, so that a
hostile one costs no more memory than an honest one.
"""

import hashlib
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Generic, TypeVar

import zstandard

from stowfs.errors import CorruptObject

T = TypeVar("T")

BytesLike = bytes | bytearray | memoryview

LEVEL = 9
"""zstd level of what commits store: on the conversations measured it stores about a tenth less than the default 3, and
still compresses faster than a store takes the result. With a dictionary its place is taken by `_WITH_DICTIONARY`."""

BEST_LEVEL = 19
"""zstd level of what `compact` stores: 8 to 12 % less than `LEVEL` with the same dictionary, for some twenty times the
time. The levels above it need more memory for reading, too, and gain nothing on segments of this size."""


STEP = 512
"""Compressed bytes of a frame decompressed at a time where its end is not known beforehand. The claimed size is checked
by the library at the end of a frame only, and four bytes can stand for 128 KiB: so this much for at most 16 MiB."""


NAME_LENGTH = 8
"""Hexadecimal digits of a dictionary's name: as many as its number has, which is a field of 32 bits in a frame."""

TYPICAL = 256 * 1024
"""Bytes of the largest run, for which the tables of a context with a dictionary are made at `LEVEL`. By itself, zstd
makes them for the dictionary as well: three times as slow, and 10 MB for each context, to store 1 % less."""

_WITH_DICTIONARY = zstandard.ZstdCompressionParameters.from_level(
    7, source_size=TYPICAL, hash_log=20, search_log=5, min_match=6
)
"""What stands for `LEVEL` with a dictionary, in which there is a lot to find, in phrases: tables of a mebibyte of
positions, in which counts what agrees in six bytes or more. On all conversations measured that stores up to 3 % less
than level 9, in two thirds of its time."""

_LONG = zstandard.ZstdCompressionParameters.from_level(
    9, source_size=8 * TYPICAL, hash_log=20, chain_log=20, write_checksum=True, write_content_size=True
)
"""What stands for `LEVEL` for more than `TYPICAL` bytes: with tables of a mebibyte of positions a context takes 10 MB,
not 15, and stores 0.4 % more."""

SMALL = 32 * 1024
"""Bytes up to which zstd looks things up in the tables of a dictionary where they are; for more, it copies them into
those of the context, which then has to be ten times as large."""

SEGMENT = 1024
"""Bytes of the pieces that a dictionary is put together from: whole phrases of prompts and of JSON."""

MATCH = 8
"""Bytes that have to occur again for a piece to count: the trainer takes 6 or 8, and 6 finds more of what any text
has."""

TRAINING_LEVEL = 3
"""zstd level at which the trainer counts how often what is left occurs: a higher one finds out the same, with 20 MB
more."""

_MAGIC = 0xEC30A437
_HEADER = struct.Struct("<II")
"""Magic and number, with which a dictionary begins."""


class _Contexts(Generic[T]):
    """zstandard contexts, which are not safe to share between threads, dear to make, and megabytes large.

    So there are as many as were ever in use at once, and not one for every thread that has ever used one; or, unless
    they are `kept`, as many as are in use.
    """

    def __init__(self, make: Callable[[], T], *, kept: bool = True) -> None:
        self._make = make
        self._kept = kept
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
            if self._kept:
                self._free.append(context)


class Dictionary:
    """A zstd dictionary, digested for use.

    `id`: SHA-256 (hexadecimal) of its bytes, in which its own number is zero. `number`: the first 32 bits of the id;
    frames made with it carry that. `name`: the same in hexadecimal.
    """

    def __init__(self, data: bytes) -> None:
        """Raises `CorruptObject` unless `data` is a dictionary as `train` makes them."""
        if len(data) < _HEADER.size or _HEADER.unpack_from(data) != (_MAGIC, 0):
            raise CorruptObject("a dictionary is not one of zstd's, or has a number of its own")
        self.data = data
        self.id = hashlib.sha256(data).hexdigest()
        self.name = self.id[:NAME_LENGTH]
        self.number = int(self.name, 16)
        if not self.number:
            raise CorruptObject("a dictionary has no number")
        self._numbered = _HEADER.pack(_MAGIC, self.number) + data[_HEADER.size :]
        for_reading = zstandard.ZstdCompressionDict(self._numbered, dict_type=zstandard.DICT_TYPE_FULLDICT)
        self.decompressors = _Contexts(lambda: zstandard.ZstdDecompressor(dict_data=for_reading))
        self._digested: dict[int, Compressors] = {}
        self._lock = threading.Lock()
        with _damage_is_corruption("a dictionary"), self.decompressors.one() as decompressor:
            # Here it is digested, and found out to be damaged.
            decompressor.decompress(_EMPTY)

    def rest(self) -> None:
        """Gives up the memory that compressing with it takes; whoever does so once more takes it again."""
        with self._lock:
            self._digested = {}

    def compressors(self, level: int) -> "Compressors":
        """Contexts that compress with it; digested once for a level, which takes as long as compressing it."""
        with self._lock:
            compressors = self._digested.get(level)
            if compressors is None:
                digested = zstandard.ZstdCompressionDict(self._numbered, dict_type=zstandard.DICT_TYPE_FULLDICT)
                if level == LEVEL:
                    digested.precompute_compress(compression_params=_WITH_DICTIONARY)
                else:
                    digested.precompute_compress(level=level)
                compressors = self._digested[level] = Compressors(level, digested)
            return compressors


class Compressors:
    """The contexts of one level.

    What is large has contexts of its own, and they are given the memory for `TYPICAL` bytes when they are made:
    otherwise zstd gives it back and asks for more each time that a run is a little larger than the last, as that of a
    conversation is that grows, and so pays for thousands of fresh pages in each append. What is larger still does not
    grow, and must not make these larger; to make its contexts, of 10 MB, anew for each takes a tenth more time where
    that is a mebibyte, and is not to be measured where it is two.
    """

    def __init__(self, level: int, dictionary: zstandard.ZstdCompressionDict | None = None) -> None:
        # Not methods: contexts that are not needed any more must go at once, not when cycles are looked for.
        self._small = _Contexts(partial(_compressor, level, dictionary))
        self._large = _Contexts(partial(_compressor_for_typical, level, dictionary))
        self._long = _Contexts(partial(_compressor_for_long, level, dictionary), kept=False)

    def of(self, size: int) -> _Contexts[zstandard.ZstdCompressor]:
        """The contexts for so many bytes."""
        if size > TYPICAL:
            return self._long
        return self._large if size > SMALL else self._small


def _compressor(level: int, dictionary: zstandard.ZstdCompressionDict | None) -> zstandard.ZstdCompressor:
    return zstandard.ZstdCompressor(level=level, dict_data=dictionary, write_checksum=True, write_content_size=True)


def _compressor_for_typical(level: int, dictionary: zstandard.ZstdCompressionDict | None) -> zstandard.ZstdCompressor:
    compressor = _compressor(level, dictionary)
    compressor.compress(bytes(TYPICAL))
    return compressor


def _compressor_for_long(level: int, dictionary: zstandard.ZstdCompressionDict | None) -> zstandard.ZstdCompressor:
    if level != LEVEL or dictionary is not None:
        return _compressor(level, dictionary)
    return zstandard.ZstdCompressor(compression_params=_LONG)


def _compressors_for(level: int, dictionary: Dictionary | None) -> Compressors:
    return _compressors(level) if dictionary is None else dictionary.compressors(level)


def train(samples: Sequence[bytes], size: int) -> Dictionary | None:
    """A dictionary of at most `size` bytes for data like `samples`; `None` where they are too few or too much alike.
    Takes seconds."""
    try:
        trained = zstandard.train_dictionary(size, list(samples), k=SEGMENT, d=MATCH, level=TRAINING_LEVEL)
    except zstandard.ZstdError:
        return None
    data = trained.as_bytes()
    return Dictionary(_HEADER.pack(_MAGIC, 0) + data[_HEADER.size :])


_compressors = cache(Compressors)
"""Those without a dictionary, by level."""

_decompressors = _Contexts(zstandard.ZstdDecompressor)


def compress(data: BytesLike, *, level: int = LEVEL, dictionary: Dictionary | None = None) -> bytes:
    """One zstd frame that holds `data`."""
    with _compressors_for(level, dictionary).of(len(data)).one() as compressor:
        frame = compressor.compress(data)
    # A copy: what zstandard returns keeps the memory of the worst case, and many frames are kept.
    return bytes(memoryview(frame))


def compress_all(contents: Sequence[bytes], *, dictionary: Dictionary | None = None) -> list[bytes]:
    """What `compress` makes of each, in one step, during which other threads run. None may be empty, or longer than
    `SMALL`."""
    with _compressors_for(LEVEL, dictionary).of(SMALL).one() as compressor:
        frames = compressor.multi_compress_to_buffer(list(contents), threads=1)
    return [frames[place].tobytes() for place in range(len(frames))]


def gains_from_dictionary(size: int) -> bool:
    """Whether a dictionary is of use for so many bytes: what is longer than the largest usual run has in itself what it
    repeats, and compresses better with tables of its own size."""
    return size <= TYPICAL


def dictionary_number(frame: BytesLike) -> int:
    """The number of the dictionary that a frame was made with; 0: none, or this is no frame."""
    try:
        return zstandard.get_frame_parameters(frame).dict_id
    except zstandard.ZstdError:
        return 0  # to decompress it tells what is wrong


def dictionary_name(number: int) -> str:
    """The name of the dictionary with this number."""
    return f"{number:0{NAME_LENGTH}x}"


def decompress(frame: BytesLike, *, expected: int, dictionary: Dictionary | None = None) -> bytes:
    """The content of one whole zstd frame, which must be exactly `expected` bytes long.

    `dictionary`: the one that it was made with. Raises `CorruptObject` where the frame is damaged, is followed by other
    bytes, claims another size or needs another dictionary.
    """
    if not expected:
        data, rest = decompress_first(frame, limit=0, dictionary=dictionary)
        if rest:
            raise CorruptObject(f"a compressed frame is followed by {len(rest)} bytes")
        return data
    with _reading(frame, dictionary) as decompressor:
        claimed = zstandard.frame_content_size(frame)
        if claimed != expected:
            raise CorruptObject(f"a compressed frame claims {claimed} bytes, not {expected}")
        # In one step: into memory of the claimed size, and not a byte more.
        return decompressor.decompress(frame, allow_extra_data=False)


def decompress_first(
    frames: BytesLike, *, limit: int, dictionary: Dictionary | None = None
) -> tuple[bytes, memoryview]:
    """The content of the first frame of `frames`, at most `limit` bytes long, and what follows that frame.

    `dictionary`: the one that it was made with. Raises `CorruptObject` where it is damaged, incomplete, claims more or
    needs another dictionary.
    """
    view = memoryview(frames)
    with _reading(view, dictionary) as decompressor:
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
def _reading(frame: BytesLike, dictionary: Dictionary | None) -> Iterator[zstandard.ZstdDecompressor]:
    """A context for `frame`; what zstandard then says of it becomes `CorruptObject`."""
    number = dictionary_number(frame)
    if number and (dictionary is None or dictionary.number != number):
        raise CorruptObject(f"a compressed frame needs the dictionary {dictionary_name(number)}")
    contexts = dictionary.decompressors if number and dictionary is not None else _decompressors
    with contexts.one() as decompressor, _damage_is_corruption("a compressed frame"):
        yield decompressor


@contextmanager
def _damage_is_corruption(what: str) -> Iterator[None]:
    """What zstandard says as `CorruptObject`."""
    try:
        yield
    except zstandard.ZstdError as error:
        raise CorruptObject(f"{what} is damaged: {error}") from error


_EMPTY = zstandard.ZstdCompressor(write_content_size=True).compress(b"")
