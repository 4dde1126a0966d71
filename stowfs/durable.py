"""What survives a power cut: a name does once its directory was synced, whatever was synced of the file."""

import os
from pathlib import Path


def sync_directory(path: Path | bytes) -> None:
    """Makes the names in directory `path` durable. Raises `OSError`."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
