"""Listings in which each manifest of a bundle has a line of its own, in the order of the keys.

In the listing of a directory its bundles come before all that they may hold; what they hold is put in where it belongs.
A listing that begins in the middle of a directory needs its bundles, and those of the directories above that it goes
on with: they are kept for whoever goes on with a listing, or else listed for it.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import trio

from stowfs.store.base import ObjectInfo, ObjectStore, Page
from stowfs.store.rules import PAGE_SIZE
from stowfs.vault.bundles import Bundles
from stowfs.vault.lru import Lru
from stowfs.vault.naming import MANIFESTS, bundles_prefix, is_bundle, key_in, place_of

GOING_ON = 16
"""Listings that somebody may go on with, of which is kept how far they are."""

BEGINNINGS = 512
"""Directories of which it is kept what bundles they have, for listings that begin in their middle."""

FRESH_FOR = 5.0
"""Seconds for which both are kept, for who goes on at once: nothing that is shown is older by more than that."""

Indexed = Callable[[Sequence[ObjectInfo]], Awaitable[dict[str, list[ObjectInfo]]]]
"""What the listed bundles hold, by their keys, as far as it is known without reading them."""


@dataclass(frozen=True, slots=True)
class Expanded:
    """A page of a listing; the `bundles` that were met for it, and the lines of what they hold that are `hidden`, since
    there is an object under each of those keys."""

    page: Page
    bundles: tuple[ObjectInfo, ...] = ()
    hidden: tuple[ObjectInfo, ...] = ()


@dataclass(slots=True)
class _Cursor:
    """How far a listing is: the lines that are `ready`; what bundles hold and comes `later`, in the order of the keys,
    from the place `next` on; and of what the store has told the part `todo`. It is asked for what is `after` a key,
    unless that was the end. No list is ever changed, so that a copy stays what it is."""

    after: str
    ready: list[ObjectInfo] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    bundles: list[ObjectInfo] = field(default_factory=list)
    hidden: list[ObjectInfo] = field(default_factory=list)
    later: list[ObjectInfo] = field(default_factory=list)
    next: int = 0
    todo: Sequence[ObjectInfo] = ()
    ended: bool = False
    time: float = field(default_factory=trio.current_time)

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
                self.hidden = [*self.hidden, later[place]]
                place += 1
            lines.append(info)
        self.next = place
        self.ready = self.ready + lines

    def told(self, page: Page) -> None:
        """The store has told what is next."""
        self.todo, self.prefixes, self.ended = page.objects, [*self.prefixes, *page.prefixes], page.last
        self.after = max([info.key for info in page.objects[-1:]] + list(page.prefixes[-1:]), default=self.after)
        self.time = trio.current_time()

    def take(self) -> Expanded:
        """The next page."""
        lines, self.ready = self.ready[:PAGE_SIZE], self.ready[PAGE_SIZE:]
        last = self.ended and not (self.ready or self.todo or self.next < len(self.later))
        prefixes, self.prefixes = (self.prefixes, []) if not self.ready else ([], self.prefixes)
        page = Page(tuple(lines), tuple(prefixes), last=last)
        expanded = Expanded(page, tuple(self.bundles), tuple(self.hidden))
        self.bundles, self.hidden = [], []
        return expanded


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
        self._stopped = Lru[_Cursor](GOING_ON, lambda _: 1)
        self._beginnings = Lru[_Cursor](BEGINNINGS, lambda _: 1)

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
                if expanded.page.objects:
                    self._stopped.put(_id(prefix, delimiter, expanded.page.objects[-1].key), replace(cursor))
                yield expanded
            if cursor.todo:
                await self._step(cursor, start_after)
            elif cursor.ended:
                return
            else:
                if pages is None:
                    pages = self._store.list(prefix, delimiter=delimiter, start_after=cursor.after)
                cursor.told(await anext(pages, Page((), last=True)))
                if not cursor.todo:
                    cursor.reach(None if cursor.ended else cursor.after)
                    if cursor.prefixes and not cursor.ready:
                        yield cursor.take()

    async def _step(self, cursor: _Cursor, start_after: str) -> None:
        """Goes on with what belongs together of what the store has told."""
        count = next(_ends(cursor.todo))
        part, cursor.todo = cursor.todo[:count], cursor.todo[count:]
        prefix = place_of(part[0].key)[0]
        if is_bundle(part[0].key):
            cursor.bundles = [*cursor.bundles, *part]
            known = self._beginning(prefix)
            self._note(prefix, [*known, *part] if known is not None else part, cursor.time)
            lines, damaged = await self._lines(part)
            cursor.hold(lines)
            cursor.ready = cursor.ready + damaged
        else:
            if start_after < bundles_prefix(prefix) and self._beginning(prefix) is None:
                self._note(prefix, [], cursor.time)
            cursor.add(part)
        if not cursor.todo:
            cursor.reach(None if cursor.ended else cursor.after)

    async def _cursor(self, prefix: str, delimiter: str | None, start_after: str) -> _Cursor:
        """Where a listing begins."""
        stopped = self._stopped.get(_id(prefix, delimiter, start_after)) if start_after else None
        if stopped is not None and trio.current_time() - stopped.time < FRESH_FOR:
            return replace(stopped)
        cursor = _Cursor(start_after)
        for directory in _begun(prefix, delimiter, start_after):
            infos = self._beginning(directory)
            if infos is None:
                infos = await self._bundles.listed(directory) if await self._may_hold(directory) else ()
            lines, _ = await self._lines([info for info in infos if info.key <= start_after])
            cursor.hold([line for line in lines if line.key > start_after and line.key.startswith(prefix)])
        return cursor

    def _beginning(self, prefix: str) -> Sequence[ObjectInfo] | None:
        """The bundles of a directory, if they were listed a moment ago."""
        noted = self._beginnings.get(prefix)
        return noted.todo if noted is not None and trio.current_time() - noted.time < FRESH_FOR else None

    def _note(self, prefix: str, infos: Sequence[ObjectInfo], time: float) -> None:
        self._beginnings.put(prefix, _Cursor("", todo=infos, time=time))

    async def _lines(self, infos: Sequence[ObjectInfo]) -> tuple[list[ObjectInfo], list[ObjectInfo]]:
        """What bundles hold, line by line; and those of them that cannot be read."""
        damaged: list[ObjectInfo] = []
        indexed = await self._indexed(infos) if self._indexed is not None else {}
        lines = [line for of_bundle in indexed.values() for line in of_bundle]
        rest = {info.key: info for info in infos if info.key not in indexed}
        for bundle in await self._bundles.load(rest.values(), damaged):
            if bundle.state == "committed":
                prefix, modified = bundle.prefix, rest[bundle.key].modified
                lines += [
                    ObjectInfo(key_in(prefix, member.name), member.size, bundle.token(member), modified)
                    for member in bundle.header.members
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
        if directory != MANIFESTS and directory.startswith(MANIFESTS) and start_after > bundles_prefix(directory)
    ]


def _id(prefix: str, delimiter: str | None, last: str) -> str:
    return f"{prefix}\n{delimiter}\n{last}"
