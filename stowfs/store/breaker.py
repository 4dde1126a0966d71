"""Circuit breaking: a store that does not answer costs its users seconds once, not a deadline for every call.

An attempt at a request is *answered* by whatever the store says, refusals of all kinds included; it *fails* with
`StoreUnavailable` (connections refused or lost, no answer in time, errors of the server, throttling). What was
cancelled tells nothing.

* Closed: every attempt is sent. The breaker opens where nothing was answered since the first of the failed attempts was
  sent, that is `patience` seconds ago, and one that was sent after a failure has failed as well: connections that
  became useless together are one piece of evidence, however many they are.
* Open: nothing is sent. Every attempt fails at once with `StoreUnreachable`, which also ends the loops that try again
  (`Backoff`). A task of its own sends trials, small requests, one at a time with pauses of at most `LONGEST_PAUSE`, so
  that no user waits for one.
* The first answer, to a trial or to an attempt that was under way, closes it.

One line in the log says that it opened, and one that it closed.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from stowfs.errors import StoreError, StoreUnavailable, StoreUnreachable

log = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_PAUSE = 0.25
"""Seconds between opening and the first trial: what was over in a moment is not made longer."""

LONGEST_PAUSE = 2.0
"""Seconds between two trials: work resumes soon after a store returns, and a request in two seconds keeps none down."""


class Breaker:
    """The breaker of the store at `url`; `watch` must run, or it stays open. `patience` in seconds."""

    def __init__(self, url: str, patience: float) -> None:
        self._url = url
        self._patience = patience
        self._last_answer = -float("inf")
        # Of the first failure since that: when it was sent, and when it failed.
        self._silent_since = 0.0
        self._first_failure: float | None = None
        self._cause: StoreUnavailable | None = None
        self._unreachable_since: float | None = None
        self._opened = trio.Event()

    @property
    def is_open(self) -> bool:
        """Whether the store is taken to be unreachable."""
        return self._cause is not None

    @property
    def unreachable_since(self) -> float | None:
        """When the store stopped answering (seconds since the epoch), while the breaker is open."""
        return self._unreachable_since

    async def attempt(self, send: Callable[[], Awaitable[T]]) -> T:
        """What `send` returns or raises; `StoreUnreachable` where the breaker is open, before or because of it."""
        if self._cause is not None:
            await trio.lowlevel.checkpoint()
            raise self._unreachable(self._cause)
        return await self._observe(send)

    async def watch(self, trial: Callable[[], Awaitable[object]]) -> None:
        """Sends trials while the breaker is open. Never returns."""
        while True:
            await self._opened.wait()
            pause = FIRST_PAUSE
            while self.is_open:
                await trio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                if self.is_open:
                    await self._try(trial)

    async def _try(self, trial: Callable[[], Awaitable[object]]) -> None:
        try:
            await self._observe(trial)
        except StoreError as error:
            log.debug("trial request: %s", error)  # What it means has been noted.
        except Exception:
            log.exception("a trial request failed unexpectedly")

    async def _observe(self, send: Callable[[], Awaitable[T]]) -> T:
        sent = trio.current_time()
        try:
            answer = await send()
        except StoreUnavailable as error:
            self._failed(sent, error)
            if self._cause is not None:
                raise self._unreachable(error) from error
            raise
        except StoreError:
            self._answered()
            raise
        self._answered()
        return answer

    def _failed(self, sent: float, error: StoreUnavailable) -> None:
        now = trio.current_time()
        if self._first_failure is None:
            self._silent_since = max(sent, self._last_answer)
            self._first_failure = now
        elif self._cause is None and sent >= self._first_failure and now - self._silent_since >= self._patience:
            self._cause = error
            self._unreachable_since = time.time() - (now - self._silent_since)
            self._opened.set()
            log.error("store unreachable: %s", error)

    def _answered(self) -> None:
        now = trio.current_time()
        if self._cause is not None:
            log.warning("store answers again after %.0f s: %s", now - self._silent_since, self._url)
            self._opened = trio.Event()
        self._cause = self._unreachable_since = self._first_failure = None
        self._last_answer = now

    def _unreachable(self, cause: StoreUnavailable) -> StoreUnreachable:
        return StoreUnreachable(f"no answer for {trio.current_time() - self._silent_since:.0f} s, last: {cause}")
