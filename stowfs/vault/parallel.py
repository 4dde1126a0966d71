"""Several things at once, with the errors of one thing: the first failure ends the rest and is raised as it is."""

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import trio

T = TypeVar("T")
R = TypeVar("R")


async def each(function: Callable[[T], Awaitable[R]], items: Iterable[T], *, limit: int | None = None) -> list[R]:
    """`function` of every item, at most `limit` at once (all, where it is `None`); the results in the order of the
    items.

    Raises what the first failing call raised; the other calls are cancelled.
    """
    work = list(items)
    if len(work) <= 1:
        return [await function(item) for item in work]
    results: dict[int, R] = {}
    failures: list[Exception] = []
    slots = trio.CapacityLimiter(limit or len(work))

    async def one(index: int, item: T) -> None:
        try:
            async with slots:
                results[index] = await function(item)
        except Exception as error:  # noqa: BLE001 - raised below, without the group around it
            failures.append(error)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for index, item in enumerate(work):
            nursery.start_soon(one, index, item)
    if failures:
        raise failures[0]
    return [results[index] for index in range(len(work))]
