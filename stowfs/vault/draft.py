"""Drafts: what has been written to a conversation and not committed yet.

A draft is an overlay (`overlay`) over a base snapshot, with the bytes in a log of the spool. From how it was written
follows what a commit may do where the base has moved meanwhile (`Intent`).

`freeze` gives a copy that later writes do not change. What is acknowledged before it is in the store is such a copy
(`acknowledged`), and what is committed then is one, too; when that is done, the draft goes on from there (`follow`).
"""

import copy
import time
from collections.abc import Awaitable, Callable

import msgspec

from stowfs.config import MIB, TIB
from stowfs.errors import FileTooLarge
from stowfs.hot.extents import ExtentMap
from stowfs.hot.spool import BLOCK, Spool, SpoolFile
from stowfs.vault.attempts import Attempts, Plan
from stowfs.vault.draft_state import DraftState
from stowfs.vault.manifest import Attributes, Snapshot
from stowfs.vault.naming import display
from stowfs.vault.overlay import Intent, Mark, Overlay
from stowfs.vault.ring import id_of_time, new_id

__all__ = ["SIZE_LIMIT", "Draft", "Intent"]

SIZE_LIMIT = 1 * TIB
"""Bytes a file may have: well past any conversation, and small enough that a slip (`truncate -s 1E`) costs an error
only."""

RELEASE_FROM = 1 * MIB
"""Bytes of a log that are committed already and worth giving back to the disk while the rest is still in use."""

PLANNED_FOR = 60.0
"""Seconds for which the id of a planned commit may be used: about as old as the id of one may get that is tried again
and again. Ids are compared with each other, and with times."""

ReadBase = Callable[[Snapshot, int, int], Awaitable[bytes]]


class Draft:
    """Uncommitted bytes of one conversation over a base snapshot, kept in the spool.

    Not safe for use during a `commit` of it: the owner holds a lock around both. A frozen copy is.
    """

    def __init__(
        self,
        path: str,
        base: Snapshot | None,
        attributes: Attributes,
        spool: Spool,
        read_base: ReadBase,
        *,
        appending: bool = False,
    ) -> None:
        # Also the name of its spool file.
        self.id = new_id()
        self.path = path
        self.base = base
        self.attributes = attributes
        self.appending = appending
        # The first commit must find the name free.
        self.exclusive = False
        # The state that was promised to be durable and is not in the store yet: a frozen copy.
        self.acknowledged: Draft | None = None
        # Of a frozen copy that is acknowledged: it comes after those with lower numbers that have the same name.
        self.turn = 0
        # Appended bytes were moved to another end since it was frozen.
        self.moved = False
        # As what it was kept beside the version that won, where its commit lost.
        self.kept: Snapshot | None = None
        self._overlay = Overlay(base.size if base else None, base.size if base else 0)
        self._spool = spool
        self._file: SpoolFile | None = None
        # The last seal, while there is no file to ask for it.
        self._sealed = 0
        self._read_base = read_base
        # What a frozen copy was when it was frozen, and the first commit of it, as the journal has it already.
        self._mark: Mark | None = None
        self._plan: Plan | None = None
        # Its own, and those of its frozen copies.
        self.attempts = Attempts()

    @classmethod
    def restored(cls, state: DraftState, base: Snapshot | None, spool: Spool, read_base: ReadBase) -> "Draft":
        """The draft that an earlier process acknowledged in this state. Raises `HotTierFailed` where its bytes are
        not there."""
        draft = cls(state.path, base, state.attributes, spool, read_base, appending=state.appending)
        draft.id = state.id
        draft.exclusive = state.exclusive
        draft.turn = state.turn
        draft._overlay = Overlay(
            state.base_size,
            state.size,
            ExtentMap(state.extents),
            list(state.truncations),
            state.changes,
            max([state.changes, *(mark.changes for mark in state.attempts.values())]),
            state.shift,
        )
        draft.attempts = Attempts(state.attempts, state.beside)
        # A commit that was tried at once sealed the draft later than it was acknowledged. What is written from now on
        # comes after that, too: it was not in it.
        draft._sealed = seal = max([state.seal, *(mark.seal for mark in state.attempts.values())])
        if state.content:
            parts = zip((position for _, _, position in state.extents), state.content, strict=True)
            draft._file = spool.recreate(state.id, sorted(parts), seal)
        elif state.extents:
            draft._file = spool.open(state.id)
            last = max(position + end - start for start, end, position in state.extents)
            draft._file.restore(last, seal)
        else:
            # What is there was written later, or cut off.
            spool.remove(state.id)
        draft.acknowledged = draft.freeze()
        return draft

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._overlay.size

    @property
    def spooled(self) -> int:
        """Bytes this draft holds in the spool."""
        return self._file.charged if self._file else 0

    @property
    def intent(self) -> Intent:
        """What the writes so far mean for a base that moves."""
        return self._overlay.intent(appending=self.appending)

    @property
    def first_change(self) -> int:
        """The first byte that may differ from the base."""
        return self._overlay.first_change

    @property
    def last_change(self) -> int:
        """The end of the last byte that may differ from the base; what follows is the base's, at the same offsets."""
        return self._overlay.last_change

    def mark(self) -> Mark:
        """The draft as it is now, sealed; of a frozen one, as it was then."""
        if self._mark is not None:
            return self._mark
        self._sealed = self._file.seal() if self._file else self._sealed + BLOCK
        return Mark(self._sealed, self._overlay.changes, self.size - self._overlay.shift, self.attributes)

    def write(self, offset: int, data: bytes) -> None:
        """Writes `data` at `offset`; no data change nothing. Raises `FileTooLarge` and `HotTierFull`; then nothing has
        changed, either."""
        if not data:
            return
        end = offset + len(data)
        self._check_size(end)
        if self._file is None:
            self._file = self._spool.create(self.id, start=self._sealed)
        file, view = self._file, memoryview(data)
        pieces = list(self._overlay.extents.pieces(offset, end))
        # What is frozen stays; what was written since can be written over.
        fresh = [p for p in pieces if p.position is None or p.position < file.sealed]
        before = file.end
        added: list[tuple[int, int, int]] = []
        try:
            for start, stop, _ in fresh:
                added.append((start, stop, file.append(view[start - offset : stop - offset])))
            for start, stop, position in pieces:
                if position is not None and position >= file.sealed:
                    file.overwrite(position, view[start - offset : stop - offset])
        except BaseException:
            file.cut(before)
            raise
        for start, stop, position in added:
            self._overlay.extents.add(start, stop, position)
        self._overlay.written(end)

    def truncate(self, size: int) -> None:
        """Cuts or extends (with zeros) to `size` bytes. Raises `FileTooLarge`."""
        self._check_size(size)
        self._overlay.truncated(size, self._file.sealed if self._file else self._sealed)
        if self._file is not None:
            self._file.cut(self._overlay.log_end)

    async def read(self, start: int, end: int) -> bytes:
        """The bytes `start` to `end`, clipped at the size. Errors of reading the base."""
        end = min(end, self.size)
        if start >= end:
            return b""
        parts: list[bytes] = []
        for piece_start, piece_end, position in list(self._overlay.extents.pieces(start, end)):
            if position is not None:
                assert self._file is not None
                parts.append(self._file.read(position, piece_end - piece_start))
                continue
            base_end = max(piece_start, min(piece_end, self._overlay.base_limit))
            if self.base is not None and base_end > piece_start:
                parts.append(await self._read_base(self.base, piece_start, base_end))
            parts.append(bytes(piece_end - base_end))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def written(self) -> list[tuple[int, int]]:
        """The ranges of bytes that are not those of the base; none where nothing was written."""
        if not self._overlay.extents:
            return []
        limit = self._overlay.base_limit
        pieces = self._overlay.extents.pieces(0, self.size)
        own = [(start if position is not None else max(start, limit), end) for start, end, position in pieces]
        return [(start, end) for start, end in own if start < end]

    def rebase(self, base: Snapshot) -> None:
        """Moves the draft onto another base.

        Appended bytes move to its end; a replacement stays what it is. Not for edits.
        """
        if self.intent is Intent.APPEND:
            self._overlay.rebased_append(base.size)
            self.moved = True
        else:
            self._overlay.replaced(base.size)
        self.base = base

    def freeze(self) -> "Draft":
        """A copy of the draft as it is, which shares its log and its attempts; the owner of the log is this one."""
        frozen = copy.copy(self)
        frozen.acknowledged = frozen._plan = None
        frozen.moved = self.moved and self._mark is not None
        frozen._mark = self.mark()
        frozen._overlay = self._overlay.copy()
        return frozen

    def plan(self) -> None:
        """Chooses the id under which a frozen draft is to be committed first, so that its row can have it from the
        beginning.

        Only for new content: of what is based on something, so many others may write a next version before this one is
        tried that nobody could tell whether it had been.
        """
        if self.base is None and self.intent is Intent.REPLACE and not self.attempts:
            self._plan = Plan(new_id(), self.mark())

    def take_plan(self) -> Plan | None:
        """The commit that was planned, once, unless it is too late for it."""
        plan, self._plan = self._plan, None
        if plan is None or self.attempts or plan.commit < id_of_time(time.time() - PLANNED_FOR):
            return None
        return plan

    def rename(self, path: str) -> None:
        """The conversation has another name."""
        self.path = path
        if self.acknowledged is not None:
            self.acknowledged.path = path

    def attempt(self, commit: str, over: Snapshot | None) -> None:
        """What is in the draft now is about to be committed under this id, in the place of `over`; nobody may ever
        tell whether it was."""
        # What is acknowledged stays where it was, while what is committed at once moves itself.
        moved = self.moved and (self._mark is not None or self.acknowledged is not None)
        self.attempts.begin(commit, msgspec.structs.replace(self.mark(), moved=moved, over=over.etag if over else None))

    def is_as(self, mark: Mark) -> bool:
        """Whether nothing was changed since."""
        own = self._mark or Mark(0, self._overlay.changes, 0, self.attributes)
        return own.same_state(mark)

    def appended_by(self, mark: Mark) -> int | None:
        """Where what had been appended at `mark` ends; None where it is not there any more as it was."""
        end = mark.size + self._overlay.shift
        return end if end <= self.size and self._overlay.keeps(mark) else None

    def shares_base(self, other: "Draft") -> bool:
        """Whether both are based on the same bytes."""
        a, b = self.base, other.base
        return a is b or (a is not None and b is not None and a.has_content_of(b))

    def follow(self, mark: Mark, version: Snapshot, *, same: bool) -> bool:
        """Goes on from `version`, in which there is what this draft was at `mark`, with what was changed since.

        `same`: it has exactly those bytes. False where the changes make no sense on it, as it is something else by now;
        then the draft is what it was.
        """
        if version.is_directory or version.is_symlink:
            return False
        if not self._overlay.follow(mark, version.size, same=same):
            return False
        keeps_deadline = self.attributes.expires_ns == mark.attributes.expires_ns
        self.attributes = merged(self.attributes, mark.attributes, version.attributes)
        if keeps_deadline:
            self.attributes = msgspec.structs.replace(self.attributes, expires_ns=version.attributes.expires_ns)
        self.base = version
        self.exclusive = False
        return True

    def advance(self, mark: Mark, version: Snapshot, *, same: bool) -> bool:
        """As `follow`, together with what was acknowledged since `mark`, if anything was. Whether both could."""
        followed = self.follow(mark, version, same=same)
        later = self.acknowledged
        if later is None:
            return followed
        if not later.follow(mark, version, same=same):
            return False
        assert later._mark is not None
        later._mark = msgspec.structs.replace(later._mark, attributes=later.attributes)
        # It has a base by now.
        later._plan = None
        # What is committed of it then is not what this draft had.
        later.moved = later.moved or not followed
        return followed

    def replaced_since(self, mark: Mark) -> bool:
        """Whether nothing is left of what it was at `mark`, also in what was acknowledged since."""
        later = self.acknowledged if self.acknowledged is not None and self.acknowledged.mark() != mark else self
        return later._overlay.emptied_since(mark) and self._overlay.emptied_since(mark)

    def stand_for(self, kept: Snapshot) -> None:
        """From now on it is a draft of what was kept of it under another name, on which it is based already."""
        self.rename(kept.path)
        # What was tried was to be under the other name.
        self.attempts = Attempts()
        if self.acknowledged is not None:
            self.acknowledged.attempts = self.attempts

    def settle(self, committed: Snapshot) -> None:
        """The draft was committed as `committed`: it is clean, and that is its base."""
        self.discard()
        self.id = new_id()
        self.base = committed
        self.attributes = committed.attributes
        self.acknowledged = None
        self.exclusive = self.moved = False
        last = self._overlay.last_changes
        self._overlay = Overlay(committed.size, committed.size, changes=last, last_changes=last)
        self.attempts = Attempts()

    def revert(self) -> None:
        """Drops what was changed since it was acknowledged."""
        assert self.acknowledged is not None
        self._go_back(self.acknowledged)

    def undo(self, before: "Draft", tried: Attempts) -> None:
        """Drops what was changed since `before` was frozen, with the attempts to commit that: as if somebody else had
        made them. `tried`: those before. What was to be committed then may have been tried meanwhile."""
        self.attempts.go_back(tried, before._overlay.last_changes)
        base = self.base
        moved = base is not None and base is not before.base
        if moved and self.intent is Intent.APPEND and before.intent is Intent.APPEND:
            assert base is not None
            # What is appended has moved meanwhile, or was found to be there.
            own = self.attempts.last_in(base, before.base)
            if own is None:
                before.rebase(base)
            elif own.certain:
                before.follow(own.mark, base, same=False)
        self._go_back(before)

    def _go_back(self, known: "Draft") -> None:
        self.base, self.attributes = known.base, known.attributes
        self.appending, self.exclusive = known.appending, known.exclusive
        last = self._overlay.last_changes
        self._overlay = known._overlay.copy()
        # The state is the same one again; those that follow are not the ones that were dropped.
        self._overlay.last_changes = last
        if self._file is not None:
            self._file.cut(self._overlay.log_end)

    def state(self) -> DraftState:
        """What the journal keeps of a frozen draft."""
        overlay, mark = self._overlay, self.mark()
        return DraftState(
            id=self.id,
            path=self.path,
            attributes=self.attributes,
            seal=mark.seal,
            size=overlay.size,
            changes=overlay.changes,
            base_etag=self.base.etag if self.base else None,
            base_size=overlay.base_size,
            extents=tuple(map(tuple, overlay.extents)),  # type: ignore[arg-type]
            truncations=tuple(overlay.truncations),
            attempts=self.attempts.with_plan(self._plan),
            appending=self.appending,
            exclusive=self.exclusive,
            shift=overlay.shift,
            content=self._content() if self.fits_journal else (),
            beside=self.attempts.beside,
            turn=self.turn,
        )

    @property
    def fits_journal(self) -> bool:
        """Whether its bytes are so few that they go into the journal with its state."""
        return self._overlay.extents.total <= self._spool.short

    def _content(self) -> tuple[bytes, ...]:
        if self._file is None:
            return ()
        return tuple(self._file.read(position, end - start) for start, end, position in self._overlay.extents)

    def sync(self) -> None:
        """Makes the bytes of the draft durable in its spool file; blocks. Raises `HotTierFull`, `HotTierFailed`."""
        if self._file is not None:
            self._file.sync()

    def park(self) -> None:
        """Holds no file descriptor until it is used again."""
        if self._file is not None:
            self._file.park()

    def release(self) -> None:
        """Gives back what the disk holds of bytes that are in the base by now."""
        if self._file is not None:
            needed = min((extent.position for extent in self._overlay.extents), default=self._file.sealed)
            if self.acknowledged is not None:
                needed = min([needed, *(extent.position for extent in self.acknowledged._overlay.extents)])
            if needed >= RELEASE_FROM:
                self._file.release(needed)

    def discard(self) -> None:
        """Drops the spooled bytes; those of a frozen copy are not its own. Idempotent."""
        if self._file is not None:
            if self._mark is None:
                self._file.remove()
            self._file = None

    def _check_size(self, size: int) -> None:
        if size > SIZE_LIMIT:
            raise FileTooLarge(f"{display(self.path)}: files may have at most {SIZE_LIMIT >> 40} TiB")


def merged(draft: Attributes, base: Attributes, current: Attributes) -> Attributes:
    """The attributes of a draft, with a mode, an owner or extended attributes that were changed elsewhere and not
    here."""
    return msgspec.structs.replace(
        draft,
        mode=current.mode if draft.mode == base.mode else draft.mode,
        uid=current.uid if draft.uid == base.uid else draft.uid,
        gid=current.gid if draft.gid == base.gid else draft.gid,
        extended=current.extended if draft.extended == base.extended else draft.extended,
    )
