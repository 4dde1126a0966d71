"""Names that are not in the store: a program that copies a tree asks for each of them before it makes it.

Where answers may be believed for a while (the revalidation time), one listing of a directory answers for all names
that are not in it, instead of a request for each. It is made once as many names were missed as it has pages, so that it
never costs more than it can save. What this host may have written since is never said to be absent.
"""

import logging
from collections import OrderedDict
from dataclasses import dataclass, field

import trio

from stowfs.errors import StowError
from stowfs.store.base import ObjectStore
from stowfs.vault.naming import children_prefix, display, manifest_key, split

log = logging.getLogger(__name__)

DIRECTORIES = 64
"""Directories of which the names are kept: more than programs fill at the same time."""

NAMES = 10_000
"""Names kept of a directory, about a megabyte; of one with more, each name is asked for."""


@dataclass(slots=True)
class _Directory:
    # Names that were missed since the last listing, and how many it takes to list again.
    missed: int = 0
    enough: int = 2
    # When it was listed (trio's clock), and the keys that were there, or may be by now; None: not listed.
    asked: float = 0.0
    keys: set[str] | None = None
    listing: bool = False
    # Keys that appeared during a listing.
    appeared: set[str] = field(default_factory=set)


class Absences:
    """What the catalog knows not to be there, for at most `believed` seconds."""

    def __init__(self, store: ObjectStore, *, believed: float) -> None:
        self._store = store
        self._believed = believed
        self._directories: OrderedDict[str, _Directory] = OrderedDict()

    def covers(self, path: str) -> bool:
        """Whether nothing was under `path` when its directory was listed, which is not too long ago."""
        directory = self._directories.get(split(path)[0])
        if directory is None or directory.keys is None:
            return False
        if trio.current_time() - directory.asked >= self._believed:
            directory.keys = None
            return False
        key = manifest_key(path)
        # Names that are so long that their keys are cut are listed elsewhere.
        return key not in directory.keys and "/" not in key[len(children_prefix(split(path)[0])) :]

    async def missed(self, path: str) -> None:
        """The store was asked for `path`, and nothing is there. May list its directory."""
        if not self._believed:
            return
        parent = split(path)[0]
        directory = self._directories.setdefault(parent, _Directory())
        self._directories.move_to_end(parent)
        if len(self._directories) > DIRECTORIES:
            self._directories.popitem(last=False)
        directory.missed += 1
        if directory.missed >= directory.enough and not directory.listing:
            directory.listing = True
            try:
                await self._list(parent, directory)
            except StowError as error:
                # Nobody has asked for it: whoever needs the store will be told.
                log.info("%s could not be listed: %s", display(parent), error)
            finally:
                directory.listing = False
                directory.appeared.clear()

    def appeared(self, path: str) -> None:
        """Something is under `path` now, or may be."""
        directory = self._directories.get(split(path)[0])
        if directory is not None:
            key = manifest_key(path)
            if directory.keys is not None:
                directory.keys.add(key)
            if directory.listing:
                directory.appeared.add(key)

    async def _list(self, parent: str, directory: _Directory) -> None:
        """Lists a directory, unless that takes more requests than names were missed."""
        directory.keys = None
        asked, keys, pages = trio.current_time(), set[str](), 0
        async for page in self._store.list(children_prefix(parent), delimiter="/"):
            keys.update(info.key for info in page.objects)
            pages += 1
            if len(keys) > NAMES or pages >= directory.missed:
                # Not before it is worth more requests.
                directory.enough = 2 * max(pages, directory.enough)
                break
        else:
            directory.asked, directory.keys = asked, keys | directory.appeared
            directory.enough = pages + 1
        directory.missed = 0
