"""The zstd dictionaries of a store, as this host has them: in memory, on the local disk, in the store.

`dictionaries/{id}` is immutable: one zstd frame around a dictionary whose SHA-256 is the id. The frames made with it
carry the first 32 bits of that (its number), which is all that names it; so before a dictionary is used, it is made
certain that it is the only one in the store with its number, and that every host can read it there. The descriptor
names the active one, with which hosts compress what they store from then on.

Whoever decompresses asks for the dictionary of a frame first (`of`); code that cannot wait, inside of a
compare-and-swap, finds it in memory then (`loaded`).
"""

import logging
from collections import OrderedDict

import trio

from stowfs import codec
from stowfs.codec import BytesLike, Dictionary
from stowfs.config import MIB
from stowfs.errors import CorruptObject, ObjectNotFound, StowError
from stowfs.hot.dictionaries import DictionaryFiles
from stowfs.store.base import Found, ObjectStore
from stowfs.vault.cas import compare_and_swap
from stowfs.vault.descriptor import activate_dictionary, read_descriptor
from stowfs.vault.naming import DICTIONARIES, dictionary_key, id_of_dictionary
from stowfs.vault.untrusted import read_bounded

log = logging.getLogger(__name__)

SIZE_LIMIT = 8 * MIB
"""Bytes of a dictionary that are read: several times the largest that is made."""

MEMORY = 8
"""Dictionaries kept in memory, those used last: a store has two or three. Digested, each takes about its size, and for
compression several times that."""

OBJECT_LEVEL = 12
"""zstd level of the stored dictionaries: the highest that takes milliseconds. The best one would store 20 to 30 KB less
of them, for half a second and 25 MB of memory while others want to commit."""


LOST_FOR = 1.0
"""Seconds for which a dictionary that could not be had is not looked for again: a listing would ask for each
conversation."""


class DictionaryLost(CorruptObject):
    """A dictionary is missing in the store, or damaged. `key`: where it should be, as far as that is known."""

    def __init__(self, message: str, key: str = "") -> None:
        super().__init__(message)
        self.key = key


class Dictionaries:
    """The dictionaries of one store. `active_id`: that of its descriptor."""

    def __init__(self, store: ObjectStore, files: DictionaryFiles | None = None, *, active_id: str = "") -> None:
        self._store = store
        self._files = files
        self._memory: OrderedDict[int, Dictionary] = OrderedDict()
        self._loading = trio.Lock()
        # Until when it is believed that they are.
        self._lost: dict[int, tuple[float, DictionaryLost]] = {}
        self._active: Dictionary | None = None
        # An active one that is lost.
        self._unusable = ""
        self.active_id = active_id

    async def of(self, frame: BytesLike) -> Dictionary | None:
        """The dictionary that a frame was made with, if any. Raises `CorruptObject` and store errors."""
        number = codec.dictionary_number(frame)
        return await self._get(number) if number else None

    def loaded(self, frame: BytesLike) -> Dictionary | None:
        """As `of`, from memory. Raises `CorruptObject` where it is not there."""
        number = codec.dictionary_number(frame)
        if not number:
            return None
        found = self._memory.get(number)
        if found is None:
            raise CorruptObject(f"the dictionary {codec.dictionary_name(number)} was not loaded")
        return found

    async def active(self) -> Dictionary | None:
        """The one to compress with; `None` where there is none, or it is damaged: then one goes on without.

        Raises store errors.
        """
        if self.active_id in ("", self._unusable):
            return None
        if self._active is None or self._active.id != self.active_id:
            wanted, former = self.active_id, self._active
            try:
                self._active = await self._get(int(wanted[: codec.NAME_LENGTH], 16))
                if former is not None and former is not self._active:
                    former.rest()
            except CorruptObject as error:
                log.error("what is stored is compressed without a dictionary: %s", error)
                # The descriptor still names it: that is what another one would be published instead of.
                self._unusable = wanted
                return None
        return self._active

    async def active_for(self, size: int) -> Dictionary | None:
        """The one to compress so many bytes of a segment with, if any. Raises store errors."""
        return await self.active() if codec.gains_from_dictionary(size) else None

    async def publish(self, dictionary: Dictionary, *, deadline: float) -> bool:
        """Makes `dictionary` the active one, for all hosts; false where somebody else has published another meanwhile,
        which this host compresses with then.

        Raises `CorruptObject` where something else has its place in the store, and store errors; then it is not used.
        """
        before = self.active_id
        body = await trio.to_thread.run_sync(encode, dictionary)
        place = _Place(dictionary.id, body)
        await compare_and_swap(
            self._store, dictionary_key(dictionary.id), place, first=None, prepare=place.prepare, deadline=deadline
        )
        if await self._ids(dictionary.name) != [dictionary.id]:
            raise CorruptObject(f"another dictionary has the number of {dictionary.id}")
        if self._files is not None:
            await self._files.put(dictionary.name, body)
        active = await activate_dictionary(self._store, dictionary.id, instead_of=before, deadline=deadline)
        self.active_id = active
        return active == dictionary.id

    async def refresh(self) -> None:
        """Compresses with what the descriptor names now. Raises what reading it raises."""
        self.active_id = (await read_descriptor(self._store)).dictionary

    async def _get(self, number: int) -> Dictionary:
        found = self._memory.get(number)
        if found is None:
            async with self._loading:
                found = self._memory.get(number) or await self._load_unless_lost(number)
        self._memory[number] = found
        self._memory.move_to_end(number)
        while len(self._memory) > MEMORY:
            self._memory.popitem(last=False)
        return found

    async def verify(self, id: str) -> None:
        """Reads a dictionary in the store, whatever is known of it. Raises `DictionaryLost` and store errors."""
        await self._fetch(id)

    async def _load_unless_lost(self, number: int) -> Dictionary:
        until, error = self._lost.get(number, (0.0, None))
        if error is not None and trio.current_time() < until:
            raise DictionaryLost(str(error), error.key)
        try:
            return await self._load(number)
        except DictionaryLost as lost:
            self._lost = {number: (trio.current_time() + LOST_FOR, lost)}
            raise

    async def _load(self, number: int) -> Dictionary:
        name = codec.dictionary_name(number)
        body = await self._files.get(name) if self._files is not None else None
        if body is not None:
            try:
                return await trio.to_thread.run_sync(decode, name, body)
            except CorruptObject as error:
                log.warning("a dictionary on the local disk is damaged and is fetched again: %s", error)
        id = self.active_id if self.active_id.startswith(name) else await self._find(name)
        dictionary, body = await self._fetch(id)
        if self._files is not None:
            await self._files.put(name, body)
        if id != self.active_id:
            await self._follow()
        return dictionary

    async def _fetch(self, id: str) -> tuple[Dictionary, bytes]:
        try:
            body = (await read_bounded(self._store, dictionary_key(id), limit=SIZE_LIMIT)).body
        except ObjectNotFound:
            raise _lost(dictionary_key(id), "is missing in the store") from None
        except CorruptObject as error:
            raise _lost(dictionary_key(id), f"is damaged: {error}") from error
        return await trio.to_thread.run_sync(decode, id, body), body

    async def _follow(self) -> None:
        """Another host uses a dictionary that this one did not know: perhaps there is a better one."""
        try:
            await self.refresh()
        except StowError as error:
            log.warning("which dictionary to compress with is not known: %s", error)

    async def _find(self, name: str) -> str:
        found = await self._ids(name)
        if not found:
            raise _lost(f"{dictionary_key(name)}…", "is missing in the store")
        return found[0]

    async def _ids(self, name: str) -> list[str]:
        """The dictionaries in the store with this name: one, but for an accident. The oldest first: of two, only that
        can be in use, since it was made certain that it was alone."""
        found = [info async for page in self._store.list(DICTIONARIES + name) for info in page.objects]
        return [id_of_dictionary(info.key) for info in sorted(found, key=lambda info: info.modified)]


class _Place:
    """The object of a dictionary in its place. What is there already was verified by `prepare`."""

    def __init__(self, id: str, body: bytes) -> None:
        self._id = id
        self._body = body

    async def prepare(self, current: Found) -> None:
        await trio.to_thread.run_sync(decode, self._id, current.body)

    def propose(self, current: Found | None) -> bytes | None:
        return self._body if current is None else None

    def in_doubt(self) -> None:
        """Nothing to note: whoever wrote it, it is the same."""


def _lost(key: str, reason: str) -> DictionaryLost:
    return DictionaryLost(f"the dictionary {key} {reason}", key)


def encode(dictionary: Dictionary) -> bytes:
    """The object that stores a dictionary."""
    return codec.compress(dictionary.data, level=OBJECT_LEVEL)


def decode(id: str, body: bytes) -> Dictionary:
    """The dictionary whose id begins with `id`. Raises `DictionaryLost`."""
    try:
        data, _ = codec.decompress_first(body, limit=SIZE_LIMIT)
        dictionary = Dictionary(data)
    except CorruptObject as error:
        raise _lost(dictionary_key(id), f"is damaged: {error}") from error
    if not dictionary.id.startswith(id):
        raise _lost(dictionary_key(id), "does not match its SHA-256")
    return dictionary
