"""Directories that a program lists one after the other (find, ls -R, cp -r, grep -r): what they list next is read ahead
of them, a thousand names with each request however many directories these lie in.

Programs list a directory, and then those in it, each with all that is below it: in the order of the names, or that of
the keys, which differs a little. (But cp goes by inode numbers, which are in no order.) A walk is recognised when it
has listed a few directories in one of the two. From then on each directory is listed *without a delimiter*, and what
comes with it answers for those that follow. So no request is sent before somebody waits for what it begins with, and
to list ahead in vain costs none.

What was listed ahead is believed as long as other listings are (see `recent_listings`), counted from when the store was
asked; and not for a directory in which this host has changed something, or has learnt of a change, since.
"""

import math
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import trio

from stowfs.store.base import ObjectStore, Page
from stowfs.vault.naming import children_prefix, split
from stowfs.vault.stretch import Answer, Stretch

WALKS = 4
"""Programs that are followed at once. With what is listed ahead each takes a megabyte or two."""

STEADY = 3
"""Directories in order from which on a program is taken to walk: the one it begins in, and two more."""

SURE = 64
"""Directories in order that are counted. As many are asked for in the end of one that has listed ahead in vain: each
time twice as many as before, since a listing of a thousand names takes the store longer than one of a few."""

USEFUL = 2
"""Directories listed from what came with another one, for which it has not been in vain: who goes through a large tree
in no order at all meets one by chance."""

AHEAD = 1500
"""Names listed ahead of a walk from which on no more are: with pages of a thousand, two requests. The rest of a
directory that has more below it is listed with a delimiter, so that only what it shows is read."""

CHANGES = 1000
"""Directories that have changed of which this is remembered; where there are more, nothing listed ahead is believed."""


@dataclass(slots=True, eq=False)
class _Walk:
    """A program that goes through the directories below the prefix `root`: the one it has listed `last`, and how many
    it has listed in order, of those `needed` to list ahead of it. `used`: when that was."""

    root: str
    last: str
    used: float
    row: int = 1
    needed: int = STEADY
    stretch: Stretch | None = None
    # Directories of which the beginning was in the stretch.
    met: int = 0
    # Of directories that are not as the stretch has them.
    changed: set[str] = field(default_factory=set)
    reading: bool = False

    def has(self, prefix: str) -> bool:
        """Whether the beginning of a directory was listed ahead."""
        return self.stretch is not None and self.stretch.begins(prefix)

    def goes_on_with(self, directory: str) -> bool:
        """Whether a directory is below the last one, or beside it or one that this is in."""
        return children_prefix(self.last).startswith(children_prefix(split(directory)[0]))

    def step(self, directory: str, now: float) -> None:
        """It lists another directory."""
        prefix = children_prefix(directory)
        if self.stretch is not None:
            self.stretch.forget_before(prefix)
        if self.has(prefix):
            self.met += 1
        if prefix > children_prefix(self.last) or directory.split("/") > self.last.split("/"):
            self.row = min(self.row + 1, SURE)
        elif directory != self.last:
            self.row = max(self.row // 2, 1)
        if not prefix.startswith(self.root):
            self.root = children_prefix(split(directory)[0])
        self.last, self.used = directory, now

    def change(self, prefix: str) -> None:
        """A directory is not as it was, or may not be."""
        # A page that is under way goes on behind the end.
        if self.stretch is not None and (self.reading or self.has(prefix)):
            self.changed.add(prefix)
            if len(self.changed) > CHANGES:
                self.leave()

    def leave(self) -> None:
        """Believes nothing of what was listed ahead."""
        self.stretch, self.met = None, 0
        self.changed.clear()

    def begin(self, prefix: str) -> None:
        """Lists ahead from another directory on."""
        if self.stretch is not None:
            self.needed = STEADY if self.met >= USEFUL else min(2 * self.needed, SURE)
        self.leave()
        self.stretch = Stretch(self.root, prefix)


class DirectoryRead:
    """One reading of a directory. `asked`: when the store was asked for the oldest of what was read; `answered`: when
    it had told all (seconds of trio's clock). `walking`: this is one of many that follow each other."""

    def __init__(self, store: ObjectStore, prefix: str, walk: _Walk | None) -> None:
        self._store = store
        self._prefix = prefix
        self._walk = walk
        self._answered = math.inf
        self.asked = trio.current_time()

    @property
    def walking(self) -> bool:
        return self._walk is not None

    @property
    def answered(self) -> float:
        return min(self._answered, trio.current_time())

    async def pages(self, prefix: str) -> AsyncIterator[Page]:
        """What lies directly below `prefix`, that of the directory or of what long names in it go on with. Raises store
        errors."""
        start_after = ""
        if self._walk is not None and (stretch := await self._reach(self._walk, prefix)) is not None:
            for answer in stretch.answers(prefix):
                self.asked, self._answered = min(self.asked, answer.asked), min(self._answered, answer.answered)
            start_after = "" if stretch.has_all(prefix) else stretch.rest(prefix)
            for page in stretch.pages(prefix):
                yield page
            if not start_after:
                return
        async for page in self._store.list(prefix, delimiter="/", start_after=start_after):
            yield page

    async def _reach(self, walk: _Walk, prefix: str) -> Stretch | None:
        """What was listed ahead, which has the directory or as much of it as is worth it."""
        if not walk.has(prefix) and not walk.reading and prefix == self._prefix:
            walk.begin(prefix)
        stretch = walk.stretch
        if stretch is None or not stretch.begins(prefix):
            walk.change(self._prefix)
            return None
        while not stretch.has_all(prefix) and stretch.count_from(prefix) < AHEAD:
            if walk.reading:
                # Somebody else does: the store will tell something that is newer.
                walk.change(self._prefix)
                return None
            walk.reading = True
            try:
                asked = trio.current_time()
                page = await anext(self._store.list(stretch.root, start_after=stretch.end), Page((), last=True))
                stretch.add(Answer(page.objects, asked, trio.current_time()), last=page.last)
            finally:
                walk.reading = False
        # Meanwhile others may have gone on, without its beginning.
        return stretch if walk.stretch is stretch and stretch.begins(prefix) else None


class ListingAhead:
    """The walks through one store. `believed`: seconds for which what was listed is believed; 0: nothing is."""

    def __init__(self, store: ObjectStore, *, believed: float) -> None:
        self._store = store
        self._believed = believed
        # The one that was used last comes last.
        self._walks: list[_Walk] = []

    def begin(self, directory: str) -> DirectoryRead:
        """A directory is listed."""
        prefix = children_prefix(directory)
        walk = self._follow(directory, prefix) if self._believed else None
        for other in self._walks:
            if other is not walk:
                # What is told now counts more.
                other.change(prefix)
        return DirectoryRead(self._store, prefix, walk)

    def changed(self, directory: str) -> None:
        """Something in a directory has changed, or may have."""
        if self._walks:
            prefix = children_prefix(directory)
            for walk in self._walks:
                walk.change(prefix)

    def _follow(self, directory: str, prefix: str) -> _Walk | None:
        """The walk that lists a directory, if what follows that may be listed with it."""
        now = trio.current_time()
        self._walks = [walk for walk in self._walks if now - walk.used < self._believed]
        for walk in self._walks:
            if walk.stretch is not None:
                walk.stretch.forget_older(now - self._believed)
        latest = self._walks[::-1]
        going_on = [
            *(walk for walk in latest if walk.has(prefix)),
            *(walk for walk in latest if walk.goes_on_with(directory)),
        ]
        if not going_on:
            self._walks = [*self._walks[1 - WALKS :], _Walk(prefix, directory, now)]
            return None
        walk = going_on[0]
        self._walks.remove(walk)
        self._walks.append(walk)
        walk.step(directory, now)
        return walk if prefix not in walk.changed and (walk.has(prefix) or walk.row >= walk.needed) else None
