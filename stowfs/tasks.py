"""Tasks that run beside a block of code and end with it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


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
