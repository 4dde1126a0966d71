"""A process that takes a slot, journals a commit and an acknowledged draft, says so, and waits to be killed."""

import sys
from pathlib import Path

import trio

from stowfs.config import HotTierOptions
from stowfs.hot.journal import DraftRow, JournalRow
from stowfs.hot.tier import HotTier

SPOOLED = b"spooled before the kill"


async def main(state_root: str, cache_root: str, store_id: str, slot: str, commit_id: str) -> None:
    options = HotTierOptions(state_root=Path(state_root), cache_root=Path(cache_root))
    tier = await HotTier.open(options, store_id, slot)
    file = tier.spool.create(commit_id)
    file.append(SPOOLED)
    sealed = file.seal()
    await trio.to_thread.run_sync(file.sync)
    await tier.journal.record(JournalRow(commit_id, "recorded", b"payload"))
    await tier.journal.change_drafts([DraftRow("replaced", b"", None)])
    await tier.journal.change_drafts([DraftRow(commit_id, str(sealed).encode(), b"base")], ["replaced"])
    file.append(b"promised to nobody")
    print("recorded", flush=True)
    await trio.sleep_forever()


if __name__ == "__main__":
    _, state_root, cache_root, store_id, slot, commit_id = sys.argv
    trio.run(main, state_root, cache_root, store_id, slot, commit_id)
