"""What callers are told, and what stands in the log."""

import errno
import logging

import pyfuse3
import pytest

from stowfs import errors
from stowfs.mount.errnos import errno_of, handler
from stowfs.mount.monitor import Monitor


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.NoSuchPath, errno.ENOENT),
        (errors.PathExists, errno.EEXIST),
        (errors.StoreUnavailable, errno.EIO),
        (errors.RetriesExhausted, errno.EIO),
        (errors.CorruptObject, errno.EIO),
        (errors.AccessDenied, errno.EACCES),
        (errors.HotTierFull, errno.ENOSPC),
        (errors.StoreFull, errno.ENOSPC),
        (errors.NameTooLong, errno.ENAMETOOLONG),
        (errors.ReadOnly, errno.EROFS),
    ],
)
def test_each_error_has_the_errno_of_the_design(error: type[errors.StowError], expected: int) -> None:
    assert errno_of(error("why")) == expected


class Handlers:
    """Handlers that fail as they are told."""

    def __init__(self) -> None:
        self.monitor = Monitor()

    def describe(self, handler: str, *arguments: object) -> str:
        return "some/path"

    @handler
    async def read(self, error: BaseException) -> None:
        raise error


async def outcome(error: BaseException) -> int:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await Handlers().read(error)
    return caught.value.errno


async def test_a_cause_that_the_errno_does_not_tell_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    assert await outcome(errors.CorruptObject("segment abc is missing")) == errno.EIO
    assert [record.message for record in caplog.records] == ["read some/path: EIO: segment abc is missing"]


async def test_everyday_answers_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert await outcome(errors.NoSuchPath("x")) == errno.ENOENT
    assert await outcome(pyfuse3.FUSEError(errno.ESTALE)) == errno.ESTALE
    assert caplog.records == []


async def test_a_defect_is_an_error_of_the_caller_and_a_traceback_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    assert await outcome(ZeroDivisionError("defect")) == errno.EIO
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.message == "read some/path failed unexpectedly"
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError
