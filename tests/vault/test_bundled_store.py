"""What a store with bundles answers: as if each manifest in them had a key of its own."""

import pytest
import trio

from stowfs.errors import CorruptObject, ObjectNotFound, PreconditionFailed, StoreUnavailable
from stowfs.store.base import ALWAYS, IF_ABSENT, Found, IfMatch, NotModified, ObjectStore
from stowfs.store.memory import MemoryStore
from stowfs.vault import bundle as bundles
from stowfs.vault.bundle import FRESH, is_token
from stowfs.vault.bundled_store import BundledStore
from stowfs.vault.bundling import SURVEY, make_void, replace_bundle
from stowfs.vault.cas import read_or_none
from stowfs.vault.ring import new_id
from tests.support.bundling import DEADLINE, PREFIX, key, manifest, put_committed, put_fresh, put_pending
from tests.support.faults import FailAfter, FailBefore, FaultyStore, Late, Rule, Stall

DAMAGED = b"damaged"


@pytest.fixture
def inner() -> FaultyStore:
    return FaultyStore(MemoryStore())


@pytest.fixture
def store(inner: FaultyStore) -> BundledStore:
    return BundledStore(inner, deadline=DEADLINE)


async def body(store: ObjectStore, name: str) -> bytes | None:
    found = await read_or_none(store, key(name))
    return found.body if found is not None else None


async def token(store: ObjectStore, name: str) -> str:
    found = await store.get(key(name))
    assert isinstance(found, Found)
    assert is_token(found.etag)
    return found.etag


async def put_together(store: BundledStore, *names: str) -> dict[str, str]:
    return await store.put_together(PREFIX, [manifest(name, f"{name} by me".encode()) for name in names])


async def bundle_keys(store: ObjectStore) -> list[str]:
    return [info.key async for page in store.list(f"{PREFIX}%+") for info in page.objects]


async def states(store: ObjectStore) -> list[str]:
    """Of the bundles that lie there and can be read."""
    found = []
    for bundle_key in await bundle_keys(store):
        answer = await store.get(bundle_key)
        assert isinstance(answer, Found)
        if answer.body != DAMAGED:
            found.append(bundles.decode(bundle_key, answer.etag, answer.body).bundle.state)
    return found


class TestOne:
    """One host, and nobody else."""

    async def test_what_is_put_together_is_there(self, store: BundledStore, inner: FaultyStore) -> None:
        etags = await put_together(store, "x", "y")
        assert etags.keys() == {"x", "y"}
        for host in (store, BundledStore(inner, deadline=DEADLINE)):
            for name in ("x", "y"):
                assert await host.get(key(name)) == Found(f"{name} by me".encode(), etags[name])
                assert isinstance(await host.get(key(name), if_none_match=etags[name]), NotModified)
            with pytest.raises(ObjectNotFound):
                await host.get(key("z"))
        assert len(await bundle_keys(inner)) == 1

    async def test_a_bundle_takes_three_requests(self, store: BundledStore, inner: FaultyStore) -> None:
        await put_together(store, *[f"x{number}" for number in range(64)])
        assert [request.operation for request in inner.log] == ["put", "list", "put"]

    async def test_who_made_it_knows_what_is_in_it(self, store: BundledStore, inner: FaultyStore) -> None:
        etags = await put_together(store, "x", "y")
        inner.reset_log()
        assert isinstance(await store.get(key("x"), if_none_match=etags["x"]), NotModified)
        assert await body(store, "y") == b"y by me"
        assert [request.operation for request in inner.log] == ["get", "get"], "only whether there is an object for it"

    async def test_other_keys_are_none_of_its_business(self, store: BundledStore, inner: FaultyStore) -> None:
        for other in ("stowfs.json", "segments/00/00", "manifests/x.json", "manifests/d/!x.json"):
            etag = await store.put(other, b"one", IF_ABSENT)
            assert await inner.get(other) == Found(b"one", etag)
            with pytest.raises(PreconditionFailed):
                await store.put(other, b"two", IF_ABSENT)
            assert await store.get(other) == Found(b"one", etag)
            await store.delete(other, IfMatch(etag))
        assert inner.count("list") == 0

    async def test_what_is_created_alone(self, store: BundledStore, inner: FaultyStore) -> None:
        etag = await store.put(key("x"), b"one", IF_ABSENT)
        assert inner.counts() == {("put", "manifests"): 1, ("list", "manifests"): 1}
        assert await store.get(key("x")) == Found(b"one", etag)
        assert isinstance(await store.get(key("x"), if_none_match=etag), NotModified)
        assert inner.count("list") == 1, "who has created it need not ask again"
        with pytest.raises(PreconditionFailed):
            await store.put(key("x"), b"two", IF_ABSENT)
        second = await store.put(key("x"), b"two", IfMatch(etag))
        assert await inner.get(key("x")) == Found(b"two", second), "what has been replaced is not fresh"
        assert await put_together(store, "x", "y") == {"y": await token(store, "y")}

    async def test_a_fresh_object_is_asked_about_once(self, store: BundledStore, inner: FaultyStore) -> None:
        etag = await put_fresh(inner, "x")
        for _ in range(3):
            assert await store.get(key("x")) == Found(b"x by left", etag)
        assert inner.count("list") == 1

    async def test_a_directory_without_bundles_is_left_alone(self, inner: FaultyStore) -> None:
        async def nowhere(_: str) -> bool:
            return False

        store = BundledStore(inner, deadline=DEADLINE, may_hold=nowhere)
        etag = await store.put(key("x"), b"one", IF_ABSENT)
        assert await inner.get(key("x")) == Found(b"one", etag)
        assert await body(store, "y") is None
        await store.delete(key("x"), IfMatch(etag))
        assert inner.count("list") == 0

    async def test_replacing_a_member(self, store: BundledStore, inner: FaultyStore) -> None:
        await put_committed(inner, "x", "y")
        old = await token(store, "x")
        inner.reset_log()
        etag = await store.put(key("x"), b"two", IfMatch(old))
        assert [request.operation for request in inner.log] == ["put"]
        assert await store.get(key("x"), if_none_match=old) == Found(b"two", etag)
        assert await inner.get(key("x")) == Found(b"two", etag)
        assert await body(store, "y") == b"y by old"
        with pytest.raises(PreconditionFailed):
            await store.put(key("x"), b"three", IfMatch(old))
        await store.put(key("x"), b"three", IfMatch(etag))
        for read_only in (False, True):
            assert await body(BundledStore(inner, deadline=DEADLINE, read_only=read_only), "x") == b"three"

    async def test_a_member_is_not_created_again(self, store: BundledStore, inner: FaultyStore) -> None:
        await put_committed(inner, "x")
        with pytest.raises(PreconditionFailed):
            await store.put(key("x"), b"two", IF_ABSENT)
        assert await body(store, "x") == b"x by old"
        assert await put_together(store, "x") == {}

    async def test_who_created_in_vain_cleans_up(self, store: BundledStore, inner: FaultyStore) -> None:
        """So that no listing has to look at a fresh object that does not count."""
        await put_committed(inner, "x")
        with pytest.raises(PreconditionFailed):
            await store.put(key("x"), b"two", IF_ABSENT)
        found = await inner.get(key("x"))
        assert isinstance(found, Found)
        assert found.body == b"x by old"

    async def test_a_member_of_another_bundle_has_another_token(self, store: BundledStore, inner: FaultyStore) -> None:
        await put_committed(inner, "x")
        for wrong in (bundles.token(bundles.key_of(PREFIX, new_id()), new_id()), (await token(store, "x"))[:-1] + "!"):
            with pytest.raises(PreconditionFailed):
                await store.put(key("x"), b"two", IfMatch(wrong))
            assert isinstance(await store.get(key("x"), if_none_match=wrong), Found)

    async def test_what_hides_a_member_is_not_deleted(self, store: BundledStore, inner: FaultyStore) -> None:
        await put_committed(inner, "x", "y")
        etag = await store.put(key("x"), b"two", IfMatch(await token(store, "x")))
        for condition in (ALWAYS, IfMatch(etag)):
            with pytest.raises(PreconditionFailed):
                await store.delete(key("x"), condition)
        assert await body(store, "x") == b"two"

    async def test_an_old_token_writes_over_nothing(self, inner: FaultyStore) -> None:
        """What took the place of the member is gone as well, since a collection: a token is not "nothing is there"."""
        bundle_key = await put_committed(inner, "x", "y")
        first = BundledStore(inner, deadline=DEADLINE)
        old = await token(first, "x")
        etag = await first.put(key("x"), b"a tombstone", IfMatch(old))
        bundle = first.bundles.known(bundle_key)
        assert bundle is not None
        rest = bundles.committed([("y", new_id(), b"y by old")])
        assert await replace_bundle(inner, bundle, rest, deadline=DEADLINE) is not None
        later = BundledStore(inner, deadline=DEADLINE)
        await later.delete(key("x"), IfMatch(etag))
        with pytest.raises(PreconditionFailed):
            await later.put(key("x"), b"two", IfMatch(old))
        assert await body(later, "x") is None

    async def test_a_damaged_bundle_is_an_error_not_an_absence(self, store: BundledStore, inner: FaultyStore) -> None:
        await inner.put(bundles.key_of(PREFIX, new_id()), DAMAGED)
        with pytest.raises(CorruptObject):
            await store.get(key("x"))
        with pytest.raises(CorruptObject):
            await store.put(key("x"), b"one", IF_ABSENT)
        with pytest.raises(CorruptObject):
            await put_together(store, "x")
        assert "committed" not in await states(inner)

    async def test_a_member_is_read_again_where_memory_is_short(
        self, inner: FaultyStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Bundles that are read at once drive one another out of memory."""
        monkeypatch.setattr("stowfs.vault.bundles.PAYLOADS_MEMORY", 1)
        store = BundledStore(inner, deadline=DEADLINE)
        names = [f"x{number}" for number in range(20)]
        for name in names:
            await put_committed(inner, name)
        read: dict[str, bytes | None] = {}

        async def one(name: str) -> None:
            read[name] = await body(store, name)

        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(one, name)
        assert read == {name: f"{name} by old".encode() for name in names}


class TestClaims:
    """Bundles that are pending."""

    async def test_what_is_claimed_is_free(self, store: BundledStore, inner: FaultyStore) -> None:
        await put_pending(inner, "x")
        assert await body(store, "x") is None
        await store.put(key("x"), b"one", IF_ABSENT)
        assert await body(store, "x") == b"one"
        assert await states(inner) == ["void"]

    async def test_a_claim_on_another_name_is_left_alone(self, store: BundledStore, inner: FaultyStore) -> None:
        await put_pending(inner, "y")
        await store.put(key("x"), b"one", IF_ABSENT)
        assert await states(inner) == ["pending"]

    async def test_what_is_claimed_is_not_bundled(self, store: BundledStore, inner: FaultyStore) -> None:
        await put_pending(inner, "x")
        assert (await put_together(store, "x", "y")).keys() == {"y"}
        await put_pending(inner, "z")
        assert await put_together(store, "z") == {}
        assert await states(inner) == ["pending", "committed", "pending"], "one that nothing is left of is taken away"

    async def test_a_fence_keeps_a_late_commit_from_taking_effect(
        self, inner: FaultyStore, autojump_clock: trio.testing.MockClock
    ) -> None:
        """What a crashed host had sent comes after its recovery has given the name up."""
        inner.add(Rule(Late(), "put", f"{PREFIX}%+*", nth=2))
        inner.add(Rule(FailBefore(), "get", f"{PREFIX}%+*", times=None))
        with pytest.raises(StoreUnavailable):
            await put_together(BundledStore(inner, deadline=1.0), "x", "y")
        inner.rules.clear()
        store = BundledStore(inner, deadline=DEADLINE)
        await store.put(key("x"), b"a tombstone", IF_ABSENT)
        assert [str(outcome is None) for outcome in await inner.carry_out_late()] == ["False"]
        assert await body(store, "x") == b"a tombstone"
        assert await body(store, "y") is None

    async def test_who_may_not_write_believes_neither(self, inner: FaultyStore) -> None:
        """Which of the two counts is not decided: whatever is shown now is never taken for unchanged."""
        bundle_key = await put_pending(inner, "x")
        await put_fresh(inner, "x")
        store = BundledStore(inner, deadline=DEADLINE, read_only=True)
        found = await store.get(key("x"))
        assert isinstance(found, Found)
        assert found.body == b"x by left"
        assert isinstance(await store.get(key("x"), if_none_match=found.etag), Found)
        pending = next(iter(await store.bundles.of(PREFIX)))
        committed = bundles.committed([("x", new_id(), b"x by the bundle")])
        assert await replace_bundle(inner, pending, committed, deadline=DEADLINE) is not None
        assert pending.key == bundle_key
        assert await body(store, "x") == b"x by the bundle"
        assert inner.count("put") == 3

    async def test_void_is_for_good(self, store: BundledStore, inner: FaultyStore) -> None:
        await put_pending(inner, "x")
        pending = (await store.bundles.of(PREFIX))[0]
        assert await make_void(inner, pending, deadline=DEADLINE)
        body = bundles.committed([("x", new_id(), b"x by the bundle")])
        assert await replace_bundle(inner, pending, body, deadline=DEADLINE) is None
        assert not await make_void(inner, pending, deadline=DEADLINE)
        assert await states(inner) == ["void"]

    async def test_what_is_committed_is_never_made_void(self, store: BundledStore, inner: FaultyStore) -> None:
        await put_pending(inner, "x")
        pending = (await store.bundles.of(PREFIX))[0]
        body = bundles.committed([("x", new_id(), b"x by the bundle")])
        assert await replace_bundle(inner, pending, body, deadline=DEADLINE) is not None
        assert not await make_void(inner, pending, deadline=DEADLINE)
        assert await states(inner) == ["committed"]


@pytest.mark.usefixtures("autojump_clock")
class TestAnswersLost:
    """Requests whose answer does not come."""

    @pytest.mark.parametrize("nth", [1, 2])
    async def test_an_answer_that_is_lost(self, store: BundledStore, inner: FaultyStore, nth: int) -> None:
        inner.add(Rule(FailAfter(), "put", nth=nth))
        etags = await put_together(store, "x", "y")
        assert etags.keys() == {"x", "y"}
        assert {name: await token(store, name) for name in "xy"} == etags
        assert await states(inner) == ["committed"]

    @pytest.mark.parametrize("nth", [1, 2])
    async def test_a_request_that_is_lost(self, store: BundledStore, inner: FaultyStore, nth: int) -> None:
        inner.add(Rule(FailBefore(), "put", nth=nth))
        assert (await put_together(store, "x", "y")).keys() == {"x", "y"}
        assert await states(inner) == ["committed"]

    async def test_a_claim_that_is_void_before_its_owner_knows_of_it(
        self, store: BundledStore, inner: FaultyStore
    ) -> None:
        inner.add(Rule(FailAfter(), "put", f"{PREFIX}%+*", nth=1))

        async def create() -> None:
            await BundledStore(inner.inner, deadline=DEADLINE).put(key("x"), b"one", IF_ABSENT)

        async with inner.held("get", f"{PREFIX}%+*", put_together, store, "x", "y"):
            await create()
        assert await body(store, "x") == b"one"
        assert await body(store, "y") is None
        assert await states(inner) == ["void"], "the claim may still be on its way: its key is not freed"

    async def test_a_claim_and_a_commit_that_land_after_all(self, inner: FaultyStore) -> None:
        """The owner was told of neither, tried both again, and met somebody else."""
        inner.add(Rule(Late(), "put", f"{PREFIX}%+*", nth=1))
        inner.add(Rule(Late(), "put", f"{PREFIX}%+*", nth=3))
        # It asks what became of the claim, and then of the commit.
        asks = inner.add(Rule(Stall(), "get", f"{PREFIX}%+*", nth=2)).action
        assert isinstance(asks, Stall)
        created: dict[str, str] = {}

        async def together() -> None:
            created.update(await put_together(BundledStore(inner, deadline=DEADLINE), "x"))

        other = BundledStore(inner.inner, deadline=DEADLINE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(together)
            await asks.reached.wait()
            await other.put(key("x"), b"one", IF_ABSENT)
            asks.go.set()
        assert created == {}
        assert all(isinstance(outcome, PreconditionFailed) for outcome in await inner.carry_out_late())
        assert await body(other, "x") == b"one"
        assert await body(BundledStore(inner, deadline=DEADLINE), "x") == b"one"

    async def test_a_bundle_that_was_rewritten_before_its_owner_knew_of_it(
        self, store: BundledStore, inner: FaultyStore
    ) -> None:
        inner.add(Rule(FailAfter(), "put", f"{PREFIX}%+*", nth=2))
        created: dict[str, str] = {}

        async def together() -> None:
            created.update(await put_together(store, "x", "y"))

        async with inner.held("get", f"{PREFIX}%+*", together):
            other = BundledStore(inner.inner, deadline=DEADLINE)
            bundle = (await other.bundles.of(PREFIX))[0]
            members = [
                (name, member.commit, f"{name} by me".encode())
                for name in "xy"
                if (member := bundle.member(name)) is not None
            ]
            smaller = bundles.committed(members, dictionary="d")
            assert await replace_bundle(inner.inner, bundle, smaller, deadline=DEADLINE) is not None
        assert created.keys() == {"x", "y"}
        assert {name: await token(other, name) for name in "xy"} == created


class TestSurvey:
    """What a bundler looks at before it commits."""

    async def test_names_that_others_have_on_the_page_before(self) -> None:
        """By key, 'a.json' comes after 'a-b.json', though 'a' comes before 'a-b'."""
        inner = MemoryStore(page_size=3)
        store = BundledStore(inner, deadline=DEADLINE)
        for name in ("a-b", "a-c", "a"):
            await store.put(key(name), f"{name} by another".encode(), IF_ABSENT)
        assert (await put_together(store, "a", "a-a")).keys() == {"a-a"}
        assert await body(store, "a") == b"a by another"
        assert await body(BundledStore(inner, deadline=DEADLINE), "a") == b"a by another"

    async def test_a_directory_that_is_too_large_to_survey(self) -> None:
        inner = FaultyStore(MemoryStore(page_size=5))
        store = BundledStore(inner, deadline=DEADLINE)
        for number in range(5 * SURVEY + 5):
            await inner.put(key(f"a{number:03}"), b"there")
        assert await put_together(store, "b", "c") == {}
        assert await bundle_keys(inner) == []
        assert (await put_together(store, "a000a", "a001a")).keys() == {"a000a", "a001a"}, "before most of it"

    async def test_directories_below_are_no_names(self) -> None:
        inner = MemoryStore()
        store = BundledStore(inner, deadline=DEADLINE)
        await inner.put(f"{PREFIX}x/y.json", b"below")
        assert (await put_together(store, "x", "y")).keys() == {"x", "y"}
        assert await body(store, "x/y") == b"below"


async def test_what_is_fresh_and_was_never_counted_stays_so(inner: FaultyStore) -> None:
    """A fresh object whose name a committed bundle holds: nobody is shown it, and the member can be replaced."""
    await put_committed(inner, "x")
    await put_fresh(inner, "x")
    for read_only in (True, False):
        store = BundledStore(inner, deadline=DEADLINE, read_only=read_only)
        assert await body(store, "x") == b"x by old"
        assert [info.key async for page in store.list(PREFIX) for info in page.objects] == [key("x")]
    etag = await store.put(key("x"), b"two", IfMatch(await token(store, "x")))
    assert await inner.get(key("x")) == Found(b"two", etag)
    assert not b"two".startswith(FRESH)
