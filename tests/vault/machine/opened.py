"""Drafts as the model knows them: what is open on a host or was acknowledged there, and what a commit of it makes of a
state of the tree."""

from dataclasses import dataclass, replace

from stowfs.vault.draft import Draft, Intent
from tests.support.vaults import ATTRIBUTES
from tests.vault.machine.state import File, State


@dataclass
class Opened:
    """A draft that a host has open, made on what the conversation was then. `expires_ns`: its own deadline, which is
    that of the base unless it replaces everything."""

    path: str
    draft: Draft
    base: File | None
    written: bytes
    intent: Intent
    expires_ns: int | None
    collected: bool = False
    """Since it was opened there was a collection without grace: what it is based on may be gone."""
    exclusive: bool = False
    key: str = ""
    """By what an acknowledged draft is known: its id, which becomes another one when it is in the store."""

    def comes_too_late(self, state: State, now_ns: int) -> bool:
        """Whether a draft is not committed, because what was written to has expired. One that replaces everything has
        nothing to do with the deadline of what it replaces; any other follows what has the name now."""
        current = state.file(self.path)
        over = self.expires_ns is not None and self.expires_ns <= now_ns
        if self.intent is Intent.REPLACE:
            return over
        if current is None:
            last = state.deadline_of_last(self.path)
            return over or (last is not None and last <= now_ns)
        # An edit that lost would be kept beside, with the deadline that it has.
        return over and self.loses(state)

    def loses(self, state: State) -> bool:
        """Whether a draft can only be kept beside what is there."""
        current = state.file(self.path)
        if current is None or self.base is None:
            return current is not None and self.exclusive
        return self.intent is Intent.EDIT and current.data != self.base.data

    def closed(self, state: State) -> State:
        """What a draft makes of a state. The mode is the draft's, unless it was changed elsewhere only."""
        current = state.file(self.path)
        if current is None or self.base is None:
            return state.with_file(self.path, File(self.written, ATTRIBUTES.mode, self.expires_ns))
        mode = current.mode if self.base.mode == ATTRIBUTES.mode else ATTRIBUTES.mode
        match self.intent:
            case Intent.APPEND:
                data = current.data + self.written[len(self.base.data) :]
            case Intent.EDIT if current.data != self.base.data:
                return state  # kept beside
            case _:
                data = self.written
        expires_ns = self.expires_ns if self.intent is Intent.REPLACE else current.expires_ns
        return state.with_file(self.path, File(data, mode, expires_ns))

    def flushed(self, state: State, beside: set[str], now_ns: int, *, forgetful: bool) -> set[State]:
        """What may be where an acknowledged draft has been committed; where it was kept beside, that was seen."""
        if self.key in state.stored or self.comes_too_late(state, now_ns):
            return {state}
        if self.path in beside and self.intent is Intent.EDIT:
            # Also where another conversation took its place that has the same bytes, but is cut otherwise.
            return {state}
        if self.loses(state) or (forgetful and self.path in beside):
            return {state} if self.path in beside else set()
        end = self.closed(state)
        return {replace(end, stored=end.stored | {self.key})}
