"""Counts references of one segment: python -m tests.support.counting URL KIND TIMES, or as a library."""

import hashlib
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from stowfs import codec
from stowfs.config import StoreOptions
from stowfs.errors import CorruptObject
from stowfs.hot.segments import SegmentFiles
from stowfs.store.base import ObjectStore
from stowfs.store.open import open_store, parse_store_url
from stowfs.store.probe import probe
from stowfs.vault.counts import Counts
from stowfs.vault.dictionaries import Dictionaries
from stowfs.vault.manifest import Reference
from stowfs.vault.record import MANY, REDIRECT_ABOVE, Header, Payload
from stowfs.vault.ring import new_id
from stowfs.vault.segments import SegmentReader

DEADLINE = 60.0  # Seconds for one change against all the others.


def payload_of(raw: bytes) -> Payload:
    """A segment ready to be stored."""
    return Payload(hashlib.sha256(raw).hexdigest(), codec.compress(raw), len(raw))


SEGMENTS = {"inline": b"a system prompt\n" * 300, "redirected": random.Random(1).randbytes(REDIRECT_ABOVE + 30_000)}
PAYLOADS = {kind: payload_of(raw) for kind, raw in SEGMENTS.items()}
assert len(PAYLOADS["inline"].compressed) < REDIRECT_ABOVE < len(PAYLOADS["redirected"].compressed)


@asynccontextmanager
async def counting(store: ObjectStore, *, many: int = MANY, deadline: float = DEADLINE) -> AsyncIterator[Counts]:
    """The counts of one process."""
    async with trio.open_nursery() as nursery:
        yield Counts(store, Dictionaries(store), nursery, deadline=deadline, many=many)
        nursery.cancel_scope.cancel()


async def acquire(store: ObjectStore, payload: Payload, times: int) -> None:
    """Counts so many references, one after the other."""
    async with counting(store) as counts:
        for _ in range(times):
            await counts.acquire(new_id(), payload.digest, payload)


async def header(counts: Counts, payload: Payload = PAYLOADS["inline"]) -> Header:
    record = await counts.read(payload.digest)
    assert record is not None
    return record.header


async def blobs(store: ObjectStore) -> list[str]:
    return [info.key async for page in store.list("blobs/") for info in page.objects]


async def raw(store: ObjectStore, payload: Payload, directory: Path) -> bytes:
    """The segment as a host that never saw it reads it."""
    files = SegmentFiles.open(directory / new_id(), 1 << 20)
    threads = trio.CapacityLimiter(1)
    async with trio.open_nursery() as nursery:
        reader = SegmentReader(store, files, Dictionaries(store), nursery, memory=0, threads=threads)
        try:
            return await reader.fetch(Reference(payload.digest, payload.raw_size))
        except CorruptObject as error:
            corrupt = error  # to be raised without the nursery's group around it
        finally:
            files.close()
    raise corrupt


async def main(url: str, kind: str, times: int) -> None:
    store = await open_store(parse_store_url(url), StoreOptions())
    await probe(store, deadline=DEADLINE)
    await acquire(store, PAYLOADS[kind], times)
    await store.close()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]))
