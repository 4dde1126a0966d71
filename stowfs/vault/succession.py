"""What comes after a version of a conversation, directory or symbolic link: manifests, as functions of the one before.

Such a function is asked again, with what is there by then, whenever somebody was quicker to write. `commit` and `ring`
are left to whoever writes what it gives.
"""

import hashlib
import time
from collections.abc import Callable, Mapping

import msgspec

from stowfs.errors import IsDirectory, NameTooLong, NoSuchPath, NotDirectory, PathExists, UsageError
from stowfs.vault.assembly import Assembled
from stowfs.vault.draft import Draft
from stowfs.vault.manifest import TARGET_LIMIT, Attributes, Manifest, Snapshot, blobs_of
from stowfs.vault.naming import display
from stowfs.vault.publish import next_ring
from stowfs.vault.ring import first_ring

Successor = Callable[[Snapshot | None], Manifest]


def of_draft(
    draft: Draft, assembled: Assembled, commit: str, previous: Snapshot | None, blobs: Mapping[str, str]
) -> Manifest:
    """The version with the id `commit` that a draft becomes. `blobs`: those of what this commit acquired."""
    inline = assembled.inline
    bases = [snapshot.blobs for snapshot in (draft.base, previous) if snapshot is not None]
    return Manifest(
        commit=commit,
        ring=next_ring(previous, commit),
        attributes=draft.attributes,
        size=draft.size,
        pieces=assembled.pieces,
        tail=assembled.tail,
        inline=len(inline),
        inline_digest=assembled.inline_digest,
        facts=assembled.facts,
        blobs=blobs_of(assembled.pieces, blobs, *bases),
    )


def with_attributes(path: str, change: Callable[[Attributes], Attributes], current: Snapshot | None) -> Manifest:
    """The same with other attributes. Raises `NoSuchPath`."""
    there = live(path, current)
    return msgspec.structs.replace(there.manifest, attributes=change(there.attributes))


def with_deadline(path: str, expires_ns: int | None, current: Snapshot | None) -> Manifest:
    """The same with another deadline. Raises `NoSuchPath`, `IsDirectory`."""
    there = live(path, current)
    if there.is_directory:
        raise IsDirectory(f"{display(path)} is a directory: only conversations expire")
    attributes = msgspec.structs.replace(there.attributes, expires_ns=expires_ns, ctime_ns=time.time_ns())
    return msgspec.structs.replace(there.manifest, attributes=attributes)


def new_directory(path: str, attributes: Attributes, bundles: bool, current: Snapshot | None) -> Manifest:
    """A directory where nothing is; `bundles`: whether it may have some. Raises `PathExists`."""
    if current is not None and current.manifest.live:
        raise PathExists(f"{display(path)} exists")
    return Manifest("", next_ring(None, ""), attributes, kind="directory", bundles=bundles)


def new_symlink(path: str, target: bytes, attributes: Attributes, *, replace: bool) -> Successor:
    """A symbolic link where nothing is, or with `replace` a conversation or link.

    Raises `NameTooLong` and `UsageError` for a target that no kernel takes; the function, `PathExists`, `IsDirectory`.
    """
    if len(target) > TARGET_LIMIT:
        raise NameTooLong(f"{display(path)}: the target of a symbolic link has at most {TARGET_LIMIT} bytes")
    if not target or b"\0" in target:
        raise UsageError(f"{display(path)}: a symbolic link cannot lead to {target!r}")

    def symlink(current: Snapshot | None) -> Manifest:
        if current is not None and current.manifest.live:
            if not replace:
                raise PathExists(f"{display(path)} exists")
            if current.is_directory:
                raise IsDirectory(display(path))
        return Manifest(
            "",
            next_ring(None, ""),
            attributes,
            kind="symlink",
            size=len(target),
            pieces=(len(target),),
            inline=len(target),
            inline_digest=hashlib.sha256(target).hexdigest(),
        )

    return symlink


def tombstone(path: str, directory: bool, keeps: bool, current: Snapshot | None) -> Manifest:
    """The tombstone of a conversation, or of a directory; `keeps`: with its content. Raises `NoSuchPath`,
    `IsDirectory`, `NotDirectory`."""
    there = live(path, current)
    if there.is_directory is not directory:
        raise (IsDirectory if there.is_directory else NotDirectory)(display(path))
    return msgspec.structs.replace(there.manifest, deleted=time.time()) if keeps else bare_tombstone(there)


def another_tombstone(there: Snapshot | None) -> Manifest:
    """The tombstone where nothing is, or another one that keeps as much: what was to replace that cannot any more."""
    if there is not None:
        return there.manifest if there.manifest.deleted is not None else bare_tombstone(there)
    return Manifest("", first_ring(), Attributes(0, 0, 0, 0, 0), deleted=time.time())


def bare_tombstone(there: Snapshot) -> Manifest:
    """A tombstone that keeps nothing but the ring."""
    return Manifest("", there.manifest.ring, there.attributes, kind=there.manifest.kind, deleted=time.time())


def live(path: str, snapshot: Snapshot | None) -> Snapshot:
    """What is there. Raises `NoSuchPath` where that is nothing."""
    if snapshot is None or not snapshot.manifest.live:
        raise NoSuchPath(f"{display(path)}: no such conversation or directory")
    return snapshot
