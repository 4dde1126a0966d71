"""Tasks that run beside a block of code and end with it, and work that goes to a thread where it takes long."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import trio

from stowfs.config import KIB

T = TypeVar("T")

SHORT = 16 * KIB
"""Bytes up to which cutting, hashing and compressing happens on the event loop: it takes less than a change of
thread."""


@asynccontextmanager
async def background() -> AsyncIterator[trio.Nursery]:
    """A nursery whose tasks are cancelled at the end of the block. What the block raises comes out as it is, without
    the nursery's group around it."""
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        except Exception as error:  # noqa: BLE001 - raised below
            failure = error
        finally:
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def run_long(function: Callable[[], T], size: int, limiter: trio.CapacityLimiter) -> T:
    """What a function gives that works on `size` bytes: called here, or in a thread where that takes long."""
    return function() if size <= SHORT else await trio.to_thread.run_sync(function, limiter=limiter)
