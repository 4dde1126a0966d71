"""Three hosts against a model: any sequence of operations, with crashes, lost answers, writes that land late,
conflicts, a store that goes away, dictionaries that change, deadlines that pass, checks, compaction, and collection
with no grace at all; and the same under bounds of the vault that are far lower than they are, so that what is rare
happens all the time.

The environment variable STOWFS_EXAMPLES sets how many sequences are tried under each of the circumstances.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest
import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from stowfs.conversation.segmenter import SegmenterParameters
from stowfs.store.memory import MemoryStore
from stowfs.vault import bundler, counts, expiry
from stowfs.vault import record as records
from stowfs.vault import ring as rings
from stowfs.vault.descriptor import create_descriptor
from tests.support.clock import Clock
from tests.support.vaults import ATTRIBUTES, Hosts, write
from tests.vault.machine.cluster import HOSTS
from tests.vault.machine.state import File, State
from tests.vault.machine.steps import DIRECTORIES, FILES, Step, content
from tests.vault.machine.troubles import CRASHES, TROUBLES
from tests.vault.machine.world import LIFETIMES, World

EXAMPLES = int(os.environ.get("STOWFS_EXAMPLES", "15"))
"""Sequences under each of the circumstances; a third of a second each."""

DEADLINE = 0.1
"""Seconds an operation tries while the store is away: a hundred requests to a store in memory."""

SECONDS = 60.0
"""In which a sequence ends, on a slow machine, too: nothing hangs."""

PARAMETERS = SegmenterParameters(minimum=4 << 10, target=12 << 10, maximum=24 << 10)
"""Small runs, so that small contents have segments of every kind."""

TRASH_SECONDS = 100 * 86400.0
"""Longer than a test: what is deleted stays until the trash is emptied."""


MEMORY = next((path for path in [Path("/dev/shm")] if path.is_dir()), None)
"""The hot tiers lie in memory where there is a file system for it: what crashes here are hosts, not their disks."""


@dataclass(frozen=True)
class Circumstances:
    """Bounds of the vault. `bundles`: every new conversation in a directory goes into a bundle, even one alone."""

    redirect_above: int = records.REDIRECT_ABOVE
    many: int = records.MANY
    capacity: int = rings.CAPACITY
    trash_seconds: float = TRASH_SECONDS
    forgetful: bool = False
    bundles: bool = False

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Applies them."""
        with (
            patch.object(records, "REDIRECT_ABOVE", self.redirect_above),
            patch.object(rings, "CAPACITY", self.capacity),
            patch.object(counts, "CAPACITY", self.capacity),
            patch.object(bundler, "LEAST", 1),
        ):
            yield


CIRCUMSTANCES = {
    "as they are": Circumstances(),
    "most payloads are redirected": Circumstances(redirect_above=8 << 10),
    "counts end early": Circumstances(many=3),
    "rings forget early": Circumstances(redirect_above=16 << 10, capacity=2, forgetful=True),
    "in bundles": Circumstances(bundles=True),
    "in bundles, and rings forget early": Circumstances(bundles=True, capacity=2, forgetful=True),
}

CHANGES = [
    "replace",
    "create",
    "append",
    "edit",
    "delete",
    "undelete",
    "rename",
    "rename to a free name",
    "chmod",
    "expire",
]
DIRECTORY_CHANGES = ["mkdir", "rmdir", "move"]
OTHERS = ["both", "open", "open", "open", "close", "close", "close", "look", "crash", "outage", "return", "return"]
MAINTENANCE = ["collect", "empty trash", "check", "deliver", "land"]
ASYNCHRONOUS = ["acknowledge", "acknowledge", "acknowledge", "flush", "flush"]
TIME = ["pass", "pass until the next", "close late", "close late", "close late"]
SIZES = ["dictionary", "dictionary", "compact", "compact"]
KINDS = [*CHANGES * 3, *DIRECTORY_CHANGES * 2, *OTHERS, *MAINTENANCE, *TIME, *ASYNCHRONOUS, *SIZES]
STEPS = st.builds(
    Step,
    kind=st.sampled_from(KINDS),
    host=st.sampled_from(HOSTS),
    path=st.sampled_from(FILES),
    other=st.sampled_from(FILES),
    directory=st.sampled_from(DIRECTORIES),
    target=st.sampled_from(DIRECTORIES),
    seed=st.integers(0, 40),
    trouble=st.sampled_from([""] * 12 + TROUBLES + CRASHES),
    nth=st.integers(1, 10),
    beside=st.sampled_from([""] * 9 + ["collect", "check", "compact"]),
    lifetime=st.sampled_from([None, None, *LIFETIMES]),
)

FIRST = {path: File(content(4 + 5 * number), ATTRIBUTES.mode) for number, path in enumerate(["x", "d/x", "d/s/x"])}
FIRST_DIRECTORIES = ["d", "d/s"]
"""What is there in the beginning."""


@pytest.mark.parametrize("name", CIRCUMSTANCES)
@pytest.mark.timeout(120 + 3 * EXAMPLES)
@settings(
    max_examples=EXAMPLES,
    # Explaining a failure takes longer than finding it, and shows nothing more.
    phases=[phase for phase in Phase if phase is not Phase.explain],
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
@given(st.lists(STEPS, min_size=10, max_size=25))
async def test_whatever_happens_the_tree_is_what_the_model_says(name: str, steps: list[Step]) -> None:
    circumstances = CIRCUMSTANCES[name]
    clock = Clock()
    with (
        tempfile.TemporaryDirectory(dir=MEMORY) as directory,
        circumstances.hold(),
        patch.object(expiry, "now_ns", lambda: clock.ns),
        trio.fail_after(SECONDS),
    ):
        store = MemoryStore(page_size=20)
        descriptor = await create_descriptor(
            store, segmenter=PARAMETERS, many=circumstances.many, trash_seconds=circumstances.trash_seconds
        )
        async with Hosts(
            store, Path(directory), descriptor=descriptor, deadline=DEADLINE, bundles=circumstances.bundles
        ) as hosts:
            world = World(hosts, store, descriptor, clock, circumstances.forgetful)
            for host in HOSTS:
                await world.start(host)
            for path in FIRST_DIRECTORIES:
                await world.vaults["a"].make_directory(path, ATTRIBUTES)
            for path, file in FIRST.items():
                await write(world.vaults["a"], path, file.data)
            world.states = {State.of(FIRST, FIRST_DIRECTORIES, {})}
            for step in steps:
                await world.take(step)
            await world.finish()
