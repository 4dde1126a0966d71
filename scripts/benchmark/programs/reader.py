"""Reads blocks all over a file, … programs.reader FILE TIMES, or all of it, … programs.reader FILE, and prints the
seconds and a digest of what was read."""

import hashlib
import os
import random
import sys
import time
from pathlib import Path

BLOCK = 4096

CHUNK = 1 << 20
"""What is asked for at a time of a whole file."""


def read_whole(path: Path) -> tuple[float, str]:
    """The seconds, and the SHA-256 of the file."""
    with path.open("rb", buffering=0) as file:
        began = time.monotonic()
        chunks = list(iter(lambda: os.read(file.fileno(), CHUNK), b""))
        seconds = time.monotonic() - began
    return seconds, hashlib.sha256(b"".join(chunks)).hexdigest()


def read(path: Path, times: int) -> tuple[float, str]:
    """The seconds, and the SHA-256 of what was read. The same places each time, for files of the same size."""
    with path.open("rb", buffering=0) as file:
        places = random.Random(times)
        last = max(0, os.fstat(file.fileno()).st_size - BLOCK)
        offsets = [places.randint(0, last) for _ in range(times)]
        began = time.monotonic()
        blocks = [os.pread(file.fileno(), BLOCK, offset) for offset in offsets]
        seconds = time.monotonic() - began
    return seconds, hashlib.sha256(b"".join(blocks)).hexdigest()


if __name__ == "__main__":
    match sys.argv[1:]:
        case [file]:
            print(*read_whole(Path(file)))
        case [file, times]:
            print(*read(Path(file), int(times)))
        case _:
            sys.exit(__doc__)
