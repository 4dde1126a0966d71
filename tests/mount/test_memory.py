"""The memory of a daemon is bounded, whatever is copied through it."""

from pathlib import Path

import pytest

from stowfs.config import MIB
from tests.support.mounting import Mount, Mounts, python, run

pytestmark = pytest.mark.fuse

LIMIT = 300 * MIB
"""Bytes a daemon may take at its peak."""

COPY_TIMEOUT = 55.0
"""Seconds a copy may take, most of them compression."""

WRITE = """
import random
random = random.Random(1)
words = [random.randbytes(4).hex() for _ in range(4096)]
size, end = 0, int(args[1]) << 20
with open(args[0], 'wb') as file:
    number = 0
    while size < end:
        number += 1
        text = ' '.join(random.choices(words, k=12)) if args[2] == 'varied' else 'nothing happened at all'
        size += file.write(f'{number:09d} INFO worker: {text}\\n'.encode() * (1 if args[2] == 'varied' else 1000))
"""


def peak(mount: Mount) -> int:
    """Bytes of memory that the daemon has taken at most so far."""
    status = Path(f"/proc/{mount.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


@pytest.mark.parametrize("kind", ["varied", "monotonous"])
def test_a_large_file_does_not_take_memory_of_its_size(mounts: Mounts, tmp_path: Path, kind: str) -> None:
    mount = mounts.start()
    source = tmp_path / "source"
    # More than the limit: bytes that are kept until the end do not fit.
    python(WRITE, source, "384", kind)
    run("cp", source, mount.root / "f", timeout=COPY_TIMEOUT)
    run("cmp", source, mount.root / "f", timeout=COPY_TIMEOUT)
    assert peak(mount) < LIMIT
