"""What a run came to, for a person and for a program."""

from collections import Counter
from collections.abc import Iterable

import msgspec

from tests.torture.collector import Collections
from tests.torture.history import Operation

SHOWN = 20
"""Problems that are printed one by one."""


class Report(msgspec.Struct):
    """The outcome of a run. `operations`: by kind and outcome. `unexplained`: failures that no fault explains (with
    collections without grace, a read of what was just replaced is one). `out_of_date`: reads that found an earlier
    version while the store did not answer. `leaks`: what `fsck` found and repaired."""

    seed: int
    seconds: float
    store: str
    commit: str
    operations: dict[str, dict[str, int]]
    slowest: dict[str, float]
    faults: dict[str, int]
    collections: dict[str, int]
    judged: int
    out_of_date: int
    unexplained: dict[str, int]
    leaks: dict[str, int]
    problems: list[str]
    directory: str = ""

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def lines(self) -> list[str]:
        """The report in words."""
        kinds = [
            f"  {kind:<8} "
            + ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(counts.items()))
            + f"; slowest {self.slowest[kind]:.1f} s"
            for kind, counts in sorted(self.operations.items())
        ]
        return [
            f"torture: seed {self.seed}, {self.seconds:g} s, {self.store}, commit={self.commit}",
            "operations",
            *kinds,
            f"faults: {_counts(self.faults)}",
            f"collections: {_counts(self.collections)}",
            f"failures without a fault: {_counts(self.unexplained)}",
            f"leaks that fsck repaired: {_counts(self.leaks)}",
            f"{self.judged:,} observations judged, {self.out_of_date:,} out of date without an answer of the store,"
            f" {len(self.problems)} problems",
            *(f"  {problem}" for problem in self.problems[:SHOWN]),
            *([f"everything is kept in {self.directory}"] if self.problems else []),
            "passed" if self.passed else "FAILED",
        ]


def count(operations: Iterable[Operation]) -> tuple[dict[str, dict[str, int]], dict[str, float]]:
    """Operations by kind and outcome, and the seconds of the slowest of each kind."""
    counts: dict[str, Counter[str]] = {}
    slowest: dict[str, float] = {}
    for operation in operations:
        kind = operation.began.kind
        counts.setdefault(kind, Counter())[operation.ended.outcome] += 1
        slowest[kind] = max(slowest.get(kind, 0.0), operation.ended.at - operation.began.at)
    return {kind: dict(counter) for kind, counter in counts.items()}, slowest


def collected(result: Collections) -> dict[str, int]:
    """The figures of the collections."""
    return {
        "done": result.done,
        "killed": result.killed,
        "failed in outages": result.excused,
        "conversations given up": result.emptied,
        "segments freed": result.freed,
    }


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "none"
