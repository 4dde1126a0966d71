"""A program that uses a file system as it is told, and tells what came of it; for comparing two file systems.

    python -m tests.support.posix_client DIRECTORY

Each line of its input is a JSON document [NAME, OPERATIONS]: it makes the directory NAME below DIRECTORY, and does the
operations there. Each line of its output is a document, too: what each operation answered, the error where it failed,
and what is there in the end. Files are held open by numbered slots. "tree NAME" is answered with what is there now.

What is compared must not depend on the clock: a time stamp is told where it was set, and is "now" otherwise.
"""

import ctypes
import errno
import hashlib
import json
import mmap
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

RENAME_NOREPLACE = 1
AT_FDCWD = -100
CLOCK = 1_700_000_000 * 10**9
"""Nanoseconds since the epoch: later times come from the clock, earlier ones were set."""

Answer = str | int | list[object] | None
_libc = ctypes.CDLL(None, use_errno=True)


def payload(length: int, seed: int) -> bytes:
    """`length` bytes that tell where in which data they are."""
    line = b"%d the quick brown fox %d\n" % (seed, seed)
    return (line * (length // len(line) + 1))[:length]


def digest(data: bytes) -> list[object]:
    """What identifies bytes in a message."""
    return [len(data), hashlib.sha1(data, usedforsecurity=False).hexdigest()[:12]]


def described(status: os.stat_result) -> list[object]:
    """What two file systems have to agree on: not sizes and links of directories."""
    regular = stat.S_ISREG(status.st_mode)
    mtime = status.st_mtime_ns if status.st_mtime_ns < CLOCK else "now"
    return [oct(status.st_mode), status.st_size if regular else "", status.st_nlink if regular else "", mtime]


def mappable(fd: int) -> int:
    """Bytes of a regular file; 0 of a directory, about whose size file systems need not agree."""
    status = os.fstat(fd)
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


class Client:
    """The operations, in the working directory of the process."""

    def __init__(self) -> None:
        self.slots: dict[int, int] = {}

    def open(self, slot: int, path: str, flags: int, mode: int) -> Answer:
        fd = os.open(path, flags, mode)
        self.put(slot, fd)
        return None

    def put(self, slot: int, fd: int) -> None:
        if slot in self.slots:
            os.close(self.slots.pop(slot))
        self.slots[slot] = fd

    def fd(self, slot: int) -> int:
        # A number that nobody has open, so that the kernel says so.
        return self.slots.get(slot, 1 << 20)

    def close(self, slot: int) -> Answer:
        os.close(self.fd(slot))
        del self.slots[slot]
        return None

    def dup(self, slot: int, other: int) -> Answer:
        self.put(other, os.dup(self.fd(slot)))
        return None

    def read(self, slot: int, length: int) -> Answer:
        return digest(os.read(self.fd(slot), length))

    def pread(self, slot: int, length: int, offset: int) -> Answer:
        return digest(os.pread(self.fd(slot), length, offset))

    def write(self, slot: int, length: int, seed: int) -> Answer:
        return os.write(self.fd(slot), payload(length, seed))

    def pwrite(self, slot: int, length: int, seed: int, offset: int) -> Answer:
        return os.pwrite(self.fd(slot), payload(length, seed), offset)

    def lseek(self, slot: int, offset: int, whence: int) -> Answer:
        fd = self.fd(slot)
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            # What the positions in a directory are, is up to its file system.
            return "a directory"
        return os.lseek(fd, offset, whence)

    def ftruncate(self, slot: int, length: int) -> Answer:
        os.ftruncate(self.fd(slot), length)
        return None

    def fsync(self, slot: int) -> Answer:
        os.fsync(self.fd(slot))
        return None

    def fstat(self, slot: int) -> Answer:
        return described(os.fstat(self.fd(slot)))

    def fchmod(self, slot: int, mode: int) -> Answer:
        os.fchmod(self.fd(slot), mode)
        return None

    def futimens(self, slot: int, mtime_ns: int) -> Answer:
        os.utime(self.fd(slot), ns=(mtime_ns, mtime_ns))
        return None

    def map_write(self, slot: int, length: int, seed: int, offset: int, sync: bool) -> Answer:
        """Through a shared mapping of what there is of the file."""
        fd = self.fd(slot)
        size = mappable(fd)
        if size == 0:
            return "nothing to map"
        with mmap.mmap(fd, size) as mapped:
            start = offset % size
            data = payload(length, seed)[: size - start]
            mapped[start : start + len(data)] = data
            if sync:
                mapped.flush()
            return digest(mapped[:])

    def map_read(self, slot: int) -> Answer:
        fd = self.fd(slot)
        if mappable(fd) == 0:
            return "nothing to map"
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapped:
            return digest(mapped[:])

    def truncate(self, path: str, length: int) -> Answer:
        os.truncate(path, length)
        return None

    def rename(self, old: str, new: str) -> Answer:
        os.rename(old, new)
        return None

    def rename_noreplace(self, old: str, new: str) -> Answer:
        if _libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), RENAME_NOREPLACE):
            raise OSError(ctypes.get_errno(), "renameat2")
        return None

    def unlink(self, path: str) -> Answer:
        os.unlink(path)
        return None

    def mkdir(self, path: str, mode: int) -> Answer:
        os.mkdir(path, mode)
        return None

    def rmdir(self, path: str) -> Answer:
        os.rmdir(path)
        return None

    def chmod(self, path: str, mode: int) -> Answer:
        os.chmod(path, mode)
        return None

    def utimens(self, path: str, mtime_ns: int) -> Answer:
        os.utime(path, ns=(mtime_ns, mtime_ns))
        return None

    def symlink(self, target: str, path: str) -> Answer:
        os.symlink(target, path)
        return None

    def readlink(self, path: str) -> Answer:
        return os.readlink(path)

    def stat(self, path: str) -> Answer:
        return described(os.stat(path))

    def lstat(self, path: str) -> Answer:
        return described(os.lstat(path))

    def listdir(self, path: str) -> Answer:
        return sorted(os.listdir(path))

    def save(self, path: str, length: int, seed: int) -> Answer:
        """As editors do: a new file beside the old one, and then in its place."""
        with open(path + "~", "wb") as file:
            file.write(payload(length, seed))
            file.flush()
            os.fsync(file.fileno())
        os.rename(path + "~", path)
        return None

    def leave(self) -> None:
        """Closes everything."""
        for slot in sorted(self.slots):
            os.close(self.slots[slot])
        self.slots.clear()


def answer(operation: Callable[..., Answer], arguments: list[object]) -> Answer:
    """What an operation gives, or the name of its error."""
    try:
        return operation(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def tree(directory: Path) -> list[object]:
    """Everything below a directory, and the directory itself: names, attributes, bytes."""
    found: list[object] = []
    for path in sorted([directory, *directory.rglob("*")]):
        status = path.lstat()
        match stat.S_IFMT(status.st_mode):
            case stat.S_IFREG:
                content: object = digest(path.read_bytes())
            case stat.S_IFLNK:
                content = os.readlink(path)
            case _:
                content = ""
        found.append([str(path.relative_to(directory)), *described(status), content])
    return found


def perform(directory: Path, operations: list[list[object]]) -> list[object]:
    """The answers to operations in a new directory, and what is there afterwards, without and with files open."""
    directory.mkdir()
    os.chdir(directory)
    client = Client()
    answers: list[object] = []
    for name, *arguments in operations:
        answers.append(answer(getattr(client, str(name)), arguments))
    before = tree(directory)
    client.leave()
    return [*answers, before, tree(directory)]


def main(directory: Path) -> None:
    """Serves until the input ends."""
    os.umask(0o022)
    for line in sys.stdin:
        match json.loads(line):
            case ["tree", str(name)]:
                result = tree(directory / name)
            case [str(name), list(operations)]:
                result = perform(directory / name, operations)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
