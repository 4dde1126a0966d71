"""A draft against what is there by the time it is committed: whether it still makes sense there, and how.

Appended bytes go to the end of whatever is there, a replacement replaces it, and an edit needs the bytes that it was
made to: else it is kept beside, under `conflict_path`. Whether a draft became a version before, its attempts tell.
"""

import platform
import re
from datetime import UTC, datetime
from enum import Enum

import msgspec

from stowfs.errors import IsDirectory, NameTooLong, PathExists
from stowfs.vault import expiry
from stowfs.vault.draft import Draft, Intent, merged
from stowfs.vault.manifest import Manifest, Snapshot
from stowfs.vault.naming import display, join, manifest_key, split


class Merge(Enum):
    """What becomes of a draft whose base is not what is there any more."""

    MERGED = "it was moved onto what is there"
    DONE = "it is there already, or was"
    BESIDE = "it can only be kept under another name"


def reconcile(draft: Draft, current: Snapshot, *, unattended: bool) -> Merge:
    """Moves a draft onto the version that is there now: appended bytes go to its end, a replacement replaces it.

    Raises `PathExists`, `IsDirectory`, unless `unattended`.
    """
    base = draft.base
    own = draft.attempts.last_in(current, draft.base)
    if own is not None and not own.certain:
        return Merge.BESIDE
    same = own is not None and own.commit == current.manifest.commit and not own.mark.moved
    if own is not None and draft.is_as(own.mark):
        draft.moved = draft.moved or not same
        return Merge.DONE
    if own is None and draft.exclusive:
        if not unattended:
            raise PathExists(f"{display(draft.path)} exists")
        return Merge.BESIDE
    if current.is_directory:
        if not unattended:
            raise IsDirectory(display(draft.path))
        return Merge.BESIDE
    if current.is_symlink and (own is not None or draft.intent is not Intent.REPLACE):
        if not unattended:
            raise PathExists(f"{display(draft.path)} has become a symbolic link")
        return Merge.BESIDE
    if own is not None:
        if not draft.follow(own.mark, current, same=same):
            return Merge.BESIDE
        draft.moved = draft.moved or not same
        return Merge.MERGED
    follows = base is not None and current.has_content_of(base)
    if not follows and base is not None and draft.intent is Intent.EDIT:
        return Merge.BESIDE
    if _keeps_deadline(draft) or (base is None and draft.intent is Intent.APPEND):
        draft.attributes = msgspec.structs.replace(draft.attributes, expires_ns=current.attributes.expires_ns)
    if base is not None:
        draft.attributes = merged(draft.attributes, base.attributes, current.attributes)
    if follows:
        draft.base = current
    else:
        draft.rebase(current)
    return Merge.MERGED


def is_what_is_there(manifest: Manifest, current: Snapshot) -> bool:
    """Whether writing the manifest would change nothing but the time of change."""
    there = current.manifest
    attributes = msgspec.structs.replace(manifest.attributes, ctime_ns=there.attributes.ctime_ns)
    same_bytes = manifest.content == there.content and manifest.tail == there.tail
    return there.live and same_bytes and attributes == there.attributes


def was_deleted(draft: Draft, previous: Snapshot) -> bool:
    """Whether all that is in the draft was a version already, and was deleted since by somebody who knew it."""
    if previous.manifest.live:
        return False
    own = draft.attempts.last_in(previous, draft.base)
    return own is not None and own.certain and draft.is_as(own.mark)


def has_expired(draft: Draft, previous: Snapshot | None) -> bool:
    """Whether the deadline of a draft has passed, or of what it appends to or edits: that may be an earlier one, set
    elsewhere meanwhile."""
    if expiry.is_over(draft.attributes.expires_ns):
        return True
    gone = previous is not None and not previous.manifest.live and expiry.is_over(previous.attributes.expires_ns)
    return gone and _keeps_deadline(draft)


def _keeps_deadline(draft: Draft) -> bool:
    """Whether a draft appends to or edits what is there, without a deadline that was set here."""
    base = draft.base
    if base is None or draft.intent is Intent.REPLACE:
        return False
    return draft.attributes.expires_ns == base.attributes.expires_ns


def conflict_path(path: str) -> str:
    """A name beside `path` for what lost it to somebody else: host and time tell the user whose it is. A long one is
    shortened."""
    directory, name = split(path)
    host = re.sub(r"[^A-Za-z0-9_-]", "-", platform.node()) or "host"
    mark = f".conflict-{host}-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    while name:
        beside = join(directory, name + mark)
        try:
            manifest_key(beside)
        except NameTooLong:
            name = name[:-1]
        else:
            return beside
    raise NameTooLong(f"no name beside {display(path)} is short enough for a store")
