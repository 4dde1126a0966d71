"""What goes wrong, when, and for how long: a plan that follows from the seed, and carrying it out.

Each host and the store have a timeline of their own, so that faults meet in every way. A pause counts from the end of
the fault before.
"""

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from typing import Literal

import trio

from tests.torture.history import Operation
from tests.torture.hosts import Host
from tests.torture.settings import Settings, workers
from tests.torture.stores import Store

Action = Literal["kill", "stop", "stop and kill", "remount", "down", "freeze"]

HOST_ACTIONS: tuple[Action, ...] = ("kill", "stop", "kill", "stop and kill", "remount")
STORE_ACTIONS: tuple[Action, ...] = ("down", "freeze", "down")

LONG_STOP = 24.0
"""Seconds of the longest stops: more than any timeout of a single request has."""

LONG_STOP_FROM = 120.0
"""Seconds of a run from which on there are such stops."""

MOUNT_PATIENCE = 60.0
"""Seconds for which a mount is tried again: several times the longest outage."""

AFTERMATH = 5.0
"""Seconds after a fault in which an operation may still fail of it: connections that are dead, and a busy machine."""

LEAVE_TIMEOUT = 60.0
"""Seconds for the workers of a host to come to the end of what they are doing."""


@dataclass(frozen=True, slots=True)
class Fault:
    """After `pause` seconds, `action` for `seconds` (or at once)."""

    pause: float
    action: Action
    seconds: float


def plan(settings: Settings, target: str) -> Iterator[Fault]:
    """The faults of a host, or of the "store", without end."""
    chance = random.Random(f"{settings.seed}/faults/{target}")
    of_store = target == "store"
    # Each kind soon, and a different one first on each host.
    first: list[Action] = ["down"] if of_store else ["kill" if target == "a" else "stop"]
    while True:
        actions = list(STORE_ACTIONS if of_store else HOST_ACTIONS)
        chance.shuffle(actions)
        for action in first + actions:
            seconds = settings.timeout * chance.uniform(0.3 if of_store else 1.2, 2.5)
            if not of_store and settings.seconds >= LONG_STOP_FROM and chance.random() < 0.1:
                seconds = LONG_STOP
            yield Fault(chance.uniform(5, 15) if of_store else chance.uniform(2, 8), action, seconds)
        first = []


@dataclass
class Chaos:
    """Carries plans out.

    `disturbed`: how many faults are under way, by target. `spells`: the target, beginning and end of each that is over.
    `problems`: what should not be.
    """

    settings: Settings
    hosts: dict[str, Host]
    store: Store
    options: str
    done: Counter[str] = field(default_factory=Counter)
    disturbed: Counter[str] = field(default_factory=Counter)
    spells: list[tuple[str, float, float]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    async def torment(self, target: str, tell: Callable[[str], None]) -> None:
        """Carries out the plan of one target, until it is cancelled; what was begun is brought to its end."""
        for fault in plan(self.settings, target):
            await trio.sleep(fault.pause)
            with trio.CancelScope(shield=True):
                tell(f"{target}: {fault.action} ({fault.seconds:.1f} s)")
                self.done[fault.action] += 1
                self.disturbed[target] += 1
                began = time.monotonic()
                try:
                    if target == "store":
                        await self._fail_store(fault)
                    else:
                        await self._fail_host(self.hosts[target], fault)
                finally:
                    self.disturbed[target] -= 1
                    self.spells.append((target, began, time.monotonic()))

    def was_disturbed(self, targets: Container[str], began: float, ended: float) -> bool:
        """Whether anything that happened between two times may have come of a fault of one of the targets."""
        return any(self.disturbed[target] for target in self.disturbed if target in targets) or any(
            target in targets and start <= ended and began <= end + AFTERMATH for target, start, end in self.spells
        )

    def disturbs(self, operation: Operation) -> bool:
        """Whether what became of an operation may have come of a fault of its host or of the store."""
        return self.was_disturbed({"store", operation.host}, operation.began.at, operation.ended.at)

    async def _fail_store(self, fault: Fault) -> None:
        if fault.action == "down":
            await self.store.down()
            await trio.sleep(fault.seconds)
            await self.store.up()
        else:
            self.store.freeze()
            await trio.sleep(fault.seconds)
            self.store.thaw()

    async def _fail_host(self, host: Host, fault: Fault) -> None:
        match fault.action:
            case "stop":
                host.signal(signal.SIGSTOP)
                await trio.sleep(fault.seconds)
                host.signal(signal.SIGCONT)
                return
            case "remount":
                await self._remount(host)
                return
            case "stop and kill":
                host.signal(signal.SIGSTOP)
                await trio.sleep(fault.seconds)
        host.signal(signal.SIGKILL)
        await self.mount(host)

    async def mount(self, host: Host) -> None:
        """Mounts a host again."""
        if not await host.mount(self.options, patience=MOUNT_PATIENCE):
            self.problems.append(f"{host.name} could not be mounted again: {host.mount_failures[-1]}")

    async def _remount(self, host: Host) -> None:
        """Unmounts as a user does, when nobody uses the mount, and mounts again."""
        pause = self.settings.pause(host.name)
        flags = [self.settings.paused(worker) for worker in workers(host.name)]
        pause.touch()
        try:
            with trio.move_on_after(LEAVE_TIMEOUT):
                while not all(flag.exists() for flag in flags):  # noqa: ASYNC110 - other processes make them
                    await trio.sleep(0.05)
            await self.unmount(host)
            await self.mount(host)
        finally:
            pause.unlink()

    async def unmount(self, host: Host) -> int | None:
        """Unmounts; how many commits are left to settle, `None` where it failed."""
        done = await host.stowfs("umount", "--timeout", "120", "--json", str(host.mountpoint))
        if done.status != 0:
            self.problems.append(f"{host.name} could not be unmounted: {done.status}: {done.stderr.strip()}")
            return None
        document = done.document
        if document["daemon_was_dead"]:
            self.problems.append(f"the daemon of {host.name} had died")
        return int(document["queued"] or 0)
