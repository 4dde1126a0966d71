"""Judges histories: whether every read found what may have been there at that time.

`own/…` has one writer a file: its changes are in order, and each was acknowledged, refused, or left in doubt. What may
be there (the *worlds* of a file: values, each with the number of the change it came from) follows exactly. A change in
doubt makes one more possible; an acknowledged one leaves nothing but its own; a read that found what only a later
change can have made rules out the earlier ones for all that come after.

`races/…` have many writers that each replace the whole, so that each is a register; a history of reads and writes of
one is linearisable if the times in which its values must have been there do not overlap (Gibbons and Korach, 1997).
`logs/…` must keep every acknowledged append once. `claims/…` have one winner.

With `commit=async` other hosts may see what is acknowledged here later, but before the end; and of two that claim a
name on different hosts, the one that comes second is kept beside it. And while a host does not get an answer from the
store, because that is away or because the host was stopped itself, it may show what it saw last: never what is older
than its own changes.
"""

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.torture.history import Operation, Value
from tests.torture.settings import host_of

CONFLICT = ".conflict-"
"""What the name of a copy has after that of its original."""

END = "end"
"""The host that reads everything when all is over."""


@dataclass(frozen=True, slots=True)
class World:
    """What may be there, and which change made it so (0: nobody did anything)."""

    value: Value
    rank: int


@dataclass(slots=True)
class OwnFile:
    """A file with one writer: its changes in order, and the worlds after each; those before the first are `[0]`."""

    writer: str
    changes: list[Operation] = field(default_factory=list)
    worlds: list[frozenset[World]] = field(default_factory=lambda: [frozenset({World(None, 0)})])
    # The least rank that may still be there after a time, by host that has seen it; times in order.
    seen: list[tuple[float, str, int]] = field(default_factory=list)


class Oracle:
    """The judgement of one run. `violations` are in words."""

    def __init__(
        self,
        operations: Iterable[Operation],
        *,
        asynchronous: bool,
        unanswered: Callable[[Operation], bool] = lambda _: False,
    ) -> None:
        # Whether the store may not have answered the host of an operation during it.
        self._unanswered = unanswered
        # Reads that found what was current before, and only for that reason are no violations.
        self.out_of_date = 0
        self._operations = sorted(operations, key=lambda operation: operation.began.at)
        self._asynchronous = asynchronous
        self._files: dict[str, OwnFile] = {}
        # What the readers found beside other files, by path of those and reader.
        self._beside: dict[tuple[str, str], list[Value]] = {}
        # When it was first certain that a rename took effect, by worker and number.
        self._renamed: dict[tuple[str, int], float] = {}
        self.violations: list[str] = []
        self.judged = 0

    def judge(self) -> list[str]:
        """All that is wrong."""
        for operation in self._operations:
            if operation.ended.torn:
                self._violated(operation, f"is torn: {operation.ended.torn}")
            if operation.host == END and operation.ended.outcome != "done":
                self._violated(operation, f"cannot be read when all is over: {operation.ended.error}")
        self._note_copies()
        self._changes()
        self._reads()
        for path, found in self._by_path("races/").items():
            self._judge_race(path, found)
        for path, found in self._by_path("logs/").items():
            self._judge_log(path, found)
        for path, found in self._by_path("claims/").items():
            self._judge_claim(path, found)
        return self.violations

    # Files with one writer

    def _changes(self) -> None:
        for operation in self._operations:
            began = operation.began
            if operation.changes and began.path.startswith("own/"):
                source = self._file(began.path)
                moved = frozenset(world.value for world in source.worlds[-1])
                self._change(source, operation, began.path, moved)
                if began.target.startswith("own/"):
                    self._change(self._file(began.target), operation, began.target, moved)

    def _change(self, file: OwnFile, operation: Operation, path: str, moved: frozenset[Value]) -> None:
        began = operation.began
        before = file.worlds[-1]
        match began.kind:
            case "replace" | "create":
                values: frozenset[Value] = frozenset({(began.part,)})
            case "append":
                values = frozenset((*w.value, began.part) for w in before if w.value is not None)
            case "rename" if path == began.target:
                values = frozenset(value for value in moved if value is not None)
            case _:
                values = frozenset({None})
        after = frozenset(World(value, began.number) for value in values)
        if operation.ended.outcome == "unknown":
            after |= before
        elif not after or (began.kind in ("remove", "rename") and all(value is None for value in moved)):
            self._violated(operation, "succeeded, though there can be no such file")
            after = after or before
        file.changes.append(operation)
        file.worlds.append(after)

    def _reads(self) -> None:
        for operation in sorted(self._operations, key=lambda operation: operation.ended.at):
            began, ended = operation.began, operation.ended
            if not began.path.startswith("own/") or CONFLICT in began.path:
                continue
            absent = ended.error == "ENOENT" and ended.outcome == "failed" and began.kind != "replace"
            if absent and began.kind != "list":
                self._judge_read(operation, began.path, None)
            elif began.kind == "read" and ended.outcome == "done" and not ended.torn:
                self._judge_read(operation, began.path, ended.value)
            elif began.kind == "list" and ended.outcome == "done":
                self._judge_listing(operation)

    def _judge_read(self, read: Operation, path: str, value: Value) -> None:
        file = self._file(path)
        possible = self._possible(file, read)
        self.judged += 1
        ranks = [world.rank for world in possible if world.value == value]
        if not ranks and value is not None and self._may_be_old(read, file.writer):
            before = {world for worlds in file.worlds for world in worlds}
            ranks = [world.rank for world in before if world.value == value and world.rank <= _latest(file, read)]
            self.out_of_date += bool(ranks)
        if not ranks:
            values = sorted({_shown(world.value) for world in possible})
            self._violated(read, f"found {_shown(value)} at {path}, not {' or '.join(values)}")
            return
        self._note_seen(file, read, min(ranks))
        change = next((c for c in file.changes if {c.began.number} == set(ranks)), None)
        if change is not None and change.began.kind == "rename" and path == change.began.path:
            # The old name goes when the new one is there. Unless it may be a later removal that was seen.
            rename = change.worker, change.began.number
            self._renamed[rename] = min(self._renamed.get(rename, math.inf), read.ended.at)
            if change.began.target.startswith("own/"):
                self._note_seen(self._file(change.began.target), read, change.began.number)

    def _note_seen(self, file: OwnFile, read: Operation, rank: int) -> None:
        file.seen.append((read.ended.at, read.host, rank))

    def _possible(self, file: OwnFile, read: Operation) -> set[World]:
        """The worlds in which a file may have been at some moment of a read."""
        ends = [change.ended.at for change in file.changes]
        first = bisect_left(ends, read.began.at)
        if self._asynchronous and read.host not in (host_of(file.writer), END):
            first = 0
        last = sum(change.began.at <= read.ended.at for change in file.changes)
        least = max((rank for at, host, rank in file.seen if at < read.began.at and self._tells(host, read)), default=0)
        worlds = {world for worlds in file.worlds[first : last + 1] for world in worlds}
        return {world for world in worlds if world.rank >= least}

    def _tells(self, host: str, read: Operation) -> bool:
        """Whether what was seen on a host was in the store, and so is what others must see."""
        return not self._asynchronous or host == read.host

    def _may_be_old(self, read: Operation, writer: str) -> bool:
        """Whether a read may show what a writer on another host had there before."""
        return read.host != host_of(writer) and self._unanswered(read)

    def _judge_listing(self, listing: Operation) -> None:
        directory = listing.began.path
        for path, file in self._files.items():
            if path.rpartition("/")[0] != directory:
                continue
            self.judged += 1
            there = path.rpartition("/")[2] in listing.ended.names
            if not any((world.value is not None) == there for world in self._possible(file, listing)):
                self._violated(listing, f"{'shows' if there else 'does not show'} {path}")
        known = {path.rpartition("/")[2] for path in self._files}
        for name in set(listing.ended.names) - known:
            self._violated(listing, f"shows {name}, which nobody made")

    def _file(self, path: str) -> OwnFile:
        return self._files.setdefault(path, OwnFile(path.split("/")[1]))

    # Files with many writers

    def _judge_race(self, path: str, operations: list[Operation]) -> None:
        if self._asynchronous:
            # In what order hosts have their turn is not known before it is over.
            operations = [o for o in operations if o.host == END or o.began.kind == "rename"]
        operations = [o for o in operations if o.began.kind != "read" or not self._unanswered(o)]
        part_of = {o.began.path: o.began.part for o in self._operations if o.began.kind == "replace"}
        begun: dict[Value, float] = {None: -math.inf}
        first_end: dict[Value, float] = {None: -math.inf}
        last_begin: dict[Value, float] = {}
        for operation in operations:
            if operation.began.target == path and operation.changes:
                value: Value = (part_of[operation.began.path],)
                begun[value] = operation.began.at
                rename = operation.worker, operation.began.number
                done = operation.ended.at if operation.ended.outcome == "done" else math.inf
                first_end[value] = min(done, self._renamed.get(rename, math.inf))
        for operation in operations:
            if operation.began.kind != "read" or operation.ended.outcome != "done" or operation.ended.torn:
                continue
            value = operation.ended.value
            self.judged += 1
            if begun.get(value, math.inf) > operation.ended.at:
                self._violated(operation, f"found {_shown(value)}, which nobody had put there")
                continue
            first_end[value] = min(first_end[value], operation.ended.at)
            last_begin[value] = max(last_begin.get(value, -math.inf), operation.began.at)
        if not self._asynchronous:
            self._judge_zones(path, begun, first_end, last_begin)

    def _judge_zones(
        self, path: str, begun: dict[Value, float], first_end: dict[Value, float], last_begin: dict[Value, float]
    ) -> None:
        """A value must have been there from its first end to its last beginning, and no other one then."""
        zones = [
            (first_end[value], max(begun[value], last_begin.get(value, -math.inf)), value)
            for value in begun
            if first_end[value] < math.inf
        ]
        forward = sorted((start, end, value) for start, end, value in zones if start < end)
        backward = [(end, start, value) for start, end, value in zones if start >= end]
        latest: tuple[float, float, Value] = (-math.inf, -math.inf, None)
        for zone in forward:
            if zone[0] < latest[1]:
                self.violations.append(f"{path} was {_shown(latest[2])} and {_shown(zone[2])} at the same time")
            latest = max(latest, zone, key=lambda zone: zone[1])
        for start, end, value in backward:
            for low, high, other in forward:
                if low < start and end < high:
                    self.violations.append(f"{path} was {_shown(other)} before and after it became {_shown(value)}")

    def _judge_log(self, path: str, operations: list[Operation]) -> None:
        appends = [o for o in operations if o.began.kind == "append" and o.changes]
        begun = {o.began.part: o.began.at for o in appends}
        for read in operations:
            if read.began.kind != "read" or read.ended.outcome != "done" or read.ended.torn:
                continue
            self.judged += 1
            value = read.ended.value or ()
            found = set(value)
            if len(found) < len(value):
                twice = sorted({part for part in value if value.count(part) > 1})
                self._violated(read, f"found {twice} more than once")
            if strange := sorted(part for part in found if begun.get(part, math.inf) > read.ended.at):
                self._violated(read, f"found {strange}, which nobody had appended")
            certain = [o for o in appends if o.ended.outcome == "done" and o.ended.at < read.began.at]
            if (self._asynchronous and read.host != END) or self._unanswered(read):
                certain = [o for o in certain if o.host == read.host]
            if lost := [o.began.part for o in certain if o.began.part not in found]:
                self._violated(read, f"{len(lost)} of {len(certain)} acknowledged appends are not there: {lost[:5]}")
            self._judge_order(read, value, [o.began.part for o in certain])

    def _judge_order(self, read: Operation, value: tuple[str, ...], certain: list[str]) -> None:
        """What one process appended, each after the other was acknowledged, is in that order."""
        position = {part: place for place, part in enumerate(value)}
        of_writer: dict[str, list[int]] = defaultdict(list)
        for part in certain:
            if part in position:
                of_writer[part.partition(".")[0]].append(position[part])
        for writer, places in of_writer.items():
            if places != sorted(places):
                self._violated(read, f"found what {writer} appended in another order")

    def _judge_claim(self, path: str, operations: list[Operation]) -> None:
        creates = [o for o in operations if o.began.kind == "create"]
        won = {o.began.part for o in creates if o.ended.outcome == "done"}
        maybe = {o.began.part for o in creates if o.ended.outcome == "unknown"}
        if len(won) > 1 and not self._asynchronous:
            self.violations.append(f"{path} was created by {sorted(won)}")
        allowed = won or maybe
        if self._asynchronous:
            allowed = won | maybe
        for read in (o for o in operations if o.began.kind == "read" and o.ended.outcome == "done"):
            self.judged += 1
            value = read.ended.value
            if value is None and not won:
                continue
            if value is None or len(value) != 1 or value[0] not in allowed:
                self._violated(read, f"found {_shown(value)}, not one of {sorted(allowed)}")
            beside = {part for copy in self._beside.get((path, read.worker), ()) for part in copy or ()}
            if self._asynchronous and (lost := sorted(won - {*(value or ()), *beside})):
                self._violated(read, f"and beside it there is nothing of {lost}")

    def _note_copies(self) -> None:
        """Finds what was kept beside another file, which only claims with commits in the background may be."""
        for operation in self._operations:
            path, mark, _ = operation.began.path.partition(CONFLICT)
            if not mark or operation.began.kind != "read":
                continue
            self._beside.setdefault((path, operation.worker), []).append(operation.ended.value)
            if not (self._asynchronous and path.startswith("claims/")):
                self._violated(operation, "is the copy of an edit that lost, which nobody made")

    def _by_path(self, prefix: str) -> dict[str, list[Operation]]:
        found: dict[str, list[Operation]] = defaultdict(list)
        for operation in self._operations:
            path = operation.began.target or operation.began.path
            if path.startswith(prefix) and CONFLICT not in path:
                found[path].append(operation)
        return found

    def _violated(self, operation: Operation, what: str) -> None:
        began = operation.began
        self.violations.append(f"{operation.worker} {began.kind} {began.path} (number {began.number}): {what}")


def _latest(file: OwnFile, read: Operation) -> int:
    """The number of the last change that had begun when a read ended."""
    return max((change.began.number for change in file.changes if change.began.at <= read.ended.at), default=0)


def _shown(value: Value) -> str:
    if value is None:
        return "no file"
    return f"{'+'.join(value[-3:])} ({len(value)} parts)" if len(value) > 3 else "+".join(value) or "an empty file"
