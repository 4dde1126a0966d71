"""The memory of a daemon is bounded, whatever is copied through it, and however much is listed.

STOWFS_MEMORY_MIB and STOWFS_MEMORY_FILES set how large the file is and how many there are in a directory.
"""

import os
from pathlib import Path

import pytest

from stowfs.config import MIB
from tests.support.mounting import Mount, Mounts, python, run

pytestmark = pytest.mark.fuse

LIMIT = 240 * MIB
"""Bytes a daemon may take at its peak: what it needs by itself, and its caches."""

LARGE_MIB = int(os.environ.get("STOWFS_MEMORY_MIB", "256"))
"""Mebibytes of a file: more than the limit, so that bytes that are kept until the end do not fit."""

FILES = int(os.environ.get("STOWFS_MEMORY_FILES", "2000"))
"""Files in one directory."""

COPY_TIMEOUT = 55.0 * max(1, LARGE_MIB / 256, FILES / 2000)
"""Seconds a copy may take, most of them compression, and so may making or listing the files."""

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


@pytest.mark.timeout(10 + 2 * COPY_TIMEOUT)
@pytest.mark.parametrize("kind", ["varied", "monotonous"])
def test_a_large_file_does_not_take_memory_of_its_size(mounts: Mounts, tmp_path: Path, kind: str) -> None:
    mount = mounts.start()
    source = tmp_path / "source"
    python(WRITE, source, str(LARGE_MIB), kind, timeout=COPY_TIMEOUT)
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


@pytest.mark.timeout(60 + 3 * COPY_TIMEOUT)
def test_a_large_directory_is_made_and_listed_in_little_memory(mounts: Mounts) -> None:
    mount = mounts.start(options="timeout=60")
    run("mkdir", mount.root / "d")
    code = (
        "for n in range(int(args[1])):\n"
        "    with open(f'{args[0]}/{n:06d}.json', 'w') as f:\n"
        '        f.write(\'{"messages": [{"role": "user", "content": "%d"}]}\' % n)'
    )
    python(code, mount.root / "d", str(FILES), timeout=COPY_TIMEOUT)
    assert peak(mount) < LIMIT
    mount.unmount()
    # What is listed by a daemon that did not make it has to be fetched.
    mounts.forget_caches("a")
    listing = mounts.start(options="timeout=60")
    listed = run("find", listing.root, "-name", "*.json", "-printf", "%s\n", timeout=COPY_TIMEOUT).stdout.split()
    assert len(listed) == FILES
    assert run("ls", "-l", listing.root / "d", timeout=COPY_TIMEOUT).stdout.count(b".json\n") == FILES
    assert peak(listing) < LIMIT
