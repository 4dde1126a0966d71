"""Extended attributes: `user.*` is stored with the file; `user.stowfs.*` tells what is known of it, and is read-only,
but for `user.stowfs.ttl`: its lifetime from now on.

What is known is not listed, only told to who asks for it by name: programs that copy all attributes of a file would
otherwise try to set them on the copy.
"""

import errno
from collections.abc import Awaitable, Callable

import msgspec
import pyfuse3

from stowfs.durations import parse_duration
from stowfs.mount.contents import Contents
from stowfs.mount.inode import Inode
from stowfs.mount.lookup import Lookup
from stowfs.vault import expiry, extended
from stowfs.vault.manifest import Snapshot
from stowfs.vault.vault import Vault

STORED = b"user."
KNOWN = b"user.stowfs."

LIFETIME = b"user.stowfs.ttl"
"""Set: a duration, as 'stowfs expire' takes it. Read: the whole seconds that are left."""


class ExtendedAttributes:
    """The extended attributes of files, by inode and name. Names of other namespaces are ENOTSUP."""

    def __init__(self, vault: Vault, lookup: Lookup, contents: Contents) -> None:
        self._vault = vault
        self._lookup = lookup
        self._contents = contents
        self._known: dict[bytes, Callable[[Snapshot], Awaitable[object]]] = {
            b"format": self._fact("format"),
            b"model": self._fact("model"),
            b"application": self._fact("application"),
            b"messages": self._fact("messages"),
            b"segments": self._segments,
            b"stored_bytes": self._stored_bytes,
            b"revision": self._revision,
        }

    async def names(self, inode: Inode) -> list[bytes]:
        """The attributes that are stored."""
        inode = await self._lookup.shown(inode, recently=True)
        # Whatever somebody else has put into the store.
        return [name for name in extended.names(inode.attributes) if name.startswith(STORED)]

    async def get(self, inode: Inode, name: bytes) -> bytes:
        """The value of an attribute. Raises `NoSuchAttribute`, ENODATA."""
        _check_namespace(name)
        if name == LIFETIME:
            inode = await self._lookup.shown(inode, recently=True)
            return str(int(expiry.seconds_left(_deadline(inode)))).encode()
        if name.startswith(KNOWN):
            return await self._tell(inode, name.removeprefix(KNOWN))
        inode = await self._lookup.shown(inode, recently=True)
        return extended.value(inode.attributes, name)

    async def set(self, inode: Inode, name: bytes, value: bytes) -> None:
        """Sets an attribute. Raises `AttributesFull`, `UsageError` (no lifetime), EPERM."""
        _check_writable(inode, name)
        inode = await self._lookup.shown(inode)
        if name == LIFETIME:
            await self._set_deadline(inode, expiry.deadline(parse_duration(value.decode("latin-1"))))
            return
        await self._contents.change_attributes(inode, lambda current: extended.having(current, name, value))

    async def remove(self, inode: Inode, name: bytes) -> None:
        """Removes an attribute. Raises `NoSuchAttribute`, EPERM."""
        _check_writable(inode, name)
        inode = await self._lookup.shown(inode)
        if name == LIFETIME:
            _deadline(inode)
            await self._set_deadline(inode, None)
            return
        await self._contents.change_attributes(inode, lambda current: extended.lacking(current, name))

    async def _set_deadline(self, inode: Inode, expires_ns: int | None) -> None:
        inode.fresh = False
        await self._contents.change_attributes(
            inode, lambda current: msgspec.structs.replace(current, expires_ns=expires_ns)
        )

    async def _tell(self, inode: Inode, what: bytes) -> bytes:
        tell = self._known.get(what)
        snapshot = await self._stored(inode) if tell is not None and not inode.is_directory else None
        answer = await tell(snapshot) if tell is not None and snapshot is not None else None
        if answer is None:
            raise pyfuse3.FUSEError(errno.ENODATA)
        return str(answer).encode()

    async def _stored(self, inode: Inode) -> Snapshot | None:
        """The version below the uncommitted changes of a file; None where there is none."""
        if inode.snapshot is not None or inode.version is None or not inode.linked:
            return inode.snapshot
        _, snapshot = await self._lookup.current(inode)
        return snapshot

    def _fact(self, name: str) -> Callable[[Snapshot], Awaitable[object]]:
        async def tell(snapshot: Snapshot) -> object:
            return getattr(snapshot.manifest.facts, name)

        return tell

    async def _segments(self, snapshot: Snapshot) -> object:
        return len(await self._vault.digests(snapshot))

    async def _stored_bytes(self, snapshot: Snapshot) -> object:
        footprint = await self._vault.footprint(snapshot)
        return footprint.segment_bytes + footprint.manifest_bytes

    async def _revision(self, snapshot: Snapshot) -> object:
        return snapshot.etag


def _check_namespace(name: bytes) -> None:
    if not name.startswith(STORED) or name == STORED:
        raise pyfuse3.FUSEError(errno.ENOTSUP)


def _check_writable(inode: Inode, name: bytes) -> None:
    _check_namespace(name)
    # Only conversations expire.
    if name.startswith(KNOWN) and (name != LIFETIME or inode.is_directory):
        raise pyfuse3.FUSEError(errno.EPERM)


def _deadline(inode: Inode) -> int:
    """When a file expires. Raises ENODATA where it never does."""
    expires_ns = inode.attributes.expires_ns
    if expires_ns is None:
        raise pyfuse3.FUSEError(errno.ENODATA)
    return expires_ns
