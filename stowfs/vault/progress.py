"""How far a long piece of work is, for whoever waits for it."""

from typing import Protocol


class Progress(Protocol):
    """Told of work in bytes of objects."""

    def expect(self, byte_count: int) -> None:
        """So many more bytes are to be done."""

    def advance(self, byte_count: int) -> None:
        """So many more bytes are done."""


class Unwatched:
    """Nobody wants to know."""

    def expect(self, byte_count: int) -> None: ...

    def advance(self, byte_count: int) -> None: ...


UNWATCHED = Unwatched()
