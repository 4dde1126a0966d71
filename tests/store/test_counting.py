"""Requests are counted by kind, failed ones with their errors, and passed on as they are."""

import pytest

from stowfs.errors import ObjectNotFound, PreconditionFailed, StoreUnavailable
from stowfs.store.base import IF_ABSENT
from stowfs.store.counting import CountingStore
from stowfs.store.memory import MemoryStore
from stowfs.store.retry import RetryingStore
from tests.support.faults import FailBefore, FaultyStore, Rule


async def test_every_kind_of_request() -> None:
    store = CountingStore(MemoryStore(page_size=2))
    await store.put("a", b"12345")
    await store.put("b", b"")
    await store.put("c", b"1")
    with pytest.raises(PreconditionFailed):
        await store.put("a", b"123", IF_ABSENT)
    await store.get("a")
    with pytest.raises(ObjectNotFound):
        await store.get("x")
    assert [info.key async for page in store.list("") for info in page.objects] == ["a", "b", "c"]
    assert [page async for page in store.list("none/")] == []
    upload = await store.multipart("m")
    await upload.part(1, b"12")
    await upload.complete()
    await (await store.multipart("n")).abort()
    assert [pending async for pending in store.pending_uploads("")] == []
    await store.delete("b")
    counts = {operation: outcomes.count for operation, outcomes in store.counts.by_operation.items()}
    assert counts == {
        "put": 4,
        "get": 2,
        "list": 3,  # two pages, and a listing without any
        "multipart": 2,
        "part": 1,
        "complete": 1,
        "abort": 1,
        "pending": 1,
        "delete": 1,
    }
    assert store.counts.by_operation["put"].errors == {"PreconditionFailed": 1}
    assert store.counts.by_operation["get"].errors == {"ObjectNotFound": 1}
    assert store.counts.by_operation["delete"].errors == {}
    assert all(outcomes.seconds > 0 for outcomes in store.counts.by_operation.values())
    assert (store.counts.sent, store.counts.received) == (5 + 1 + 3 + 2, 5)


async def test_each_attempt_counts() -> None:
    faulty = FaultyStore(MemoryStore())
    faulty.add(Rule(FailBefore(StoreUnavailable("lost")), "put", nth=1, times=2))
    counting = CountingStore(faulty)
    await RetryingStore(counting, 30.0).put("a", b"x")
    assert counting.counts.by_operation["put"].count == 3
    assert counting.counts.by_operation["put"].errors == {"StoreUnavailable": 2}
