"""Creators, bundlers and readers of one directory, each on a host of its own, and what they may never see.

Where the vault has manifests, these have short texts: "x by a" is the name x as a created it, and " > b" behind it that
b has written over that. Two that create one name must not both be told that they did; and whoever sees what one of them
has created, sees that for good.
"""

from collections import defaultdict
from dataclasses import dataclass, field

from stowfs.errors import ObjectNotFound, PreconditionFailed, StoreUnavailable
from stowfs.store.base import IF_ABSENT, Found, IfMatch, NotModified, ObjectStore
from stowfs.store.memory import MemoryStore
from stowfs.vault import bundle as bundles
from stowfs.vault.bundle import FRESH
from stowfs.vault.bundled_store import UNSETTLED, BundledStore
from stowfs.vault.bundling import Manifest
from stowfs.vault.cas import compare_and_swap, read_or_none
from stowfs.vault.naming import key_in, place_of
from stowfs.vault.ring import new_id

PREFIX = "manifests/d/"

DEADLINE = 60.0
"""Seconds that an operation may take: of a clock that nobody waits for."""


def key(name: str) -> str:
    return key_in(PREFIX, name)


def manifest(name: str, body: bytes) -> Manifest:
    return Manifest(name, new_id(), body)


def first_of(body: bytes) -> bytes:
    """What was created, whatever was written over it since."""
    return body.partition(b" > ")[0]


@dataclass
class Record:
    """What all of them were told."""

    created: dict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    given_up: set[bytes] = field(default_factory=set)
    replaced: dict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    seen: dict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))

    def saw(self, name: str, body: bytes) -> None:
        self.seen[name].add(first_of(body))

    async def check(self, store: MemoryStore, names: set[str]) -> None:
        """Everybody sees the same, for good: what was created by who was told so, and all that was written over it."""
        for read_only in (True, False, True):
            bundled = BundledStore(store, deadline=DEADLINE, read_only=read_only)
            listed = {info.key: info async for page in bundled.list(PREFIX) for info in page.objects}
            for name in names:
                found = await read_or_none(bundled, key(name))
                assert (found is not None) == (key(name) in listed)
                if found is None:
                    assert not self.seen[name] | self.created[name]
                    continue
                self.saw(name, found.body)
                read = await bundled.read(listed[key(name)])
                assert (read.body, read.etag) == (found.body, found.etag)
                again = await bundled.get(key(name), if_none_match=found.etag)
                # Who may only read cannot end a claim: as long as there is one, he asks for the whole each time.
                assert isinstance(again, NotModified) or (read_only and found.etag.endswith(UNSETTLED))
                missing = {part for part in self.replaced[name] if part not in found.body}
                assert not missing, f"{missing} was lost: {found.body!r}"
            assert listed.keys() <= {key(name) for name in names}
        for name in names:
            assert len(self.seen[name] | self.created[name]) <= 1, (self.seen[name], self.created[name])
            assert not self.seen[name] & self.given_up, f"what was given up has taken effect: {self.seen[name]}"


@dataclass
class _Create:
    """Nothing becomes `body`."""

    body: bytes

    def propose(self, current: Found | None) -> bytes | None:
        return self.body if current is None else None

    def in_doubt(self) -> None:
        """Nothing to note: whatever is there tells who has created it."""


class Client:
    """What one host does. `name`: the host's."""

    def __init__(self, line: ObjectStore, name: str, record: Record) -> None:
        self.store = BundledStore(line, deadline=DEADLINE)
        self.name = name
        self.record = record

    def body(self, name: str) -> bytes:
        return f"{name} by {self.name}".encode()

    async def create(self, name: str) -> None:
        """Creates a name by itself; or learns who was quicker."""
        swapped = await compare_and_swap(self.store, key(name), _Create(self.body(name)), first=None, deadline=DEADLINE)
        assert swapped.current is not None
        self.record.saw(name, swapped.current.body)
        if first_of(swapped.current.body) == self.body(name):
            self.record.created[name].add(self.body(name))

    async def bundle(self, *names: str) -> None:
        """Creates names together, and by themselves those that could not be; where that fails, gives them up."""
        try:
            etags = await self.store.put_together(PREFIX, [manifest(name, self.body(name)) for name in names])
        except StoreUnavailable:
            await self.recover(*names)
            return
        for name in names:
            if name in etags:
                self.record.created[name].add(self.body(name))
            else:
                await self.create(name)

    async def recover(self, *names: str) -> None:
        """Finds out, after a crash or a failure, what became of the names; what did not take effect then never will."""
        for name in names:
            fence = f"{name} by nobody, for {self.name}".encode()
            swapped = await compare_and_swap(self.store, key(name), _Create(fence), deadline=DEADLINE)
            assert swapped.current is not None
            self.record.saw(name, swapped.current.body)
            if first_of(swapped.current.body) == self.body(name):
                self.record.created[name].add(self.body(name))
            else:
                self.record.given_up.add(self.body(name))

    async def replace(self, name: str) -> None:
        """Writes over a name, if it is there, until nobody was in between."""
        own = f" > {self.name}".encode()
        while True:
            try:
                if (found := await read_or_none(self.store, key(name))) is None:
                    return
                self.record.saw(name, found.body)
                if own not in found.body:
                    await self.store.put(key(name), found.body + own, IfMatch(found.etag))
            except (PreconditionFailed, StoreUnavailable):
                continue
            self.record.replaced[name].add(own)
            return

    async def read(self, name: str) -> None:
        """Reads a name twice, and all of the directory."""
        for _ in range(2):
            try:
                if (found := await read_or_none(self.store, key(name))) is not None:
                    self.record.saw(name, found.body)
                async for page in self.store.list(PREFIX):
                    for info in page.objects:
                        read = await self.store.read(info)
                        self.record.saw(place_of(info.key)[1], read.body)
            except (StoreUnavailable, ObjectNotFound):
                continue  # only what it sees matters


async def put_committed(store: ObjectStore, *names: str, by: str = "old") -> str:
    """A bundle of these names; its key."""
    bundle_key = bundles.key_of(PREFIX, new_id())
    members = [(name, new_id(), f"{name} by {by}".encode()) for name in names]
    await store.put(bundle_key, bundles.committed(members), IF_ABSENT)
    return bundle_key


async def put_pending(store: ObjectStore, *names: str) -> str:
    """What a bundler leaves that crashes; its key."""
    bundle_key = bundles.key_of(PREFIX, new_id())
    await store.put(bundle_key, bundles.pending((name, new_id()) for name in names), IF_ABSENT)
    return bundle_key


async def put_fresh(store: ObjectStore, name: str, by: str = "left") -> str:
    """What a creator leaves that crashes; its ETag."""
    return await store.put(key(name), FRESH + f"{name} by {by}".encode(), IF_ABSENT)
