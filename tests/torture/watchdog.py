"""Sees to it that nothing hangs. A process that uses a mount cannot be ended while the mount is stuck: so it is the
daemon that is, and what was stuck is reported."""

import signal
import time

import trio

from tests.torture.faults import LONG_STOP, Chaos
from tests.torture.history import Began, last_event
from tests.torture.settings import HOSTS, workers

LOOK = 1.0
"""Seconds between two looks."""

REQUESTS = 8
"""Requests one after another that an operation may consist of, each of which may take the timeout of the mount."""

SLACK = 30.0
"""Seconds that a busy machine may need for an operation."""


async def watch(chaos: Chaos) -> None:
    """Watches all workers until it is cancelled."""
    limit = REQUESTS * chaos.settings.timeout + LONG_STOP + SLACK
    while True:
        await trio.sleep(LOOK)
        for host in HOSTS:
            if chaos.disturbed[host]:
                continue
            for worker in workers(host):
                event = last_event(chaos.settings.histories / f"{worker}.jsonl")
                if isinstance(event, Began) and time.monotonic() - event.at > limit:
                    waited = time.monotonic() - event.at
                    chaos.problems.append(
                        f"{worker} hangs since {waited:.0f} s: {event.kind} {event.path} {event.target}"
                    )
                    chaos.hosts[host].signal(signal.SIGKILL)
                    await chaos.mount(chaos.hosts[host])
