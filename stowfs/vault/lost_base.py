"""Drafts over a version that is gone for good: nothing under its name refers to it any more, and its segments were
collected since. That takes a host that was off for longer than the trash keeps what was deleted.

Segments that this host has in its caches are stored again, as if nobody had collected them. Where one is nowhere, what
was written here is all that is left, and is kept beside. That must not happen to a version that is damaged: as long as
its name refers to it, a repair may bring it back.
"""

from stowfs.errors import MissingSegment
from stowfs.vault.layout import LayoutReader
from stowfs.vault.manifest import Snapshot


async def is_gone(error: MissingSegment, current: Snapshot | None, layouts: LayoutReader) -> bool:
    """Whether what is under a name now, live or in the trash, does not refer to the segment that an earlier version of
    it needs. Errors of reading: then nobody can tell."""
    return error.digest not in await layouts.digests(current)


def is_same(current: Snapshot | None, other: Snapshot | None) -> bool:
    """Whether nothing was written under a name between the two."""
    return (current.etag if current else None) == (other.etag if other else None)
