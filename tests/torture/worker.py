"""A process that uses a mount: `python -m tests.torture.worker SETTINGS NAME UNTIL`.

What it does follows from the seed and its name. It has files of its own, which nobody else changes and everybody may
read (some that it writes in place, some that appear whole by a rename), and takes part in what all workers do: append
to the same logs, replace the same files by renames, be the first to create one.

What it does not know the outcome of it does not build upon: the next thing it does to such a file is to replace or to
remove it. Files written in place are read by their writer and by the other host only, since programs of one host see
what is not closed yet.
"""

import random
import sys
import time
from collections.abc import Callable

import msgspec

from tests.torture import content
from tests.torture.client import Client, MountGone
from tests.torture.history import Ended, Recorder
from tests.torture.settings import LOGS, RACES, Settings, everybody, host_of

IN_PLACE = 3
WHOLE = 3
"""Files of each kind that a worker has."""

PARTS = 12
"""Parts that a file has at most, before it is replaced: the whole run is not to be spent on reading."""

IDLE = 0.03
"""Seconds that a worker rests after an operation, on average: the machine is not to be the bottleneck."""


class Worker:
    """One worker."""

    def __init__(self, settings: Settings, name: str) -> None:
        self.settings = settings
        self.name = name
        self.chance = random.Random(f"{settings.seed}/{name}")
        recorder = Recorder(settings.histories / f"{name}.jsonl")
        self.client = Client(settings.mountpoint(host_of(name)), recorder, settings.seed)
        # How many parts each of its files has, as far as it knows: 0 where there is no file, -1 where that is in doubt.
        self.known: dict[str, int] = {}
        self.claims = 0

    def run(self, until: float) -> None:
        """Works until that time of the monotonic clock."""
        entered = False
        while time.monotonic() < until:
            if self.settings.pause(host_of(self.name)).exists():
                self.keep_away()
                entered = False
            entered = entered or self.client.enter()
            if entered:
                try:
                    self.chance.choices(ACTIONS, WEIGHTS)[0](self)
                except MountGone:
                    entered = False
                time.sleep(self.chance.uniform(0, 2 * IDLE))
        self.client.leave()
        self.settings.paused(self.name).touch()

    def keep_away(self) -> None:
        """Keeps nothing of the mount open while it is to be unmounted."""
        self.client.leave()
        self.settings.paused(self.name).touch()
        while self.settings.pause(host_of(self.name)).exists():
            time.sleep(IDLE)
        self.settings.paused(self.name).unlink()

    # Its own files

    def change_in_place(self) -> None:
        path = f"own/{self.name}/in-place-{self.chance.randrange(IN_PLACE)}"
        parts = self.known.get(path, 0)
        choice = self.chance.random()
        if 0 < parts < PARTS and choice < 0.7:
            self.note(path, lambda: self.client.append(path, *self.part()), parts + 1)
        elif parts and choice < 0.8:
            self.note(path, lambda: self.client.remove(path), 0)
        else:
            self.note(path, lambda: self.client.replace(path, *self.part()), 1)

    def change_whole(self) -> None:
        path = f"own/{self.name}/whole-{self.chance.randrange(WHOLE)}"
        choice = self.chance.random()
        if self.known.get(path, 0) and choice < 0.15:
            self.note(path, lambda: self.client.remove(path), 0)
        elif self.known.get(path, 0) > 0 and choice < 0.3:
            other = f"own/{self.name}/whole-{self.chance.randrange(WHOLE)}"
            if other != path:
                self.move(path, other)
        else:
            self.publish(path)

    def publish(self, target: str) -> None:
        """Writes a file under another name, and renames it."""
        source = f"own/{self.name}/new-{self.client.next_number}"
        self.known[target] = -1 if target.startswith("own/") else 1
        if self.client.replace(source, *self.part()).outcome != "done":
            self.client.remove(source)
            return
        self.move(source, target)

    def move(self, source: str, target: str) -> None:
        self.known[source] = self.known[target] = -1
        ended = self.client.rename(source, target)
        if ended.outcome == "done":
            self.known[source], self.known[target] = 0, 1
        elif ended.outcome == "unknown":
            # At every moment one of the two is there.
            self.client.read(source)
            self.client.read(target)

    def read_own(self) -> None:
        kind, number = self.chance.choice([("in-place", IN_PLACE), ("whole", WHOLE)])
        path = f"own/{self.name}/{kind}-{self.chance.randrange(number)}"
        if kind == "whole" or self.known.get(path, 0) >= 0:
            self.read(path)

    def read_others(self) -> None:
        other = self.chance.choice([name for name in everybody() if name != self.name])
        kinds = ["whole"] if host_of(other) == host_of(self.name) else ["in-place", "whole"]
        self.read(f"own/{other}/{self.chance.choice(kinds)}-{self.chance.randrange(min(IN_PLACE, WHOLE))}")

    def list_some(self) -> None:
        self.client.list(f"own/{self.chance.choice(everybody())}")

    # What all do

    def append_to_log(self) -> None:
        name = self.part_name()
        size = self.chance.choice([30, 300, 6000])
        self.client.append(
            f"logs/{self.chance.randrange(LOGS)}", name, content.make(self.settings.seed, name, size=size)
        )

    def read_log(self) -> None:
        self.read(f"logs/{self.chance.randrange(LOGS)}")

    def replace_race(self) -> None:
        self.publish(f"races/{self.chance.randrange(RACES)}")

    def read_race(self) -> None:
        self.read(f"races/{self.chance.randrange(RACES)}")

    def claim(self) -> None:
        self.claims += 1
        name = self.part_name()
        self.client.create(f"claims/{self.claims}", name, content.make(self.settings.seed, name))

    # Helpers

    def read(self, path: str) -> None:
        self.client.read(path, pause=self.chance.uniform(0.1, 1.0) if self.chance.random() < 0.1 else 0.0)

    def note(self, path: str, change: Callable[[], Ended], parts: int) -> None:
        """Makes a change of one file of its own."""
        before = self.known.get(path, 0)
        self.known[path] = -1
        ended = change()
        if ended.outcome == "done":
            self.known[path] = parts
        elif ended.outcome == "failed" and ended.error != "ENOENT":
            self.known[path] = before

    def part_name(self) -> str:
        return f"{self.name}.{self.client.next_number}"

    def part(self) -> tuple[str, bytes]:
        """The name and bytes of a new part: many small ones, some that share much with others."""
        count = self.chance.choices([0, 1, 2], [60, 30, 10])[0]
        blocks = self.chance.sample(range(content.SHARED_BLOCKS), count)
        size = self.chance.choice([50, 500, 5000, 50_000])
        name = self.part_name()
        return name, content.make(self.settings.seed, name, blocks=blocks, size=size)


WEIGHTED = {
    Worker.change_in_place: 22,
    Worker.change_whole: 16,
    Worker.read_own: 8,
    Worker.read_others: 16,
    Worker.list_some: 4,
    Worker.append_to_log: 16,
    Worker.read_log: 2,
    Worker.replace_race: 6,
    Worker.read_race: 8,
    Worker.claim: 2,
}
ACTIONS, WEIGHTS = list(WEIGHTED), list(WEIGHTED.values())
"""What a worker does, and how often."""


def main(arguments: list[str]) -> None:
    settings, name, until = arguments
    Worker(msgspec.json.decode(settings, type=Settings), name).run(float(until))


if __name__ == "__main__":
    main(sys.argv[1:])
