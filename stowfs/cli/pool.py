"""Working through a long list with few tasks, whatever its length."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio

T = TypeVar("T")


async def work_through(function: Callable[[T], Awaitable[None]], items: Sequence[T], *, workers: int) -> None:
    """`function` of every item, in `workers` tasks; each takes the next item when it is done with one."""
    remaining = iter(items)

    async def worker() -> None:
        for item in remaining:
            await function(item)

    async with trio.open_nursery() as nursery:
        for _ in range(min(workers, len(items))):
            nursery.start_soon(worker)


def is_below(path: str, directories: set[str]) -> bool:
    """Whether `path` lies in one of `directories` (few), at any depth."""
    return any(path.startswith(directory + "/") for directory in directories)
