"""Hosts on a store in memory that can be told to fail; tests that want them otherwise override `options`."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from stowfs.store.memory import MemoryStore
from tests.support.faults import FaultyStore
from tests.support.vaults import Hosts


@pytest.fixture
def faulty() -> FaultyStore:
    """The store."""
    return FaultyStore(MemoryStore())


@pytest.fixture
def options() -> Mapping[str, Any]:
    """What all the hosts have in common: options of `Hosts`, and of vaults."""
    return {}


@pytest.fixture
async def hosts(faulty: FaultyStore, tmp_path: Path, options: Mapping[str, Any]) -> AsyncIterator[Hosts]:
    """The hosts: none has been started."""
    async with Hosts(faulty, tmp_path, **options) as hosts:
        yield hosts
