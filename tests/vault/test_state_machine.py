"""Two hosts against a model: any sequence of operations, with crashes, lost answers, writes that land late, a store
that goes away, and collection with no grace at all.

Where an operation fails it may or may not have taken effect, so the model is the set of states that the tree may be
in; each look at the tree leaves one of them. The environment variable STOWFS_EXAMPLES sets how many sequences are
tried.
"""

import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import pytest
import trio
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from stowfs.conversation.segmenter import SegmenterParameters
from stowfs.errors import CorruptObject, NoSuchPath, PathExists, StoreError
from stowfs.store.memory import MemoryStore
from stowfs.vault import counts
from stowfs.vault import record as records
from stowfs.vault import ring as rings
from stowfs.vault.descriptor import create_descriptor
from stowfs.vault.draft import Draft, Intent
from stowfs.vault.vault import Vault
from tests.support.audit import audit
from tests.support.faults import FailAfter, FailBefore, FaultyStore, Late, Rule, Stall, StallAfter
from tests.support.vaults import ATTRIBUTES, Hosts, append, edit, read, write
from tests.vault.test_promises import noise

EXAMPLES = int(os.environ.get("STOWFS_EXAMPLES", "25"))
"""Sequences under each of the circumstances; a third of a second each."""

PATHS = ["d/x", "y", "z"]
HOSTS = ["a", "b"]
DEADLINE = 0.15
"""Seconds an operation tries while the store is away: a hundred requests to a store in memory."""

PARAMETERS = SegmenterParameters(minimum=4 << 10, target=12 << 10, maximum=24 << 10)
"""Small runs, so that small contents have segments of every kind."""

BLOCKS = [noise(20_000 + 4_000 * number, number) for number in range(5)]

State = tuple[tuple[str, bytes], ...]
"""The conversations of a tree, by path, in order."""


def content(seed: int) -> bytes:
    """One of some contents, many of which share segments; a few are small."""
    if seed % 6 == 0:
        return b"small %d" % seed
    first = seed % len(BLOCKS)
    return b"".join(BLOCKS[(first + n) % len(BLOCKS)] for n in range(1 + seed % 5))


@dataclass(frozen=True)
class Step:
    """What one host does. `trouble` befalls the `nth` request from the beginning of the step on."""

    kind: str
    host: str
    path: str
    other: str
    seed: int
    trouble: str
    nth: int

    def after(self, state: State) -> State | None:
        """The state after this step, or `None` where it is refused."""
        tree = dict(state)
        old = tree.get(self.path)
        match self.kind:
            case "replace":
                tree[self.path] = content(self.seed)
            case "create":
                if old is not None:
                    return None
                tree[self.path] = content(self.seed)
            case _ if old is None:
                return None
            case "append":
                tree[self.path] = old + content(self.seed)
            case "edit":
                position, data = self.edited(len(old))
                tree[self.path] = old[:position].ljust(position, b"\0") + data + old[position + len(data) :]
            case "delete":
                del tree[self.path]
            case "rename" if self.other != self.path:
                tree[self.other] = tree.pop(self.path)
        return tuple(sorted(tree.items()))

    def between(self, state: State) -> list[State]:
        """Where the step may stop on its way."""
        tree = dict(state)
        if self.kind != "rename" or self.path not in tree:
            return []
        return [tuple(sorted({**tree, self.other: tree[self.path]}.items()))]

    def edited(self, size: int) -> tuple[int, bytes]:
        """Where and what an edit writes."""
        return self.seed * 977 % (size + 1), content(self.seed)[: 1 + self.seed * 311 % 30_000]

    async def carry_out(self, vault: Vault) -> None:
        match self.kind:
            case "replace":
                try:
                    base = await vault.head(self.path)
                except NoSuchPath:
                    base = None
                await write(vault, self.path, content(self.seed), base)
            case "create":
                await write(vault, self.path, content(self.seed), exclusive=True)
            case "append":
                await append(vault, self.path, content(self.seed))
            case "edit":
                position, data = self.edited((await vault.head(self.path)).size)
                await edit(vault, self.path, position, data)
            case "delete":
                await vault.remove(self.path)
            case "rename":
                await vault.rename(self.path, self.other)
            case "chmod":
                await vault.set_attributes(self.path, mode=self.seed)


@dataclass(frozen=True)
class Circumstances:
    """Bounds of the vault, some of them far lower than they are: so what is rare happens all the time."""

    redirect_above: int = records.REDIRECT_ABOVE
    many: int = records.MANY
    capacity: int = rings.CAPACITY
    forgetful: bool = False
    """Rings forget what is still needed: counts may be too high then, and what is tried again may be done twice."""

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Applies them."""
        with (
            patch.object(records, "REDIRECT_ABOVE", self.redirect_above),
            patch.object(rings, "CAPACITY", self.capacity),
            patch.object(counts, "CAPACITY", self.capacity),
        ):
            yield


CIRCUMSTANCES = {
    "as they are": Circumstances(),
    "most payloads are redirected": Circumstances(redirect_above=8 << 10),
    "counts end early": Circumstances(many=3),
    "rings forget early": Circumstances(redirect_above=16 << 10, capacity=2, forgetful=True),
}

TROUBLES = ["lost answer", "lost request", "late", "away", "away, late", "away, lost answer"]
CRASHES = ["crash before", "crash after", "crash, late"]
KINDS = ["replace", "replace", "create", "append", "edit", "delete", "rename", "chmod"]
OTHERS = ["both", "open", "open", "close", "close", "collect", "deliver", "crash", "read"]
SEEDS = st.integers(0, 40)
STEPS = st.builds(
    Step,
    kind=st.sampled_from([*KINDS, *KINDS, *OTHERS]),
    host=st.sampled_from(HOSTS),
    path=st.sampled_from(PATHS),
    other=st.sampled_from(PATHS),
    seed=SEEDS,
    trouble=st.sampled_from([""] * 8 + TROUBLES + CRASHES),
    nth=st.integers(1, 10),
)


@dataclass
class Opened:
    """A draft that a host has open, made on what the conversation was then."""

    path: str
    draft: Draft
    base: bytes
    written: bytes
    intent: Intent


@dataclass
class World:
    """The hosts, the store, and the states that the tree may be in."""

    hosts: Hosts
    store: FaultyStore
    circumstances: Circumstances
    vaults: dict[str, Vault] = field(default_factory=dict)
    states: set[State] = field(default_factory=set)
    opened: dict[str, Opened] = field(default_factory=dict)
    pending: bool = False
    """A write is on its way that may land any time, or a host still finishes what it could not at once."""
    troubled: bool = False
    collected: bool = False
    """Since a draft was opened: what it is based on may be gone."""

    async def start(self, host: str) -> None:
        self.vaults[host] = await self.hosts.start(host)

    async def restart(self, host: str) -> None:
        await self.hosts.crash(host)
        # What was not committed is gone with the host.
        self.opened.pop(host, None)
        await self.start(host)

    async def take(self, step: Step) -> None:
        match step.kind:
            case "crash":
                await self.restart(step.host)
            case "deliver":
                await self.deliver()
            case "collect":
                await self.collect(self.vaults[step.host])
            case "open":
                await self.open(step)
            case "close":
                await self.close(step)
            case "both":
                await self.both(step)
            case "read":
                pass  # as after every step
            case _:
                await self.attempt(step)
        await self.look(self.vaults[step.host])

    async def deliver(self) -> None:
        for vault in self.vaults.values():
            assert await vault.drain(20) == 0
        await self.store.carry_out_late()
        self.pending = False

    async def collect(self, vault: Vault) -> None:
        for key in await _keys(self.store, "segments/"):
            await vault.counts.collect(key.rpartition("/")[2], before=float("inf"))
        self.collected = True

    async def attempt(self, step: Step) -> None:
        """An operation, with its trouble; then the states it may have led to."""
        before = set(self.states)
        after = {new for state in before if (new := step.after(state)) is not None}
        outcome = await self.run(step, lambda: step.carry_out(self.vaults[step.host]))
        event(f"{step.kind}: {outcome}")
        match outcome:
            case "done":
                self.states = after
            case "refused":
                if not self.pending:
                    self.states = {state for state in before if step.after(state) is None}
            case _:
                self.states = before | after | {new for state in before for new in step.between(state)}
                # Once the new name is there, the old one goes as soon as the store is back.
                self.pending |= step.kind == "rename"
        assert self.states, (step, outcome)

    async def run(self, step: Step, operation: Callable[[], Awaitable[object]]) -> str:
        """Carries an operation out under trouble; how it ended."""
        outcome = "crashed"
        ended = trio.Event()

        async def carry_out() -> None:
            nonlocal outcome
            try:
                await operation()
                outcome = "done"
            except (NoSuchPath, PathExists):
                outcome = "refused"
            except StoreError:
                outcome = "failed"
            finally:
                ended.set()

        async def stalled(stall: Stall | StallAfter) -> None:
            await stall.reached.wait()
            ended.set()

        rules = [self.store.add(rule) for rule in self.rules(step)]
        stall = next((rule.action for rule in rules if isinstance(rule.action, Stall | StallAfter)), None)
        if stall is not None:
            self.hosts.start_soon(step.host, lambda: stalled(stall))
        self.hosts.start_soon(step.host, carry_out)
        await ended.wait()
        if outcome == "crashed":
            await self.restart(step.host)
        for rule in rules:
            self.store.rules.remove(rule)
            self.troubled |= rule.seen >= (rule.nth or 1)
            self.pending |= isinstance(rule.action, Late) and rule.seen >= (rule.nth or 1)
        if stall is not None:
            # It may have caught a request of the other host.
            stall.go.set()
        return outcome

    def rules(self, step: Step) -> list[Rule]:
        first, then = step.nth, step.nth + 1
        away = Rule(FailBefore(), nth=then, times=None)
        match step.trouble:
            case "lost answer":
                return [Rule(FailAfter(), nth=first)]
            case "lost request":
                return [Rule(FailBefore(), nth=first)]
            case "late":
                return [Rule(Late(), nth=first)]
            case "away":
                return [away]
            case "away, late":
                return [Rule(Late(), nth=first), away]
            case "away, lost answer":
                return [Rule(FailAfter(), nth=first), away]
            case "crash before":
                return [Rule(Stall(), nth=first)]
            case "crash after":
                return [Rule(StallAfter(), nth=first)]
            case "crash, late":
                return [Rule(Late(), nth=first), Rule(Stall(), nth=then)]
        return []

    async def both(self, step: Step) -> None:
        """Both hosts at once; either order, and an append to what is deleted at the moment."""
        kinds = ["append", "replace", "delete"]
        one = Step(kinds[step.seed % 3], "a", step.path, "", step.seed, "", 1)
        other = Step(kinds[step.nth % 3], "b", step.path, "", step.nth + 7, "", 1)
        results: set[State] = set()
        for state in self.states:
            for first, second in ((one, other), (other, one)):
                middle = first.after(state)
                end = second.after(state if middle is None else middle)
                results.add(next(s for s in (end, middle, state) if s is not None))
                if {first.kind, second.kind} == {"append", "delete"} and dict(state).get(step.path) is not None:
                    appended = first if first.kind == "append" else second
                    resurrected = appended.after(state)
                    assert resurrected is not None
                    results.add(resurrected)

        async def carry_out(step: Step) -> None:
            try:
                await step.carry_out(self.vaults[step.host])
            except NoSuchPath:
                event("both: refused")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(carry_out, one)
            nursery.start_soon(carry_out, other)
        self.states = results | (self.states if self.pending else set())

    async def open(self, step: Step) -> None:
        """Begins to write to a conversation."""
        vault = self.vaults[step.host]
        if step.host in self.opened:
            return
        try:
            base = await vault.head(step.path)
        except NoSuchPath:
            return
        data = content(step.seed)
        before = await vault.read(base, 0, base.size)
        draft = vault.draft(step.path, base, ATTRIBUTES)
        match step.seed % 3:
            case 0:
                draft.truncate(0)
                draft.write(0, data)
            case 1:
                draft.write(draft.size, data)
            case _:
                draft.write(draft.size // 2, data)
        written = await draft.read(0, draft.size)
        self.opened[step.host] = Opened(step.path, draft, before, written, draft.intent)
        self.collected = False

    async def close(self, step: Step) -> None:
        """Commits what this host began to write, perhaps long ago; where that fails, again."""
        opened = self.opened.pop(step.host, None)
        if opened is None:
            return
        vault = self.vaults[step.host]
        states = set(self.states)

        async def commit() -> None:
            try:
                await vault.commit(opened.draft)
            except CorruptObject:
                # Collected without grace, while only this draft still stood on it.
                if not self.collected:
                    raise
                raise StoreError("its base is gone") from None

        outcome = await self.run(step, commit)
        if outcome == "failed" and not self.collected and not self.circumstances.forgetful:
            outcome = await self.run(Step("", step.host, step.path, "", 0, "", 1), commit)
            assert outcome == "done"
        event(f"close: {opened.intent.value}: {outcome}")
        await self.forget_conflicts(self.vaults[step.host], opened)
        after = {self.closed(state, opened) for state in states}
        self.states = after if outcome == "done" else states | after
        if outcome != "crashed":
            opened.draft.discard()

    @staticmethod
    def closed(state: State, opened: Opened) -> State:
        tree, path = dict(state), opened.path
        current = tree.get(path)
        match opened.intent:
            case Intent.APPEND if current is not None:
                tree[path] = current + opened.written[len(opened.base) :]
            case Intent.EDIT if current not in (None, opened.base):
                pass  # kept beside
            case _:
                tree[path] = opened.written
        return tuple(sorted(tree.items()))

    async def forget_conflicts(self, vault: Vault, opened: Opened) -> None:
        """An edit that lost lies beside the winner, whole."""
        for snapshot in [snapshot async for snapshot in vault.walk() if ".conflict-" in snapshot.path]:
            assert snapshot.path.startswith(opened.path)
            assert opened.intent is Intent.EDIT
            if not self.collected:
                assert await vault.read(snapshot, 0, snapshot.size) == opened.written
            await vault.remove(snapshot.path)
            event("conflict")

    async def look(self, vault: Vault) -> None:
        """Reads everything: it is one of the states that the tree may be in."""
        tree = {}
        for path in PATHS:
            try:
                tree[path] = await read(vault, path)
            except NoSuchPath:
                continue
        found = tuple(sorted(tree.items()))
        assert found in self.states, [(path, len(data)) for path, data in found]
        if not self.pending:
            self.states = {found}

    async def finish(self) -> None:
        """Everything comes to rest, is what it should be, and nothing is counted wrongly."""
        for opened in self.opened.values():
            opened.draft.discard()
        await self.deliver()
        for host in HOSTS:
            await self.look(self.vaults[host])
            await self.restart(host)
            assert await self.vaults[host].drain(20) == 0
        await self.start("fresh")
        await self.look(self.vaults["fresh"])
        result = await audit(self.store.inner, many=self.circumstances.many)
        assert result.safe, result
        assert self.circumstances.forgetful or not result.too_high, result
        assert self.troubled or result.exact, result


async def _keys(store: FaultyStore, prefix: str) -> list[str]:
    return [info.key async for page in store.inner.list(prefix) for info in page.objects]


@pytest.mark.parametrize("name", CIRCUMSTANCES)
@pytest.mark.timeout(120 + 3 * EXAMPLES)
@settings(
    max_examples=EXAMPLES,
    # Explaining a failure takes longer than finding it, and shows nothing more.
    phases=[phase for phase in Phase if phase is not Phase.explain],
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
@given(st.lists(STEPS, min_size=5, max_size=18))
async def test_whatever_happens_the_tree_is_what_the_model_says(name: str, steps: list[Step]) -> None:
    circumstances = CIRCUMSTANCES[name]
    with tempfile.TemporaryDirectory() as directory, circumstances.hold():
        store = FaultyStore(MemoryStore(page_size=20))
        descriptor = await create_descriptor(store, segmenter=PARAMETERS, many=circumstances.many, trash_seconds=0)
        async with Hosts(store, Path(directory), descriptor=descriptor, deadline=DEADLINE) as hosts:
            world = World(hosts, store, circumstances)
            for host in HOSTS:
                await world.start(host)
            for number, path in enumerate(PATHS):
                await write(world.vaults["a"], path, content(4 + 5 * number))
            world.states = {tuple((path, content(4 + 5 * number)) for number, path in enumerate(PATHS))}
            for step in steps:
                await world.take(step)
            await world.finish()
