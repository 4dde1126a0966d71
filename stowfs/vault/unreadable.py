"""Manifests that make no sense: each is left out of listings, which is said once, and not fetched again for them."""

import logging
from collections import OrderedDict

from stowfs.errors import CorruptObject, StowError
from stowfs.store.base import ObjectInfo
from stowfs.vault.naming import is_bundle, path_of_manifest

log = logging.getLogger(__name__)

LIMIT = 10_000
"""Objects of which this is remembered: some megabytes. What is forgotten is fetched and logged once more."""


class Unreadable:
    """What was found to be unreadable, by key, with the ETag of the version that was."""

    def __init__(self) -> None:
        self._etags: OrderedDict[str, str] = OrderedDict()

    def __contains__(self, info: ObjectInfo) -> bool:
        return self._etags.get(info.key) == info.etag

    def add(self, info: ObjectInfo, error: StowError) -> None:
        """An object cannot be read, for this reason."""
        if info in self:
            return
        log.error("left out of listings: %s", error)
        self._etags[info.key] = info.etag
        if len(self._etags) > LIMIT:
            self._etags.popitem(last=False)

    def path(self, info: ObjectInfo) -> str | None:
        """The path of a manifest's key; `None` for a key that stowfs never writes, and for a bundle
        that cannot be read."""
        if is_bundle(info.key):
            self.add(info, CorruptObject(f"{info.key} cannot be read, nor what was created in it"))
            return None
        try:
            return path_of_manifest(info.key)
        except CorruptObject as error:
            self.add(info, error)
            return None
