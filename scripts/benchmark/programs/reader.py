"""Reads blocks all over a file: … programs.reader FILE TIMES, and prints the seconds and a digest of the blocks."""

import hashlib
import os
import random
import sys
import time
from pathlib import Path

BLOCK = 4096


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
    print(*read(Path(sys.argv[1]), int(sys.argv[2])))
