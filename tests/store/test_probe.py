"""What the probe finds, and what it refuses."""

import pytest
import trio.testing

from stowfs.errors import ConditionsIgnored, PreconditionFailed, RetriesExhausted, StoreError
from stowfs.store.base import ALWAYS, Condition, IfMatch, ObjectStore
from stowfs.store.memory import MemoryStore
from stowfs.store.probe import probe
from stowfs.store.retry import RetryingStore
from tests.store.conftest import Place
from tests.support.faults import (
    FailAfter,
    FailBefore,
    FaultyStore,
    Rule,
    ignores_if_absent,
    ignores_if_match,
    ignores_if_match_on_delete,
)


async def left_under_probe(store: ObjectStore) -> list[str]:
    return [entry.key async for page in store.list("probe/") for entry in page.objects]


async def test_every_store_passes(place: Place, store: ObjectStore) -> None:
    report = await probe(store, deadline=30)
    assert report.url == store.url
    assert report.quoted_etags is {"memory": None, "file": None, "moto": True, "rgw": False}[place.name]
    assert report.conditional_delete is place.conditional_delete
    assert report.lists_at_once
    assert all(step.seconds >= 0 for step in report.steps)
    assert [step.name for step in report.steps][:3] == ["create", "create again", "replace"]
    assert await left_under_probe(store) == []


async def test_a_good_store_costs_seven_requests() -> None:
    store = FaultyStore(MemoryStore())
    report = await probe(store, deadline=5)
    assert (store.count(), len(report.steps)) == (7, 7)


@pytest.mark.parametrize(
    ("wrapper", "named"), [(ignores_if_absent, "ignores If-None-Match"), (ignores_if_match, "ignores If-Match")]
)
async def test_a_store_that_ignores_a_condition_is_refused(wrapper: type[FaultyStore], named: str) -> None:
    store = RetryingStore(wrapper(MemoryStore()), 5)
    with pytest.raises(ConditionsIgnored, match=f"^memory:// {named} on PUT.*read-only") as caught:
        await probe(store, deadline=5)
    assert "\n" not in str(caught.value)
    assert await left_under_probe(store) == []


async def test_a_store_that_ignores_if_match_on_delete_is_accepted() -> None:
    store = ignores_if_match_on_delete(MemoryStore())
    assert not (await probe(store, deadline=5)).conditional_delete
    assert await left_under_probe(store) == []


async def test_a_store_that_knows_no_conditional_delete_is_accepted() -> None:
    store = FaultyStore(MemoryStore())
    store.add(Rule(FailBefore(StoreError("501")), "delete", nth=1))
    assert not (await probe(store, deadline=5)).conditional_delete
    assert await left_under_probe(store) == []


class Choosy(FaultyStore):
    """A store that can write If-Match quoted or bare, before a server that accepts some of these."""

    def __init__(self, *accepted: bool) -> None:
        super().__init__(MemoryStore())
        self.accepted = accepted
        self.quoted_etags = True

    def use_quoted_etags(self, quoted: bool) -> None:
        self.quoted_etags = quoted

    async def put(self, key: str, body: bytes, condition: Condition = ALWAYS) -> str:
        if isinstance(condition, IfMatch) and self.quoted_etags not in self.accepted:
            raise PreconditionFailed("412")
        return await super().put(key, body, condition)


@pytest.mark.parametrize("quoted", [True, False])
async def test_the_way_of_writing_if_match_is_found(quoted: bool) -> None:
    inner = Choosy(quoted)
    report = await probe(RetryingStore(FaultyStore(inner), 5), deadline=5)
    assert report.quoted_etags is quoted
    assert inner.quoted_etags is quoted


async def test_a_store_that_refuses_every_if_match_is_refused() -> None:
    with pytest.raises(ConditionsIgnored, match="refuses If-Match"):
        await probe(Choosy(), deadline=5)


@pytest.mark.parametrize("nth", range(1, 5))
async def test_a_lost_response_starts_the_probe_again(autojump_clock: trio.testing.MockClock, nth: int) -> None:
    store = FaultyStore(MemoryStore())
    store.add(Rule(FailAfter(), "put", nth=nth))
    report = await probe(store, deadline=30)
    assert report.conditional_delete
    # What was created without an answer stays: nobody can tell that it is there.
    assert len(await left_under_probe(store)) == (1 if nth == 1 else 0)


async def test_an_unreachable_store_is_given_up_on(autojump_clock: trio.testing.MockClock) -> None:
    store = FaultyStore(MemoryStore())
    store.down = True
    with pytest.raises(RetriesExhausted):
        await probe(store, deadline=30)
