"""Every error that stowfs raises on purpose, in one hierarchy.

Two families: `StoreError`, what an object store may answer, the same whatever the store is; and the errors of the
file system itself. The mount turns them into errno values, the command line into one line that says what to do.
Anything else that escapes is a defect.
"""


class StowError(Exception):
    """Base of every error that stowfs raises on purpose. Its text is one line, fit to be shown to a user."""


# What a store may answer


class StoreError(StowError):
    """A request to the object store failed."""


class ObjectNotFound(StoreError):
    """There is no object under the key."""


class PreconditionFailed(StoreError):
    """The condition of a write did not hold (412): the object exists, is missing, or has another ETag.

    After a retried request this may also be the echo of one's own earlier success: look for your own id.
    """


class WriteConflict(StoreError):
    """The store saw two conditional writes at once and refused this one without deciding (409): try again."""


class AccessDenied(StoreError):
    """The credentials are missing, wrong, expired or not sufficient for the request, or the store is read-only."""


class StoreFull(StoreError):
    """The store has no room left (quota or disk)."""


class StoreMissing(StoreError):
    """The bucket or the store directory does not exist."""


class StoreUnavailable(StoreError):
    """No usable answer: timeout, reset, refused connection, throttling or a server error.

    Whether a write took effect is unknown.
    """


class StoreUnreachable(StoreUnavailable):
    """The store has not answered anybody for a while, and until it does no request is sent: trying again is
    useless."""


class ConditionsIgnored(StoreError):
    """The store ignores a condition on PUT, so that commits would overwrite each other: it cannot be written to."""


# The file system itself


class UsageError(StowError):
    """The user asked for something that makes no sense (a bad URL, an unknown option)."""


class NotAStore(StowError):
    """There is no store descriptor: the place was never prepared by `stowfs mkfs`."""


class UnsupportedVersion(StowError):
    """Something in the store was written by a newer stowfs."""


class CorruptObject(StowError):
    """Bytes in the store or the cache are not what their reference says. Never shown as data."""


class MissingSegment(CorruptObject):
    """A segment that something refers to, or did, is not in the store: it was lost, or collected."""

    def __init__(self, digest: str, message: str) -> None:
        super().__init__(message)
        self.digest = digest


class NoSuchPath(StowError):
    """There is no conversation or directory of that name."""


class Gone(NoSuchPath):
    """The conversation is gone, and what was written to it has gone with it."""


class Expired(Gone):
    """The deadline of the conversation has passed."""


class Deleted(Gone):
    """What was written was a version already, without an answer that told so, and was deleted since."""


class PathExists(StowError):
    """The name is taken, and the caller asked for a new one."""


class IsDirectory(StowError):
    """A conversation was asked for, and the name is a directory."""


class NotDirectory(StowError):
    """A directory was asked for, and the name is a conversation."""


class DirectoryNotEmpty(StowError):
    """The directory still holds something."""


class NoSuchAttribute(StowError):
    """The file has no extended attribute of that name."""


class AttributesFull(StowError):
    """There is no room for more extended attributes of the file."""


class NameTooLong(StowError):
    """The name or the path is longer than stores can hold."""


class FileTooLarge(StowError):
    """The size is over the limit of the file system."""


class ReadOnly(StowError):
    """The store was opened read-only."""


class HotTierBusy(StowError):
    """Another process holds the hot tier (the same store is mounted at the same place)."""


class HotTierFull(StowError):
    """The local disk, or the limit set for the spool, has no room for more uncommitted data."""


class BacklogFull(HotTierFull):
    """More was acknowledged and is not in the store yet than may wait (`commit=async`)."""


class HotTierFailed(StowError):
    """The local disk failed to read or write the journal or the spool, or what they hold is damaged."""


class MountFailed(StowError):
    """The kernel, or the FUSE of this host, refused the mount."""


class RetriesExhausted(StoreUnavailable):
    """Other writers kept winning, or the store kept failing, until the deadline of the operation passed."""
