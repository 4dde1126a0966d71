"""The hosts, each with a line of its own to one store, and how something is done on one of them: under trouble, and
beside what another host does."""

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from stowfs.errors import StoreError
from stowfs.store.memory import MemoryStore
from stowfs.vault.check import Checker
from stowfs.vault.collect import collect_garbage
from stowfs.vault.compact import compact_store
from stowfs.vault.descriptor import Descriptor
from stowfs.vault.expiry import NANOSECONDS
from stowfs.vault.repair import repair
from stowfs.vault.vault import Vault
from tests.support.clock import Clock
from tests.support.faults import FaultyStore, Late, Stall, StallAfter
from tests.support.vaults import Hosts
from tests.vault.machine import troubles, views
from tests.vault.machine.opened import Opened
from tests.vault.machine.state import State
from tests.vault.machine.steps import REFUSALS, Step

HOSTS = ["a", "b", "c"]

ASYNCHRONOUS = "c"
"""The host with commit=async: what is open there is acknowledged when it is closed, and flushed some time later."""

PATIENCE = 0.5
"""Seconds that a collection may take: while the store is away it waits for releases that cannot be done."""

SETTLED = 20.0
"""Seconds in which a host that reaches the store comes to rest, far more than it takes."""


@dataclass
class Cluster:
    """The hosts, what each has open, and the states that the tree may be in. `forgetful`: rings forget what is still
    needed, so that what is tried again may be done twice, and counts may be too high."""

    hosts: Hosts
    store: MemoryStore
    descriptor: Descriptor
    clock: Clock
    forgetful: bool
    lines: dict[str, FaultyStore] = field(default_factory=dict)
    vaults: dict[str, Vault] = field(default_factory=dict)
    states: set[State] = field(default_factory=set)
    opened: dict[str, Opened] = field(default_factory=dict)
    acknowledged: dict[str, Opened] = field(default_factory=dict)
    pending: bool = False
    troubled: bool = False

    async def start(self, host: str) -> None:
        line = self.lines.setdefault(host, FaultyStore(self.store))
        vault = await self.hosts.start(host, line, asynchronous=host == ASYNCHRONOUS)
        self.vaults[host] = vault
        if host == ASYNCHRONOUS:
            # Whatever was acknowledged is there again, and may have been stored just before the crash.
            drafts = {draft.id: draft for draft in vault.backlog.drafts}
            assert drafts.keys() <= self.acknowledged.keys()
            for key, draft in drafts.items():
                self.acknowledged[key].draft = draft

    async def restart(self, host: str) -> None:
        """The host crashes, and comes back."""
        await self.hosts.crash(host)
        # What was not committed is gone with the host.
        self.opened.pop(host, None)
        await self.start(host)

    def now(self) -> float:
        """The time by which a collection goes, in seconds: it is not before anything that was written, which has the
        true time."""
        return max(time.time(), self.clock.time())

    def pass_time(self, seconds: float) -> None:
        """So much time passes, for everybody."""
        self.clock.advance(seconds)
        self.states = {state.at(self.clock.ns) for state in self.states}

    def pass_until_next(self, paths: set[str]) -> None:
        """Time passes until the next deadline of anything under those names has just come."""
        deadlines = {file.expires_ns for state in self.states for path, file in state.files if path in paths}
        deadlines |= {opened.expires_ns for opened in self.opened.values() if opened.path in paths}
        ahead = [deadline for deadline in deadlines if deadline is not None and deadline > self.clock.ns]
        if ahead:
            self.pass_time((min(ahead) - self.clock.ns) / NANOSECONDS)

    async def rest(self) -> None:
        """Every host finishes what it has begun. One that waits before it tries again is not waited for."""
        for host in self.vaults:
            self.lines[host].down = False
            if await self.vaults[host].drain(0.1):
                await self.restart(host)
                assert await self.vaults[host].drain(SETTLED) == 0

    async def land(self) -> None:
        """What was late takes effect now, where it still can."""
        for line in self.lines.values():
            await line.carry_out_late()

    async def run(self, step: Step, operation: Callable[[], Awaitable[object]]) -> str:
        """Carries an operation out under trouble, and beside what another host does; how it ended."""
        outcome = "crashed"
        ended = trio.Event()
        line = self.lines[step.host]

        async def carry_out() -> None:
            nonlocal outcome
            try:
                await operation()
                outcome = "done"
            except REFUSALS:
                outcome = "refused"
            except StoreError:
                outcome = "failed"
            finally:
                ended.set()

        async def stalled(stall: Stall | StallAfter) -> None:
            await stall.reached.wait()
            ended.set()

        rules = [line.add(rule) for rule in troubles.rules(step.trouble, step.nth)]
        stall = next((rule.action for rule in rules if isinstance(rule.action, Stall | StallAfter)), None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.meanwhile, step)
            if stall is not None:
                self.hosts.start_soon(step.host, lambda: stalled(stall))
            self.hosts.start_soon(step.host, carry_out)
            await ended.wait()
        if outcome == "crashed":
            await self.restart(step.host)
        if stall is not None:
            # It may have caught a request of the background, which goes on.
            stall.go.set()
        for rule in rules:
            line.rules.remove(rule)
            met = rule.seen >= (rule.nth or 1)
            self.troubled |= met
            self.pending |= met and isinstance(rule.action, Late)
        return outcome

    async def meanwhile(self, step: Step) -> None:
        """What the next host does beside a step."""
        if not step.beside:
            return
        host = HOSTS[(HOSTS.index(step.host) + 1) % len(HOSTS)]
        if self.lines[host].down:
            return
        match step.beside:
            case "collect":
                self.note_collection()
                with trio.move_on_after(PATIENCE):
                    await collect_garbage(self.lines[host], self.vaults[host], grace=0.0, now=self.now)
            case "compact":
                with suppress(StoreError), trio.move_on_after(PATIENCE):
                    await compact_store(self.lines[host], self.vaults[host], train=False)
            case "check":
                await self.check(host)

    def note_collection(self) -> None:
        for opened in [*self.opened.values(), *self.acknowledged.values()]:
            opened.collected = True

    async def check(self, host: str) -> None:
        """A check beside whatever goes on finds nothing that could be lost, and repairs nothing that is right."""
        line = self.lines[host]
        if line.down:
            return
        checked = await Checker(line, self.descriptor, grace=0.0, commit_age=0.0).run()
        assert views.only_waste(checked), checked.findings
        await repair(line, self.descriptor, checked, deadline=1.0)
