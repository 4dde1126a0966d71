"""What the handlers do, counted, and on request written down: one line an operation."""

import errno
import logging
import logging.handlers
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from stowfs.metrics import Outcomes

log = logging.getLogger(__name__)

OK = "OK"
"""What stands in the place of an errno where an operation succeeded."""


class Monitor:
    """Counts the operations of one mount since it began."""

    def __init__(self, access_log: "AccessLog | None" = None) -> None:
        self.started = time.time()
        self.operations: dict[str, Outcomes] = {}
        self.bytes_read = 0
        self.bytes_written = 0
        self._access_log = access_log

    @property
    def logging(self) -> bool:
        """Whether `note` needs to know what an operation is about."""
        return self._access_log is not None

    def note(self, operation: str, subject: str, code: int, seconds: float, result: object) -> None:
        """An operation has come to its end with errno `code` (0: it succeeded) after so many seconds."""
        error = errno.errorcode.get(code, str(code)) if code else None
        outcomes = self.operations.get(operation)
        if outcomes is None:
            outcomes = self.operations[operation] = Outcomes()
        outcomes.note(seconds, error)
        size = 0
        if operation == "read" and isinstance(result, bytes | memoryview):
            size = len(result)
            self.bytes_read += size
        elif operation == "write" and isinstance(result, int):
            size = result
            self.bytes_written += size
        if self._access_log is not None:
            self._access_log.write(operation, subject, error or OK, seconds, size)


class AccessLog:
    """A file with one line an operation: time, operation, path, result, milliseconds, bytes; between tabs.

    Lines are appended; where the file was moved away (logrotate), a new one is begun.
    """

    def __init__(self, path: str) -> None:
        self._file = _Appender(path, encoding="utf-8", errors="backslashreplace")

    def write(self, operation: str, subject: str, result: str, seconds: float, size: int) -> None:
        """Appends a line. What fails is in the log, once, and costs the operation nothing."""
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        line = f"{now}\t{operation}\t{_printable(subject)}\t{result}\t{seconds * 1000:.3f}\t{size}"
        self._file.emit(logging.makeLogRecord({"msg": line}))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


@contextmanager
def access_log(path: str | None) -> Iterator[AccessLog | None]:
    """The access log at `path`, if one is wanted. Raises `OSError`."""
    lines = AccessLog(path) if path is not None else None
    try:
        yield lines
    finally:
        if lines is not None:
            lines.close()


class _Appender(logging.handlers.WatchedFileHandler):
    failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self.failed:
            log.exception("the access log cannot be written: %s", self.baseFilename)
        self.failed = True


def _printable(text: str) -> str:
    """`text` without what would break a line or a field of it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
