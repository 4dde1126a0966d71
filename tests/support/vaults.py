"""Hosts for vault tests: each with a hot tier of its own on one shared store, to be closed properly or to crash.

async with Hosts(store, tmp_path) as hosts:
    a = await hosts.start("a")
    ...
    await hosts.crash("a")          # as kill -9: whatever was under way ends here
    a = await hosts.start("a")      # recovers
"""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import trio
import trio.testing

from stowfs.config import HotTierOptions, VaultOptions
from stowfs.errors import StoreError
from stowfs.hot.tier import HotTier
from stowfs.locks import Lock
from stowfs.store.base import ObjectStore
from stowfs.vault.backlog import Unshown
from stowfs.vault.descriptor import Descriptor, create_descriptor
from stowfs.vault.manifest import Attributes, Snapshot
from stowfs.vault.vault import Vault
from tests.support.faults import Action, Stall, StallAfter

ATTRIBUTES = Attributes(0o644, 0, 0, 1_700_000_000_000_000_000, 1_700_000_000_000_000_000)

DEADLINE = 5.0
"""Seconds an operation may take with its retries: long against what an in-memory store needs, short against a test's
timeout."""

SETTLED = 5.0
"""Seconds in which what an operation leaves behind is settled."""

GOES_ON = 0.05
"""Seconds for what does not depend on a request that is held."""


@dataclass
class _Host:
    vault: Vault
    hot: HotTier
    nursery: trio.Nursery
    ended: trio.Event


class Hosts:
    """Vaults on one store by host name."""

    def __init__(
        self,
        store: ObjectStore,
        directory: Path,
        *,
        descriptor: Descriptor | None = None,
        spool_short: int = HotTierOptions().spool_short,
        **options: object,
    ) -> None:
        self.store = store
        self.directory = directory
        self.descriptor = descriptor
        self._spool_short = spool_short
        self.options = options
        self._hosts: dict[str, _Host] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._nursery = await self._stack.enter_async_context(trio.open_nursery())
        if self.descriptor is None:
            self.descriptor = await create_descriptor(self.store, trash_seconds=0, training=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        try:
            await self.stop()
        finally:
            # Where a host has failed, this is what says why.
            ended = await self._stack.__aexit__(kind, error, trace)
        return ended

    async def start(self, name: str, store: ObjectStore | None = None, **options: object) -> Vault:
        """Starts a host; it begins to recover what it left when it crashed. `options`: its own, beside those of all."""
        assert self.descriptor is not None
        directory = self.directory / name
        tier = HotTierOptions(directory / "state", directory / "cache", spool_short=self._spool_short)
        hot = await HotTier.open(tier, self.descriptor.store_id, "test")
        host: _Host = await self._nursery.start(self._run, hot, store or self.store, options)
        self._hosts[name] = host
        return host.vault

    async def crash(self, name: str) -> None:
        """Ends a host at once, wherever it is; only its directory stays."""
        host = self._hosts.pop(name)
        host.nursery.cancel_scope.cancel()
        await host.ended.wait()
        await host.hot.close()

    async def attempt(
        self,
        name: str,
        work: Callable[[], Awaitable[object]],
        action: Action,
        *,
        meanwhile: Callable[[], Awaitable[None]] | None = None,
    ) -> bool:
        """Does something on a host and settles it, until that ends or is held at the request that `action` troubles;
        whether it succeeded. `meanwhile` is done as soon as `work` waits for something."""
        succeeded = False
        ended = trio.Event()

        async def carry_out() -> None:
            nonlocal succeeded
            try:
                await work()
                succeeded = True
                # Releases are part of it, too.
                await self._hosts[name].vault.drain(SETTLED)
            except StoreError:
                succeeded = False
            finally:
                ended.set()

        async def reach() -> None:
            if isinstance(action, Stall | StallAfter):
                await action.reached.wait()
                # Everything that does not depend on the stalled request goes on before the crash.
                await trio.sleep(GOES_ON)
                ended.set()

        self.start_soon(name, carry_out)
        self.start_soon(name, reach)
        if meanwhile is not None:
            await trio.testing.wait_all_tasks_blocked()
            await meanwhile()
        await ended.wait()
        return succeeded

    async def stop(self) -> None:
        """Ends every host as `crash` does."""
        for name in list(self._hosts):
            await self.crash(name)

    def start_soon(self, name: str, function: Callable[[], Awaitable[None]]) -> None:
        """Runs something as a part of a host: a crash ends it in the same instant as everything else there."""
        self._hosts[name].nursery.start_soon(function)

    async def _run(
        self, hot: HotTier, store: ObjectStore, own: dict[str, object], *, task_status: trio.TaskStatus[_Host]
    ) -> None:
        assert self.descriptor is not None
        ended = trio.Event()
        options = VaultOptions(**{"deadline": DEADLINE, **self.options, **own})  # type: ignore[arg-type]
        try:
            async with trio.open_nursery() as nursery:
                vault = Vault(store, hot, self.descriptor, options, nursery)
                await vault.recover()
                task_status.started(_Host(vault, hot, nursery, ended))
                await trio.sleep_forever()
        finally:
            ended.set()


async def write(
    vault: Vault,
    path: str,
    data: bytes,
    base: Snapshot | None = None,
    *,
    exclusive: bool = False,
    attributes: Attributes = ATTRIBUTES,
) -> Snapshot:
    """Commits `data` as the whole content of a conversation."""
    draft = vault.draft(path, base, attributes)
    if base is not None:
        draft.truncate(0)
    for offset in range(0, len(data), 128 * 1024):
        draft.write(offset, data[offset : offset + 128 * 1024])
    try:
        return await vault.commit(draft, exclusive=exclusive)
    finally:
        draft.discard()


async def append(vault: Vault, path: str, data: bytes) -> Snapshot:
    """Opens a conversation, appends, commits."""
    base = await vault.head(path)
    draft = vault.draft(path, base, base.attributes, appending=True)
    draft.write(base.size, data)
    try:
        return await vault.commit(draft)
    finally:
        draft.discard()


async def edit(vault: Vault, path: str, offset: int, data: bytes) -> Snapshot:
    """Opens a conversation, overwrites some bytes, commits."""
    base = await vault.head(path)
    draft = vault.draft(path, base, base.attributes)
    draft.write(offset, data)
    try:
        return await vault.commit(draft)
    finally:
        draft.discard()


async def flush(vault: Vault) -> None:
    """Brings everything into the store that is acknowledged."""
    for draft in vault.backlog.drafts:
        await vault.backlog.flush(draft, Lock(), Unshown)


async def read(vault: Vault, path: str) -> bytes:
    """The whole content of a conversation."""
    snapshot = await vault.head(path)
    return await vault.read(snapshot, 0, snapshot.size)


async def read_in_steps(vault: Vault, path: str, step: int) -> bytes:
    """The whole content of a conversation, as a program reads it that asks for so many bytes at a time."""
    snapshot = await vault.head(path)
    parts = [await vault.read(snapshot, start, start + step) for start in range(0, snapshot.size, step)]
    return b"".join(parts)
