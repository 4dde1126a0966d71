"""A lock that costs nothing where nobody else has it.

`trio.Lock` gives way to all other tasks each time it is taken. A change of a file takes half a dozen, nearly always
free ones, and each turn of the event loop that this adds costs as much as a system call. And a place to wait takes 240
bytes, of which a mount that knows a hundred thousand files has no use for most: it is made for who has to wait.
"""

from types import TracebackType

import trio


class Lock:
    """As `trio.Lock`, for `async with` alone: waiters get it in the order in which they came. A checkpoint only where
    it has to be waited for."""

    __slots__ = ("_held", "_waiters")

    def __init__(self) -> None:
        self._held = False
        self._waiters: trio.lowlevel.ParkingLot | None = None

    async def __aenter__(self) -> None:
        if self._held:
            if self._waiters is None:
                self._waiters = trio.lowlevel.ParkingLot()
            # Whoever has it hands it over.
            await self._waiters.park()
        self._held = True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._waiters:
            self._waiters.unpark()
        else:
            self._held = False
