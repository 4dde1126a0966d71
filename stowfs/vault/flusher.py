"""When what was acknowledged goes to the store: in groups, by age, count and bytes.

Each entry of the queue commits one conversation; the entry of a conversation that is acknowledged again while it waits
is the same one, so that many changes within the delay are one commit. A group is committed with as many at once as the
store takes, so that segments they share are counted together. What fails stays in the queue and is tried again, ever
more rarely; `flush` tries everything at once, and tells what fails.
"""

import logging
import math
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import trio

from stowfs.config import MIB, FlushOptions
from stowfs.errors import BacklogFull, StoreUnavailable, StowError
from stowfs.locks import Lock
from stowfs.vault.naming import display

log = logging.getLogger(__name__)

AT_ONCE = 128
"""Conversations committed at once: two bundles, so that one is cut and compressed while the other is sent."""

SIZE_AT_ONCE = 8 * MIB
"""Bytes of the conversations committed at once, unless it is a single one: parsed, cut and compressed, they take many
times their size in memory. With half of it, request logs take a fifth more time, and 10 MB less."""

FIRST_PAUSE = 1.0
"""Seconds after a first failure: what fails at once will hardly succeed within less."""

LONGEST_PAUSE = 5.0
"""Seconds between attempts while the store is away, at most: they cost it nothing, since the circuit breaker stops
them, and what waits should be on its way soon after it answers again."""

Commit = Callable[[], Awaitable[object]]


@dataclass(slots=True, eq=False)
class Entry:
    """A conversation with acknowledged changes: `size` bytes of them. Times in seconds of trio's clock."""

    key: str
    path: str
    size: int
    commit: Commit
    since: float
    due: float
    # Somebody waits for it: the next change that was made meanwhile does not wait for the others either.
    hurried: bool = False
    pause: float = 0.0
    not_before: float = 0.0
    failure: StowError | None = None
    # There is nothing to commit any more, unless it is acknowledged again.
    dropped: bool = False
    # How often it was acknowledged; and how often it had been when the last successful commit began.
    acknowledged: int = 1
    committed: int = 0


@dataclass(frozen=True, slots=True)
class Lag:
    """What waits: conversations, bytes, seconds since the oldest was acknowledged, and why one of them failed."""

    count: int
    size: int
    age: float
    failure: str


class Flusher:
    """The queue of one vault; `run` is its task."""

    def __init__(self, options: FlushOptions, *, patience: float) -> None:
        self._options = options
        # Seconds a writer waits for room.
        self._patience = patience
        # By key: those that wait for their time, in the order in which they came, and those under way.
        self._waiting: OrderedDict[str, Entry] = OrderedDict()
        self._busy: dict[str, Entry] = {}
        self._size = 0
        # What came since the last group: conversations, and bytes of all.
        self._new_count = self._new_size = 0
        # Those whose turn it is, and the tasks that take them.
        self._ready: deque[Entry] = deque()
        self._workers = 0
        # Bytes that they commit now; those who wait for fewer come in their order.
        self._under_way = 0
        self._order = Lock()
        self._ended = trio.lowlevel.ParkingLot()
        self._wake = trio.Event()
        # When the next group is to be looked for, unless that event comes first.
        self._alarm = math.inf
        # Those who wait for something to be committed, or to fail.
        self._progress = trio.lowlevel.ParkingLot()
        self._away = False

    def add(self, key: str, path: str, size: int, commit: Commit) -> None:
        """The conversation `key` was acknowledged, once more perhaps; `size` bytes of it are not in the store."""
        entry = self._busy.get(key) or self._waiting.get(key)
        if entry is None:
            now = trio.current_time()
            entry = Entry(key, path, 0, commit, now, now + self._options.delay)
            self._new_count += 1
            self._wait(entry)
        else:
            entry.acknowledged += 1
            entry.path = path
            entry.dropped = False
        self._new_size += max(0, size - entry.size)
        self._resize(entry, size)
        if self._enough():
            self._wake.set()

    def drop(self, key: str) -> None:
        """There is nothing to commit any more, for whatever reason."""
        if (busy := self._busy.get(key)) is not None:
            busy.dropped = True
            self._resize(busy, 0)
        if (entry := self._waiting.pop(key, None)) is not None:
            self._gone(entry)

    @property
    def lag(self) -> Lag:
        """What waits at present."""
        entries = [*self._busy.values(), *self._waiting.values()]
        now = trio.current_time()
        oldest = min((entry.since for entry in entries), default=now)
        failure = next((str(entry.failure) for entry in entries if entry.failure), "")
        return Lag(len(entries), self._size, now - oldest, failure)

    async def room(self) -> None:
        """Waits while too much is waiting. Raises `BacklogFull` where it stays so."""
        if not self._is_full():
            return
        # What failed is not tried more often because somebody waits: the store may be away.
        self._hurry(entry for entry in self._waiting.values() if entry.failure is None)
        with trio.move_on_after(self._patience):
            while self._is_full():
                await self._progress.park()
            return
        lag = self.lag
        reason = f": {lag.failure}" if lag.failure else ""
        raise BacklogFull(f"{lag.count} conversations ({lag.size} bytes) are not in the store yet{reason}")

    async def flush(self, timeout: float) -> list[Entry]:
        """Commits everything that is acknowledged by now; returns what is not in the store after `timeout` seconds, or
        failed before."""
        wanted = [(entry, entry.acknowledged) for entry in [*self._busy.values(), *self._waiting.values()]]
        for entry, _ in wanted:
            entry.failure = None
        self._hurry(entry for entry, _ in wanted)

        def missing(entry: Entry, count: int) -> bool:
            return entry.committed < count and (self._busy.get(entry.key) or self._waiting.get(entry.key)) is entry

        with trio.move_on_after(timeout):
            for entry, count in wanted:
                while missing(entry, count) and entry.failure is None:
                    await self._progress.park()
        return [entry for entry, count in wanted if missing(entry, count)]

    async def run(self) -> None:
        """Commits groups for ever."""
        async with trio.open_nursery() as nursery:
            while True:
                for entry in self._due():
                    self._busy[entry.key] = self._waiting.pop(entry.key)
                    self._ready.append(entry)
                for _ in range(min(len(self._ready), AT_ONCE - self._workers)):
                    self._workers += 1
                    nursery.start_soon(self._work)
                if self._wake.is_set():
                    self._wake = trio.Event()
                self._alarm = min(map(_time_of, self._waiting.values()), default=math.inf)
                with trio.move_on_at(self._alarm):
                    await self._wake.wait()

    def _due(self) -> list[Entry]:
        """The next group: everything that may be tried, as soon as one is old enough or all together are enough."""
        now = trio.current_time()
        ready = [entry for entry in self._waiting.values() if entry.not_before <= now]
        if not (self._enough() or any(entry.due <= now for entry in ready)):
            return []
        self._new_count = self._new_size = 0
        return ready

    def _wait(self, entry: Entry) -> None:
        self._waiting[entry.key] = entry
        if _time_of(entry) < self._alarm:
            self._wake.set()

    async def _work(self) -> None:
        while self._ready:
            entry = self._ready.popleft()
            size = entry.size
            async with self._order:
                while self._under_way and self._under_way + size > SIZE_AT_ONCE:
                    await self._ended.park()
                self._under_way += size
            await self._commit(entry)
            self._under_way -= size
            self._ended.unpark_all()
        self._workers -= 1

    async def _commit(self, entry: Entry) -> None:
        count = entry.acknowledged
        try:
            await entry.commit()
        except StowError as error:
            self._failed(entry, error)
        except Exception as error:
            # Nobody is there to see it, and the other conversations must not suffer from it.
            log.exception("%s: a defect", display(entry.path))
            self._failed(entry, StowError(f"a defect: {error!r}"))
        else:
            self._succeeded(entry, count)
        del self._busy[entry.key]
        if entry.committed < entry.acknowledged and not entry.dropped:
            self._wait(entry)
        self._gone(entry)

    def _succeeded(self, entry: Entry, count: int) -> None:
        entry.committed = count
        entry.pause = entry.not_before = 0.0
        entry.failure = None
        entry.since = trio.current_time()
        entry.due = entry.since if entry.hurried else entry.since + self._options.delay
        entry.hurried = False
        if self._away:
            self._away = False
            log.info("what was acknowledged goes to the store again")

    def _failed(self, entry: Entry, error: StowError) -> None:
        known, entry.failure = entry.failure, error
        entry.pause = min(max(entry.pause * 2, FIRST_PAUSE), LONGEST_PAUSE)
        # Rounded up: what fails at about the same time is tried again together.
        entry.not_before = math.ceil((trio.current_time() + entry.pause) / FIRST_PAUSE) * FIRST_PAUSE
        away, self._away = self._away, self._away or isinstance(error, StoreUnavailable)
        # A store that is away is one line in the log, whatever waits for it.
        if (self._away and not away) or not (isinstance(error, StoreUnavailable) or known):
            log.warning("%s is not in the store yet, and is kept here: %s", display(entry.path), error)

    def _gone(self, entry: Entry) -> None:
        if entry.key not in self._waiting:
            self._resize(entry, 0)
        self._progress.unpark_all()

    def _resize(self, entry: Entry, size: int) -> None:
        self._size += size - entry.size
        entry.size = size

    def _hurry(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            entry.pause = entry.not_before = entry.due = 0.0
            entry.hurried = True
        self._wake.set()

    def _enough(self) -> bool:
        return self._new_count >= self._options.count or self._new_size >= self._options.size

    def _is_full(self) -> bool:
        return (
            len(self._waiting) + len(self._busy) >= self._options.count_limit or self._size >= self._options.size_limit
        )


def _time_of(entry: Entry) -> float:
    """When it may be tried, and is old enough."""
    return max(entry.due, entry.not_before)
