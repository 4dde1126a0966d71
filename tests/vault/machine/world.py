"""The hosts, each with a line of its own to one store, and the states that the tree may be in.

Where an operation fails it may or may not have taken effect, so the model is a set of states; each look at the tree
leaves those that agree with it. A write that is on its way may land at any time, and what a host could not finish it
finishes when it can: as long as there may be such (`pending`), a look excludes nothing.

What a host has acknowledged is in the store, so one set of states serves all hosts (`World.seen_by`).
"""

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

import msgspec
import trio
from hypothesis import event

from stowfs.errors import CorruptObject, NoSuchPath, StoreError
from stowfs.store.memory import MemoryStore
from stowfs.vault.check import Checker
from stowfs.vault.collect import collect_garbage
from stowfs.vault.compact import compact_store
from stowfs.vault.descriptor import Descriptor, read_descriptor
from stowfs.vault.draft import Draft, Intent
from stowfs.vault.expiry import MARGIN, NANOSECONDS
from stowfs.vault.repair import repair
from stowfs.vault.vault import Vault
from tests.support.audit import audit
from tests.support.clock import Clock
from tests.support.dictionaries import dictionary
from tests.support.faults import FaultyStore, Late, Stall, StallAfter
from tests.support.vaults import ATTRIBUTES, Hosts, flush, write
from tests.vault.machine import troubles, views
from tests.vault.machine.state import File, State, ancestors, parent
from tests.vault.machine.steps import FILES, REFUSALS, Step, content

HOSTS = ["a", "b", "c"]

ASYNCHRONOUS = "c"
"""The host with commit=async: what is open there is acknowledged when it is closed, and flushed some time later."""

DICTIONARIES = [dictionary(seed) for seed in range(3)]

LIFETIMES = [10.0, 60.0, MARGIN]
"""Seconds after which what has a deadline expires."""

PASSING = [1.0, 10.0, 60.0, 1.5 * MARGIN]
"""Seconds that pass at a time: past some deadlines, and past the margin of a collection."""

PATIENCE = 0.5
"""Seconds that a collection may take: while the store is away it waits for releases that cannot be done."""

SETTLED = 20.0
"""Seconds in which a host that reaches the store comes to rest, far more than it takes."""


@dataclass
class Opened:
    """A draft that a host has open, made on what the conversation was then. `expires_ns`: its own deadline, which is
    that of the base unless it replaces everything."""

    path: str
    draft: Draft
    base: File | None
    written: bytes
    intent: Intent
    expires_ns: int | None
    collected: bool = False
    """Since it was opened there was a collection without grace: what it is based on may be gone."""
    exclusive: bool = False
    key: str = ""
    """By what an acknowledged draft is known: its id, which becomes another one when it is in the store."""


@dataclass
class World:
    """The hosts, and what is known of the tree. `forgetful`: rings forget what is still needed, so that what is tried
    again may be done twice, and counts may be too high."""

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

    # Hosts

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

    def seen_by(self, _host: str) -> set[State]:
        """The states that the tree may be in for a host."""
        return self.states

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

    # Steps

    async def take(self, step: Step) -> None:
        """One step of a sequence."""
        step = step.aimed(self.states)
        if step.lifetime is not None:
            step = replace(step, expires_ns=self.clock.after(step.lifetime))
        match step.kind:
            case "pass":
                self.pass_time(PASSING[step.seed % len(PASSING)])
            case "pass until the next":
                self.pass_until_next(set(FILES))
            case "close late":
                await self.close_late(step)
            case "crash":
                await self.restart(step.host)
            case "land":
                await self.land()
            case "deliver":
                # Late writes of what was given up long ago, or that arrive before anybody looks for them.
                await (self.rest() if step.seed % 2 else self.land())
                await (self.land() if step.seed % 2 else self.rest())
                self.pending = False
            case "outage":
                self.lines[step.host].down = True
                self.troubled = True
            case "return":
                for line in self.lines.values():
                    line.down = False
            case "collect" | "empty trash":
                await self.collect(step)
            case "compact":
                await self.compact(step)
            case "check":
                await self.check(step.host)
            case "open":
                await self.open(step)
            case "close":
                await self.close(step)
            case "acknowledge":
                await self.open(replace(step, host=ASYNCHRONOUS))
                if ASYNCHRONOUS in self.opened:
                    await self.acknowledge(self.opened[ASYNCHRONOUS])
            case "flush":
                await self.flush(replace(step, host=ASYNCHRONOUS))
            case "dictionary":
                await self.change_dictionary(step)
            case "both":
                await self.both(step)
            case "look":
                await self.look(step.host)
            case "move" if self.pending:
                # Where a file of the directory may still come or go, too many states are possible.
                await self.rest()
                await self.land()
                self.pending = False
                await self.attempt(step)
            case _:
                await self.attempt(step)

    async def change_dictionary(self, step: Step) -> None:
        """From now on, a host compresses with another dictionary, and so do those that meet it."""
        with suppress(StoreError):  # the store is away: it goes on with the one it has
            await self.vaults[step.host].dictionaries.publish(DICTIONARIES[step.seed % len(DICTIONARIES)], deadline=0.1)

    async def attempt(self, step: Step) -> None:
        """An operation, with its trouble; then the states it may have led to."""
        before = set(self.states)
        results = {state: step.results(state) for state in before}
        done = {new for result in results.values() for new in result.done}
        refused = {new for result in results.values() for new in result.refused}
        between = {new for state in before for new in step.between(state)}
        cut_off = self.lines[step.host].down
        outcome = await self.run(step, lambda: step.carry_out(self.vaults[step.host]))
        event(f"{step.kind}: {outcome}")
        match outcome:
            case "done" if step.is_idle:
                # It was there, but nothing was written: a removal that is on its way may still land.
                self.states |= done
            case "done":
                self.states = done
                if step.kind == "rmdir" and self.pending:
                    # What lands in it later was not seen.
                    self.states = done | {state.without_directory(step.directory) for state in before}
            case "refused" if self.pending:
                self.states |= refused | (between if step.is_long else set())
            case "refused":
                self.states = refused
            case _ if cut_off:
                pass  # nothing of it has left the host
            case _ if step.kind == "move":
                # It goes on in the background, and takes along what is done meanwhile: too many states are possible.
                await self.rest()
                await self.land()
                self.states = before | done | between
            case _:
                self.states = before | done | between
                # Once a new name is there, the old one goes as soon as the store is back.
                self.pending |= step.kind in ("rename", "rename to a free name")
        assert self.states, (step, outcome)

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

    async def compact(self, step: Step) -> None:
        """A compaction changes nothing, however far it comes."""

        async def compact() -> None:
            with trio.move_on_after(PATIENCE) as scope:
                compacted = await compact_store(self.lines[step.host], self.vaults[step.host], train=False)
                assert compacted.unread == ()
                event(f"compact: {compacted.conversations > 0}, {compacted.segments > 0}")
            if scope.cancelled_caught:
                raise StoreError("given up")

        await self.run(step, compact)

    async def collect(self, step: Step) -> None:
        """A collection without any grace; with it, perhaps, the trash goes."""
        trash = 0.0 if step.kind == "empty trash" else None
        cut_off = self.lines[step.host].down
        self.note_collection()

        async def collect() -> None:
            with trio.move_on_after(PATIENCE) as scope:
                await collect_garbage(
                    self.lines[step.host], self.vaults[step.host], grace=0.0, trash=trash, now=self.now
                )
            if scope.cancelled_caught:
                raise StoreError("given up")

        before = await self.expired_in_store()
        outcome = await self.run(step, collect)
        event(f"{step.kind}: {outcome}")
        if outcome == "done" and not self.pending:
            # Given up is what any host whose clock is slow would see as expired, too, and nothing else.
            after = await self.expired_in_store()
            assert not after[True], after
            assert after[False] == before[False], (before, after)
        if trash is None or cut_off:
            return
        if outcome == "done" and not self.pending:
            self.states = {state.without_trash() for state in self.states}
        else:
            self.states = {state.with_trash_in_doubt() for state in self.states}

    async def expired_in_store(self) -> dict[bool, set[str]]:
        """What has expired and still has its content, and was not deleted: that is to be given up, or not yet."""
        found: dict[bool, set[str]] = {True: set(), False: set()}
        for path, (deadline, deleted) in (await views.deadlines(self.store)).items():
            if deadline <= self.clock.time() and not deleted:
                found[deadline <= self.clock.time() - MARGIN].add(path)
        return found

    def note_collection(self) -> None:
        for opened in [*self.opened.values(), *self.acknowledged.values()]:
            opened.collected = True

    async def check(self, host: str) -> None:
        """A check beside whatever goes on finds nothing that could be lost, and repairs nothing that is right."""
        line = self.lines[host]
        if line.down:
            return
        checked = await Checker(line, self.descriptor, grace=0.0).run()
        assert views.only_waste(checked), checked.findings
        await repair(line, self.descriptor, checked, deadline=1.0)

    async def both(self, step: Step) -> None:
        """Two hosts at once; either order, and an append to what is deleted at the moment."""
        kinds = ["append", "replace", "delete"]
        hosts = [host for host in HOSTS if not self.lines[host].down]
        if len(hosts) < 2:
            return

        def of(kind: str, host: str, seed: int) -> Step:
            return Step(kind, host, step.path, step.path, "", "", seed, "", 1, "")

        one, other = of(kinds[step.seed % 3], hosts[0], step.seed), of(kinds[step.nth % 3], hosts[1], step.nth + 7)
        results: set[State] = set()
        for state in self.states:
            for first, second in ((one, other), (other, one)):
                results |= {end for middle in _either(first, state) for end in _either(second, middle)}
                if {first.kind, second.kind} == {"append", "delete"} and state.file(step.path) is not None:
                    results |= (first if first.kind == "append" else second).results(state).done

        async def carry_out(step: Step) -> None:
            try:
                await step.carry_out(self.vaults[step.host])
            except NoSuchPath:
                event("both: refused")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(carry_out, one)
            nursery.start_soon(carry_out, other)
        self.states = results | (self.states if self.pending else set())

    # Drafts

    async def open(self, step: Step) -> None:
        """Begins to write to a conversation; on the host with commit=async perhaps to a new one."""
        vault = self.vaults[step.host]
        if step.host in self.opened or self.lines[step.host].down:
            return
        if step.host == ASYNCHRONOUS and step.path in [opened.path for opened in self.acknowledged.values()]:
            return  # a mount goes on with that draft
        try:
            base = await vault.head(step.path)
        except NoSuchPath:
            if step.host == ASYNCHRONOUS:
                await self.open_new(step)
            return
        data = content(step.seed)
        before = File(await vault.read(base, 0, base.size), base.attributes.mode, base.attributes.expires_ns)
        expires_ns = before.expires_ns if step.seed % 3 else step.expires_ns
        draft = vault.draft(step.path, base, msgspec.structs.replace(ATTRIBUTES, expires_ns=expires_ns))
        match step.seed % 3:
            case 0:
                draft.truncate(0)
                draft.write(0, data)
            case 1:
                draft.write(draft.size, data)
            case _:
                draft.write(draft.size // 2, data)
        written = await draft.read(0, draft.size)
        self.opened[step.host] = Opened(step.path, draft, before, written, draft.intent, expires_ns)

    async def open_new(self, step: Step) -> None:
        """Begins to write a new conversation, perhaps with O_EXCL."""
        vault = self.vaults[step.host]
        try:
            await vault.head(parent(step.path))
        except NoSuchPath:
            return
        draft = vault.draft(step.path, None, msgspec.structs.replace(ATTRIBUTES, expires_ns=step.expires_ns))
        draft.exclusive = step.seed % 2 == 0
        draft.write(0, content(step.seed))
        self.opened[step.host] = Opened(
            step.path, draft, None, content(step.seed), draft.intent, step.expires_ns, exclusive=draft.exclusive
        )

    async def close(self, step: Step) -> None:
        """Commits what a host began to write, perhaps long ago; where that fails, again."""
        if not self.opened:
            return
        if step.host not in self.opened:
            step = replace(step, host=next(iter(self.opened)))
        opened = self.opened[step.host]
        if step.host == ASYNCHRONOUS:
            await self.acknowledge(opened)
            return
        states = set(self.states)

        async def commit() -> None:
            try:
                await self.vaults[step.host].commit(opened.draft)
            except CorruptObject:
                # Collected without grace, while only this draft still stood on it.
                if not opened.collected:
                    raise
                raise StoreError("its base is gone") from None

        outcome = await self.run(step, commit)
        self.opened.pop(step.host, None)
        if outcome == "failed" and not opened.collected and not self.forgetful:
            self.lines[step.host].down = False
            outcome = await self.run(Step("close", step.host, "", "", "", "", 0, "", 1, ""), commit)
            assert outcome in ("done", "refused")
        event(f"close: {opened.intent.value}: {outcome}")
        if outcome != "crashed":
            opened.draft.discard()
        beside = await self.forget_conflicts(opened)
        refused = {state for state in states if self.comes_too_late(state, opened)}
        after = states if beside else {self.closed(state, opened) for state in states - refused}
        match outcome:
            case "done" if not self.pending:
                self.states = after
            case "refused" if not self.pending:
                self.states = refused
            case _:
                self.states = states | after
        assert self.states, (step, opened.intent, outcome)

    async def acknowledge(self, opened: Opened) -> None:
        """What is open on the host with commit=async becomes durable there, whether or not the store answers."""
        vault = self.vaults[ASYNCHRONOUS]
        await vault.acknowledge(opened.draft)
        opened.key = opened.draft.id
        self.acknowledged[opened.key] = opened
        self.opened.pop(ASYNCHRONOUS)
        event(f"acknowledge: {opened.intent.value}")

    async def flush(self, step: Step) -> None:
        """What is acknowledged goes to the store, all of it unless that fails. What is left is what it was, but may be
        in the store already."""
        waiting = [self.acknowledged[draft.id] for draft in self.vaults[step.host].backlog.drafts]
        assert waiting == list(self.acknowledged.values())
        states = set(self.states)
        cut_off = self.lines[step.host].down

        async def carry_out() -> None:
            try:
                await flush(self.vaults[step.host])
            except CorruptObject:
                if not any(opened.collected for opened in waiting):
                    raise
                raise StoreError("a base is gone") from None

        outcome = await self.run(step, carry_out)
        event(f"flush: {outcome}")
        if cut_off or not waiting:
            return
        left = {draft.id for draft in self.vaults[step.host].backlog.drafts}
        assert not left or outcome != "done"
        beside = await self.conflicts({opened.path: opened for opened in waiting})
        for opened in waiting:
            after = {end for state in states for end in self.flushed(state, opened, beside)}
            done = opened.key not in left
            states = after if done and not self.pending else states | after
            assert states, (opened.path, opened.intent, beside)
            if done:
                states = {replace(state, stored=state.stored - {opened.key}) for state in states}
                del self.acknowledged[opened.key]
                event(f"flushed: {opened.intent.value}")
        self.states = states

    def flushed(self, state: State, opened: Opened, beside: set[str]) -> set[State]:
        """What may be where an acknowledged draft has been committed; where it was kept beside, that was seen."""
        if opened.key in state.stored or self.comes_too_late(state, opened):
            return {state}
        if opened.path in beside and opened.intent is Intent.EDIT:
            # Also where another conversation took its place that has the same bytes, but is cut otherwise.
            return {state}
        if self.loses(state, opened) or (self.forgetful and opened.path in beside):
            return {state} if opened.path in beside else set()
        end = self.closed(state, opened)
        return {replace(end, stored=end.stored | {opened.key})}

    async def flush_all(self) -> None:
        """Everything that is acknowledged goes to the store; what stood on something collected without grace cannot."""
        while self.acknowledged:
            await self.flush(Step("flush", ASYNCHRONOUS, "", "", "", "", 0, "", 1, ""))
            # A flush ends with the first that cannot be stored.
            for key, opened in list(self.acknowledged.items())[:1]:
                assert opened.collected
                await self.vaults[ASYNCHRONOUS].backlog.withdraw(opened.draft)
                opened.draft.discard()
                del self.acknowledged[key]

    def comes_too_late(self, state: State, opened: Opened) -> bool:
        """Whether a draft is not committed, because what was written to has expired. One that replaces everything has
        nothing to do with the deadline of what it replaces; any other follows what has the name now."""
        current = state.file(opened.path)
        over = opened.expires_ns is not None and opened.expires_ns <= self.clock.ns
        if opened.intent is Intent.REPLACE:
            return over
        if current is None:
            last = state.deadline_of_last(opened.path)
            return over or (last is not None and last <= self.clock.ns)
        # An edit that lost would be kept beside, with the deadline that it has.
        return over and self.loses(state, opened)

    @staticmethod
    def loses(state: State, opened: Opened) -> bool:
        """Whether a draft can only be kept beside what is there."""
        current = state.file(opened.path)
        if current is None or opened.base is None:
            return current is not None and opened.exclusive
        return opened.intent is Intent.EDIT and current.data != opened.base.data

    async def close_late(self, step: Step) -> None:
        """A host has a conversation open when its deadline comes, which may be one that another host sets meanwhile,
        and commits then."""
        await self.open(step)
        if step.host not in self.opened:
            return
        path = self.opened[step.host].path
        if step.nth % 3:
            other = HOSTS[(HOSTS.index(step.host) + 1) % len(HOSTS)]
            await self.attempt(replace(step, kind="expire", host=other, path=path, trouble="", beside=""))
        self.pass_until_next({path})
        if step.nth % 2:
            await self.collect(replace(step, kind="collect", trouble="", beside=""))
        await self.close(replace(step, kind="close"))

    @staticmethod
    def closed(state: State, opened: Opened) -> State:
        """What a draft makes of a state. The mode is the draft's, unless it was changed elsewhere only."""
        current = state.file(opened.path)
        if current is None:
            return state.with_file(opened.path, File(opened.written, ATTRIBUTES.mode, opened.expires_ns))
        if opened.base is None:
            return state.with_file(opened.path, File(opened.written, ATTRIBUTES.mode, opened.expires_ns))
        mode = current.mode if opened.base.mode == ATTRIBUTES.mode else ATTRIBUTES.mode
        match opened.intent:
            case Intent.APPEND:
                data = current.data + opened.written[len(opened.base.data) :]
            case Intent.EDIT if current.data != opened.base.data:
                return state  # kept beside
            case _:
                data = opened.written
        expires_ns = opened.expires_ns if opened.intent is Intent.REPLACE else current.expires_ns
        return state.with_file(opened.path, File(data, mode, expires_ns))

    async def forget_conflicts(self, opened: Opened) -> bool:
        """An edit that lost lies beside the winner, whole. Returns whether there was one."""
        return bool(await self.conflicts({opened.path: opened}))

    async def conflicts(self, edits: dict[str, Opened]) -> set[str]:
        """Which of these edits lie beside what won, whole; they are removed."""
        keys = [info.key async for page in self.store.list("manifests/") for info in page.objects]
        if not any(".conflict-" in key for key in keys):
            return set()
        host = next(iter(self.vaults))
        self.lines[host].down = False
        vault = self.vaults[host]
        lost = [snapshot async for snapshot in vault.walk() if ".conflict-" in snapshot.path]
        for snapshot in lost:
            opened = edits[snapshot.path.partition(".conflict-")[0]]
            assert opened.intent is Intent.EDIT or opened.exclusive or (opened.key and self.forgetful)
            if not opened.collected:
                assert await vault.read(snapshot, 0, snapshot.size) == opened.written
            await vault.remove(snapshot.path)
            event("conflict")
        return {snapshot.path.partition(".conflict-")[0] for snapshot in lost}

    # Looking

    async def look(self, host: str) -> None:
        """Reads everything: it is one of the states that the tree may be in; and what is there is listed."""
        vault = self.vaults[host]
        if self.lines[host].down:
            return
        if host == ASYNCHRONOUS:
            for opened in self.acknowledged.values():
                # Restored after a crash or not, it is what was acknowledged.
                if not opened.collected:
                    assert await opened.draft.read(0, opened.draft.size) == opened.written
        files, directories = await views.files(vault), await views.directories(vault)
        expected = self.seen_by(host)
        matching = {s for s in expected if dict(s.files) == files and s.directories == directories}
        assert matching, (
            views.sizes(files),
            directories,
            [(views.sizes(dict(s.files)), s.directories) for s in expected],
        )
        if self.pending:
            return
        listed = await views.listed(vault)
        # A directory that was removed while something was written in it is made again by whoever lists its parent.
        again = await views.directories(vault) - directories
        assert again <= {above for path in [*files, *directories] for above in ancestors(path)}
        self.states = {state.with_directories(again) for state in matching}
        directories |= again
        reachable = {path for path in [*files, *directories] if directories.issuperset(ancestors(path))}
        assert listed == reachable

    async def finish(self) -> None:
        """Everything comes to rest, is what it should be, and nothing is counted wrongly; a repair changes nothing that
        is in use, and leaves nothing that is not."""
        for opened in self.opened.values():
            opened.draft.discard()
        self.opened.clear()
        await self.rest()
        await self.land()
        self.pending = False
        await self.flush_all()
        for host in HOSTS:
            await self.look(host)
            await self.restart(host)
            assert await self.vaults[host].drain(SETTLED) == 0
        await self.start("fresh")
        await self.look("fresh")
        await self.look_at_trash("fresh")
        await self.hosts.stop()
        self.vaults.clear()
        await views.close_accounts(self.store, self.descriptor, exact=not self.troubled, leaks=self.forgetful)
        await self.start("last")
        self.pass_time(max(LIFETIMES))
        await self.look("last")
        await self.look_at_trash("last")
        self.pass_time(MARGIN)
        await self.collect(Step("collect", "last", "", "", "", "", 0, "", 1, ""))
        await self.look("last")
        await self.look_at_trash("last")
        # One of the first hosts comes back: what it remembers of the store must not mislead it.
        self.hosts.descriptor = await read_descriptor(self.store)
        await self.start("a")
        for seed in range(1, 6):
            await write(self.vaults["a"], f"again-{seed}", content(seed))
        assert await self.vaults["a"].drain(SETTLED) == 0
        counted = await audit(self.store, many=self.descriptor.many)
        assert counted.exact or (self.forgetful and counted.safe), counted

    async def look_at_trash(self, host: str) -> None:
        """What can be brought back is what was deleted, and can be read."""
        found = await views.trash(self.vaults[host])
        assert any(views.has_trash(state, found) for state in self.seen_by(host)), views.sizes(found)


def _either(step: Step, state: State) -> set[State]:
    results = step.results(state)
    return results.done | results.refused
