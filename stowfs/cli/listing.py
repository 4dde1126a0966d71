"""Which conversations a listing shows, and how one looks as a line and as JSON."""

import os
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from stowfs.cli.output import moment
from stowfs.cli.session import Session
from stowfs.vault.manifest import Snapshot
from stowfs.vault.naming import split

NANOSECONDS = 1_000_000_000

_TYPE_BITS = {"conversation": stat.S_IFREG, "directory": stat.S_IFDIR, "symlink": stat.S_IFLNK}


@dataclass(frozen=True, slots=True)
class Filter:
    """What a listing is narrowed to. `model` and `application` are patterns as in a shell; times in seconds since the
    epoch, `until` itself excluded."""

    model: str | None = None
    application: str | None = None
    since: float | None = None
    until: float | None = None

    @property
    def is_empty(self) -> bool:
        return self == Filter()

    def shows(self, snapshot: Snapshot) -> bool:
        """Whether a listing narrowed so shows this. A directory or a link is no conversation: it matches no pattern and
        has no time."""
        if self.is_empty:
            return True
        facts = snapshot.manifest.facts
        time = conversation_time(snapshot)
        return snapshot.is_conversation and (
            (self.model is None or fnmatchcase(facts.model or "", self.model))
            and (self.application is None or fnmatchcase(facts.application or "", self.application))
            and (self.since is None or time >= self.since)
            and (self.until is None or time < self.until)
        )


def conversation_time(snapshot: Snapshot) -> float:
    """When the conversation began, by its own account; else when it was written to last. Seconds since the epoch."""
    time = snapshot.manifest.facts.time
    return snapshot.attributes.mtime_ns / NANOSECONDS if time is None else time


def has_times(snapshot: Snapshot) -> bool:
    """Whether the store has times for this: it has none for the top directory, nor for one whose manifest is lost."""
    return bool(snapshot.etag)


async def entries(session: Session, path: str, *, recursive: bool) -> AsyncIterator[Snapshot]:
    """What is in the directory `path` (with `recursive`, below it), by name; or the conversation `path` itself."""
    found = await session.find(path)
    if not found.is_directory:
        yield found
    elif recursive:
        async for snapshot in session.vault.walk(found.path):
            yield snapshot
    else:
        for snapshot in await session.vault.list_directory(found.path):
            yield snapshot


def name_shown(snapshot: Snapshot, *, recursive: bool) -> str:
    """The id where a listing goes through directories, else the name; a directory's ends in '/'."""
    name = snapshot.path if recursive else split(snapshot.path)[1]
    return name + "/" if snapshot.is_directory else name


def long_line(snapshot: Snapshot, *, recursive: bool) -> str:
    """Mode, size, time, deadline, messages, model, name; of a symbolic link also its target."""
    kind = _TYPE_BITS[snapshot.manifest.kind]
    facts = snapshot.manifest.facts
    messages = "-" if facts.messages is None else str(facts.messages)
    mode = stat.filemode(kind | snapshot.attributes.mode)
    when = moment(conversation_time(snapshot)) if has_times(snapshot) else "-"
    expires = deadline(snapshot) or "-"
    model = facts.model or "-"
    name = name_shown(snapshot, recursive=recursive)
    if snapshot.is_symlink:
        name += f" -> {os.fsdecode(snapshot.target)}"
    return f"{mode} {snapshot.size:>12} {when:<20} {expires:<20} {messages:>6} {model:<24} {name}"


def deadline(snapshot: Snapshot) -> str | None:
    """When it expires, as ISO 8601; None: never."""
    expires_ns = snapshot.attributes.expires_ns
    return None if expires_ns is None else moment(expires_ns / NANOSECONDS)


def document(snapshot: Snapshot) -> dict[str, object]:
    """What a program gets to know of a conversation or directory; times as ISO 8601, `None` where there are none.
    Bytes of the id that are no UTF-8 come as surrogate escapes."""
    attributes = snapshot.attributes
    facts = snapshot.manifest.facts
    common: dict[str, object] = {
        "id": snapshot.path,
        "type": snapshot.manifest.kind,
        "mode": f"{attributes.mode:04o}",
        "uid": attributes.uid,
        "gid": attributes.gid,
        "modified": moment(attributes.mtime_ns / NANOSECONDS) if has_times(snapshot) else None,
        "revision": snapshot.etag,
    }
    if snapshot.is_directory:
        return common
    if snapshot.is_symlink:
        return common | {"target": os.fsdecode(snapshot.target)}
    return common | {
        "size": snapshot.size,
        "format": facts.format,
        "model": facts.model,
        "application": facts.application,
        "messages": facts.messages,
        "time": None if facts.time is None else moment(facts.time),
        "expires": deadline(snapshot),
    }


def readable(path: str) -> str:
    """An id for a message or a JSON document that a person reads."""
    return os.fsencode(path).decode(errors="backslashreplace")
