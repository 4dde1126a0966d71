"""Edits that lost, kept beside what won: as conversations of their own, under `conflict_path`.

That name is noted in the draft before anything is stored under it: where the answer is lost, or the process ends, the
same draft is not kept twice, unless somebody has changed by then what was kept.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence

from stowfs.errors import CorruptObject, Deleted, MissingSegment, PathExists
from stowfs.hot.spool import Spool
from stowfs.vault import succession
from stowfs.vault.attempts import Beside
from stowfs.vault.catalog import Catalog
from stowfs.vault.conflict import conflict_path
from stowfs.vault.draft import Draft
from stowfs.vault.layout import LayoutReader
from stowfs.vault.manifest import Snapshot
from stowfs.vault.naming import display

log = logging.getLogger(__name__)

COPY_STEP = 1 << 20
"""Bytes of a draft copied at a time."""

Commit = Callable[[Draft], Awaitable[Snapshot]]
"""Makes a draft the first version of its conversation. Raises `PathExists` and store errors."""

Range = tuple[int, int]


class ConflictCopies:
    """Keeps what lost."""

    def __init__(self, spool: Spool, catalog: Catalog, layouts: LayoutReader, commit: Commit) -> None:
        self._spool = spool
        self._catalog = catalog
        self._layouts = layouts
        self._commit = commit

    async def keep(
        self,
        draft: Draft,
        current: Snapshot | None,
        attempting: Callable[[], Awaitable[None]] | None,
        *,
        lost: MissingSegment | None = None,
    ) -> Snapshot:
        """Commits an edit that lost under a name of its own; the conversation itself stays as the winner left it.

        `attempting` is called when the name is noted. `lost`: what its base is gone with; then only what was written is
        left of it. Returns what is there, or what was kept where that is nothing. Raises `Deleted` where nothing is
        left, and errors of reading and storing.
        """
        ranges = [(0, draft.size)] if lost is None else draft.written()
        if not ranges and lost is not None:
            raise Deleted(f"{display(draft.path)}: gone for good, and nothing was written to it here: {lost}")
        tried = draft.attempts.beside
        again = tried is not None and draft.is_as(tried.mark)
        if tried is None or not again or not await self._copy(draft, ranges, tried.path, again=True):
            tried = draft.attempts.beside = Beside(conflict_path(draft.path), draft.mark())
            if attempting is not None:
                await attempting()
            await self._copy(draft, ranges, tried.path)
        names = display(draft.path), display(tried.path)
        if lost is None:
            log.warning("%s was changed elsewhere while it was edited here: the edit is kept as %s", *names)
        else:
            # What came before the bytes that were written is not there.
            draft.moved = True
            log.error(
                "%s was deleted or replaced elsewhere, and its bytes are gone from the store (%s): "
                "only what was written here is left, and kept as %s",
                names[0],
                lost,
                names[1],
            )
        return current if current is not None and current.manifest.live else succession.live(tried.path, draft.kept)

    async def _copy(self, draft: Draft, ranges: Sequence[Range], path: str, *, again: bool = False) -> bool:
        """Commits those bytes of a draft under another name; `again`: or finds them there, where that was tried before.

        False where something else is there by now, which what is written later was not made for.
        """
        copy = Draft(path, None, draft.attributes, self._spool, self._layouts.read)
        try:
            await _write(draft, ranges, copy)
            copy.exclusive = True
            try:
                draft.kept = await self._commit(copy)
            except PathExists:
                if not again:
                    raise
                found = await self._catalog.current(path, trust=False)
                if found is None or not found.manifest.live or not await self._has_bytes_of(found, copy):
                    return False
                draft.kept = found
        finally:
            copy.discard()
        return True

    async def _has_bytes_of(self, version: Snapshot, copy: Draft) -> bool:
        """Whether a version is a conversation with the bytes of a draft, and they can be read."""
        if not version.is_conversation or version.size != copy.size:
            return False
        for offset in range(0, copy.size, COPY_STEP):
            end = offset + COPY_STEP
            try:
                there = await self._layouts.read(version, offset, end)
            except CorruptObject as error:
                log.warning("%s is kept once more, since what is there is damaged: %s", display(copy.path), error)
                return False
            if there != await copy.read(offset, end):
                return False
        return True


async def _write(draft: Draft, ranges: Sequence[Range], copy: Draft) -> None:
    """Writes those bytes of a draft to one that is empty, one after another. Errors of reading."""
    size = 0
    for start, end in ranges:
        for offset in range(start, end, COPY_STEP):
            data = await draft.read(offset, min(offset + COPY_STEP, end))
            copy.write(size, data)
            size += len(data)
    copy.truncate(size)
