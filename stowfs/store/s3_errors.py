"""What an S3 error means: from its code and HTTP status to the error family that all stores share."""

from stowfs.errors import (
    AccessDenied,
    NameTooLong,
    ObjectNotFound,
    PreconditionFailed,
    StoreError,
    StoreFull,
    StoreMissing,
    StoreUnavailable,
    StowError,
    WriteConflict,
)

_DENIED = frozenset(
    {
        "AccessDenied",
        "AccountProblem",
        "AllAccessDisabled",
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidIdentityToken",
        "InvalidToken",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
    }
)
_FULL = frozenset(
    {"QuotaExceeded", "InsufficientCapacity", "StorageFull", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"}
)
_THROTTLED = frozenset({"SlowDown", "RequestTimeout", "RequestTimeoutException", "Throttling", "ThrottlingException"})


def translate(code: str, status: int, message: str, *, place: str, key: str = "") -> StowError:
    """The error to raise for an answer with this S3 error `code` and HTTP `status`.

    `place` names the bucket and the endpoint for the user, `key` the object where the request was about one.
    """
    detail = _one_line(f"{code or status}: {message}" if message and message != "None" else code or str(status))
    where = f"{place}, {key}" if key else place
    match code:
        case "NoSuchBucket":
            return StoreMissing(f"{place}: there is no such bucket: create it, or check its name and the endpoint")
        case "RequestTimeTooSkewed":
            return AccessDenied(f"{place}: the clock of this host is wrong ({detail}): set it")
        case _ if code in _FULL or status == 507:
            return StoreFull(
                f"{place}: the store has no room left ({detail}): raise its quota, or free some there (to delete"
                " conversations takes a little room, too)"
            )
        case _ if code in _DENIED or status in (401, 403):
            return AccessDenied(
                f"{where}: access denied ({detail}): check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE,"
                " and what they permit"
            )
        case "KeyTooLongError" | "KeyTooLong":
            return NameTooLong(f"{where}: {detail}")
        case "NoSuchUpload":
            return StoreError(f"{where}: the multipart upload was completed or aborted")
        case _ if code in _THROTTLED:
            return StoreUnavailable(f"{where}: the store asks to slow down ({detail})")
        case "NotImplemented":
            return StoreError(f"{where}: the store does not support the request ({detail})")
    match status:
        case 404:
            return ObjectNotFound(f"{where}: there is no such object")
        case 409:
            return WriteConflict(f"{where}: {detail}")
        case 412:
            return PreconditionFailed(f"{where}: the condition of the write did not hold")
        case 408 | 429:
            return StoreUnavailable(f"{where}: the store asks to slow down ({detail})")
        case _ if status >= 500:
            return StoreUnavailable(f"{where}: the store failed ({detail})")
    return StoreError(f"{where}: {detail}")


def _one_line(text: str) -> str:
    return " ".join(text.split())
