"""Compression for many commits at once: each gets what it would have got alone."""

import threading
from collections.abc import Sequence

import pytest
import trio
import trio.testing

from stowfs import codec
from stowfs.codec import Dictionary
from stowfs.vault.packing import TOGETHER, Packing
from tests.support.dictionaries import conversation, dictionary


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, threading.Thread]]:
    """How many contents were compressed in one step, and in which thread."""
    seen: list[tuple[int, threading.Thread]] = []
    compress_all = codec.compress_all

    def counted(contents: Sequence[bytes], *, dictionary: Dictionary | None = None) -> list[bytes]:
        seen.append((len(contents), threading.current_thread()))
        return compress_all(contents, dictionary=dictionary)

    monkeypatch.setattr(codec, "compress_all", counted)
    return seen


async def pack_at_once(requests: Sequence[tuple[list[bytes], Dictionary | None]]) -> list[list[bytes] | Exception]:
    """The frames of each request, all of them made at the same time; or why there are none."""
    results: dict[int, list[bytes] | Exception] = {}
    async with trio.open_nursery() as nursery:
        packing = Packing(nursery, trio.CapacityLimiter(2))

        async def ask(place: int, contents: list[bytes], dictionary: Dictionary | None) -> None:
            try:
                results[place] = await packing.compress(contents, dictionary)
            except ValueError as error:
                results[place] = error

        for place, request in enumerate(requests):
            nursery.start_soon(ask, place, *request)
    return [results[place] for place in range(len(requests))]


def alone(contents: list[bytes], dictionary: Dictionary | None) -> list[bytes]:
    return [codec.compress(content, dictionary=dictionary) for content in contents]


async def test_what_is_asked_for_at_once_is_compressed_in_few_steps_in_a_thread(
    steps: list[tuple[int, threading.Thread]],
) -> None:
    requests = [([b"header %d" % seed, conversation(seed)], None) for seed in range(2 * TOGETHER)]
    assert await pack_at_once(requests) == [alone(*request) for request in requests]
    assert [count for count, _ in steps] == [2 * TOGETHER, 2 * TOGETHER]
    assert threading.current_thread() not in {thread for _, thread in steps}


async def test_who_is_alone_waits_for_no_thread(steps: list[tuple[int, threading.Thread]]) -> None:
    requests = [([b"header", conversation(1)], None)]
    assert await pack_at_once(requests) == [alone(*request) for request in requests]
    assert not steps


async def test_what_is_large_does_not_keep_others_waiting(steps: list[tuple[int, threading.Thread]]) -> None:
    large = conversation(1, messages=200)
    assert len(large) > codec.SMALL
    requests = [([b"header", large], None), *(([b"header", conversation(seed)], None) for seed in range(3))]
    assert await pack_at_once(requests) == [alone(*request) for request in requests]
    assert [count for count, _ in steps] == [6]


async def test_each_is_compressed_with_its_own_dictionary() -> None:
    first, second = dictionary(1), dictionary(2)
    requests = [([conversation(seed)], (None, first, second)[seed % 3]) for seed in range(12)]
    results = await pack_at_once(requests)
    assert results == [alone(*request) for request in requests]
    for (contents, used), frames in zip(requests, results, strict=True):
        assert isinstance(frames, list)
        assert codec.decompress(frames[0], expected=len(contents[0]), dictionary=used) == contents[0]


async def test_what_fails_fails_for_those_who_were_compressed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    compress_all = codec.compress_all
    calls = 0

    def failing(contents: Sequence[bytes], *, dictionary: Dictionary | None = None) -> list[bytes]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ValueError("no memory")
        return compress_all(contents, dictionary=dictionary)

    monkeypatch.setattr(codec, "compress_all", failing)
    requests = [([conversation(seed)], None) for seed in range(TOGETHER + 5)]
    results = await pack_at_once(requests)
    assert sum(isinstance(result, ValueError) for result in results) == TOGETHER
    for request, result in zip(requests, results, strict=True):
        assert isinstance(result, ValueError) or result == alone(*request)


async def test_who_is_cancelled_takes_nothing_from_the_others() -> None:
    results: dict[int, list[bytes]] = {}
    async with trio.open_nursery() as nursery:
        packing = Packing(nursery, trio.CapacityLimiter(2))
        scopes = [trio.CancelScope() for _ in range(8)]

        async def ask(place: int) -> None:
            with scopes[place]:
                results[place] = await packing.compress([conversation(place)], None)

        for place in range(8):
            nursery.start_soon(ask, place)
        await trio.testing.wait_all_tasks_blocked()
        for scope in scopes[::2]:
            scope.cancel()
    for place in range(1, 8, 2):
        assert results[place] == alone([conversation(place)], None)
