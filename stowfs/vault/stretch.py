"""A stretch of the keys in a store without a gap, as it was listed without a delimiter.

It has the whole listing of each directory of which all keys lie in it, and the beginning of the one that its end lies
in, both as a listing with the delimiter '/' would give them.
"""

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass
from operator import attrgetter

from stowfs.store.base import ObjectInfo, Page


@dataclass(frozen=True, slots=True)
class Answer:
    """Objects in the order of their keys. `asked` and `answered`: when the store was asked and when it had told them
    (seconds of trio's clock)."""

    objects: tuple[ObjectInfo, ...]
    asked: float
    answered: float


class Stretch:
    """The keys that begin with `root` from `after`, which is not among them, up to `end`, which is the last."""

    def __init__(self, root: str, after: str) -> None:
        self.root = root
        self.end = after
        self._after = after
        self._is_whole = False
        self._answers: deque[Answer] = deque()

    def add(self, answer: Answer, *, last: bool) -> None:
        """What follows; `last`: it is the rest of what begins with `root`."""
        if answer.objects:
            self._answers.append(answer)
            self.end = answer.objects[-1].key
        self._is_whole = last

    def forget_older(self, time: float) -> None:
        """Leaves out what was asked for at a time or earlier."""
        while self._answers and self._answers[0].asked <= time:
            self._after = self._answers.popleft().objects[-1].key
        if not self._answers:
            # That nothing follows was told with it.
            self._is_whole = False

    def forget_before(self, prefix: str) -> None:
        """Leaves out what lies before `prefix`, but for one answer: programs that go by another order than that of the
        keys come back to what is near."""
        while len(self._answers) > 1 and self._answers[1].objects[-1].key < prefix:
            self._after = self._answers.popleft().objects[-1].key

    def begins(self, prefix: str) -> bool:
        """Whether the first of the keys that begin with `prefix`, or the place where they would be, lies in it."""
        return prefix.startswith(self.root) and self._after <= prefix and (self._is_whole or prefix <= self.end)

    def has_all(self, prefix: str) -> bool:
        """Whether all of the keys that begin with `prefix` lie in it, given that the first does."""
        return self._is_whole or self.end >= past(prefix)

    def count_from(self, prefix: str) -> int:
        """How many of its keys come after `prefix`."""
        return sum(len(answer.objects) - _place(answer.objects, prefix) for answer in self._answers)

    def answers(self, prefix: str) -> list[Answer]:
        """Those that tell what is in the directory with that prefix, and what is not."""
        told = [answer for answer in self._answers if answer.objects[-1].key > prefix] or [*self._answers][-1:]
        end = next((place for place, answer in enumerate(told) if answer.objects[-1].key >= past(prefix)), len(told))
        return told[: end + 1]

    def pages(self, prefix: str) -> list[Page]:
        """What it has of that directory."""
        pages = []
        folded = ""
        for answer in self.answers(prefix):
            objects, prefixes = [], []
            keys = answer.objects
            place, end = _place(keys, prefix), _place(keys, past(prefix))
            while place < end:
                cut = keys[place].key.find("/", len(prefix))
                if cut < 0:
                    objects.append(keys[place])
                    place += 1
                    continue
                if folded != (folded := keys[place].key[: cut + 1]):
                    prefixes.append(folded)
                place = _place(keys, past(folded))
            if objects or prefixes:
                pages.append(Page(tuple(objects), tuple(prefixes)))
        return pages

    def rest(self, prefix: str) -> str:
        """After which key a listing of that directory goes on, given that it is not here as a whole."""
        cut = self.end.find("/", len(prefix))
        return self.end if cut < 0 else past(self.end[: cut + 1])


def past(prefix: str) -> str:
    """The least text greater than all that begin with `prefix`, which ends in '/'. It is no manifest's key."""
    return prefix[:-1] + chr(ord("/") + 1)


def _place(objects: tuple[ObjectInfo, ...], key: str) -> int:
    """How many of the objects come before `key`."""
    return bisect_left(objects, key, key=attrgetter("key"))
