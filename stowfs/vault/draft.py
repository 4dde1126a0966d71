"""Drafts: what has been written to a conversation and not committed yet.

A draft is an overlay: the written ranges in a sparse spool file, over the first `base_limit` bytes of the base
snapshot; what neither covers is zeros. From how it was written follows what a commit may do where the base has moved
meanwhile (`Intent`).
"""

from collections.abc import Awaitable, Callable
from enum import Enum

from stowfs.config import TIB
from stowfs.errors import FileTooLarge
from stowfs.hot.spool import Spool, SpoolFile
from stowfs.vault.manifest import Attributes, Snapshot
from stowfs.vault.naming import display
from stowfs.vault.ring import new_id

SIZE_LIMIT = 1 * TIB
"""Bytes a file may have: well past any conversation, and small enough that a slip (`truncate -s 1E`) costs an error
only."""

ReadBase = Callable[[Snapshot, int, int], Awaitable[bytes]]


class Intent(Enum):
    """What a writer meant, as far as its writes tell."""

    REPLACE = "replace"
    """The whole content is new: the last close wins."""
    APPEND = "append"
    """Everything was written at or past the old end: it goes to the new end, wherever that is."""
    EDIT = "edit"
    """Something inside was changed: it makes sense only on the version it was made on."""


class Draft:
    """Uncommitted bytes of one conversation over a base snapshot, kept in the spool.

    Not safe for use during a `commit` of it: the owner holds a lock around both.
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
        self.path = path
        self.base = base
        self.attributes = attributes
        self.appending = appending
        self.size = base.size if base else 0
        # A new conversation is to be committed even if nobody writes to it.
        self.dirty = base is None
        self._spool = spool
        self._file: SpoolFile | None = None
        self._read_base = read_base
        self._base_limit = self.size
        self._emptied = False
        self._changes = 0
        # What was to be committed under each id, as far as that can tell two states of this draft apart.
        self._attempts: dict[str, tuple[int, Attributes]] = {}

    @property
    def spooled(self) -> int:
        """Bytes this draft holds in the spool."""
        return sum(end - start for start, end in self._extents)

    @property
    def intent(self) -> Intent:
        """What the writes so far mean for a base that moves."""
        if self._emptied or (self.base is None and not self.appending):
            return Intent.REPLACE
        if self.base is None:
            return Intent.APPEND
        if self._base_limit == self.base.size and all(start >= self.base.size for start, _ in self._extents):
            return Intent.APPEND
        return Intent.EDIT

    @property
    def first_change(self) -> int:
        """The first byte that may differ from the base."""
        written = self._extents[0][0] if self._extents else self.size
        return min(written, self._base_limit)

    @property
    def last_change(self) -> int:
        """The end of the last byte that may differ from the base; what follows is the base's, at the same offsets."""
        if self.base is None or self.size != self.base.size or self._base_limit < self.size:
            return self.size
        return self._extents[-1][1] if self._extents else self.first_change

    def write(self, offset: int, data: bytes) -> None:
        """Writes `data` at `offset`; no data change nothing. Raises `FileTooLarge` and `HotTierFull`; then nothing has
        changed, either."""
        if not data:
            return
        end = offset + len(data)
        self._check_size(end)
        if self._file is None:
            self._file = self._spool.create(new_id())
        self._file.write(offset, data)
        self._changes += 1
        self.size = max(self.size, end)
        self.dirty = True

    def truncate(self, size: int) -> None:
        """Cuts or extends (with zeros) to `size` bytes. Raises `FileTooLarge`."""
        self._check_size(size)
        if self._file is not None:
            self._file.truncate(size)
        self._changes += 1
        if size == 0:
            self._emptied = True
        self.dirty = self.dirty or size != self.size
        self._base_limit = min(self._base_limit, size)
        self.size = size

    async def read(self, start: int, end: int) -> bytes:
        """The bytes `start` to `end`, clipped at the size. Errors of reading the base."""
        end = min(end, self.size)
        if start >= end:
            return b""
        file = self._file
        pieces = file.covers(start, end) if file else iter([(start, end, False)])
        parts: list[bytes] = []
        for piece_start, piece_end, written in pieces:
            if written and file is not None:
                parts.append(file.read(piece_start, piece_end))
                continue
            base_end = max(piece_start, min(piece_end, self._base_limit))
            if self.base is not None and base_end > piece_start:
                parts.append(await self._read_base(self.base, piece_start, base_end))
            parts.append(bytes(piece_end - base_end))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def rebase(self, base: Snapshot | None) -> None:
        """Moves the draft onto another base.

        Appended bytes move to its end; a replacement stays what it is. Not for edits. Raises `HotTierFull`; then
        nothing has changed.
        """
        if self.intent is Intent.APPEND:
            self._move(base.size - (self.base.size if self.base else 0) if base else 0)
            self._base_limit = base.size if base else 0
        else:
            self._base_limit = 0
            self._emptied = True
        self.base = base

    def attempt(self, commit: str) -> None:
        """What is in the draft now is about to be committed under this id; nobody may ever tell whether it was."""
        self._attempts[commit] = (self._changes, self.attributes)

    def has_attempted(self, commit: str) -> bool:
        """Whether that id is one of an attempt to commit this draft."""
        return commit in self._attempts

    def was_committed_in(self, version: Snapshot) -> bool:
        """Whether an attempt that seemed to fail took effect in `version` or before it, with all that is here now."""
        state = (self._changes, self.attributes)
        return any(self._attempts.get(commit) == state for commit in version.manifest.ring.recent)

    def settle(self, committed: Snapshot) -> None:
        """The draft was committed as `committed`: it is clean, and that is its base."""
        self.discard()
        self.base = committed
        self.attributes = committed.attributes
        self.size = self._base_limit = committed.size
        self._emptied = False
        self._attempts.clear()
        self.dirty = False

    def discard(self) -> None:
        """Drops the spooled bytes. Idempotent."""
        if self._file is not None:
            self._file.remove()
            self._file = None

    @property
    def _extents(self) -> tuple[tuple[int, int], ...]:
        return self._file.extents if self._file else ()

    def _check_size(self, size: int) -> None:
        if size > SIZE_LIMIT:
            raise FileTooLarge(f"{display(self.path)}: files may have at most {SIZE_LIMIT >> 40} TiB")

    def _move(self, distance: int) -> None:
        """Moves everything written by `distance` bytes, by way of a new spool file."""
        old = self._file
        if old is not None and distance != 0:
            new = self._spool.create(new_id())
            try:
                for start, end in old.extents:
                    for offset in range(start, end, _MOVE_STEP):
                        new.write(offset + distance, old.read(offset, min(end, offset + _MOVE_STEP)))
            except BaseException:
                new.remove()
                raise
            self._file = new
            old.remove()
        self.size += distance


_MOVE_STEP = 1 << 20
"""Bytes moved at a time, so that a long append needs no memory of its own length."""
