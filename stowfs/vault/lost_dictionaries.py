"""The check of the dictionaries of a store: each is there, and is what its name says."""

from stowfs.errors import CorruptObject
from stowfs.store.base import ObjectStore
from stowfs.vault.dictionaries import Dictionaries, DictionaryLost
from stowfs.vault.findings import Finding, LostDictionary, StrayObject
from stowfs.vault.naming import DICTIONARIES, dictionary_key, id_of_dictionary


async def check_dictionaries(store: ObjectStore, dictionaries: Dictionaries, active_id: str) -> list[Finding]:
    """What is wrong with the dictionaries in the store, whatever needs them; the active one has to be there. Raises
    store errors."""
    found: list[Finding] = []
    ids = {active_id} - {""}
    async for page in store.list(DICTIONARIES):
        for info in page.objects:
            try:
                ids.add(id_of_dictionary(info.key))
            except CorruptObject:
                found.append(StrayObject(key=info.key, size=info.size, temporary=False))
    for id in sorted(ids):
        try:
            await dictionaries.verify(id)
        except DictionaryLost as error:
            found.append(LostDictionary(key=dictionary_key(id), reason=str(error)))
    return found
