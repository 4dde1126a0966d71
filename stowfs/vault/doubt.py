"""Appends in doubt: whether they took effect, told from the bytes where the ring cannot tell any more, since too many
others wrote.

Who appends to a version puts its bytes right after those of that version. So where a later version begins as that one
did and goes on with other bytes, the append did not take effect, and never will: what it was to replace is gone. Where
the same bytes are there, it may have been somebody else who appended them, and the doubt stays.
"""

from stowfs.config import MIB
from stowfs.errors import MissingSegment
from stowfs.vault.draft import Draft, Intent
from stowfs.vault.layout import LayoutReader
from stowfs.vault.lost_base import is_gone
from stowfs.vault.manifest import Reference, Snapshot

COMPARED = 8 * MIB
"""Bytes that are compared at most: more than what follows the last segment of a version that others only appended
to."""


async def refute(draft: Draft, current: Snapshot, layouts: LayoutReader) -> None:
    """Forgets the attempts to append that `current` shows to have failed; none where the base is gone for good (see
    `lost_base`). Errors of reading."""
    try:
        await _refute(draft, current, layouts)
    except MissingSegment as error:
        if not await is_gone(error, current, layouts):
            raise


async def _refute(draft: Draft, current: Snapshot, layouts: LayoutReader) -> None:
    base, doubtful = draft.base, draft.attempts.doubtful(current, draft.base)
    if not doubtful or base is None or draft.intent is not Intent.APPEND:
        return
    # As long as what it was to replace is there, it may take effect still.
    if current.etag == base.etag or not await _goes_on(base, current, layouts):
        return
    for attempt in doubtful:
        if attempt.mark.over != base.etag or attempt.mark.moved or (end := draft.appended_by(attempt.mark)) is None:
            continue
        end = min(end, base.size + COMPARED)
        if await layouts.read(current, base.size, end) != await draft.read(base.size, end):
            draft.attempts.failed(attempt.commit)


async def _goes_on(base: Snapshot, current: Snapshot, layouts: LayoutReader) -> bool:
    """Whether a version begins with all bytes of another one, as far as comparing a few of them tells."""
    if current.is_directory or current.is_symlink or current.size < base.size:
        return False
    same = 0
    for old, new in zip((await layouts.layout(base)).pieces, (await layouts.layout(current)).pieces, strict=False):
        if not (isinstance(old, Reference) and isinstance(new, Reference) and old.digest == new.digest):
            break
        same += old.size
    if base.size - same > COMPARED:
        return False
    return await layouts.read(base, same, base.size) == await layouts.read(current, same, base.size)
