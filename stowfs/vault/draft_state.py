"""Frozen drafts as rows of the journal: with their bytes where these are few."""

from collections.abc import Callable

import msgspec

from stowfs.hot.journal import DraftRow
from stowfs.vault.attempts import Beside
from stowfs.vault.manifest import Attributes
from stowfs.vault.naming import from_text, to_text
from stowfs.vault.overlay import Mark, Truncation


class DraftState(msgspec.Struct, frozen=True, omit_defaults=True):
    """A frozen draft as the journal keeps it: everything but the manifest of the base, and the bytes, where they are
    many: those are in the spool file `id`. `extents`: start, end, position of each; `content`: the bytes of each,
    or nothing. `turn`: see `Draft`. `removal`: it is being removed, by the commit of this id, which is greater than
    those of all commits that were there before. `removed`: which content is (`Snapshot.content_id` of the base)."""

    id: str
    path: str
    attributes: Attributes
    seal: int
    size: int
    changes: int
    base_etag: str | None = None
    base_size: int | None = None
    extents: tuple[tuple[int, int, int], ...] = ()
    truncations: tuple[Truncation, ...] = ()
    attempts: dict[str, Mark] = {}
    appending: bool = False
    exclusive: bool = False
    removal: str | None = None
    removed: str = ""
    shift: int = 0
    content: tuple[bytes, ...] = ()
    beside: Beside | None = None
    turn: int = 0


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(DraftState)


def encode(state: DraftState) -> bytes:
    """The payload of its row."""
    return _encoder.encode(_with_paths(state, to_text))


def decode(row: DraftRow) -> DraftState:
    """What the row holds. Raises `ValueError` where it is damaged."""
    state = _decoder.decode(row.payload)
    if state.id != row.draft_id:
        raise ValueError(f"it says that it is {state.id!r}")
    return _with_paths(state, from_text)


def _with_paths(state: DraftState, change: Callable[[str], str]) -> DraftState:
    beside = state.beside and msgspec.structs.replace(state.beside, path=change(state.beside.path))
    return msgspec.structs.replace(state, path=change(state.path), beside=beside)
