"""The memory of a daemon is bounded, whatever is copied through it."""

from pathlib import Path

import pytest

from stowfs.config import MIB
from tests.support.mounting import Mount, Mounts, python, run

pytestmark = pytest.mark.fuse

LIMIT = 240 * MIB
"""Bytes a daemon may take at its peak: what it needs by itself, and its caches."""

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
    python(WRITE, source, "256", kind)
    run("cp", source, mount.root / "f", timeout=COPY_TIMEOUT)
    run("cmp", source, mount.root / "f", timeout=COPY_TIMEOUT)
    assert peak(mount) < LIMIT


def test_many_writers_share_what_memory_there_is(mounts: Mounts, tmp_path: Path) -> None:
    mount = mounts.start()
    python(WRITE, tmp_path / "source", "12", "varied")
    copy = 'for n in $(seq 16); do cp "$1" "$2/$n" & done; wait'
    run("sh", "-c", copy, "sh", tmp_path / "source", mount.root, timeout=COPY_TIMEOUT)
    run("cmp", tmp_path / "source", mount.root / "16")
    assert peak(mount) < LIMIT


def test_many_files_that_lie_in_their_manifests_do_not_stay_in_memory(mounts: Mounts) -> None:
    mount = mounts.start()
    # Each compresses so well that it stays inline, and each edit makes another version of 1.5 MB.
    code = (
        "for n in range(150):\n"
        "    with open(f'{args[0]}/{n}', 'wb') as f: f.write(b'%09d' % n * 170_000)\n"
        "    with open(f'{args[0]}/{n}', 'r+b') as f: f.seek(1_000_000); f.write(b'edited')\n"
        "    with open(f'{args[0]}/{n}', 'rb') as f: assert len(f.read()) == 1_530_000"
    )
    python(code, mount.root)
    assert peak(mount) < LIMIT
