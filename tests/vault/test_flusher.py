"""The flusher against a clock that jumps: groups, order, retries, and a queue that never holds more than it says."""

import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from stowfs.config import FlushOptions
from stowfs.errors import AccessDenied, BacklogFull, StoreUnavailable, StowError
from stowfs.vault.flusher import AT_ONCE, FIRST_PAUSE, LONGEST_PAUSE, SIZE_AT_ONCE, Flusher

DELAY = 2.0
PATIENCE = 60.0


def unavailable() -> StowError:
    return StoreUnavailable("the store is away")


class Store:
    """Where entries are committed to: notes when, and how many changes each commit had; fails when it is told to."""

    def __init__(self, options: FlushOptions | None = None) -> None:
        self.flusher = Flusher(options or FlushOptions(delay=DELAY), patience=PATIENCE)
        self.commits: list[tuple[float, str, int]] = []
        self.attempts: list[tuple[float, str]] = []
        self.pending: dict[str, int] = {}
        self.under_way: set[str] = set()
        self.most_at_once = 0
        self.seconds = 0.0
        self.failure: StowError | None = None
        self.failures: dict[str, StowError] = {}

    def change(self, key: str, size: int = 1) -> None:
        self.pending[key] = self.pending.get(key, 0) + 1
        self.flusher.add(key, key, size, lambda: self._commit(key))

    async def _commit(self, key: str) -> None:
        assert key not in self.under_way, "two commits of one conversation at once"
        self.under_way.add(key)
        self.most_at_once = max(self.most_at_once, len(self.under_way))
        try:
            now, taken = trio.current_time(), self.pending.get(key, 0)
            self.attempts.append((now, key))
            await trio.sleep(self.seconds)
            if (failure := self.failures.get(key, self.failure)) is not None:
                raise failure
            self.pending[key] = self.pending.get(key, 0) - taken
            self.commits.append((now, key, taken))
        finally:
            self.under_way.remove(key)

    @property
    def left(self) -> tuple[int, int]:
        """How many conversations and bytes wait."""
        return self.flusher.lag.count, self.flusher.lag.size

    @asynccontextmanager
    async def running(self) -> AsyncIterator[float]:
        """Gives the time at which it began."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.flusher.run)
            yield trio.current_time()
            nursery.cancel_scope.cancel()


async def test_changes_of_one_conversation_within_the_delay_are_one_commit(autojump_clock: MockClock) -> None:
    store = Store()
    async with store.running() as start:
        for _ in range(3):
            store.change("a")
            await trio.sleep(0.5)
        assert store.commits == []
        await trio.sleep(60)
        assert store.commits == [(start + DELAY, "a", 3)]
        store.change("a")
        await trio.sleep(60)
    assert store.commits[1:] == [(start + 61.5 + DELAY, "a", 1)]
    assert store.left == (0, 0)


async def test_few_large_ones_are_committed_at_once(autojump_clock: MockClock) -> None:
    store = Store()
    store.seconds = 1.0
    async with store.running():
        for number in range(8):
            store.change(f"large {number}", SIZE_AT_ONCE // 4)
        store.change("larger than all", 2 * SIZE_AT_ONCE)
        store.change("small")
        assert await store.flusher.flush(60) == []
    assert store.most_at_once == 4
    times = {key: time for time, key, _ in store.commits}
    assert times["large 0"] < times["large 4"] < times["larger than all"] < times["small"]


async def test_what_waits_goes_together_with_what_is_old_enough(autojump_clock: MockClock) -> None:
    store = Store()
    async with store.running() as start:
        for key in "abc":
            store.change(key)
            await trio.sleep(0.5)
        await trio.sleep(60)
    assert sorted(store.commits) == [(start + DELAY, key, 1) for key in "abc"]


@pytest.mark.parametrize("options", [FlushOptions(delay=DELAY, count=3), FlushOptions(delay=DELAY, size=30)])
async def test_enough_goes_at_once(options: FlushOptions, autojump_clock: MockClock) -> None:
    store = Store(options)
    async with store.running() as start:
        store.change("a", 10)
        store.change("b", 10)
        await wait_all_tasks_blocked()
        assert store.commits == []
        store.change("c", 10)
        await wait_all_tasks_blocked()
        assert sorted(store.commits) == [(start, key, 1) for key in "abc"]
        # What went already counts no more.
        store.change("d", 10)
        await wait_all_tasks_blocked()
        assert len(store.commits) == 3
        await trio.sleep(DELAY + 1)
        assert store.commits[3:] == [(start + DELAY, "d", 1)]


@pytest.mark.parametrize("options", [FlushOptions(delay=DELAY, count=3), FlushOptions(delay=DELAY, size=30)])
async def test_what_is_under_way_or_failed_makes_no_group(options: FlushOptions, autojump_clock: MockClock) -> None:
    store = Store(options)
    store.seconds = 10
    store.failures = {key: unavailable() for key in "abc"}
    async with store.running() as start:
        for key in "abc":
            store.change(key, 10)
        await wait_all_tasks_blocked()
        store.change("d", 10)
        await trio.sleep(1)
        store.change("d", 15)
        await trio.sleep(100)
        assert store.attempts[3] == (start + DELAY, "d")
        # They wait for their next try, and are enough for a group only by what comes anew.
        with trio.fail_after(100):
            while store.under_way:  # noqa: ASYNC110 - on a clock that jumps
                await trio.sleep(1)
        store.change("e", 10)
        await trio.sleep(1)
        store.change("e", 12)
        await trio.sleep(100)
        assert [commit[1:] for commit in store.commits] == [("d", 2), ("e", 2)]
        assert store.left == (3, 30)


async def test_a_change_during_the_commit_is_the_next_one(autojump_clock: MockClock) -> None:
    store = Store()
    store.seconds = 5
    async with store.running() as start:
        store.change("a", 10)
        await trio.sleep(DELAY + 1)
        store.change("a", 15)
        store.change("a", 20)
        assert store.left == (1, 20)
        await trio.sleep(60)
        assert store.commits == [(start + DELAY, "a", 1), (start + DELAY + 5 + DELAY, "a", 2)]
        assert store.left == (0, 0)


async def test_a_bounded_number_is_committed_at_once(autojump_clock: MockClock) -> None:
    store = Store()
    store.seconds = 1
    async with store.running() as start:
        for number in range(3 * AT_ONCE):
            store.change(str(number))
        await trio.sleep(60)
    assert store.most_at_once == AT_ONCE
    assert len(store.commits) == 3 * AT_ONCE
    assert max(time for time, _, _ in store.commits) == start + DELAY + 2


async def test_what_fails_is_tried_ever_more_rarely(autojump_clock: MockClock) -> None:
    store = Store()
    store.failure = unavailable()
    async with store.running() as start:
        store.change("a", 7)
        await trio.sleep(200)
        assert store.left == (1, 7)
        assert (store.flusher.lag.age, store.flusher.lag.failure) == (200, "the store is away")
        assert store.attempts[0] == (start + DELAY, "a")
        pauses = [later - earlier for (earlier, _), (later, _) in pairwise(store.attempts)]
        assert len(pauses) >= 8
        for number, pause in enumerate(pauses):
            assert pause == pytest.approx(min(FIRST_PAUSE * 2**number, LONGEST_PAUSE), abs=FIRST_PAUSE)
        store.failure = None
        await trio.sleep(LONGEST_PAUSE + FIRST_PAUSE)
        assert store.left == (0, 0)
        store.failure = unavailable()
        attempts = len(store.attempts)
        store.change("a", 7)
        await trio.sleep(DELAY + FIRST_PAUSE + 0.5)
        assert len(store.attempts) >= attempts + 1, "it begins with short pauses again"


async def test_nothing_is_done_while_nothing_is_due(monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock) -> None:
    """However many wait for a store that is away, a change costs no look at them."""
    store = Store(FlushOptions(delay=DELAY, count=1000))
    store.failure = unavailable()
    looks: list[float] = []
    due = store.flusher._due

    def counted() -> object:
        looks.append(trio.current_time())
        return due()

    monkeypatch.setattr(store.flusher, "_due", counted)
    async with store.running():
        for number in range(500):
            store.change(str(number))
        await trio.sleep(100)
        # Each group failed together, and is tried again together.
        assert len(looks) <= 3 * (2 + math.ceil(math.log2(LONGEST_PAUSE)) + 100 / LONGEST_PAUSE)
        assert len(store.attempts) > 500
        looks.clear()
        store.change("first")
        await wait_all_tasks_blocked()
        for number in range(100):
            store.change(f"more {number}")
            await wait_all_tasks_blocked()
        assert len(looks) <= 1


async def test_one_line_for_each_outage(caplog: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    caplog.set_level(logging.INFO, "stowfs.vault.flusher")
    store = Store()
    async with store.running():
        for _ in range(2):
            caplog.clear()
            store.failure = unavailable()
            for number in range(20):
                store.change(str(number))
            await trio.sleep(100)
            assert [record.levelname for record in caplog.records] == ["WARNING"]
            assert "is kept here: the store is away" in caplog.text
            caplog.clear()
            store.failure = None
            await trio.sleep(100)
            assert [record.message for record in caplog.records] == ["what was acknowledged goes to the store again"]
        assert store.left == (0, 0)


async def test_what_is_refused_is_logged_once_each(caplog: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    store = Store()
    store.failures = {key: AccessDenied(f"{key} is refused") for key in "ab"}
    async with store.running():
        for key in "abc":
            store.change(key)
        await trio.sleep(100)
        assert sorted(record.message for record in caplog.records) == [
            f"{key} is not in the store yet, and is kept here: {key} is refused" for key in "ab"
        ]
        assert store.left == (2, 2)


async def test_flush_tries_at_once_and_tells_what_failed(autojump_clock: MockClock) -> None:
    store = Store()
    store.failure = unavailable()
    async with store.running() as start:
        for key in "abc":
            store.change(key)
        await trio.sleep(50)
        store.failure = None
        store.failures = {"b": AccessDenied("refused")}
        store.change("d")
        left = await store.flusher.flush(30)
        assert trio.current_time() == start + 50
        assert [(entry.key, str(entry.failure)) for entry in left] == [("b", "refused")]
        assert sorted(key for _, key, _ in store.commits) == ["a", "c", "d"]
        assert store.left == (1, 1)
        store.failures = {}
        assert await store.flusher.flush(30) == []
        assert store.left == (0, 0)
        assert await store.flusher.flush(30) == []


async def test_flush_waits_for_what_changed_during_the_commit_under_way(autojump_clock: MockClock) -> None:
    store = Store()
    store.seconds = 5
    async with store.running() as start:
        store.change("a")
        await trio.sleep(DELAY + 1)
        store.change("a")
        assert await store.flusher.flush(60) == []
        assert [commit[1:] for commit in store.commits] == [("a", 1), ("a", 1)]
        assert trio.current_time() == start + DELAY + 10


async def test_flush_does_not_wait_for_what_comes_later(autojump_clock: MockClock) -> None:
    store = Store()
    store.seconds = 1
    async with store.running() as start, trio.open_nursery() as nursery:

        async def keep_changing() -> None:
            while True:
                store.change("a")
                store.change(f"{trio.current_time()}")
                await trio.sleep(0.25)

        nursery.start_soon(keep_changing)
        await trio.sleep(1)
        assert await store.flusher.flush(60) == []
        assert trio.current_time() <= start + 1 + 2
        nursery.cancel_scope.cancel()


async def test_flush_gives_up_in_the_end(autojump_clock: MockClock) -> None:
    store = Store()
    store.seconds = math.inf
    async with store.running() as start:
        store.change("a")
        (entry,) = await store.flusher.flush(30)
        assert (entry.key, entry.failure) == ("a", None)
        assert trio.current_time() == start + 30


async def test_what_is_dropped_is_not_committed(autojump_clock: MockClock) -> None:
    store = Store()
    async with store.running():
        store.change("a", 5)
        store.change("b", 6)
        store.flusher.drop("a")
        store.flusher.drop("nobody")
        assert store.left == (1, 6)
        await trio.sleep(60)
        assert [key for _, key, _ in store.commits] == ["b"]
        assert store.left == (0, 0)


async def test_what_is_dropped_while_it_is_under_way_is_not_tried_again(autojump_clock: MockClock) -> None:
    store = Store()
    store.seconds = 5
    store.failure = unavailable()
    async with store.running():
        store.change("a", 5)
        store.change("b", 6)
        await trio.sleep(DELAY + 1)
        store.change("a", 7)
        store.flusher.drop("a")
        store.flusher.drop("b")
        store.change("b", 8)
        assert store.left == (2, 8)
        await trio.sleep(60)
        assert [key for _, key in store.attempts].count("a") == 1
        assert [key for _, key in store.attempts].count("b") > 1
        assert store.left == (1, 8)
        store.failure = None
        assert await store.flusher.flush(60) == []
        assert store.left == (0, 0)


@pytest.mark.parametrize(
    "options", [FlushOptions(delay=DELAY, count_limit=3), FlushOptions(delay=DELAY, size_limit=30)]
)
async def test_writers_wait_for_room(options: FlushOptions, autojump_clock: MockClock) -> None:
    store = Store(options)
    store.seconds = 5
    async with store.running() as start:
        store.change("a", 10)
        store.change("b", 10)
        await store.flusher.room()
        assert (trio.current_time(), store.attempts) == (start, [])
        store.change("c", 10)
        await store.flusher.room()
        assert trio.current_time() == start + 5, "somebody waits: it began at once"
        assert [time for time, _ in store.attempts] == [start] * 3


async def test_where_no_room_comes_writers_are_told_why(autojump_clock: MockClock) -> None:
    store = Store(FlushOptions(delay=DELAY, size_limit=10))
    store.failure = unavailable()
    async with store.running() as start:
        store.change("a", 12)
        await trio.sleep(100)
        attempts = len(store.attempts)
        with pytest.raises(
            BacklogFull, match=r"1 conversations \(12 bytes\) are not in the store yet: the store is away"
        ):
            await store.flusher.room()
        assert trio.current_time() == start + 100 + PATIENCE
        async with trio.open_nursery() as nursery:
            for _ in range(50):

                async def wait() -> None:
                    with pytest.raises(BacklogFull):
                        await store.flusher.room()

                nursery.start_soon(wait)
        assert len(store.attempts) - attempts <= 2 * (PATIENCE / LONGEST_PAUSE + 1), "writers do not hurry an outage"


KEYS = st.sampled_from("abcd")
STEPS = st.lists(
    st.tuples(st.just("change"), KEYS, st.integers(0, 20))
    | st.tuples(st.just("drop"), KEYS, st.just(0))
    | st.tuples(st.sampled_from(["fail", "refuse"]), KEYS, st.just(0))
    | st.tuples(st.sampled_from(["recover", "flush", "room"]), st.just(""), st.just(0))
    | st.tuples(st.just("sleep"), st.just(""), st.integers(1, 40)),
    max_size=25,
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([0.0, 0.75, 5.0]), STEPS)
def test_whatever_happens_everything_arrives_and_the_books_are_square(
    seconds: float, steps: list[tuple[str, str, int]]
) -> None:
    trio.run(play, seconds, steps, clock=MockClock(autojump_threshold=0))


async def play(seconds: float, steps: list[tuple[str, str, int]]) -> None:
    store = Store(FlushOptions(delay=DELAY, count=3, size=40, count_limit=4, size_limit=60))
    store.seconds = seconds
    with trio.fail_after(10_000):
        async with store.running():
            for kind, key, number in steps:
                match kind:
                    case "change":
                        store.change(key, number)
                    case "drop":
                        store.pending[key] = 0
                        store.flusher.drop(key)
                    case "fail":
                        store.failure = unavailable()
                    case "refuse":
                        store.failures[key] = AccessDenied("refused")
                    case "recover":
                        store.failure, store.failures = None, {}
                    case "flush":
                        left = await store.flusher.flush(60)
                        assert not left or store.failure or store.failures
                    case "room":
                        try:
                            await store.flusher.room()
                        except BacklogFull:
                            assert store.failure or store.failures
                    case "sleep":
                        await trio.sleep(number / 4)
                lag = store.flusher.lag
                assert 0 <= lag.count <= 4
                assert lag.size >= 0
                assert lag.count or not lag.size
            store.failure, store.failures = None, {}
            await trio.sleep(LONGEST_PAUSE + 20)
            assert store.left == (0, 0)
            assert not any(count > 0 for count in store.pending.values())
            attempts = len(store.attempts)
            await trio.sleep(1000)
            assert len(store.attempts) == attempts
