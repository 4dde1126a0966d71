"""What is written on the hosts, from when it is opened to when it is in the store, or beside what won."""

from dataclasses import replace

import msgspec
from hypothesis import event

from stowfs.errors import CorruptObject, NoSuchPath, StoreError
from stowfs.vault.bundled_store import BundledStore
from stowfs.vault.draft import Intent
from stowfs.vault.naming import MANIFESTS
from tests.support.vaults import ATTRIBUTES, flush
from tests.vault.machine.cluster import ASYNCHRONOUS, Cluster
from tests.vault.machine.opened import Opened
from tests.vault.machine.state import File, parent
from tests.vault.machine.steps import Step, content


class Writers(Cluster):
    """Opening, closing, acknowledging and flushing drafts."""

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
        refused = {state for state in states if opened.comes_too_late(state, self.clock.ns)}
        after = states if beside else {opened.closed(state) for state in states - refused}
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
            after = {
                end
                for state in states
                for end in opened.flushed(state, beside, self.clock.ns, forgetful=self.forgetful)
            }
            done = opened.key not in left
            states = after if done and not self.pending else states | after
            assert states, (opened.path, opened.intent, beside)
            if done:
                states = {replace(state, stored=state.stored - {opened.key}) for state in states}
                del self.acknowledged[opened.key]
                event(f"flushed: {opened.intent.value}")
        self.states = states

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

    async def forget_conflicts(self, opened: Opened) -> bool:
        """An edit that lost lies beside the winner, whole. Returns whether there was one."""
        return bool(await self.conflicts({opened.path: opened}))

    async def conflicts(self, edits: dict[str, Opened]) -> set[str]:
        """Which of these edits lie beside what won, whole; they are removed."""
        bundled = BundledStore(self.store, deadline=1.0, read_only=True)
        keys = [info.key async for page in bundled.list(MANIFESTS) for info in page.objects]
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
