"""Directories of the hot tier: for their owner alone, and durable once made."""

import stat
from pathlib import Path

from stowfs.durable import sync_directory

PRIVATE = 0o700
"""Conversations are nobody else's business, and neither are their names."""


def private_directory(path: Path) -> None:
    """Makes `path` and its missing parents, each 0700 and durable. An existing one is made 0700. Raises `OSError`."""
    missing = []
    ancestor = path
    while not ancestor.is_dir():
        missing.append(ancestor)
        ancestor = ancestor.parent
    for directory in reversed(missing):
        directory.mkdir(mode=PRIVATE, exist_ok=True)
        sync_directory(directory.parent)
    if stat.S_IMODE(path.stat().st_mode) != PRIVATE:
        path.chmod(PRIVATE)
