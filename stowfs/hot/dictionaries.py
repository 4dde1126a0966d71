"""Dictionaries kept as files, `<name>` in one directory, so that what is cached can be read without the store.

They are part of the state, though they could be fetched again: whoever tidies a cache by age would begin with them,
and take with them all that was compressed with them since. A file is as the store has it; whoever reads it verifies it.
"""

import os
import re
from pathlib import Path

import trio

from stowfs.hot.directories import private_directory
from stowfs.hot.failures import CacheTrouble

KEPT = 16
"""Files kept, those used last: a store has two or three dictionaries, each of some hundred kilobytes."""

FILE_NAME = re.compile(r"[0-9a-f]{8}", re.ASCII)


class DictionaryFiles:
    """The dictionaries of one slot. No call fails on account of the disk: what cannot be kept is fetched again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._trouble = CacheTrouble(f"the dictionaries in {directory}")

    @classmethod
    def open(cls, directory: Path) -> "DictionaryFiles":
        """Those in `directory`; blocks."""
        files = cls(directory)
        try:
            private_directory(directory)
        except OSError as error:
            files._trouble.report(error)
        return files

    async def get(self, name: str) -> bytes | None:
        """The object of a dictionary, as it was put here."""
        return await trio.to_thread.run_sync(self._get, name)

    async def put(self, name: str, body: bytes) -> None:
        """Keeps the object of a dictionary."""
        await trio.to_thread.run_sync(self._put, name, body)

    def _get(self, name: str) -> bytes | None:
        path = self._directory / name
        try:
            body = path.read_bytes()
            os.utime(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._trouble.report(error)
            return None
        return body

    def _put(self, name: str, body: bytes) -> None:
        temporary = self._directory / f"{name}.new"
        try:
            with temporary.open("wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(self._directory / name)
            self._evict()
        except OSError as error:
            self._trouble.report(error)

    def _evict(self) -> None:
        kept = [path for path in self._directory.iterdir() if FILE_NAME.fullmatch(path.name)]
        for path in sorted(kept, key=lambda path: path.stat().st_mtime)[:-KEPT]:
            path.unlink(missing_ok=True)
