"""What is known about a conversation without reading it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metadata:
    """`time` is that of the first message or of creation, in seconds since the epoch. None: not known."""

    format: str
    model: str | None = None
    application: str | None = None
    messages: int | None = None
    time: float | None = None
