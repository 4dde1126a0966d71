"""What is kept in memory for a while: of all of it, what was used longest ago goes first.

Not all that is kept goes by this rule. `SnapshotCache` drops some of the older half, since programs go through a tree
again and again, and counts what versions share; and the files of `hot.segments` outlive the process.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Lru(Generic[T]):
    """Values by key that cost no more than `limit` together; but the one that was put last stays, whatever it costs.

    `cost`: that of a value, in bytes, which must not change while it is kept.
    """

    def __init__(self, limit: int, cost: Callable[[T], int]) -> None:
        self.limit = limit
        self._cost = cost
        self._values: OrderedDict[str, T] = OrderedDict()
        self._used = 0

    @property
    def used(self) -> int:
        """What the values cost that are kept, in bytes."""
        return self._used

    def get(self, key: str) -> T | None:
        """The value of `key`, if it is kept; it has been used then."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: str, value: T) -> None:
        """Keeps a value for a while, in place of another one of that key."""
        self.drop(key)
        self._values[key] = value
        self._used += self._cost(value)
        while self._used > self.limit and len(self._values) > 1:
            _, dropped = self._values.popitem(last=False)
            self._used -= self._cost(dropped)

    def drop(self, key: str) -> None:
        """Keeps nothing of `key`."""
        value = self._values.pop(key, None)
        if value is not None:
            self._used -= self._cost(value)
