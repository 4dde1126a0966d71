"""The blocking half of the `file://` store: objects as plain files below a directory, every change atomic and durable.

* A write goes to a temporary file on the same file system, is fsynced and renamed over the key; then the directory is
  fsynced.
* Changes of a key exclude each other between threads and processes (`locks.py`).
* The ETag is the modification time in nanoseconds and the size. The writer sees to it, under the lock, that the time is
  later than that of the file it replaces, so that a listing needs nothing but stat, and no ETag comes twice while a key
  exists.
* Parent directories come and go with their files. Whoever creates a file retries when a directory vanishes under it.
* A directory that is changed while it is read is read again while nobody can change it. Where a rename over a name
  moves it to the end of the directory (btrfs, tmpfs), a scan may end before it, and what is there is left out.

Everything that is no object sits in one hidden directory. Functions raise OSError; `file.py` translates.
"""

import contextlib
import errno
import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import uuid_utils

from stowfs.durable import sync_directory
from stowfs.errors import ObjectNotFound, StoreError, UsageError
from stowfs.store.base import ALWAYS, ByteRange, Condition, Found, NotModified, ObjectInfo, PendingUpload
from stowfs.store.locks import Locks
from stowfs.store.root import Root
from stowfs.store.rules import check_condition, check_key

HIDDEN = ".stowfs-private"
"""Directory at the root for locks, temporary files and parts. No key may begin with it, and listings leave it out."""

_ABANDONED = 24 * 3600.0
"""Seconds after which a temporary file is taken to be left over from a crash. No write takes nearly as long."""

_COARSE = 2_000_000_000
"""Nanoseconds: the coarsest modification time of any file system in use (FAT)."""

_RACES = 100
"""Attempts to create a file in a directory that others keep removing. Each lost one needs another deletion within
microseconds, so that this many in a row mean something else is wrong."""

_READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class Directory:
    """The operations of a store on the directory `root`, which must exist. `patience`: seconds to wait for a lock."""

    def __init__(self, root: Path, patience: float) -> None:
        # Bytes, so that keys are UTF-8 on disk whatever the locale says.
        self._root = os.fsencode(root)
        self._hidden = os.path.join(self._root, HIDDEN.encode())
        self._temporary = os.path.join(self._hidden, b"tmp")
        self._locks = Locks(os.path.join(self._hidden, b"locks"), patience)
        self._uploads = os.path.join(self._hidden, b"uploads")
        self.root = Root(self._root, self._hidden)
        self._prepared = False

    def _path(self, key: str) -> bytes:
        check_key(key)
        if key.split("/", 1)[0] == HIDDEN:
            raise UsageError(f"keys cannot begin with {HIDDEN}: {key!r}")
        return os.path.join(self._root, key.encode())

    def _prepare(self) -> None:
        """Makes the hidden directory and sweeps what crashed writers left in it; once, before the first write. Raises
        as `Root.confirm` does, each time."""
        self.root.confirm()
        if self._prepared:
            return
        for directory in (self._hidden, self._temporary, self._locks.directory, self._uploads):
            with contextlib.suppress(FileExistsError):
                os.mkdir(directory)
        for entry in os.scandir(self._temporary):
            with contextlib.suppress(FileNotFoundError):
                if entry.stat(follow_symlinks=False).st_mtime < time.time() - _ABANDONED:
                    os.unlink(entry.path)
        self.root.confirm()
        self._prepared = True

    # Reading

    def get(self, key: str, byte_range: ByteRange | None, if_none_match: str | None) -> Found | NotModified:
        path = self._path(key)
        try:
            fd = os.open(path, _READ_FLAGS)
        except OSError as error:
            # ENOTDIR: a component is a file. ELOOP: a symbolic link. ENXIO: a socket. None of them is an object.
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG):
                self.root.confirm()
                raise ObjectNotFound(f"there is no object {key}") from error
            raise
        try:
            self.root.note()
            # The file is never changed after its rename, so that what this descriptor gives is one version.
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise ObjectNotFound(f"there is no object {key}")
            etag = _etag(status)
            if etag == if_none_match:
                return NotModified()
            wanted = byte_range or ByteRange(0, status.st_size)
            return Found(_read_exactly(fd, wanted.start, min(wanted.end, status.st_size)), etag)
        finally:
            os.close(fd)

    def walk(self, prefix: str, after: str, *, recursive: bool) -> Iterator[ObjectInfo | str]:
        """Objects under `prefix` past `after` in key order; where not `recursive`, a directory with any as 'name/'."""
        base = prefix[: prefix.rfind("/") + 1]
        self.root.confirm()
        if base:
            self._path(base[:-1])  # Refuses what is not below the root.
        yield from self._walk(base, prefix, after, recursive)
        # What was not found because it has been unmounted meanwhile would be taken for deleted.
        self.root.confirm()

    def _walk(self, base: str, prefix: str, after: str, recursive: bool) -> Iterator[ObjectInfo | str]:
        for name in self._entries(base, prefix, after, recursive):
            key = base + name
            if not key.endswith("/"):
                status = _status_at(os.path.join(self._root, key.encode()))
                if status is not None:
                    yield ObjectInfo(key, status.st_size, _etag(status), status.st_mtime)
            elif recursive:
                yield from self._walk(key, key, after, recursive)
            # Directories may be empty for a moment, or for good after a crash. An empty one is no prefix.
            elif next(self._walk(key, key, after, True), None) is not None:
                yield key

    def _entries(self, base: str, prefix: str, after: str, recursive: bool) -> list[str]:
        """The files, and the directories as 'name/', of directory `base`, in the order of the keys they stand for: all
        that are there all the time. Names and nothing else, since there may be very many."""
        path = os.path.join(self._root, base.encode())
        try:
            before = _changed(path)
            # Another change at the same tick of the clock, which may be another host's, would not show.
            if max(before) < time.time_ns() - _COARSE:
                found = self._scan(base, prefix, after, recursive)
                if _changed(path) == before:
                    return found
            return self._locks.undisturbed(lambda: self._scan(base, prefix, after, recursive))
        except (FileNotFoundError, NotADirectoryError):
            return []  # Removed since its parent was read, or a prefix that nothing has.

    def _scan(self, base: str, prefix: str, after: str, recursive: bool) -> list[str]:
        found = []
        with os.scandir(os.path.join(self._root, base.encode())) as entries:
            for entry in entries:
                try:
                    name = entry.name.decode()
                except UnicodeDecodeError:
                    continue  # Not a key, so not something that was ever stored here.
                key = base + name
                if entry.is_dir(follow_symlinks=False):
                    name += "/"
                    key += "/"
                    # Where the keys below are meant, some of them are past an `after` that is itself below.
                    wanted = key > after or (recursive and after.startswith(key))
                else:
                    wanted = key > after and entry.is_file(follow_symlinks=False)
                if wanted and key.startswith(prefix) and key != HIDDEN + "/":
                    found.append(name)
        found.sort()
        return found

    # Changing

    def put(self, key: str, body: bytes, condition: Condition) -> str:
        path = self._path(key)
        self._prepare()
        if condition != ALWAYS:
            # Spares the write that cannot succeed. What decides is the check under the lock.
            check_condition(key, condition, _etag_at(path))
        with self._temporary_file() as (fd, temporary):
            _write_all(fd, body)
            return self._publish(fd, temporary, key, path, condition)

    @contextlib.contextmanager
    def _temporary_file(self) -> Iterator[tuple[int, bytes]]:
        temporary = os.path.join(self._temporary, uuid_utils.uuid7().hex.encode())
        try:
            fd = os.open(temporary, _CREATE_FLAGS, 0o666)
        except FileNotFoundError:
            self._prepared = False  # Somebody removed the hidden directory, or the root: the next write looks again.
            raise
        try:
            yield fd, temporary
        finally:
            os.close(fd)
            with contextlib.suppress(FileNotFoundError):  # It was renamed.
                os.unlink(temporary)

    def _publish(self, fd: int, temporary: bytes, key: str, path: bytes, condition: Condition) -> str:
        now = time.time_ns()
        os.utime(fd, ns=(now, now))
        os.fsync(fd)  # Before the lock is taken: this is what takes long.
        with self._locks.of(key):
            current = _status_at(path)
            check_condition(key, condition, None if current is None else _etag(current))
            if current is not None and current.st_mtime_ns >= os.fstat(fd).st_mtime_ns:
                _set_later(fd, current.st_mtime_ns)
                os.fsync(fd)
            etag = _etag(os.fstat(fd))
            parent = self._rename(temporary, key, path)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)
        return etag

    def _rename(self, temporary: bytes, key: str, path: bytes) -> int:
        """Renames to `path`, making its parents. Returns a descriptor of the parent, to be fsynced."""
        parent = os.path.dirname(path)
        for _ in range(_RACES):
            try:
                descriptor = os.open(parent, _DIRECTORY_FLAGS)
            except FileNotFoundError:
                self._make_parents(parent)
                continue
            except NotADirectoryError as error:
                raise StoreError(f"{key} cannot be stored in a directory: a part of its path is an object") from error
            try:
                os.rename(temporary, path)
            except FileNotFoundError:
                os.close(descriptor)  # The parent was removed in between.
            except IsADirectoryError as error:
                os.close(descriptor)
                try:
                    os.rmdir(path)  # An empty directory that a crash left behind is not in the way.
                except OSError:
                    raise StoreError(f"{key} cannot be stored in a directory: other keys are below it") from error
            except BaseException:
                os.close(descriptor)
                raise
            else:
                # Others may have removed it and made it again since it was opened. What holds this object stays.
                os.close(descriptor)
                return os.open(parent, _DIRECTORY_FLAGS)
        raise TimeoutError(errno.ETIMEDOUT, "the directory of the object keeps being removed", path)

    def _make_parents(self, directory: bytes) -> None:
        """Makes `directory` and what is missing above it, but never the root; each new entry is fsynced."""
        missing = []
        while directory != self._root and not os.path.lexists(directory):
            missing.append(directory)
            directory = os.path.dirname(directory)
        for path in reversed(missing):
            try:
                os.mkdir(path)
            except FileExistsError:
                continue
            except FileNotFoundError:
                if not os.path.isdir(self._root):
                    raise
                return  # Removed by somebody in between: the caller tries again.
            with contextlib.suppress(FileNotFoundError):
                sync_directory(os.path.dirname(path))

    def delete(self, key: str, condition: Condition) -> None:
        path = self._path(key)
        self._prepare()
        with self._locks.of(key):
            current = _status_at(path)
            check_condition(key, condition, None if current is None else _etag(current))
            if current is None:
                return
            os.unlink(path)
        directory = os.path.dirname(path)
        while directory != self._root:
            try:
                os.rmdir(directory)
            except FileNotFoundError:
                pass  # Somebody else removed it: the same may hold for its parent.
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                break
            directory = os.path.dirname(directory)
        with contextlib.suppress(FileNotFoundError):
            sync_directory(directory)

    # Multipart uploads: a directory each, with the key in one file and the parts in others

    def begin_upload(self, key: str) -> str:
        self._path(key)
        self._prepare()
        upload_id = uuid_utils.uuid7().hex
        directory = self._upload(upload_id)
        os.mkdir(directory)
        with self._temporary_file() as (fd, temporary):
            _write_all(fd, key.encode())
            os.rename(temporary, os.path.join(directory, b"key"))
        return upload_id

    def _upload(self, upload_id: str) -> bytes:
        return os.path.join(self._uploads, upload_id.encode())

    def write_part(self, upload_id: str, number: int, body: bytes) -> None:
        with self._temporary_file() as (fd, temporary):
            _write_all(fd, body)
            try:
                os.rename(temporary, os.path.join(self._upload(upload_id), b"%08d" % number))
            except FileNotFoundError as error:
                raise _upload_gone(upload_id) from error

    def complete_upload(self, upload_id: str, key: str, condition: Condition) -> str:
        try:
            parts = sorted(name for name in os.listdir(self._upload(upload_id)) if name != b"key")
        except FileNotFoundError as error:
            raise _upload_gone(upload_id) from error
        if not parts:
            raise StoreError(f"the multipart upload of {key} has no parts")
        with self._temporary_file() as (fd, temporary):
            with open(fd, "wb", closefd=False) as whole:
                for name in parts:
                    with open(os.path.join(self._upload(upload_id), name), "rb") as part:
                        shutil.copyfileobj(part, whole, 1 << 20)
            etag = self._publish(fd, temporary, key, self._path(key), condition)
        self.abort_upload(upload_id)
        return etag

    def pending_uploads(self, prefix: str) -> list[PendingUpload]:
        pending = []
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._uploads):
                with (
                    contextlib.suppress(FileNotFoundError),
                    open(os.path.join(self._uploads, name, b"key"), "rb") as file,
                ):
                    key = file.read().decode()
                    if key.startswith(prefix):
                        pending.append(PendingUpload(key, name.decode(), os.fstat(file.fileno()).st_mtime))
        return sorted(pending, key=lambda upload: (upload.key, upload.upload_id))

    def abort_upload(self, upload_id: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._upload(upload_id))


def _changed(directory: bytes) -> tuple[int, int]:
    """When the names in a directory were changed last, in nanoseconds. Two times: sync tools set the first back, and
    not every file system keeps the second."""
    status = os.stat(directory)
    return status.st_mtime_ns, status.st_ctime_ns


def _etag(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"


def _status_at(path: bytes) -> os.stat_result | None:
    try:
        status = os.stat(path, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _etag_at(path: bytes) -> str | None:
    status = _status_at(path)
    return None if status is None else _etag(status)


def _set_later(fd: int, than: int) -> None:
    """Sets the modification time to one that the file system tells apart from `than`."""
    for step in (1, _COARSE):
        os.utime(fd, ns=(than + step, than + step))
        if os.fstat(fd).st_mtime_ns > than:
            return
    raise OSError(errno.EIO, "the file system does not keep modification times")


def _write_all(fd: int, body: bytes) -> None:
    view = memoryview(body)
    while view:
        view = view[os.write(fd, view) :]


def _read_exactly(fd: int, start: int, end: int) -> bytes:
    chunks = []
    while start < end:
        chunk = os.pread(fd, end - start, start)
        if not chunk:
            raise OSError(errno.EIO, "an object became shorter while it was read")
        chunks.append(chunk)
        start += len(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _upload_gone(upload_id: str) -> StoreError:
    return StoreError(f"the multipart upload {upload_id} was completed or aborted")
