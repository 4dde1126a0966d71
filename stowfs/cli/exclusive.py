"""Being alone with a store, as far as this host can tell: for maintenance that a stalled writer could not survive."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from stowfs.config import HotTierOptions, StoreOptions, VaultOptions
from stowfs.errors import HotTierFailed
from stowfs.hot.tier import HotTier, slots
from stowfs.store.base import ObjectStore
from stowfs.vault.descriptor import Descriptor
from stowfs.vault.vault import open_vault


@asynccontextmanager
async def alone(
    store: ObjectStore, descriptor: Descriptor, options: StoreOptions, *, own: str | None = None
) -> AsyncIterator[None]:
    """Holds every hot tier of the store on this host but the slot `own`, and settles what was left in them.

    No mount or command that used the store before can begin meanwhile. Raises `HotTierBusy` where one is under way,
    `HotTierFailed` where commits could not be settled. Of other hosts nobody here knows anything.
    """
    tier = HotTierOptions()
    async with AsyncExitStack() as stack:
        for slot in await trio.to_thread.run_sync(slots, tier, descriptor.store_id):
            if slot == own:
                continue
            hot = await HotTier.open(tier, descriptor.store_id, slot)
            stack.push_async_callback(hot.close)
            if await hot.journal.rows():
                async with open_vault(store, hot, descriptor, VaultOptions(deadline=options.deadline)):
                    pass
            if left := len(await hot.journal.rows()):
                raise HotTierFailed(f"{left} commits in {hot.state_directory} are not settled yet: try again later")
        yield
