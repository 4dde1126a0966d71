"""An append that nobody answered, while others wrote more versions than a ring keeps."""

from pathlib import Path
from uuid import UUID

import pytest
from uuid_utils import uuid7

from stowfs.errors import StoreUnavailable
from stowfs.store.memory import MemoryStore
from stowfs.vault.doubt import refute
from stowfs.vault.draft import Draft
from stowfs.vault.layout import LayoutReader
from stowfs.vault.ring import CAPACITY, new_id
from stowfs.vault.vault import Vault
from tests.support.audit import audit
from tests.support.faults import FailAfter, FailBefore, FaultyStore, Rule
from tests.support.vaults import Hosts, append, flush, read, write
from tests.vault.test_promises import log_lines

LONG = log_lines(1500, 1)

HOUR = 3_600_000 << 80
"""By how much a uuid7 made an hour later is greater."""

OTHERS = [f"{number}\n".encode() for number in range(2 * CAPACITY)]


async def appended(vault: Vault, data: bytes) -> Draft:
    base = await vault.head("log")
    draft = vault.draft("log", base, base.attributes, appending=True)
    draft.write(draft.size, data)
    return draft


async def names(vault: Vault) -> list[str]:
    return [entry.path for entry in await vault.list_directory("")]


async def exact(hosts: Hosts, *vaults: Vault) -> None:
    for vault in vaults:
        assert await vault.drain(20) == 0
    assert (await audit(hosts.store)).exact


def lose_answer(store: FaultyStore, trouble: FailAfter | FailBefore) -> None:
    """The next version is sent, and nothing heard afterwards, until the rules are cleared."""
    store.add(Rule(trouble, "put", "manifests/*", nth=1))
    store.add(Rule(FailBefore(), key="manifests/*", nth=2, times=None))


async def unanswered(hosts: Hosts, start: bytes, trouble: FailAfter | FailBefore) -> tuple[Vault, Vault, Draft]:
    """Host `a` appended "first" to what host `b` had written, without an answer: both, and the draft."""
    store = FaultyStore(hosts.store)
    a, b = await hosts.start("a", store), await hosts.start("b")
    await write(b, "log", start)
    draft = await appended(a, b"first\n")
    lose_answer(store, trouble)
    with pytest.raises(StoreUnavailable):
        await a.commit(draft)
    store.rules.clear()
    return a, b, draft


@pytest.mark.parametrize("start", [b"", b"start\n", LONG], ids=["empty", "short", "long"])
@pytest.mark.parametrize("more", [b"", b"second\n"])
async def test_an_append_that_is_not_where_it_would_be_goes_to_the_end(
    start: bytes, more: bytes, tmp_path: Path
) -> None:
    async with Hosts(MemoryStore(), tmp_path, deadline=0.5) as hosts:
        a, b, draft = await unanswered(hosts, start, FailBefore())
        for line in OTHERS:
            await append(b, "log", line)
        if more:
            draft.write(draft.size, more)
        await a.commit(draft)
        assert await read(b, "log") == start + b"".join(OTHERS) + b"first\n" + more
        assert await names(b) == ["log"]
        assert not draft.attempts
        await exact(hosts, a, b)


@pytest.mark.parametrize("restarted", [False, True])
async def test_one_in_the_background_goes_to_the_end_too(restarted: bool, tmp_path: Path) -> None:
    inner = MemoryStore()
    async with Hosts(inner, tmp_path, deadline=0.5) as hosts:
        store = FaultyStore(inner)
        a, b = await hosts.start("a", store), await hosts.start("b")
        await write(b, "log", LONG)
        await a.acknowledge(await appended(a, b"first\n"))
        lose_answer(store, FailBefore())
        with pytest.raises(StoreUnavailable):
            await flush(a)
        store.rules.clear()
        for line in OTHERS:
            await append(b, "log", line)
        if restarted:
            await hosts.crash("a")
            a = await hosts.start("a")
        await flush(a)
        assert await read(b, "log") == LONG + b"".join(OTHERS) + b"first\n"
        assert await names(b) == ["log"]
        await exact(hosts, a, b)


@pytest.mark.parametrize(
    "case", ["it took effect", "another host appended the same", "it was replaced", "it was changed here"]
)
async def test_where_the_bytes_do_not_tell_it_is_kept_beside(case: str, tmp_path: Path) -> None:
    async with Hosts(MemoryStore(), tmp_path, deadline=0.5) as hosts:
        a, b, draft = await unanswered(hosts, LONG, FailAfter() if case == "it took effect" else FailBefore())
        expected, first = LONG + b"first\n", b"first\n"
        match case:
            case "it was changed here":
                expected, first = LONG, b"First\n"
                draft.write(len(LONG), b"F")
            case "another host appended the same":
                await append(b, "log", b"first\n")
            case "it was replaced":
                expected = b"anew\n"
                await write(b, "log", expected, await b.head("log"))
        for line in OTHERS:
            await append(b, "log", line)
        draft.write(draft.size, b"second\n")
        await a.commit(draft)
        log, beside = await names(b)
        assert (log, beside.startswith("log.conflict-")) == ("log", True)
        assert await read(b, "log") == expected + b"".join(OTHERS)
        assert await read(b, beside) == LONG + first + b"second\n"
        await exact(hosts, a, b)


async def test_an_append_that_may_still_take_effect_stays_in_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of the host that wrote before is ahead: its versions look as if they were later."""
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        await write(b, "log", b"start\n")
        with monkeypatch.context() as ahead:
            ahead.setattr("stowfs.vault.ring.uuid7", lambda: UUID(int=uuid7().int + HOUR))
            for line in OTHERS:
                await append(b, "log", line)
        draft = await appended(a, b"first\n")
        draft.attempt(new_id(), draft.base)
        current = await b.head("log")
        assert draft.attempts.doubtful(current, draft.base)
        await refute(draft, current, LayoutReader(a.segments, prefetch=0))
        assert draft.attempts
        draft.discard()
