"""The stores that the conformance suite runs against, one after the other, as the fixtures `place` and `store`."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from stowfs.config import StoreOptions
from stowfs.store.base import ObjectStore
from stowfs.store.file import FileStore
from stowfs.store.memory import MemoryStore
from stowfs.store.open import S3Location, parse_store_url
from stowfs.store.probe import probe
from stowfs.store.s3 import S3Store, make_client

PAGE = 40
"""Entries of a page, so that a listing has several without a thousand writes each time."""


@dataclass(frozen=True)
class Place:
    """Where a store is: `open` gives another store object for the same objects. What servers are known to ignore."""

    name: str
    open: Callable[[], Awaitable[ObjectStore]]
    url: str | None = None
    conditional_delete: bool = True
    conditional_complete: bool = True


@pytest.fixture(params=["memory", "file", "moto", pytest.param("rgw", marks=pytest.mark.rgw)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    match request.param:
        case "memory":
            shared = MemoryStore(minimum_part=10, page_size=PAGE)

            async def open_memory() -> ObjectStore:
                return shared

            return Place("memory", open_memory)
        case "file":

            async def open_file() -> ObjectStore:
                return FileStore(tmp_path, page_size=PAGE)

            return Place("file", open_file, url=str(tmp_path))
        case name:
            url = f"{request.getfixturevalue(f'{name}_url')}/some/prefix"
            location = parse_store_url(url)
            assert isinstance(location, S3Location)

            async def open_server() -> ObjectStore:
                options = StoreOptions(concurrency=8)
                store = S3Store(make_client(options), location.bucket, location.prefix, options, page_size=PAGE)
                await probe(store, deadline=30)
                return store

            heeds = name != "rgw"
            return Place(name, open_server, url, conditional_delete=heeds, conditional_complete=heeds)


@pytest.fixture
async def store(place: Place) -> AsyncIterator[ObjectStore]:
    opened = await place.open()
    yield opened
    await opened.close()
