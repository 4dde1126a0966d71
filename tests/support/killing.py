"""A change of one file, and the daemon killed at each of the requests that it makes."""

import random
from collections.abc import Callable
from pathlib import Path

from tests.support.mounting import Mounts, run

LINE = b'{"role": "user", "content": "%s"}\n'
OLD = b"".join(LINE % random.Random(n).randbytes(300).hex().encode() for n in range(600))
NEW = b"".join(LINE % random.Random(n).randbytes(300).hex().encode() for n in range(300, 1000))
"""Several segments each, some of them the same."""


def kill_at_every_request(directory: Path, attempt: Callable[[Mounts, int], bool], *, least: int) -> None:
    """Attempts something again and again, each time on a new store, with the number of the request at which it is to
    be killed, until it says that it does not make as many: it must make `least`."""
    for request in range(1, 60):
        place = directory / str(request)
        place.mkdir()
        mounts = Mounts(place)
        try:
            if not attempt(mounts, request):
                assert request > least
                return
        finally:
            mounts.close()
    raise AssertionError("no end of requests")


def change(kind: str, path: Path, other: Path) -> tuple[list[str | Path], bytes | None]:
    """A command to be given `NEW`, and what `path` holds afterwards (None: there is no such file). What is appended to
    held `OLD`, and what is renamed, `other`, `NEW`."""
    commands: dict[str, tuple[list[str | Path], bytes | None]] = {
        "create": (["tee", path], NEW),
        "replace": (["tee", path], NEW),
        "append": (["tee", "-a", path], OLD + NEW),
        "rename": (["mv", other, path], NEW),
        "remove": (["rm", path], None),
    }
    return commands[kind]


def content_of(path: Path) -> bytes | None:
    """What a file holds; None: there is none."""
    return path.read_bytes() if run("test", "-e", path, check=False).returncode == 0 else None
