"""Writing a manifest: the one conditional PUT that is the commit point, with its outcome found out whatever happens
to it."""

from dataclasses import dataclass, replace

from stowfs.errors import PreconditionFailed, RetriesExhausted, StoreUnavailable, WriteConflict
from stowfs.store.base import IF_ABSENT, IfMatch, ObjectStore
from stowfs.store.retry import Backoff
from stowfs.vault import manifest as manifests
from stowfs.vault.cas import read_or_none
from stowfs.vault.manifest import Manifest, Snapshot
from stowfs.vault.naming import display, manifest_key
from stowfs.vault.ring import Ring, Verdict, first_ring


@dataclass(frozen=True, slots=True)
class Published:
    """The manifest is the commit: `snapshot` as it lies in the store, `body` its bytes."""

    snapshot: Snapshot
    body: bytes


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
    path: str,
    manifest: Manifest,
    inline: bytes,
    body: bytes,
    base: Snapshot | None,
    *,
    deadline: float,
) -> Outcome:
    """Writes `body`, which encodes `manifest` and `inline`, over `base` (`None`: over nothing).

    Raises `RetriesExhausted` where the outcome could not be found out within `deadline` seconds; then it may still
    take effect.
    """
    key = manifest_key(path)
    condition = IF_ABSENT if base is None else IfMatch(base.etag)
    own = Snapshot(path, manifest.commit, manifest, inline, len(body))
    backoff = Backoff(deadline)
    while True:
        try:
            try:
                etag = await store.put(key, body, condition)
            except (PreconditionFailed, WriteConflict, StoreUnavailable):
                outcome = await _find_out(store, own, base)
                if outcome is not None:
                    return outcome
                raise
            return Published(replace(own, etag=etag), body)
        except (PreconditionFailed, WriteConflict, StoreUnavailable) as error:
            # The base is still there: the write may be tried again, under the same id.
            await backoff.wait(error)


async def _find_out(store: ObjectStore, own: Snapshot, base: Snapshot | None) -> Outcome | None:
    """What became of the write of `own` that was refused or not answered; `None` where the base is untouched so far."""
    found = await read_or_none(store, manifest_key(own.path))
    current = manifests.decode(own.path, found.etag, found.body) if found else None
    if found is not None and current is not None:
        if current.manifest.commit == own.manifest.commit:
            return Published(current, found.body)
        generation = base.manifest.ring.generation if base else 0
        match current.manifest.ring.verdict(own.manifest.commit, since=generation):
            case Verdict.HAPPENED:
                return Overtaken(own)
            case Verdict.UNKNOWN:
                name = display(own.path)
                raise RetriesExhausted(f"{name}: so many others wrote that the fate of this commit cannot be told")
            case Verdict.DID_NOT_HAPPEN:
                pass
    same = (current.etag if current else None) == (base.etag if base else None)
    return None if same else Moved(current)
