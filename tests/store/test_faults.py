"""The store that injects faults does what the tests built on it believe."""

import pytest
import trio

from stowfs.errors import ObjectNotFound, PreconditionFailed, StoreUnavailable
from stowfs.store.base import IF_ABSENT, Found
from stowfs.store.memory import MemoryStore
from tests.support.faults import FailAfter, FailBefore, FaultyStore, Late, Rule, Stall, StallAfter


async def body_of(store: FaultyStore, key: str) -> bytes:
    found = await store.inner.get(key)
    assert isinstance(found, Found)
    return found.body


async def test_before_and_after() -> None:
    store = FaultyStore(MemoryStore())
    store.add(Rule(FailBefore(), "put", "before/*"))
    store.add(Rule(FailAfter(), "put", "after/*"))
    for key in ("before/k", "after/k"):
        with pytest.raises(StoreUnavailable):
            await store.put(key, b"x")
    with pytest.raises(ObjectNotFound):
        await store.inner.get("before/k")
    assert await body_of(store, "after/k") == b"x"


async def test_the_nth_only() -> None:
    store = FaultyStore(MemoryStore())
    store.add(Rule(FailBefore(), "put", nth=2, times=2))
    outcomes = []
    for _ in range(5):
        try:
            await store.put("k", b"")
            outcomes.append("done")
        except StoreUnavailable:
            outcomes.append("failed")
    assert outcomes == ["done", "failed", "failed", "done", "done"]


async def test_a_late_put_lands_when_told_and_meets_its_condition_then() -> None:
    store = FaultyStore(MemoryStore())
    rule = store.add(Rule(Late(), "put"))
    for key in ("one", "two"):
        with pytest.raises(StoreUnavailable):
            await store.put(key, b"late", IF_ABSENT)
    store.rules.remove(rule)
    with pytest.raises(ObjectNotFound):
        await store.get("one")
    await store.put("two", b"early", IF_ABSENT)
    first, second = await store.carry_out_late()
    assert first is None
    assert isinstance(second, PreconditionFailed)
    assert (await body_of(store, "one"), await body_of(store, "two")) == (b"late", b"early")
    assert await store.carry_out_late() == []


async def test_stalling_before_and_after() -> None:
    store = FaultyStore(MemoryStore())
    before, after = Stall(), StallAfter()
    store.add(Rule(before, "put", "before"))
    store.add(Rule(after, "put", "after"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.put, "before", b"x")
        nursery.start_soon(store.put, "after", b"x")
        await before.reached.wait()
        await after.reached.wait()
        with pytest.raises(ObjectNotFound):
            await store.inner.get("before")
        assert await body_of(store, "after") == b"x"
        before.go.set()
        after.go.set()
    assert await body_of(store, "before") == b"x"


async def test_down_and_up_again() -> None:
    store = FaultyStore(MemoryStore())
    await store.put("k", b"x")
    store.down = True
    with pytest.raises(StoreUnavailable):
        await store.get("k")
    store.down = False
    assert await body_of(store, "k") == b"x"


async def test_requests_and_bytes_are_counted() -> None:
    store = FaultyStore(MemoryStore(page_size=2))
    for number in range(4):
        await store.put(f"manifests/{number}", b"12345")
    await store.put("segments/1", b"123")
    await store.get("manifests/0")
    with pytest.raises(ObjectNotFound):
        await store.get("manifests/9")
    assert len([page async for page in store.list("manifests/")]) == 2
    assert [page async for page in store.list("none/")] == []
    assert store.counts() == {
        ("put", "manifests"): 4,
        ("put", "segments"): 1,
        ("get", "manifests"): 2,
        ("list", "manifests"): 2,
        ("list", "none"): 1,
    }
    assert store.count("put") == 5
    assert store.count(key_class="segments") == 1
    assert store.bytes_sent() == 23
    assert store.bytes_sent("put", "manifests") == 20
    assert store.bytes_received("get") == 5
    assert [request.failed for request in store.log if request.operation == "get"] == [False, True]
    store.reset_log()
    assert store.count() == 0
