"""Children with a time limit. Each is ended by its own id."""

import contextlib
import signal
import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

END_SECONDS = 10.0
"""How long a child that was told to end may take before it is killed: every daemon here needs well under a second."""

SHOWN = 300
"""Characters of what a failed command said: enough for its last line or two."""


class Failed(Exception):
    """A step of a contestant did not work; the message is for a person to read."""


def run(
    *command: str | Path,
    timeout: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    succeeds: Collection[int] = (0,),
) -> bytes:
    """What the command prints. Raises `Failed` when its exit status is not one of `succeeds`, or after `timeout` s."""
    arguments = [str(part) for part in command]
    process = start(arguments, env=env, cwd=cwd, output=subprocess.PIPE)
    try:
        said, told = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{arguments[0]}: not done within {timeout:.0f} s") from error
    finally:
        end(process)
    if process.returncode not in succeeds:
        reason = last_words(told) or f"exit status {process.returncode}"
        raise Failed(f"{Path(arguments[0]).name}: {reason}")
    return said


def last_words(text: bytes) -> str:
    """The end of what a program said, on one line."""
    return " ".join(text.decode(errors="replace").split())[-SHOWN:]


def start(
    command: Sequence[str | Path], *, env: Mapping[str, str] | None, cwd: Path | None, output: int
) -> "subprocess.Popen[bytes]":
    """A child in a session of its own, so that Ctrl-C leaves it to be ended in order. All it says goes to `output`."""
    return subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        cwd=cwd,
        env=env,
        start_new_session=True,
    )


def end(process: "subprocess.Popen[bytes] | subprocess.Popen[str]") -> None:
    """Ends a child that still runs: it is told to, then killed.

    One that is stuck in a dead mount is left: it ends when that mount is cleared away.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)
