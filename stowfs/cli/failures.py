"""What an exception means to a user: one line, and an exit status."""

import os

import click

from stowfs.errors import StowError, UsageError


def cause(error: BaseException) -> BaseException:
    """The error itself, or the first one in it where trio has wrapped it in a group; an interrupt before all
    others."""
    while isinstance(error, BaseExceptionGroup):
        interrupts = error.subgroup(KeyboardInterrupt)
        error = (interrupts or error).exceptions[0]
    return error


def explain(error: BaseException) -> tuple[str, int] | None:
    """What to say and the exit status; `None` for what is a defect, or no error."""
    match error:
        case click.UsageError():
            command = error.ctx.command_path if error.ctx else "stowfs"
            return f"{error.format_message().rstrip('.')}: see '{command} --help'", 2
        case click.ClickException():
            return error.format_message(), 1
        case UsageError():
            return str(error), 2
        case StowError():
            return str(error), 1
        case OSError():
            name = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
            return f"{name}{error.strerror or error}", 1
    return None
