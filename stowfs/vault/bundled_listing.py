"""Listings in which each manifest of a bundle has a line of its own, in the order of the keys.

In the listing of a directory its bundles come before all that they may hold; what they hold is put in where it belongs.
A listing that begins in the middle of a directory needs its bundles, and those of the directories above that it goes
on with: they are kept for whoever goes on with a listing, or else listed for it.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import trio

from stowfs.store.base import ObjectInfo, ObjectStore, Page
from stowfs.store.rules import PAGE_SIZE
from stowfs.vault.bundle import Member, token
from stowfs.vault.bundles import Bundles
from stowfs.vault.lru import Lru
from stowfs.vault.naming import MANIFESTS, bundles_prefix, is_bundle, key_in, place_of

GOING_ON = 50_000
"""Lines, some fifteen megabytes, that are kept of listings without a delimiter for whoever goes on with them."""

BEGINNINGS = 10_000
"""Bundles, some three megabytes, of which is kept in which directories they are, for listings that begin in the middle
of those."""

AHEAD = 32
"""Bundles that are read at once where listings go through directories with few in each: some three megabytes."""

FRESH_FOR = 5.0
"""Seconds for which both are kept, for who goes on at once: nothing that is shown is older by more than that. And what
this host changes itself shows at once."""


class Indexed(Protocol):
    """What the listed bundles hold, by their keys, as far as it is known without reading them
    (`SharedIndex.held`)."""

    async def __call__(self, bundles: Sequence[ObjectInfo], *, among: int) -> dict[str, Sequence[Member]]:
        """See there."""


@dataclass(frozen=True, slots=True)
class Expanded:
    """A page of a listing; the `bundles` that were met for it, and the lines of what they hold that are `hidden`, since
    there is an object under each of those keys: each line with the time of that object."""

    page: Page
    bundles: tuple[ObjectInfo, ...] = ()
    hidden: tuple[ObjectInfo, ...] = ()


@dataclass(slots=True)
class _Cursor:
    """How far a listing is: the lines that are `ready`; what bundles hold and comes `later`, in the order of the keys,
    from the place `next` on; and of what the store has told the part `todo`. It is asked for what is `after` a key,
    unless that was the end. No list is ever changed, so that a copy stays what it is."""

    after: str
    # Of the directory with the prefix `gathering` all bundles were met so far, and they are `gathered`.
    gathering: str | None = None
    gathered: list[ObjectInfo] = field(default_factory=list)
    since: tuple[float, int] = (0.0, 0)
    ready: list[ObjectInfo] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    bundles: list[ObjectInfo] = field(default_factory=list)
    hidden: list[ObjectInfo] = field(default_factory=list)
    later: list[ObjectInfo] = field(default_factory=list)
    next: int = 0
    todo: Sequence[ObjectInfo] = ()
    ended: bool = False
    # When the oldest of it was asked for, and how many changes this host had made then.
    time: float = 0.0
    changes: int = 0

    @property
    def lines(self) -> int:
        """How many it has in memory."""
        return 1 + len(self.ready) + len(self.later) + len(self.todo)

    def hold(self, lines: list[ObjectInfo]) -> None:
        """Bundles hold these."""
        # If two held the same, the first would count.
        by_key = {line.key: line for line in [*reversed(lines), *self.later[self.next :]]}
        self.later, self.next = [by_key[key] for key in sorted(by_key)], 0

    def reach(self, key: str | None) -> None:
        """All that bundles hold up to a key (None: to the end) comes now."""
        start = self.next
        while self.next < len(self.later) and (key is None or self.later[self.next].key <= key):
            self.next += 1
        self.ready = self.ready + self.later[start : self.next]

    def add(self, objects: Sequence[ObjectInfo]) -> None:
        """Objects that are no bundles come now, and what bundles hold before and between them."""
        lines: list[ObjectInfo] = []
        later, place = self.later, self.next
        for info in objects:
            while place < len(later) and later[place].key < info.key:
                lines.append(later[place])
                place += 1
            if place < len(later) and later[place].key == info.key:
                self.hidden = [*self.hidden, replace(later[place], modified=info.modified)]
                place += 1
            lines.append(info)
        self.next = place
        self.ready = self.ready + lines

    def told(self, page: Page, time: float, changes: int) -> None:
        """The store has told what is next, asked at a time after so many changes."""
        if not self.ready and self.next == len(self.later):
            self.time, self.changes = time, changes
        self.todo, self.prefixes, self.ended = page.objects, [*self.prefixes, *page.prefixes], page.last
        self.after = max([info.key for info in page.objects[-1:]] + list(page.prefixes[-1:]), default=self.after)

    def take(self) -> Expanded:
        """The next page."""
        lines, self.ready = self.ready[:PAGE_SIZE], self.ready[PAGE_SIZE:]
        last = self.ended and not (self.ready or self.todo or self.next < len(self.later))
        prefixes, self.prefixes = (self.prefixes, []) if not self.ready else ([], self.prefixes)
        page = Page(tuple(lines), tuple(prefixes), last=last)
        expanded = Expanded(page, tuple(self.bundles), tuple(self.hidden))
        self.bundles, self.hidden = [], []
        return expanded


@dataclass(frozen=True, slots=True)
class _Beginning:
    """The bundles of a directory, and since when that is known, as in `_Cursor`."""

    bundles: Sequence[ObjectInfo]
    time: float
    changes: int


class BundledListing:
    """Listings of one store."""

    def __init__(
        self,
        store: ObjectStore,
        bundles: Bundles,
        may_hold: Callable[[str], Awaitable[bool]],
        indexed: Indexed | None,
    ) -> None:
        self._store = store
        self._bundles = bundles
        self._may_hold = may_hold
        self._indexed = indexed
        self._stopped = Lru[_Cursor](GOING_ON, lambda cursor: cursor.lines)
        self._beginnings = Lru[_Beginning](BEGINNINGS, lambda beginning: 1 + len(beginning.bundles))
        self._changes = 0

    def changed(self) -> None:
        """This host has changed something, or may have."""
        self._changes += 1

    async def pages(self, prefix: str, *, delimiter: str | None, start_after: str) -> AsyncIterator[Page]:
        """As `ObjectStore.list`."""
        async for expanded in self.expanded(prefix, delimiter=delimiter, start_after=start_after):
            if expanded.page.objects or expanded.page.prefixes:
                yield expanded.page

    async def expanded(
        self, prefix: str, *, delimiter: str | None = None, start_after: str = ""
    ) -> AsyncIterator[Expanded]:
        """The same, with the bundles that were met. One that cannot be read stands there itself."""
        if not prefix.startswith(MANIFESTS):
            async for page in self._store.list(prefix, delimiter=delimiter, start_after=start_after):
                yield Expanded(page)
            return
        cursor = await self._cursor(prefix, delimiter, start_after)
        pages: AsyncIterator[Page] | None = None
        while True:
            while len(cursor.ready) >= PAGE_SIZE or (not cursor.todo and (cursor.ready or cursor.bundles)):
                expanded = cursor.take()
                if expanded.page.objects and delimiter is None:
                    # With one, prefixes were told that may come after this key.
                    self._stopped.put(_id(prefix, expanded.page.objects[-1].key), replace(cursor))
                yield expanded
            if cursor.todo:
                await self._step(cursor, start_after)
            elif cursor.ended:
                self._note(cursor, None)
                return
            else:
                if pages is None:
                    pages = self._store.list(prefix, delimiter=delimiter, start_after=cursor.after)
                asked, changes = trio.current_time(), self._changes
                cursor.told(await anext(pages, Page((), last=True)), asked, changes)
                if not cursor.todo:
                    cursor.reach(None if cursor.ended else cursor.after)
                    if cursor.prefixes and not cursor.ready:
                        yield cursor.take()

    async def _step(self, cursor: _Cursor, start_after: str) -> None:
        """Goes on with what belongs together of what the store has told."""
        count = next(_ends(cursor.todo))
        part, cursor.todo = cursor.todo[:count], cursor.todo[count:]
        prefix = place_of(part[0].key)[0]
        begins = start_after < bundles_prefix(prefix)
        if is_bundle(part[0].key):
            cursor.reach(part[0].key)
            cursor.bundles = [*cursor.bundles, *part]
            if cursor.gathering != prefix:
                self._note(cursor, prefix if begins else None)
            cursor.gathered = [*cursor.gathered, *part]
            following = [info for info in cursor.todo[:AHEAD] if is_bundle(info.key)]
            lines, damaged = await self._lines(part, following)
            cursor.hold(lines)
            cursor.ready = cursor.ready + damaged
        else:
            if cursor.gathering != prefix and begins and part[-1].key > bundles_prefix(prefix):
                # All its bundles would have come before.
                self._note(cursor, prefix)
            self._note(cursor, None)
            cursor.add(part)
        if not cursor.todo:
            cursor.reach(None if cursor.ended else cursor.after)

    async def _cursor(self, prefix: str, delimiter: str | None, start_after: str) -> _Cursor:
        """Where a listing begins."""
        stopped = self._stopped.get(_id(prefix, start_after)) if start_after and delimiter is None else None
        if stopped is not None and self._is_fresh(stopped):
            return replace(stopped)
        cursor = _Cursor(start_after, time=trio.current_time(), changes=self._changes)
        for directory in _begun(prefix, delimiter, start_after):
            noted = self._beginnings.get(directory)
            infos: Sequence[ObjectInfo]
            if noted is not None and self._is_fresh(noted):
                infos, cursor.time = noted.bundles, min(cursor.time, noted.time)
            else:
                infos = await self._bundles.listed(directory) if await self._may_hold(directory) else ()
            lines, _ = await self._lines([info for info in infos if info.key <= start_after])
            cursor.hold([line for line in lines if line.key > start_after and line.key.startswith(prefix)])
        return cursor

    def _is_fresh(self, kept: _Cursor | _Beginning) -> bool:
        return trio.current_time() - kept.time < FRESH_FOR and kept.changes == self._changes

    def _note(self, cursor: _Cursor, next: str | None) -> None:
        """There are no more bundles in the directory whose bundles were gathered; those of another one come next."""
        if cursor.gathering is not None:
            self._beginnings.put(cursor.gathering, _Beginning(cursor.gathered, *cursor.since))
        cursor.gathering, cursor.gathered, cursor.since = next, [], (cursor.time, cursor.changes)

    async def held_by(
        self,
        infos: Sequence[ObjectInfo],
        following: Sequence[ObjectInfo] = (),
        damaged: list[ObjectInfo] | None = None,
    ) -> dict[str, Sequence[Member]]:
        """What bundles hold, by their keys; without those that are gone, or cannot be read: these go to `damaged`.

        Where one has to be read, so are some of those that are `following` and will be wanted next.
        """
        local = await self._bundles.local(infos)
        found: dict[str, Sequence[Member]] = {key: bundle.held for key, bundle in local.items()}
        rest = [info for info in infos if info.key not in found]
        if rest and self._indexed is not None:
            found |= await self._indexed(rest, among=len(infos) + len(following))
            rest = [info for info in rest if info.key not in found]
        if not rest:
            return found
        ahead = following[: max(AHEAD - len(rest), 0)]
        if ahead:
            known = set(await self._bundles.local(ahead))
            if self._indexed is not None:
                known |= set(await self._indexed(ahead, among=len(infos) + len(following)))
            ahead = [info for info in ahead if info.key not in known]
        unread: list[ObjectInfo] = []
        bundles = await self._bundles.read([*rest, *ahead], unread)
        keys = {info.key for info in rest}
        found |= {key: bundle.held for key, bundle in bundles.items() if key in keys}
        if damaged is not None:
            damaged += sorted((info for info in unread if info.key in keys), key=lambda info: info.key)
        return found

    async def _lines(
        self, infos: Sequence[ObjectInfo], following: Sequence[ObjectInfo] = ()
    ) -> tuple[list[ObjectInfo], list[ObjectInfo]]:
        """What bundles hold, line by line; and those of them that cannot be read."""
        damaged: list[ObjectInfo] = []
        held = await self.held_by(infos, following, damaged)
        lines = [
            ObjectInfo(
                key_in(place_of(info.key)[0], member.name), member.size, token(info.key, member.commit), modified
            )
            for info in infos
            for modified in (info.modified,)
            for member in held.get(info.key, ())
        ]
        return lines, damaged


def _ends(objects: Sequence[ObjectInfo]) -> Iterator[int]:
    """How many of the objects are bundles of one directory, or no bundles in one directory."""
    first = objects[0].key
    prefix, bundled = place_of(first)[0], is_bundle(first)
    for place, info in enumerate(objects):
        if not info.key.startswith(prefix) or "/" in info.key[len(prefix) :] or is_bundle(info.key) != bundled:
            yield place
    yield len(objects)


def _begun(prefix: str, delimiter: str | None, start_after: str) -> list[str]:
    """The directories that a listing begins in the middle of."""
    if not start_after:
        return []
    ends = [place + 1 for place, letter in enumerate(start_after) if letter == "/"]
    above = [start_after[:end] for end in ends]
    if delimiter is not None:
        above = [directory for directory in above if directory == prefix]
    return [
        directory
        for directory in above
        if directory != MANIFESTS and directory.startswith(prefix) and start_after > bundles_prefix(directory)
    ]


def _id(prefix: str, last: str) -> str:
    return f"{prefix}\n{last}"
