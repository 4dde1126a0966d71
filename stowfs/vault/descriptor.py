"""The store descriptor: what all hosts of a store must agree on. Created once, with If-None-Match; read at every
mount."""

import time
from typing import Annotated
from uuid import UUID

import msgspec
from uuid_utils import uuid7

from stowfs.conversation.segmenter import DEFAULT_PARAMETERS, SegmenterParameters
from stowfs.errors import CorruptObject, NotAStore, ObjectNotFound, PathExists, PreconditionFailed, UnsupportedVersion
from stowfs.store.base import IF_ABSENT, Found, ObjectStore
from stowfs.vault.cas import compare_and_swap
from stowfs.vault.naming import DESCRIPTOR
from stowfs.vault.record import MANY, RAW_LIMIT
from stowfs.vault.untrusted import Moment, Word, parse, read_bounded

VERSION = 2
"""Of the stores that are made: with bundles. Those of version 1 have none, and never get any."""

BUNDLES_SINCE = 2

TRASH_SECONDS = 7 * 86400.0
"""Seconds for which a deleted conversation keeps its content: a week is what people take to notice."""

CENTURY = 100 * 365.25 * 86400.0
"""Seconds for which a deleted conversation may keep its content at most, so that dates do not overflow."""


DictionaryId = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?\Z")]
"""SHA-256 of a dictionary; empty: none."""


class Descriptor(msgspec.Struct, frozen=True):
    """`store_id` names the store's hot tiers. `segmenter`: how all hosts cut. `many`: the count at which counting ends.
    `trash_seconds`: how long a deleted conversation keeps its content. `recounted_at`: when segments that nobody
    counted any more began to be counted again; what a host saw before, it must not believe. `dictionary`: the id of the
    one to compress with (see `dictionaries`). `training`: whether hosts make one by themselves."""

    store_id: Word
    created_at: Moment
    segmenter: SegmenterParameters = DEFAULT_PARAMETERS
    many: Annotated[int, msgspec.Meta(ge=1, le=1 << 32)] = MANY
    trash_seconds: Annotated[float, msgspec.Meta(ge=0, le=CENTURY)] = TRASH_SECONDS
    recounted_at: Moment = 0.0
    dictionary: DictionaryId = ""
    training: bool = True
    # A factory, since a plain default would be left out of what is stored.
    v: int = msgspec.field(default_factory=lambda: VERSION)

    @property
    def bundles(self) -> bool:
        """Whether there may be bundles in the store (see `bundle`)."""
        return self.v >= BUNDLES_SINCE


class _Version(msgspec.Struct):
    v: int


_decoder = msgspec.json.Decoder(Descriptor)
_version_decoder = msgspec.json.Decoder(_Version)
_fields_decoder = msgspec.json.Decoder(dict[str, object])


async def create_descriptor(
    store: ObjectStore,
    *,
    segmenter: SegmenterParameters = DEFAULT_PARAMETERS,
    many: int = MANY,
    trash_seconds: float = TRASH_SECONDS,
    training: bool = True,
) -> Descriptor:
    """Makes a place a store. Raises `PathExists` where it is one already, and store errors."""
    descriptor = Descriptor(str(uuid7()), time.time(), segmenter, many, trash_seconds, training=training)
    try:
        await store.put(DESCRIPTOR, _body(descriptor), IF_ABSENT)
    except PreconditionFailed:
        existing = await read_descriptor(store)
        if existing.store_id != descriptor.store_id:
            raise PathExists(f"{store.url} is a store already") from None
    return descriptor


async def note_recount(store: ObjectStore, *, deadline: float) -> None:
    """Tells every host that begins to use the store from now on that segments are about to be counted again.

    Raises `RetriesExhausted` and other store errors.
    """
    await compare_and_swap(store, DESCRIPTOR, _NoteRecount(time.time()), deadline=deadline)


class _NoteRecount:
    """A later `recounted_at`; whatever else the descriptor has stays as it is."""

    def __init__(self, now: float) -> None:
        self._now = now

    def propose(self, current: Found | None) -> bytes | None:
        fields = _fields(current)
        if fields.get("recounted_at") == self._now:
            return None
        return _body({**fields, "recounted_at": self._now})

    def in_doubt(self) -> None:
        """Nothing to note: the time in the descriptor tells."""


async def activate_dictionary(store: ObjectStore, id: str, *, instead_of: str, deadline: float) -> str:
    """Names the dictionary to compress with from now on, unless somebody has named another than `instead_of`.

    Returns which one is named now. Raises `RetriesExhausted` and other store errors.
    """
    activate = _Activate(id, instead_of)
    await compare_and_swap(store, DESCRIPTOR, activate, deadline=deadline)
    return activate.active


class _Activate:
    """Another `dictionary`; whatever else the descriptor has stays as it is."""

    def __init__(self, id: str, instead_of: str) -> None:
        self._id = id
        self._instead_of = instead_of
        self.active = ""

    def propose(self, current: Found | None) -> bytes | None:
        fields = _fields(current)
        assert current is not None
        self.active = parse(_decoder, current.body, "the descriptor").dictionary
        if self.active != self._instead_of:
            return None
        self.active = self._id
        return _body({**fields, "dictionary": self._id})

    def in_doubt(self) -> None:
        """Nothing to note: the id in the descriptor tells."""


def _fields(descriptor: Found | None) -> dict[str, object]:
    """What stands in a descriptor, also what only later versions know."""
    if descriptor is None:
        raise NotAStore("the store has lost its descriptor")
    return parse(_fields_decoder, descriptor.body, f"the descriptor {DESCRIPTOR}")


def _body(descriptor: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(descriptor), indent=2) + b"\n"


async def read_descriptor(store: ObjectStore) -> Descriptor:
    """The descriptor. Raises `NotAStore`, `UnsupportedVersion`, `CorruptObject` and store errors."""
    try:
        found = await read_bounded(store, DESCRIPTOR)
    except ObjectNotFound:
        raise NotAStore(f"{store.url} is not a stowfs store: prepare it with 'stowfs mkfs {store.url}'") from None
    what = f"the descriptor {DESCRIPTOR} of {store.url}"
    version = parse(_version_decoder, found.body, what).v
    if not 1 <= version <= VERSION:
        raise UnsupportedVersion(
            f"{store.url} has format version {version}, and this stowfs reads those up to {VERSION}: upgrade stowfs"
        )
    descriptor = parse(_decoder, found.body, what)
    try:
        UUID(descriptor.store_id)
    except ValueError as error:
        raise CorruptObject(f"{what} is not valid: {error}") from error
    if descriptor.segmenter.maximum > RAW_LIMIT:
        raise CorruptObject(f"{what} is not valid: no segment can have {descriptor.segmenter.maximum} bytes")
    return descriptor
