"""What listings said of versions: under which ETag each was there, and when.

A listing is an answer of the store as good as any to a question for one object: whoever has the manifest of that ETag
need not ask for it again within the revalidation time.
"""

from collections import OrderedDict

import trio

PATHS = 20_000
"""Paths of which this is remembered, some four megabytes: more than programs get through, one after the other, in the
time for which it may be believed."""


class ListedTags:
    """ETags by path, each for `believed` seconds."""

    def __init__(self, *, believed: float) -> None:
        self._believed = believed
        self._tags: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def note(self, path: str, etag: str, asked: float) -> bool:
        """A listing of the trio time `asked` has shown that. Returns whether an earlier one has shown something
        else."""
        if not self._believed:
            return False
        known, _ = self._tags.get(path, (etag, 0.0))
        self._tags[path] = etag, asked
        self._tags.move_to_end(path)
        if len(self._tags) > PATHS:
            self._tags.popitem(last=False)
        return known != etag

    def confirmed(self, path: str, etag: str) -> float | None:
        """When a listing has shown the version `etag` under `path`, if that is to be believed still."""
        listed, asked = self._tags.get(path, ("", 0.0))
        return asked if listed == etag and trio.current_time() - asked < self._believed else None

    def current(self, path: str) -> tuple[str, float] | None:
        """The ETag that a listing has shown under `path`, and when, if that is to be believed still."""
        listed = self._tags.get(path)
        return listed if listed is not None and trio.current_time() - listed[1] < self._believed else None

    def forget(self, path: str) -> None:
        """It has changed, or may have."""
        self._tags.pop(path, None)
