"""What a worker did, in a file outside of the mounts: a line before each operation and one after it.

Times are those of the monotonic clock, which all processes of a machine share. An operation without a second line was
under way when its worker ended.
"""

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

Kind = Literal["replace", "append", "remove", "rename", "create", "read", "list"]
Outcome = Literal["done", "failed", "unknown"]
MUTATIONS = frozenset({"replace", "append", "remove", "rename", "create"})

Value = tuple[str, ...] | None
"""The parts a file consists of; `None`: there is no file."""


class Began(msgspec.Struct, frozen=True, tag="began", omit_defaults=True):
    """An operation is about to be done. `part`: what it writes; `target`: the new name of a rename."""

    number: int
    at: float
    kind: Kind
    path: str
    target: str = ""
    part: str = ""


class Ended(msgspec.Struct, frozen=True, tag="ended", omit_defaults=True):
    """It is over. `outcome`: done; failed, and had no effect; or unknown: it may have had, or have one later.

    `error`: the name of an errno. `value` is what a read found, `names` what a listing did; `torn` says what was wrong
    with what a read found.
    """

    number: int
    at: float
    outcome: Outcome
    error: str = ""
    value: Value = None
    names: tuple[str, ...] = ()
    torn: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a worker, with what came of it."""

    worker: str
    host: str
    began: Began
    ended: Ended

    @property
    def changes(self) -> bool:
        """Whether it changed something, or may have."""
        return self.began.kind in MUTATIONS and self.ended.outcome != "failed"


class Recorder:
    """Writes the history of one worker."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, event: Began | Ended) -> None:
        """One line, in one piece, and seen by others at once."""
        os.write(self._fd, msgspec.json.encode(event) + b"\n")


def load(path: Path, *, host: str) -> list[Operation]:
    """The operations in the history of a worker of a host, in the order in which it did them."""
    begun: dict[int, Began] = {}
    ends: dict[int, Ended] = {}
    for event in _events(path.read_bytes().splitlines()):
        match event:
            case Began():
                begun[event.number] = event
            case Ended():
                ends[event.number] = event
    return [
        Operation(path.stem, host, began, ends.get(number, Ended(number, math.inf, "unknown", "never ended")))
        for number, began in begun.items()
    ]


def last_event(path: Path) -> Began | Ended | None:
    """The last line of a history; `None` where there is none yet."""
    try:
        with path.open("rb") as lines:
            lines.seek(0, os.SEEK_END)
            lines.seek(max(0, lines.tell() - LONGEST))
            complete = [line for line in lines.read().split(b"\n")[:-1] if line]
    except FileNotFoundError:
        return None
    return next(_events(complete[-1:])) if complete else None


LONGEST = 1 << 20
"""Bytes of a line, at most: a log file that was read is thousands of names."""

_decoder = msgspec.json.Decoder(Began | Ended)


def _events(lines: Iterable[bytes]) -> Iterator[Began | Ended]:
    return (_decoder.decode(line) for line in lines)
