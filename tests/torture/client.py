"""File operations on a mount that may be gone at any moment, each written down before and after.

A directory of the mount is kept open and everything is named relative to it: so "no such file" is what the mount says,
never what is seen where nothing is mounted at the moment.
"""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

from tests.torture import content
from tests.torture.history import Began, Ended, Kind, Outcome, Recorder, Value

GONE = frozenset({errno.ENOTCONN, errno.ECONNABORTED, errno.ENODEV, errno.EBADF})
"""What is answered when the daemon has ended."""

LOOK_AGAIN = 0.1
"""Seconds between two looks whether the mount is there again."""

READ_SIZE = 1 << 20
"""Bytes of one read(2): several of them are needed for some files, and something may happen in between."""


class MountGone(Exception):
    """The daemon ended: the mount has to be entered again."""


class Client:
    """The operations of one worker. None of them raises `OSError`; they end up in the history."""

    def __init__(self, mountpoint: Path, recorder: Recorder, seed: int) -> None:
        self._mountpoint = mountpoint
        self._recorder = recorder
        self._seed = seed
        self._root = -1
        self._number = 0

    @property
    def next_number(self) -> int:
        """The number that the next operation will have."""
        return self._number + 1

    def enter(self) -> bool:
        """Opens the directory of the conversations, if something is mounted that answers."""
        try:
            self._root = os.open(self._mountpoint / "conversations", os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            time.sleep(LOOK_AGAIN)
            return False
        return True

    def leave(self) -> None:
        """Keeps nothing of the mount open."""
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def replace(self, path: str, part: str, data: bytes) -> Ended:
        """Opens with O_TRUNC, writes, closes."""
        return self._write("replace", path, part, data, os.O_CREAT | os.O_TRUNC)

    def append(self, path: str, part: str, data: bytes) -> Ended:
        """Opens what must be there with O_APPEND, writes, closes."""
        return self._write("append", path, part, data, os.O_APPEND)

    def create(self, path: str, part: str, data: bytes) -> Ended:
        """Opens with O_EXCL, writes, closes."""
        return self._write("create", path, part, data, os.O_CREAT | os.O_EXCL)

    def remove(self, path: str) -> Ended:
        """Unlinks."""
        return self._change("remove", path, "", lambda: os.unlink(path, dir_fd=self._root))

    def rename(self, path: str, target: str) -> Ended:
        """Renames, over what is there."""
        return self._change(
            "rename", path, target, lambda: os.rename(path, target, src_dir_fd=self._root, dst_dir_fd=self._root)
        )

    def read(self, path: str, *, pause: float = 0.0) -> Ended:
        """Opens, reads to the end, `pause` seconds after the first bytes; a handle must keep its version meanwhile."""
        number = self._begin("read", path)
        try:
            fd = os.open(path, os.O_RDONLY, dir_fd=self._root)
            try:
                pieces = [os.read(fd, READ_SIZE)]
                time.sleep(pause)
                while pieces[-1]:
                    pieces.append(os.read(fd, READ_SIZE))
            finally:
                os.close(fd)
        except FileNotFoundError:
            return self._end(number, "done")
        except OSError as error:
            return self._end(number, "failed", error)
        value: Value = None
        torn = ""
        try:
            value = content.parts(self._seed, b"".join(pieces))
        except content.Torn as problem:
            torn = str(problem)
        return self._end(number, "done", value=value, torn=torn)

    def list(self, path: str) -> Ended:
        """The names in a directory."""
        number = self._begin("list", path)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._root)
            try:
                names = os.listdir(fd)
            finally:
                os.close(fd)
        except OSError as error:
            return self._end(number, "failed", error)
        return self._end(number, "done", names=tuple(sorted(names)))

    def _write(self, kind: Kind, path: str, part: str, data: bytes, flags: int) -> Ended:
        number = self._begin(kind, path, part=part)
        try:
            fd = os.open(path, os.O_WRONLY | flags, 0o644, dir_fd=self._root)
        except OSError as error:
            # Nothing is stored before a close: an open that fails has no effect.
            return self._end(number, "failed", error)
        try:
            try:
                left = memoryview(data)
                while left:
                    left = left[os.write(fd, left) :]
            finally:
                os.close(fd)
        except FileExistsError as error:
            return self._end(number, "failed", error)
        except OSError as error:
            return self._end(number, "unknown", error)
        return self._end(number, "done")

    def _change(self, kind: Kind, path: str, target: str, change: Callable[[], None]) -> Ended:
        number = self._begin(kind, path, target=target)
        try:
            change()
        except FileNotFoundError as error:
            return self._end(number, "failed", error)
        except OSError as error:
            return self._end(number, "unknown", error)
        return self._end(number, "done")

    def _begin(self, kind: Kind, path: str, *, target: str = "", part: str = "") -> int:
        self._number += 1
        self._recorder.write(Began(self._number, time.monotonic(), kind, path, target, part))
        return self._number

    def _end(
        self,
        number: int,
        outcome: Outcome,
        error: OSError | None = None,
        *,
        value: Value = None,
        names: tuple[str, ...] = (),
        torn: str = "",
    ) -> Ended:
        code = errno.errorcode.get(error.errno or 0, str(error.errno)) if error else ""
        ended = Ended(number, time.monotonic(), outcome, code, value, names, torn)
        self._recorder.write(ended)
        if error is not None and error.errno in GONE:
            self.leave()
            raise MountGone
        return ended
