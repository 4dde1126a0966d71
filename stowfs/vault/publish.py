"""Writing a manifest: the one conditional PUT that is the commit point, with its outcome found out whatever happens
to it."""

from dataclasses import dataclass, replace
from typing import Literal

from stowfs.errors import PreconditionFailed, RetriesExhausted, StoreUnavailable, WriteConflict
from stowfs.store.base import IF_ABSENT, IfMatch, ObjectStore
from stowfs.store.retry import Backoff
from stowfs.vault import manifest as manifests
from stowfs.vault.cas import read_or_none
from stowfs.vault.dictionaries import Dictionaries
from stowfs.vault.manifest import Snapshot
from stowfs.vault.naming import display, manifest_key
from stowfs.vault.ring import Ring, Verdict, first_ring


@dataclass(frozen=True, slots=True)
class Published:
    """The manifest is the commit: `snapshot` as it lies in the store."""

    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Overtaken:
    """The commit took effect as `snapshot`, and others have written since.

    Its ETag was never learnt: the commit's id stands for it, which is no object's.
    """

    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Moved:
    """The commit did not and will not take effect: something else is there now (`None`: nothing)."""

    current: Snapshot | None


Outcome = Published | Overtaken | Moved


def next_ring(previous: Snapshot | None, commit: str) -> Ring:
    """The ring of the manifest or tombstone that replaces `previous`."""
    return (previous.manifest.ring if previous else first_ring()).add(commit)


async def publish(
    store: ObjectStore,
    dictionaries: Dictionaries,
    own: Snapshot,
    base: Snapshot | None,
    *,
    deadline: float,
) -> Outcome:
    """Writes `own`, which has the commit's id for an ETag so far, over `base` (`None`: over nothing).

    Raises `RetriesExhausted` where the outcome could not be found out within `deadline` seconds; then it may still
    take effect.
    """
    key = manifest_key(own.path)
    condition = IF_ABSENT if base is None else IfMatch(base.etag)
    backoff = Backoff(deadline)
    in_doubt = False
    while True:
        try:
            return Published(replace(own, etag=await store.put(key, own.body, condition)))
        except (PreconditionFailed, WriteConflict, StoreUnavailable) as error:
            refused = error
            in_doubt = in_doubt or isinstance(error, StoreUnavailable)
        try:
            outcome = await _find_out(store, dictionaries, own, base, in_doubt=in_doubt)
        except StoreUnavailable as error:
            await backoff.wait(error)
            continue
        match outcome:
            case None:
                # The base is still there: the write may be tried again, under the same id.
                await backoff.wait(refused)
            case Verdict.UNKNOWN:
                name = display(own.path)
                raise RetriesExhausted(f"{name}: so many others wrote that the fate of this commit cannot be told")
            case _:
                return outcome


async def _find_out(
    store: ObjectStore, dictionaries: Dictionaries, own: Snapshot, base: Snapshot | None, *, in_doubt: bool
) -> Outcome | Literal[Verdict.UNKNOWN] | None:
    """What became of the write of `own`; `None` where the base is untouched so far.

    `in_doubt`: it was sent and not answered. Otherwise it was refused each time, and did not happen: then it does not
    matter how many others have written since.
    """
    found = await read_or_none(store, manifest_key(own.path))
    current = None
    if found is not None:
        current = manifests.decode(own.path, found.etag, found.body, await dictionaries.of(found.body))
        if current.manifest.commit == own.manifest.commit:
            return Published(current)
        generation = base.manifest.ring.generation if base else 0
        match current.manifest.ring.verdict(own.manifest.commit, since=generation):
            case Verdict.HAPPENED:
                return Overtaken(own)
            case Verdict.UNKNOWN if in_doubt:
                return Verdict.UNKNOWN
            case _:
                pass
    same = (current.etag if current else None) == (base.etag if base else None)
    return None if same else Moved(current)
