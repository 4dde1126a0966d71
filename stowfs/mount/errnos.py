"""From errors to errno values, in one table, and the wrapper of every handler: it counts the operation, and keeps its
error from ending the mount.

pyfuse3 ends the whole mount on any exception of a handler but `FUSEError`: so every handler is wrapped by `handler`.
"""

import errno
import functools
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import pyfuse3

from stowfs import errors
from stowfs.mount.monitor import Monitor

log = logging.getLogger(__name__)

ERRNOS: dict[type[errors.StowError], int] = {
    errors.StowError: errno.EIO,
    errors.AccessDenied: errno.EACCES,
    errors.StoreFull: errno.ENOSPC,
    errors.UsageError: errno.EINVAL,
    errors.NoSuchPath: errno.ENOENT,
    errors.PathExists: errno.EEXIST,
    errors.IsDirectory: errno.EISDIR,
    errors.NotDirectory: errno.ENOTDIR,
    errors.DirectoryNotEmpty: errno.ENOTEMPTY,
    errors.NoSuchAttribute: errno.ENODATA,
    errors.AttributesFull: errno.ENOSPC,
    errors.NameTooLong: errno.ENAMETOOLONG,
    errors.FileTooLarge: errno.EFBIG,
    errors.ReadOnly: errno.EROFS,
    errors.HotTierFull: errno.ENOSPC,
}
"""The errno of each error; of one that is not listed, that of its nearest ancestor."""

WORTH_LOGGING = frozenset({errno.EIO, errno.EACCES, errno.ENOSPC})
"""Errors whose cause the errno does not tell: something is wrong with the store or this host. The others are everyday
answers."""

P = ParamSpec("P")
R = TypeVar("R")


class Describes(Protocol):
    """Something whose handlers are counted, and can say what a request is about."""

    monitor: Monitor

    def describe(self, handler: str, *arguments: object) -> str:
        """The path a request is about, for the log."""


D = TypeVar("D", bound=Describes)


def errno_of(error: errors.StowError) -> int:
    """The errno value a caller gets for `error`."""
    return next(ERRNOS[kind] for kind in type(error).__mro__ if kind in ERRNOS)


def stale() -> pyfuse3.FUSEError:
    """The answer to a request about something the kernel remembers and that has changed: it looks the path up again."""
    return pyfuse3.FUSEError(errno.ESTALE)


def handler(
    function: Callable[Concatenate[D, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[D, P], Coroutine[Any, Any, R]]:
    """Makes a method a FUSE handler: whatever it raises reaches the caller as an errno, and the log where that is not
    enough."""
    name = function.__name__

    @functools.wraps(function)
    async def wrapper(self: D, /, *args: P.args, **kwargs: P.kwargs) -> R:
        # Before it is done: afterwards a handle may be closed, a name another one's.
        subject = self.describe(name, *args) if self.monitor.logging else ""
        started = time.perf_counter()
        code, result = errno.EINTR, None
        try:
            result = await function(self, *args, **kwargs)
            code = 0
            return result
        except pyfuse3.FUSEError as error:
            code = error.errno
            raise
        except errors.StowError as error:
            code = errno_of(error)
            if code in WORTH_LOGGING:
                log.error("%s %s: %s: %s", name, self.describe(name, *args), errno.errorcode[code], error)
            raise pyfuse3.FUSEError(code) from error
        except Exception as error:
            code = errno.EIO
            log.exception("%s %s failed unexpectedly", name, self.describe(name, *args))
            raise pyfuse3.FUSEError(code) from error
        finally:
            self.monitor.note(name, subject, code, time.perf_counter() - started, result)

    return wrapper
