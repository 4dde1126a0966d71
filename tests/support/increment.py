"""Adds 1 to a counter in a store by compare-and-swap: python -m tests.support.increment URL KEY TIMES."""

import sys

import trio
import uuid6

from stowfs.config import StoreOptions
from stowfs.errors import ObjectNotFound, PreconditionFailed, WriteConflict
from stowfs.store.base import IF_ABSENT, Condition, Found, IfMatch, ObjectStore
from stowfs.store.open import open_store, parse_store_url
from stowfs.store.probe import probe
from stowfs.store.retry import Backoff

_DEADLINE = 60.0  # For one increment against all the others.


async def increment(store: ObjectStore, key: str, times: int) -> None:
    for _ in range(times):
        backoff = Backoff(_DEADLINE, first=0.005)
        while True:
            condition: Condition = IF_ABSENT
            count = 0
            try:
                found = await store.get(key)
                assert isinstance(found, Found)
                condition, count = IfMatch(found.etag), read_count(found.body)
            except ObjectNotFound:
                pass
            try:
                # Something unique, or a count that was seen before would bring its ETag back.
                await store.put(key, b"%d %s" % (count + 1, uuid6.uuid7().hex.encode()), condition)
                break
            except (PreconditionFailed, WriteConflict) as error:
                await backoff.wait(error)


def read_count(body: bytes) -> int:
    return int(body.split()[0])


async def main(url: str, key: str, times: int) -> None:
    store = await open_store(parse_store_url(url), StoreOptions())
    await probe(store, deadline=_DEADLINE)
    await increment(store, key, times)
    await store.close()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]))
