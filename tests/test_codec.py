"""Frames with and without dictionaries: each is read with the dictionary it was made with, and with no other."""

import gc
import tracemalloc
import weakref

import pytest

from stowfs import codec
from stowfs.codec import Compressors, Dictionary
from stowfs.errors import CorruptObject
from tests.support.dictionaries import conversation, dictionary

TEXT = conversation(5)


@pytest.fixture(scope="module")
def made() -> Dictionary:
    return dictionary()


@pytest.mark.parametrize("data", [b"", b"x", TEXT, TEXT * 300])
@pytest.mark.parametrize("level", [codec.LEVEL, 19])
def test_a_frame_names_the_dictionary_it_needs(made: Dictionary, data: bytes, level: int) -> None:
    frame = codec.compress(data, level=level, dictionary=made)
    assert codec.dictionary_number(frame) == made.number == int(made.id[:8], 16)
    assert codec.dictionary_name(made.number) == made.name
    assert codec.decompress(frame, expected=len(data), dictionary=made) == data
    assert codec.decompress_first(frame + b"rest", limit=len(data), dictionary=made) == (data, b"rest")
    # And one without a dictionary is read whatever is at hand.
    plain = codec.compress(data, level=level)
    assert codec.dictionary_number(plain) == 0
    assert codec.decompress(plain, expected=len(data), dictionary=made) == data


def test_a_frame_is_not_read_without_its_dictionary(made: Dictionary) -> None:
    frame = codec.compress(TEXT, dictionary=made)
    for wrong in (None, dictionary(7)):
        with pytest.raises(CorruptObject, match=made.name):
            codec.decompress(frame, expected=len(TEXT), dictionary=wrong)
        with pytest.raises(CorruptObject, match=made.name):
            codec.decompress_first(frame, limit=len(TEXT), dictionary=wrong)


def test_a_frame_with_a_dictionary_is_bounded(made: Dictionary) -> None:
    frame = codec.compress(bytes(1 << 20), dictionary=made)
    with pytest.raises(CorruptObject, match="claims"):
        codec.decompress(frame, expected=1000, dictionary=made)
    with pytest.raises(CorruptObject, match="claims"):
        codec.decompress_first(frame, limit=(1 << 20) - 1, dictionary=made)


def test_every_flipped_bit_is_found(made: Dictionary) -> None:
    frame = codec.compress(TEXT, dictionary=made)
    for position in range(len(frame)):
        damaged = bytearray(frame)
        damaged[position] ^= 1 << position % 8
        try:
            read = codec.decompress(bytes(damaged), expected=len(TEXT), dictionary=made)
        except CorruptObject:
            continue
        assert read == TEXT  # a bit that means nothing


def test_what_is_no_dictionary_is_refused(made: Dictionary) -> None:
    numbered = made.data[:4] + b"\1" + made.data[5:]
    for data in (b"", b"text", made.data[:7], made.data[:20], numbered, made.data[:8] + bytes(2000)):
        with pytest.raises(CorruptObject):
            Dictionary(data)
    assert Dictionary(made.data).id == made.id


@pytest.mark.parametrize("samples", [[], [b"x"], [b"", b""]])
def test_what_is_too_little_makes_no_dictionary(samples: list[bytes]) -> None:
    assert codec.train(samples, 8192) is None


def test_a_dictionary_is_as_large_as_was_asked_at_most(made: Dictionary) -> None:
    assert len(made.data) <= 8192


@pytest.mark.parametrize("with_dictionary", [False, True])
def test_what_grows_does_not_ask_for_memory_each_time(made: Dictionary, with_dictionary: bool) -> None:
    text = TEXT * (codec.TYPICAL // len(TEXT) + 1)
    compressors = Dictionary(made.data).compressors(codec.LEVEL) if with_dictionary else Compressors(codec.LEVEL)
    sizes = set()
    for size in range(codec.SMALL + 1, codec.TYPICAL, 10_000):
        with compressors.of(size).one() as compressor:
            compressor.compress(text[:size])
            sizes.add(compressor.memory_size())
    assert len(sizes) == 1


def test_a_frame_takes_no_more_memory_than_its_length() -> None:
    codec.compress(TEXT)
    tracemalloc.start()
    try:
        frame = codec.compress(bytes(1 << 20))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(frame) < 1000
    assert taken < 10_000


@pytest.mark.parametrize("with_dictionary", [True, False])
def test_what_is_compressed_together_is_as_if_it_were_alone(made: Dictionary, with_dictionary: bool) -> None:
    used = made if with_dictionary else None
    contents = [b"x", TEXT, bytes(codec.SMALL), *(conversation(seed, messages=seed) for seed in range(1, 9))]
    assert codec.compress_all(contents, dictionary=used) == [codec.compress(data, dictionary=used) for data in contents]
    assert codec.compress_all([TEXT], dictionary=used) == [codec.compress(TEXT, dictionary=used)]


def test_contexts_for_long_runs_are_not_kept() -> None:
    compressors = Compressors(codec.LEVEL)
    for size, kept in ((1, True), (codec.SMALL + 1, True), (codec.TYPICAL + 1, False)):
        contexts = compressors.of(size)
        with contexts.one() as context:
            pass
        with contexts.one() as other:
            assert (other is context) == kept


def test_contexts_go_with_the_dictionary_that_rests() -> None:
    resting = dictionary(3)
    compressors = weakref.ref(resting.compressors(codec.LEVEL))
    frame = codec.compress(TEXT, dictionary=resting)
    gc.disable()
    try:
        resting.rest()
        assert compressors() is None
    finally:
        gc.enable()
    # It is used on as before.
    assert codec.compress(TEXT, dictionary=resting) == frame
    assert codec.decompress(frame, expected=len(TEXT), dictionary=resting) == TEXT
