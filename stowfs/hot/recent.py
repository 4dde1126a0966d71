"""What a database has not been told yet, in a file beside it.

Entries are appended as they come, without a sync: the end of the process by whatever signal loses none of them, and
what a power failure may take is cut off at the first record that is not whole. The file begins anew when the database
has what was in it.
"""

import os
import zlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

_HEAD = 8
"""Bytes before a record: its length and its CRC-32, four bytes each."""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """A manifest that was cached under a key, or (`etag` None) removed."""

    key: bytes
    etag: str | None = None
    body: bytes = b""


class RecentEntries:
    """The file. Its methods block, for as long as a write into the page cache takes, and raise `OSError`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def read(self) -> list[Entry]:
        """What an earlier process has left, in order."""
        try:
            return _whole(self._path.read_bytes())
        except FileNotFoundError:
            return []

    def append(self, entries: Iterable[Entry]) -> None:
        """Adds entries."""
        if self._fd >= 0:
            end = os.fstat(self._fd).st_size
            try:
                _write(self._fd, entries)
            except OSError:
                # A part of it would hide what is added later.
                os.ftruncate(self._fd, end)
                raise

    def begin_anew(self, entries: Iterable[Entry]) -> None:
        """Has these entries alone from now on."""
        new = self._path.with_name(self._path.name + ".new")
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            _write(fd, entries)
            os.replace(new, self._path)
        except BaseException:
            os.close(fd)
            raise
        self.close()
        self._fd = fd

    def close(self) -> None:
        """Closes the file. Nothing is added any more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _write(fd: int, entries: Iterable[Entry]) -> None:
    rest = memoryview(b"".join(map(_record, entries)))
    while rest:
        # On a disk that is full it is first fewer bytes, and then an error.
        rest = rest[os.write(fd, rest) :]


def _record(entry: Entry) -> bytes:
    payload = msgspec.msgpack.encode(entry)
    return len(payload).to_bytes(4) + zlib.crc32(payload).to_bytes(4) + payload


def _whole(data: bytes) -> list[Entry]:
    entries: list[Entry] = []
    position = 0
    while position + _HEAD <= len(data):
        start = position + _HEAD
        position = start + int.from_bytes(data[position : position + 4])
        payload = data[start:position]
        if zlib.crc32(payload) != int.from_bytes(data[start - 4 : start]):
            break
        try:
            entries.append(msgspec.msgpack.decode(payload, type=Entry))
        except msgspec.MsgspecError:
            break
    return entries
