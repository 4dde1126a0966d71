"""The stores that the conformance suite runs against, one after the other, as the fixtures `place` and `store`."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stowfs.config import StoreOptions
from stowfs.store.base import ObjectStore
from stowfs.store.file import FileStore
from stowfs.store.memory import MemoryStore
from stowfs.store.open import S3Location, open_bucket, parse_store_url
from stowfs.store.probe import probe

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


CLIENTS = ("obstore", "boto3")
"""What stores on S3 send requests by."""


@pytest.fixture(params=CLIENTS)
def s3_client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What stores are opened with, one after the other, also by the programs that the test starts."""
    client: str = request.param
    monkeypatch.setenv("STOWFS_S3_CLIENT", client)
    return client


@pytest.fixture(
    params=[
        "memory",
        "file",
        *(f"moto-{client}" for client in CLIENTS),
        *(pytest.param(f"rgw-{client}", marks=pytest.mark.rgw) for client in CLIENTS),
    ]
)
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
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
        case server_and_client:
            name, _, client = server_and_client.partition("-")
            monkeypatch.setenv("STOWFS_S3_CLIENT", client)
            url = f"{request.getfixturevalue(f'{name}_url')}/some/prefix"
            location = parse_store_url(url)
            assert isinstance(location, S3Location)

            async def open_server() -> ObjectStore:
                options = StoreOptions(concurrency=8)
                store = await open_bucket(location.bucket, location.prefix, options, page_size=PAGE)
                await probe(store, deadline=30)
                return store

            heeds = name != "rgw"
            return Place(name, open_server, url, conditional_delete=heeds, conditional_complete=heeds)


@pytest.fixture
async def store(place: Place) -> AsyncIterator[ObjectStore]:
    opened = await place.open()
    yield opened
    await opened.close()


@pytest.fixture
def silent_endpoint() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
