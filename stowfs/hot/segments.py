"""Compressed segments cached as files, `ab/<hash>` below one directory, evicted by least recent use.

A file is a header with a CRC-32 of all that follows, then the payload. It appears by rename, so it is there whole or
not at all, save for what a power failure leaves: any damaged file is a miss, and removed. Recency outlives the process
as the files' mtime, refreshed at most once an hour. What an earlier process left is counted by a thread in the
background from the first `put` on (until then the size does not matter); nothing is evicted before it is done.
"""

import itertools
import os
import re
import struct
import threading
import time
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import trio

from stowfs.hot.directories import PRIVATE, private_directory
from stowfs.hot.failures import CacheTrouble, logger

MAGIC = b"stw1"
HEADER = struct.Struct(">4sI")
"""Magic and version, CRC-32 of the rest of the file."""
FIELDS = struct.Struct(">QH")
"""Raw size in bytes, length of the dictionary's id (0: none), which follows; then the payload."""
BLOCK = 4096
"""What a file takes on disk is a multiple of this on the usual file systems: small segments count as they cost."""
REFRESH = 3600.0
"""Seconds after which a hit renews the mtime: recency across restarts to the hour, at no write for most hits."""
THREADS = 8
"""Files read or written at once: enough to keep a local disk busy, few enough to leave the interpreter to others."""
FILE_NAME = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class CachedSegment:
    """A segment as it is in the store: compressed, with the id of the dictionary it needs. `raw_size` in bytes."""

    dictionary: str | None
    raw_size: int
    payload: bytes


class SegmentFiles:
    """The cache directory of one slot. No call fails on account of the disk: what cannot be cached is a miss later."""

    def __init__(self, directory: Path, limit: int) -> None:
        self._directory = directory
        self._incoming = directory / "incoming"
        self._limit = limit
        self._limiter = trio.CapacityLimiter(THREADS)
        self._trouble = CacheTrouble(f"the segment cache {directory}")
        self._temporary_numbers = itertools.count()
        self._lock = threading.Lock()
        # Bytes on disk of each file, the one used longest ago first. Complete once the scan is done.
        self._sizes: OrderedDict[bytes, int] = OrderedDict()
        self._used = 0
        self._scanned = False
        self._closing = False
        self._scanner: threading.Thread | None = None

    @classmethod
    def open(cls, directory: Path, limit: int) -> "SegmentFiles":
        """The cache in `directory`, at most `limit` bytes; blocks."""
        cache = cls(directory, limit)
        try:
            private_directory(cache._incoming)
            for left_over in cache._incoming.iterdir():
                left_over.unlink()
        except OSError as error:
            cache._trouble.report(error)
        return cache

    @property
    def used(self) -> int:
        """Bytes on disk, as far as they are counted."""
        return self._used

    async def get(self, hash: bytes) -> CachedSegment | None:
        """The segment of that hash, or None where it is not cached."""
        if self._scanned and hash not in self._sizes:
            return None  # All that is there is known: this takes no thread.
        return await trio.to_thread.run_sync(self._get, hash, limiter=self._limiter)

    async def put(self, hash: bytes, segment: CachedSegment) -> None:
        """Caches the segment, and evicts others where the limit asks for it."""
        await trio.to_thread.run_sync(self.write, hash, segment, limiter=self._limiter)

    def write(self, hash: bytes, segment: CachedSegment) -> None:
        """As `put`; blocks."""
        data = _encode(segment)
        if _on_disk(len(data)) > self._limit:
            self._remove(hash)
            return
        self._start_scan()
        temporary = self._incoming / str(next(self._temporary_numbers))
        path = self._path(hash)
        try:
            try:
                _write(temporary, path, data)
            except FileNotFoundError:
                # Somebody swept the cache directory while it was in use, as they may.
                private_directory(self._incoming)
                _write(temporary, path, data)
        except OSError as error:
            self._trouble.report(error)
            self._unlink(temporary)
            return
        self._note(hash, _on_disk(len(data)))
        self._evict()

    async def discard(self, hash: bytes) -> None:
        """Removes the segment, if it is cached."""
        await trio.to_thread.run_sync(self._remove, hash, limiter=self._limiter)

    def close(self) -> None:
        """Ends the scan; blocks. Nothing may be under way."""
        self._closing = True
        if self._scanner is not None:
            self._scanner.join()

    def _path(self, hash: bytes) -> Path:
        name = hash.hex()
        return self._directory / name[:2] / name

    def _get(self, hash: bytes) -> CachedSegment | None:
        path = self._path(hash)
        try:
            with path.open("rb") as file:
                data = file.read()
                if time.time() - os.fstat(file.fileno()).st_mtime > REFRESH:
                    os.utime(file.fileno())
        except FileNotFoundError:
            self._forget(hash)
            return None
        except OSError as error:
            self._trouble.report(error)
            self._remove(hash)
            return None
        segment = _decode(data)
        if segment is None:
            logger.warning("the cached segment %s is damaged: it is removed, and fetched again", path)
            self._remove(hash)
            return None
        self._note(hash, _on_disk(len(data)))
        return segment

    def _remove(self, hash: bytes) -> None:
        self._unlink(self._path(hash))
        self._forget(hash)

    def _unlink(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self._trouble.report(error)

    def _note(self, hash: bytes, size: int) -> None:
        """The file is there with that size, and was used last of all."""
        with self._lock:
            self._used += size - self._sizes.pop(hash, 0)
            self._sizes[hash] = size

    def _forget(self, hash: bytes) -> None:
        with self._lock:
            self._used -= self._sizes.pop(hash, 0)

    def _evict(self) -> None:
        while True:
            with self._lock:
                if not self._scanned or self._used <= self._limit:
                    return
                hash, size = self._sizes.popitem(last=False)
                self._used -= size
            self._unlink(self._path(hash))

    def _start_scan(self) -> None:
        with self._lock:
            if self._scanner is None:
                self._scanner = threading.Thread(target=self._scan, name="stowfs-segment-scan", daemon=True)
                self._scanner.start()

    def _scan(self) -> None:
        """Counts the files an earlier process left; those used since the start stay the most recent."""
        found: list[tuple[float, bytes, int]] = []
        try:
            for directory in self._directory.iterdir():
                if self._closing:
                    return
                if directory != self._incoming and directory.is_dir():
                    found += _files(directory)
        except OSError as error:
            self._trouble.report(error)
        found.sort()
        with self._lock:
            recent, self._sizes = self._sizes, OrderedDict((hash, size) for _, hash, size in found)
            for hash, size in recent.items():
                self._sizes.pop(hash, None)
                self._sizes[hash] = size
            self._used = sum(self._sizes.values())
            self._scanned = True
        self._evict()


def _files(directory: Path) -> list[tuple[float, bytes, int]]:
    """(mtime, hash, bytes on disk) of the segments in one directory."""
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if FILE_NAME.fullmatch(entry.name):
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    continue  # discarded since it was listed
                found.append((status.st_mtime, bytes.fromhex(entry.name), _on_disk(status.st_size)))
    return found


def _write(temporary: Path, path: Path, data: bytes) -> None:
    temporary.write_bytes(data)
    path.parent.mkdir(mode=PRIVATE, exist_ok=True)
    temporary.rename(path)


def _on_disk(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _encode(segment: CachedSegment) -> bytes:
    dictionary = (segment.dictionary or "").encode()
    content = FIELDS.pack(segment.raw_size, len(dictionary)) + dictionary + segment.payload
    return HEADER.pack(MAGIC, zlib.crc32(content)) + content


def _decode(data: bytes) -> CachedSegment | None:
    """None where the file is damaged, or of another version."""
    if len(data) < HEADER.size + FIELDS.size:
        return None
    magic, checksum = HEADER.unpack_from(data)
    content = memoryview(data)[HEADER.size :]
    if magic != MAGIC or checksum != zlib.crc32(content):
        return None
    raw_size, dictionary_size = FIELDS.unpack_from(content)
    payload_at = FIELDS.size + dictionary_size
    dictionary = bytes(content[FIELDS.size : payload_at]).decode()
    return CachedSegment(dictionary or None, raw_size, bytes(content[payload_at:]))
