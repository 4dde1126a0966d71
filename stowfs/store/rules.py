"""What a store that has no server behind it must enforce itself: which keys there are, and conditions."""

from stowfs.errors import PreconditionFailed, UsageError
from stowfs.store.base import Always, Condition, IfAbsent, IfMatch

PAGE_SIZE = 1000
"""Entries of one page of a listing: what S3 gives at most, so that every store is paged alike."""


def check_key(key: str) -> None:
    """Raises `UsageError` unless `key` is a relative path without empty, '.' or '..' components that UTF-8 can hold.

    Object stores would take more; a directory of files would not, and a store must be movable between them.
    """
    components = key.split("/")
    if "" in components or "." in components or ".." in components or "\0" in key:
        raise UsageError(f"not a key a store can hold: {key!r}")
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"not a key a store can hold: {key!r}") from error


def check_condition(key: str, condition: Condition, current: str | None) -> None:
    """Raises `PreconditionFailed` where `condition` does not hold for the ETag `current` (None: there is no object)."""
    match condition:
        case Always():
            return
        case IfAbsent() if current is not None:
            raise PreconditionFailed(f"{key} exists already")
        case IfMatch(etag) if current != etag:
            raise PreconditionFailed(f"{key} has ETag {current or 'none'}, not {etag}")
