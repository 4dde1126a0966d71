"""Sending what mounts left behind on this host when they ended before everything was in the store."""

from dataclasses import dataclass

import trio

from stowfs.cli.leftovers import remember
from stowfs.cli.session import contact
from stowfs.config import HotTierOptions, StoreOptions, VaultOptions
from stowfs.errors import HotTierBusy
from stowfs.hot.tier import HotTier, slots
from stowfs.store.open import parse_store_url
from stowfs.vault.vault import open_vault


@dataclass(frozen=True, slots=True)
class Flushed:
    """What became of what waited: conversations stored, those that are not, with the reason; commits settled, those
    that are not; and slots that a mount holds, which sends them itself."""

    stored: int
    left: dict[str, str]
    settled: int
    unsettled: int
    busy: int


async def send_left(url: str, options: StoreOptions, timeout: float) -> Flushed:
    """Sends what was left for a store; gives up after `timeout` seconds. Raises what `contact` raises."""
    stored = settled = unsettled = busy = 0
    left: dict[str, str] = {}
    tier = HotTierOptions()
    async with contact(parse_store_url(url), options, writing=True) as reached:
        for slot in await trio.to_thread.run_sync(slots, tier, reached.descriptor.store_id):
            try:
                hot = await HotTier.open(tier, reached.descriptor.store_id, slot)
            except HotTierBusy:
                busy += 1
                continue
            try:
                commits, drafts = await trio.to_thread.run_sync(hot.journal.lengths)
                if commits or drafts:
                    remember(hot.state_directory, reached.store.url, reached.descriptor)
                    vault_options = VaultOptions(deadline=options.deadline, bundles=True)
                    async with open_vault(reached.store, hot, reached.descriptor, vault_options) as vault:
                        vault.queue_backlog()
                        entries = await vault.flusher.flush(timeout)
                        left |= {entry.path: str(entry.failure or "no time was left") for entry in entries}
                    commits_left, drafts_left = await trio.to_thread.run_sync(hot.journal.lengths)
                    stored += drafts - drafts_left
                    settled += commits - commits_left
                    unsettled += commits_left
            finally:
                await hot.close()
    return Flushed(stored, left, settled, unsettled, busy)
