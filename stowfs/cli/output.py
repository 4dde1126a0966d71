"""What every command prints alike: errors, JSON, sizes, times, progress.

Results go to stdout; errors, notes and progress go to stderr. Names may hold bytes that are no text: they leave as
they are in a listing, and escaped in a message.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Protocol

import click

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


STANDARD = ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_RDONLY), (2, "stderr", os.O_WRONLY))
"""Descriptor and name of each standard stream, and how one that is missing is opened: to write results must fail where
nobody can have them; messages are lost."""


def open_missing_streams() -> None:
    """Opens the standard streams that this process was started without (`>&-`): Python has `None` for them, and another
    file would get their descriptors."""
    for fd, name, flags in STANDARD:
        if getattr(sys, name) is None:
            null = os.open(os.devnull, flags)
            if null != fd:
                os.dup2(null, fd)
                os.close(null)
            os.set_inheritable(fd, True)
            setattr(sys, name, open(fd, "r" if name == "stdin" else "w", closefd=False))  # noqa: SIM115


def drop_output() -> None:
    """What could not be written to stdout must not fail again at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


@contextmanager
def writing_results() -> Iterator[None]:
    """Around what writes to stdout: an error says that it was there."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from error


def fail(message: str, *, status: int = 1) -> int:
    """Prints one line that says what went wrong and what to do; returns the exit status."""
    note(" ".join(message.split()))
    return status


def note(message: str) -> None:
    """Prints a line for the user that is not a result."""
    click.echo(f"stowfs: {printable(message)}", err=True)


def printable(text: str) -> str:
    """`text` with everything escaped that a terminal must not get from a name in a store: control characters, no
    text."""
    readable = os.fsencode(text).decode(errors="backslashreplace")
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in readable)


def echo(text: str) -> None:
    """Prints a line that may hold names: escaped for a terminal, byte for byte for a program."""
    with writing_results():
        click.echo(printable(text) if sys.stdout.isatty() else os.fsencode(text))


def emit(document: object) -> None:
    """Prints one JSON document."""
    with writing_results():
        click.echo(json.dumps(document, indent=2))


def size(count: float) -> str:
    """`count` bytes for a reader: three digits and a unit."""
    unit = 0
    while count >= 999.5 and unit < len(UNITS) - 1:
        count /= 1024
        unit += 1
    return f"{count:.0f} {UNITS[unit]}" if unit == 0 or count >= 99.95 else f"{count:.1f} {UNITS[unit]}"


def counted(count: int, thing: str) -> str:
    """For example '1 file', '2 files'."""
    plural = thing[:-1] + "ies" if thing.endswith("y") else thing + "s"
    return f"{count:,} {thing if count == 1 else plural}"


def moment(seconds: float) -> str:
    """A time in seconds since the epoch, as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


class Progress(Protocol):
    """Where a bulk copy says how far it is."""

    def expect(self, byte_count: int) -> None:
        """So many more bytes are to be copied."""

    def advance(self, byte_count: int) -> None:
        """So many more bytes were copied."""


class _Silent:
    def expect(self, byte_count: int) -> None: ...

    def advance(self, byte_count: int) -> None: ...


@contextmanager
def progress(what: str) -> Iterator[Progress]:
    """A progress bar on stderr, where that is a terminal; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield _Silent()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = [TextColumn("{task.description}"), BarColumn(), DownloadColumn(True), TransferSpeedColumn()]
    with Bars(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(what, total=0)

        class Bar:
            def expect(self, byte_count: int) -> None:
                bars.update(task, total=(bars.tasks[task].total or 0) + byte_count)

            def advance(self, byte_count: int) -> None:
                bars.advance(task, byte_count)

        yield Bar()
