"""The tree that all hosts share, as a model: the steps that change it, and looks that compare.

Where an operation fails it may or may not have taken effect, so the model is a set of states; each look at the tree
leaves those that agree with it. A write that is on its way may land at any time, and what a host could not finish it
finishes when it can: as long as there may be such (`pending`), a look excludes nothing.

What a host has acknowledged is in the store, so one set of states serves all hosts.
"""

from contextlib import suppress
from dataclasses import replace

import trio
from hypothesis import event

from stowfs.errors import NoSuchPath, StoreError
from stowfs.vault.collect import collect_garbage
from stowfs.vault.compact import compact_store
from stowfs.vault.descriptor import read_descriptor
from stowfs.vault.expiry import MARGIN
from tests.support.audit import audit
from tests.support.dictionaries import dictionary
from tests.support.vaults import write
from tests.vault.machine import views
from tests.vault.machine.cluster import ASYNCHRONOUS, HOSTS, PATIENCE, SETTLED
from tests.vault.machine.state import State, ancestors
from tests.vault.machine.steps import FILES, Step, content
from tests.vault.machine.writers import Writers

DICTIONARIES = [dictionary(seed) for seed in range(3)]

LIFETIMES = [10.0, 60.0, MARGIN]
"""Seconds after which what has a deadline expires."""

PASSING = [1.0, 10.0, 60.0, 1.5 * MARGIN]
"""Seconds that pass at a time: past some deadlines, and past the margin of a collection."""


class World(Writers):
    """The hosts, and what is known of the tree."""

    # Steps

    async def take(self, step: Step) -> None:
        """One step of a sequence."""
        self.make_again()
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
            case "move" if any(step.meets_strays(state) for state in self.states):
                event("move: not tried")
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

    # Looking

    def make_again(self) -> None:
        """Hosts look directories up, for whatever reason."""
        self.states = {again for state in self.states for again in state.made_again()}

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
        self.make_again()
        files, directories = await views.files(vault), await views.directories(vault)
        matching = {s for s in self.states if dict(s.files) == files and s.directories == directories}
        assert matching, (
            views.sizes(files),
            directories,
            [(views.sizes(dict(s.files)), s.directories) for s in self.states],
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
        assert any(views.has_trash(state, found) for state in self.states), views.sizes(found)


def _either(step: Step, state: State) -> set[State]:
    results = step.results(state)
    return results.done | results.refused
