"""In which directories this host has created something, and when: somebody else may have removed them at that very
moment, and what was created must be seen all the same."""

from collections import OrderedDict

import trio

from stowfs.vault.naming import children_prefix, split

REMEMBERED = 10_000
"""Directories that are remembered, of which those are forgotten first in which nothing was created for longest: about
two megabytes."""


class Created:
    """The directories, by prefix, with all that they are in."""

    def __init__(self) -> None:
        self._times: OrderedDict[str, float] = OrderedDict()

    def note(self, path: str) -> None:
        """Something was created under this path just now."""
        now = trio.current_time()
        while path := split(path)[0]:
            prefix = children_prefix(path)
            self._times[prefix] = now
            self._times.move_to_end(prefix)
        while len(self._times) > REMEMBERED:
            self._times.popitem(last=False)

    def last(self, prefix: str) -> float | None:
        """When something was created last somewhere below a prefix (seconds of trio's clock); None: nothing was, as far
        as is remembered."""
        return self._times.get(prefix)

    def forget(self, prefix: str, last: float) -> None:
        """Nothing that was created until then is below this prefix any more."""
        if self._times.get(prefix) == last:
            del self._times[prefix]
