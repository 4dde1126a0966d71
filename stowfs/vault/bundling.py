"""Creating several manifests of a directory as one bundle (see `bundle` and `bundled_store`).

Order, always: claim the names → list the directory → commit what nobody else has. Each step is one request, whatever
the number of the manifests.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from stowfs.errors import StoreError
from stowfs.store.base import Found, ObjectInfo, ObjectStore
from stowfs.vault import bundle as bundles_format
from stowfs.vault.bundle import Bundle, Whole, decode
from stowfs.vault.bundles import Bundles
from stowfs.vault.cas import UNREAD, Unread, compare_and_swap
from stowfs.vault.naming import bundles_prefix, is_bundle, place_of
from stowfs.vault.ring import new_id

SURVEY = 2
"""Pages of a directory that are listed for one bundle, at most: where there is more, most of it has keys of its own,
and to bundle what is added would save little."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest to be created: its name as it stands in keys, the id of the commit, and what is to be stored."""

    name: str
    commit: str
    body: bytes


async def put_bundle(
    store: ObjectStore, known: Bundles, prefix: str, manifests: Sequence[Manifest], *, deadline: float
) -> dict[str, str]:
    """Creates manifests as one bundle; the tokens, by name, of those that were. See `BundledStore.put_together`."""
    key = bundles_format.key_of(prefix, new_id())
    claim = bundles_format.pending((manifest.name, manifest.commit) for manifest in manifests)
    claimed = await _become(store, key, claim, over=None, deadline=deadline)
    assert claimed is not None  # nobody else knows of it
    known.remember(decode(key, claimed.etag, claim))
    taken = await _taken(store, known, prefix, key, {manifest.name for manifest in manifests})
    kept = [manifest for manifest in manifests if manifest.name not in taken]
    committed = None
    if kept:
        body = bundles_format.committed([(manifest.name, manifest.commit, manifest.body) for manifest in kept])
        committed = await _become(store, key, body, over=claimed, deadline=deadline)
    if committed is None:
        with contextlib.suppress(StoreError):
            # Claimed by nobody, or void: it is collected some time.
            await store.delete(key)
        return {}
    whole = decode(key, committed.etag, committed.body)
    known.remember(whole)
    return {member.name: whole.bundle.token(member) for member in whole.bundle.header.members}


async def make_void(store: ObjectStore, bundle: Bundle, *, deadline: float) -> bool:
    """Sees to it that a pending bundle is never committed; False where it is by now, or is gone."""
    return await _become(store, bundle.key, bundles_format.void(), over=bundle.etag, deadline=deadline) is not None


async def replace_bundle(store: ObjectStore, bundle: Bundle, body: bytes, *, deadline: float) -> Whole | None:
    """Another version of a bundle, unless somebody was quicker."""
    written = await _become(store, bundle.key, body, over=bundle.etag, deadline=deadline)
    return decode(bundle.key, written.etag, written.body) if written is not None else None


async def _become(
    store: ObjectStore, key: str, body: bytes, *, over: Found | str | None, deadline: float
) -> Found | None:
    """Writes `body` over what has the ETag `over` (None: over nothing); None where something else is there."""
    etag = over.etag if isinstance(over, Found) else over
    first: Found | Unread | None = UNREAD if isinstance(over, str) else over
    become = _Become(body, etag)
    swapped = await compare_and_swap(store, key, become, first=first, deadline=deadline)
    return swapped.current if swapped.written or become.done else None


class _Become:
    """One version of a bundle to another. Each has an id of its own, so the body tells what happened."""

    def __init__(self, body: bytes, over: str | None) -> None:
        self._body = body
        self._over = over
        self.done = False

    def propose(self, current: Found | None) -> bytes | None:
        self.done = current is not None and current.body == self._body
        return self._body if (current.etag if current else None) == self._over else None

    def in_doubt(self) -> None:
        """Nothing to note: the body tells."""


async def _taken(store: ObjectStore, known: Bundles, prefix: str, own: str, names: set[str]) -> set[str]:
    """Those of the names that somebody else has, or claims; all, where the directory is too large to tell."""
    last = max(names)
    taken: set[str] = set()
    bundles: list[ObjectInfo] = []
    surveyed = 0
    async for page in store.list(prefix, delimiter="/", start_after=bundles_prefix(prefix)[:-1]):
        bundles += [info for info in page.objects if is_bundle(info.key) and info.key != own]
        taken.update(place_of(info.key)[1] for info in page.objects)
        surveyed += 1
        if page.last or (page.objects and place_of(page.objects[-1].key)[1] > last):
            break
        if surveyed == SURVEY:
            return names
    for bundle in await known.load(bundles):
        taken.update(member.name for member in bundle.header.members)
    return taken & names
