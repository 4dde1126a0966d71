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
from stowfs.vault.naming import bundles_prefix, is_bundle, key_in, place_of
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
    claim = _Become(bundles_format.pending((manifest.name, manifest.commit) for manifest in manifests), over=None)
    claimed = await claim.carry_out(store, key, deadline=deadline)
    if claimed is not None:
        known.remember(decode(key, claimed.etag, claimed.body))
        taken = await _taken(store, known, prefix, key, {manifest.name for manifest in manifests})
        kept = [manifest for manifest in manifests if manifest.name not in taken]
        committed = await _commit(store, key, claimed, kept, deadline=deadline) if kept else None
        if committed is not None:
            known.remember(committed)
            return {member.name: committed.bundle.token(member) for member in committed.bundle.held}
    if not claim.doubted:
        # A claim that may still be on its way could land when the key is free, and a commit after it.
        with contextlib.suppress(StoreError):
            # Claimed by nobody, or void: it is collected some time.
            await store.delete(key)
    return {}


async def _commit(
    store: ObjectStore, key: str, claimed: Found, kept: Sequence[Manifest], *, deadline: float
) -> Whole | None:
    """The bundle with what it is to hold; None where somebody has made it void."""
    commit = _Become(
        bundles_format.committed([(manifest.name, manifest.commit, manifest.body) for manifest in kept]), over=claimed
    )
    there = await commit.carry_out(store, key, deadline=deadline) or commit.met
    whole = decode(key, there.etag, there.body) if there is not None else None
    # Nobody but its owner commits a bundle: one that is committed is this, though perhaps rewritten since.
    return whole if whole is not None and whole.bundle.state == "committed" else None


async def make_void(store: ObjectStore, bundle: Bundle, *, deadline: float) -> bool:
    """Sees to it that a pending bundle is never committed; False where it is by now, or is gone."""
    become = _Become(bundles_format.void(), over=bundle.etag)
    return await become.carry_out(store, bundle.key, deadline=deadline) is not None


async def replace_bundle(store: ObjectStore, bundle: Bundle, body: bytes, *, deadline: float) -> Whole | None:
    """Another version of a bundle, unless somebody was quicker."""
    written = await _Become(body, over=bundle.etag).carry_out(store, bundle.key, deadline=deadline)
    return decode(bundle.key, written.etag, written.body) if written is not None else None


class _Become:
    """One version of a bundle to another: `body` over `over`, an ETag where that is all that is known (None: over
    nothing). Each has an id of its own, so the body tells what happened.

    `met`: what was there instead, if anything. `doubted`: a request was not answered, and may still land.
    """

    def __init__(self, body: bytes, *, over: Found | str | None) -> None:
        self._body = body
        self._over = over.etag if isinstance(over, Found) else over
        self._first: Found | Unread | None = UNREAD if isinstance(over, str) else over
        self.met: Found | None = None
        self.doubted = False

    async def carry_out(self, store: ObjectStore, key: str, *, deadline: float) -> Found | None:
        """What was written; None where something else is there."""
        swapped = await compare_and_swap(store, key, self, first=self._first, deadline=deadline)
        if swapped.written or (swapped.current is not None and swapped.current.body == self._body):
            return swapped.current
        self.met = swapped.current
        return None

    def propose(self, current: Found | None) -> bytes | None:
        return self._body if (current.etag if current else None) == self._over else None

    def in_doubt(self) -> None:
        self.doubted = True


async def _taken(store: ObjectStore, known: Bundles, prefix: str, own: str, names: set[str]) -> set[str]:
    """Those of the names that somebody else has, or claims; all, where the directory is too large to tell."""
    # By key: '.json' comes after what may go on in the name of another.
    last = max(key_in(prefix, name) for name in names)
    taken: set[str] = set()
    bundles: list[ObjectInfo] = []
    surveyed = 0
    async for page in store.list(prefix, delimiter="/", start_after=bundles_prefix(prefix)[:-1]):
        bundles += [info for info in page.objects if is_bundle(info.key) and info.key != own]
        taken.update(place_of(info.key)[1] for info in page.objects)
        surveyed += 1
        if page.last or (page.objects and page.objects[-1].key >= last):
            break
        if surveyed == SURVEY:
            return names
    for bundle in await known.load(bundles):
        taken.update(member.name for member in bundle.header.members)
    return taken & names
