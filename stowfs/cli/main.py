"""The command `stowfs`: finds the command's module, runs it, and turns errors into one line and an exit status.

0: done. 1: failed, with the reason and what to do on stderr. 2: wrong usage. 130: interrupted. A defect shows its
traceback.
"""

import importlib
import sys
from collections.abc import Sequence

import click
from click.exceptions import NoArgsIsHelpError

from stowfs import __version__
from stowfs.cli.failures import cause, explain
from stowfs.cli.output import drop_output, fail, open_missing_streams, writing_results

COMMANDS = {
    "cat": ("read", "Print conversations, byte for byte, one after the other."),
    "compact": ("compact", "Store what is stored already in less space."),
    "doctor": ("doctor", "Check what this host and STORE can do."),
    "du": ("du", "Show how many bytes conversations have, and how many they take in STORE."),
    "expire": ("expire", "Set when conversations expire."),
    "flush": ("flush", "Wait until what was written is in the store."),
    "fsck": ("fsck", "Check STORE, and repair it."),
    "gc": ("reclaim", "Give back the space of what was deleted or has expired."),
    "get": ("copy", "Copy conversations and directories from STORE into the local directory DIR."),
    "ls": ("read", "List conversations."),
    "mkfs": ("mkfs", "Make a store."),
    "mount": ("mount", "Mount STORE at DIR, an empty directory."),
    "mv": ("change", "Rename a conversation or a directory."),
    "put": ("copy", "Copy local files and directories into STORE."),
    "rm": ("change", "Delete conversations."),
    "stat": ("read", "Show what is known of a conversation or directory."),
    "train": ("train", "Train a compression dictionary on what is in STORE."),
    "umount": ("umount", "Unmount DIR, when its daemon has finished."),
    "undelete": ("reclaim", "Bring deleted conversations back, or list them."),
}
"""The module of every command and what it does. The module is imported when the command is asked for, so that
`stowfs --help` needs no boto3, obstore or trio."""

INTERRUPTED = 130
"""The exit status of what was ended by SIGINT, by the convention of shells."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _ = COMMANDS[cmd_name]
        command = getattr(importlib.import_module(f"stowfs.cli.commands.{module}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="stowfs")
def cli() -> None:
    """A file system for LLM conversations over an object store.

    STORE is s3://BUCKET/PREFIX, file:///DIRECTORY or the path of a directory. For S3, the usual AWS environment
    variables, profiles and AWS_ENDPOINT_URL are honoured.

    \b
    Example:
      stowfs mount file:///srv/store /mnt/stow
      cp -r transcripts /mnt/stow/conversations/
      stowfs umount /mnt/stow
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    open_missing_streams()
    try:
        result = cli.main(args=arguments, prog_name="stowfs", standalone_mode=False)
        with writing_results():
            sys.stdout.flush()
    except BaseException as error:
        status = _report(cause(error))
        if status is None:
            raise
        return status
    return result if isinstance(result, int) else 0


def _report(error: BaseException) -> int | None:
    """Says what went wrong; the exit status. `None` for what is a defect."""
    match error:
        case NoArgsIsHelpError():
            error.show()
            return 2
        case BrokenPipeError():
            # Whoever read the output has seen enough.
            drop_output()
            return 1
        case OSError():
            drop_output()
        case KeyboardInterrupt() | click.Abort():
            return INTERRUPTED
    explained = explain(error)
    return None if explained is None else fail(explained[0], status=explained[1])
