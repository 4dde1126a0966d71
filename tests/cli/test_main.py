"""The command as such: help, wrong usage, interrupts and broken pipes."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest

from stowfs import __version__
from stowfs.cli.main import COMMANDS, cli
from tests.support.commands import Stow


def test_help_lists_every_command_without_importing_what_only_commands_need(stow: Stow) -> None:
    program = "import sys; from stowfs.cli.main import main; main(['--help']); print([m for m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)
    loaded = set(done.stdout.rpartition("[")[2].rstrip("]\n").split(", "))
    assert not {"'trio'", "'boto3'", "'obstore'", "'pyfuse3'"} & loaded


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_with_an_example(stow: Stow, name: str) -> None:
    text = stow.run(name, "--help").stdout
    assert f"Usage: stowfs {name} " in text
    assert f"Example:\n    stowfs {name} " in text
    assert text == stow.run(name, "-h").stdout


def test_version(stow: Stow) -> None:
    assert stow.run("--version").stdout.split()[-1] == __version__


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["ls"], "Missing argument 'STORE'"),
        (["ls", "ftp://host/x"], "unknown scheme 'ftp'"),
        (["ls", "s3://"], "is no bucket name"),
        (["ls", "store", "--limit", "-1"], "Invalid value for '--limit'"),
        (["ls", "store", "--since", "yesterday"], "'yesterday' is no time"),
        (["cat", "store"], "Missing argument 'ID...'"),
        (["mount", "store", "mnt", "-o", "commit=never"], "commit=never"),
        (["mount", "store", "mnt", "-o", "nonsense"], "unknown mount option 'nonsense'"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(stow: Stow, arguments: list[str], expected: str) -> None:
    assert expected in stow.error(*arguments, status=2)


def test_without_arguments_it_shows_help(stow: Stow) -> None:
    done = stow.run(status=2)
    assert "Commands:" in done.stderr


def test_summaries_are_those_of_the_commands() -> None:
    """The list is written down, so as not to import every command: it must say what they say."""
    context = cli.make_context("stowfs", ["--help"], resilient_parsing=True)
    for name, (_, summary) in COMMANDS.items():
        assert isinstance(cli, click.Group)
        command = cli.get_command(context, name)
        assert command is not None
        assert command.help is not None
        assert command.help.splitlines()[0] == summary


def test_a_reader_that_has_seen_enough_is_no_error(stow: Stow, store: str) -> None:
    with _printing(stow, store) as (process, output):
        assert os.read(output, 1) == b"x"
    _, errors = process.communicate(timeout=60)
    assert errors == b""
    assert process.returncode == 1


def _redirected(stow: Stow, redirection: str, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """A command with the streams that a shell gives it."""
    return subprocess.run(
        ["sh", "-c", f'exec "$0" -m stowfs "$@" {redirection}', sys.executable, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=stow.directory,
        env={**os.environ, **stow.environment, "PYTHONUNBUFFERED": ""},
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("redirection", "reason"), [(">&-", "Bad file descriptor"), (">/dev/full", "No space left on device")]
)
def test_output_that_cannot_be_written_is_one_line_and_status_1(
    stow: Stow, store: str, redirection: str, reason: str
) -> None:
    (stow.directory / "file").write_bytes(b"x")
    stow.run("put", store, "file")
    for command in (["ls", store], ["du", "--json", store], ["cat", store, "file"], ["put", store, "file"]):
        done = _redirected(stow, redirection, *command)
        assert (done.returncode, done.stderr) == (1, f"stowfs: standard output: {reason}\n"), command
    for command in (["--version"], ["ls", "--help"]):
        done = _redirected(stow, redirection, *command)
        assert (done.returncode, done.stderr) == (1, f"stowfs: {reason}\n"), command


def test_streams_that_nobody_needs_may_be_closed(stow: Stow, store: str) -> None:
    (stow.directory / "file").write_bytes(b"x")
    stow.run("put", store, "file")
    assert _redirected(stow, "<&- 2>&-", "ls", store).stdout == "file\n"
    done = _redirected(stow, "<&- >&- 2>&-", "rm", store, "file")
    assert done.returncode == 0
    for redirection, message in ((">&-", "file: no such conversation or directory"), ("2>&-", "")):
        done = _redirected(stow, redirection, "rm", store, "file")
        assert (done.returncode, message in done.stderr) == (1, True)


@pytest.mark.fuse
def test_a_mount_needs_no_streams(stow: Stow, store: str, mountpoint: Path) -> None:
    assert _redirected(stow, "<&- >&- 2>&-", "mount", store, mountpoint).returncode == 0
    (mountpoint / "conversations/file").write_bytes(b"x")
    stow.run("umount", mountpoint)
    program = "from stowfs.cli.mount_helper import main; raise SystemExit(main())"
    command = f'exec "$0" -c "{program}" "$@" >&- 2>&-'
    environment = {**os.environ, **stow.environment}
    subprocess.run(
        ["sh", "-c", command, sys.executable, store, str(mountpoint)], env=environment, timeout=60, check=True
    )
    assert (mountpoint / "conversations/file").read_bytes() == b"x"


def test_an_interrupt_ends_it_quietly(stow: Stow, store: str) -> None:
    with _printing(stow, store) as (process, output):
        # Nobody reads on: it waits for room in the pipe when the interrupt comes.
        assert select.select([output], [], [], 60)[0]
        process.send_signal(signal.SIGINT)
        _drain(output)
    _, errors = process.communicate(timeout=60)
    assert errors == b""
    assert process.returncode == 130


@contextmanager
def _printing(stow: Stow, store: str) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """A command that prints more than a pipe holds, and that pipe, which is closed after the block."""
    (stow.directory / "large").write_bytes(b"x" * (8 << 20))
    stow.run("put", store, "large")
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "stowfs", "cat", store, "large"],
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=subprocess.PIPE,
            cwd=stow.directory,
            env={**os.environ, **stow.environment},
        )
        os.close(writing)
        yield process, reading
    finally:
        os.close(reading)


def _drain(fd: int) -> None:
    while os.read(fd, 1 << 20):
        pass


def test_a_name_of_the_store_cannot_send_control_characters_to_a_terminal(stow: Stow, store: str) -> None:
    name = "a\x1b[31mred"
    (stow.directory / name).write_bytes(b"x")
    stow.run("put", store, name)
    assert stow.run("ls", store).stdout == name + "\n"
    message = stow.error("cat", store, name + "er")
    assert "\x1b" not in message
    assert "a\\x1b[31mreder" in message


def test_bytes_that_are_no_text_pass_through(stow: Stow, store: str, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    (tmp_path / name).write_bytes(b"x")
    stow.run("put", store, name)
    assert stow.run("ls", store).stdout == name + "\n"
    assert [entry["id"] for entry in stow.json("ls", store)] == [name]
    assert stow.run("cat", store, name).stdout == "x"
