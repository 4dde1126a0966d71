"""The directory that a `file://` store is in, and whether it is that still.

A mount point whose file system is not mounted is an empty directory. Who took it for the store would take everything
for deleted, and write where nobody finds it once the file system is there again. So a directory is believed to be the
store as long as it is the same one (device and inode), and then as long as it has the hidden directory.
"""

import errno
import os
import stat

from stowfs.errors import StoreUnavailable


class Root:
    """The directory `path`; `hidden` is in it as soon as anything has been written to the store."""

    def __init__(self, path: bytes, hidden: bytes) -> None:
        self._path = path
        self._hidden = hidden
        # Of the directory that had it.
        self._identity: tuple[int, int] | None = None

    @property
    def is_missing(self) -> bool:
        """Whether it is not there, and has not been there before."""
        return self._identity is None and not os.path.isdir(self._path)

    def note(self) -> None:
        """An object was found in it."""
        if self._identity is None:
            self.confirm()

    def confirm(self) -> None:
        """Raises `FileNotFoundError` where it is not there, and `StoreUnavailable` where it is not there any more."""
        # Once: other threads may come to know it meanwhile, from which nothing follows for what is seen here.
        known, identity = self._identity, self._look()
        if known is None and identity is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._path)
        if identity == known:
            return
        if identity is not None and os.path.isdir(self._hidden):
            # The first time; or mounted once more, perhaps with another device number.
            self._identity = identity
        elif known is not None:
            name = os.fsdecode(self._path)
            raise StoreUnavailable(f"{name} is not the directory that held the store: is its file system mounted?")

    def _look(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return (status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else None
