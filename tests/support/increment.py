"""Adds 1 to a counter in a store by compare-and-swap: python -m tests.support.increment URL KEY TIMES.

The counter is the list of the ids of all increments: after an unclear answer one's own id tells what became of it.
"""

import contextlib
import sys

import trio
import uuid_utils

from stowfs.config import StoreOptions
from stowfs.errors import ObjectNotFound, PreconditionFailed, StoreUnavailable, WriteConflict
from stowfs.store.base import IF_ABSENT, Condition, Found, IfMatch, ObjectStore
from stowfs.store.open import open_store, parse_store_url
from stowfs.store.probe import probe
from stowfs.store.retry import Backoff

_DEADLINE = 60.0  # For one increment against all the others.


async def increment(store: ObjectStore, key: str, times: int) -> None:
    for _ in range(times):
        own = uuid_utils.uuid7().hex
        backoff = Backoff(_DEADLINE, first=0.005)
        while True:
            condition: Condition = IF_ABSENT
            ids: list[str] = []
            with contextlib.suppress(ObjectNotFound):
                found = await store.get(key)
                assert isinstance(found, Found)
                condition, ids = IfMatch(found.etag), read_ids(found.body)
            if own in ids:
                break
            try:
                await store.put(key, " ".join([*ids, own]).encode(), condition)
                break
            except (PreconditionFailed, WriteConflict, StoreUnavailable) as error:
                await backoff.wait(error)


def read_ids(body: bytes) -> list[str]:
    return body.decode().split()


async def main(url: str, key: str, times: int) -> None:
    store = await open_store(parse_store_url(url), StoreOptions())
    await probe(store, deadline=_DEADLINE)
    await increment(store, key, times)
    await store.close()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]))
