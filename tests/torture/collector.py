"""Garbage collection with no grace, over and over, on a third host; some of its runs are killed."""

import random
import time
from dataclasses import dataclass

import trio

from tests.torture.faults import Chaos
from tests.torture.hosts import Host

PAUSE = 1.0
"""Seconds between two collections."""

KILLED = 0.15
"""The share of collections that are killed on their way."""


@dataclass
class Collections:
    """What was collected. `excused`: ended in an error while the store was away."""

    done: int = 0
    killed: int = 0
    excused: int = 0
    emptied: int = 0
    freed: int = 0


async def collect(host: Host, chaos: Chaos, seed: int, result: Collections) -> None:
    """Collects until it is cancelled."""
    chance = random.Random(f"{seed}/gc")
    while True:
        await trio.sleep(PAUSE)
        kill_after = chance.uniform(0.5, 4) if chance.random() < KILLED else None
        trash = ["--empty-trash"] if chance.random() < 0.7 else []
        began = time.monotonic()
        with trio.CancelScope(shield=True):
            done = await host.stowfs("gc", chaos.store.url, "--grace", "0", *trash, "--json", kill_after=kill_after)
        if done.status == 0:
            result.done += 1
            result.emptied += done.document["emptied"]["conversations"]
            result.freed += done.document["freed"]["segments"]
            chaos.problems += [f"gc could not read {kept['key']}: {kept['reason']}" for kept in done.document["kept"]]
        elif done.status is None and kill_after is not None:
            result.killed += 1
        elif chaos.was_disturbed({"store"}, began, time.monotonic()):
            result.excused += 1
        else:
            chaos.problems.append(f"gc failed: {done.status}: {done.stderr.strip()}")
