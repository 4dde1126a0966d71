"""The result of a run: one document for JSON, and tables of medians relative to the baseline."""

import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from scripts.benchmark.contestants import Contestant
from scripts.benchmark.lab import Lab, ProxyCost, Sample
from scripts.benchmark.peers import CONTESTANTS

READS = frozenset({"GET", "HEAD"})
NOTHING = "–"
FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Result:
    """Medians of one step of one contestant. `slowness` is its time relative to the baseline's: 2 is twice as long."""

    corpus: str
    workload: str
    contestant: str
    runs: int
    seconds: float
    slowness: float | None
    writes: float | None
    reads: float | None
    sent: float | None
    received: float | None
    ratio: float | None
    stored: float | None
    objects: float | None
    peak_memory: float | None
    verified: bool | None


def summarise(samples: Sequence[Sample], baseline: str) -> list[Result]:
    """The medians, in the order in which things were done."""
    groups: dict[tuple[str, str, str], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.corpus, sample.workload, sample.contestant), []).append(sample)
    times = {key: statistics.median(sample.seconds for sample in group) for key, group in groups.items()}
    return [_result(group, times[key], times.get((*key[:2], baseline))) for key, group in groups.items()]


def _result(group: Sequence[Sample], seconds: float, baseline: float | None) -> Result:
    first = group[0]
    known = [sample.verified for sample in group if sample.verified is not None]
    raw, stored = _median([sample.raw for sample in group]), _median([sample.stored for sample in group])
    return Result(
        corpus=first.corpus,
        workload=first.workload,
        contestant=first.contestant,
        runs=len(group),
        seconds=seconds,
        slowness=seconds / baseline if baseline else None,
        writes=_median([_requests(sample, reads=False) for sample in group]),
        reads=_median([_requests(sample, reads=True) for sample in group]),
        sent=_median([sample.sent for sample in group]),
        received=_median([sample.received for sample in group]),
        ratio=raw / stored if raw and stored else None,
        stored=stored,
        objects=_median([sample.objects for sample in group]),
        peak_memory=max((sample.peak_memory for sample in group if sample.peak_memory), default=None),
        verified=all(known) if known else None,
    )


def _requests(sample: Sample, *, reads: bool) -> int | None:
    if sample.requests is None:
        return None
    return sum(count for method, count in sample.requests.items() if (method in READS) == reads)


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def document(lab: Lab, versions: Mapping[str, str], cost: ProxyCost | None) -> dict[str, Any]:
    """Everything that is known of a run, for JSON."""
    settings = asdict(lab.settings)
    return {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "settings": {**settings, "corpora": [path.name for path in lab.settings.corpora]},
        "versions": dict(versions),
        "proxy": asdict(cost) if cost else None,
        "results": [asdict(result) for result in summarise(lab.samples, lab.settings.baseline)],
        "problems": [asdict(problem) for problem in lab.problems],
        "samples": [asdict(sample) for sample in lab.samples],
    }


def machine() -> dict[str, Any]:
    """What was measured on, and how busy it was."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": models[0] if models else platform.machine(),
        "processors": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def show(lab: Lab, cost: ProxyCost | None, console: Console) -> None:
    """Prints tables: times, requests, bytes on the wire, bytes stored, and what went wrong."""
    results = summarise(lab.samples, lab.settings.baseline)
    latency = f", {lab.settings.latency_ms:g} ms added to each request" if lab.settings.latency_ms else ""
    corpora = dict.fromkeys(result.corpus for result in results)
    for corpus in corpora:
        there = [result for result in results if result.corpus == corpus]
        failed = {problem.contestant for problem in lab.problems if problem.corpus in ("", corpus) and problem.workload}
        _print(console, f"{corpus}: time, {lab.settings.baseline} = 1{latency}", _table(there, failed, _slowness))
        if lab.proxy is not None:
            _print(console, f"{corpus}: requests, writes + reads", _table(there, failed, _requests_of))
            _print(console, f"{corpus}: MB to + from the store", _table(there, failed, _wire))
        if remembered := [result for result in there if result.peak_memory]:
            _print(console, f"{corpus}: most memory of the daemon, MB", _table(remembered, failed, _memory))
        stored = [result for result in there if result.stored is not None]
        if stored:
            _print(console, f"{corpus}: stored", _stored_table(stored, failed))
    console.print(f"{NOTHING}: it is not made for that. What failed, or is not as it should be, is told below.")
    if cost is not None:
        console.print(
            f"The proxy adds {cost.proxied_ms - cost.direct_ms:.2f} ms to a request that takes {cost.direct_ms:.2f} ms,"
            f" and needs {cost.cpu_ms:.2f} ms of a processor for it."
        )
    for problem in lab.problems:
        where = "".join(f", {part}" for part in (problem.workload, problem.corpus) if part)
        console.print(f"{problem.contestant}{where}: {problem.reason}", markup=False)


def _print(console: Console, title: str, table: Table) -> None:
    """A title of rich itself would be broken to the width of the table."""
    console.print(title, style="bold", highlight=False)
    console.print(table)


def _table(results: Sequence[Result], failed: Set[str], cell: Callable[[Result], str]) -> Table:
    """A row for each contestant, a column for each workload."""
    table = Table()
    timed = [result for result in results if result.workload != "pack"]
    workloads = list(dict.fromkeys(result.workload for result in timed))
    for heading in ("", *workloads):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    cells = {(result.contestant, result.workload): cell(result) for result in timed}
    measured = {result.contestant for result in timed}
    for contestant in CONTESTANTS:
        if contestant.name in measured or (contestant.name in failed and contestant.workloads):
            row = (
                cells.get((contestant.name, workload)) or _missing(contestant, workload, failed)
                for workload in workloads
            )
            table.add_row(contestant.name, *row)
    return table


def _missing(contestant: Contestant, workload: str, failed: Set[str]) -> str:
    """What stands where nothing was measured."""
    can = workload.split(" ")[0] in contestant.workloads
    return FAILED if can and contestant.name in failed else NOTHING


def _slowness(result: Result) -> str:
    wrong = " wrong" if result.verified is False else ""
    if result.slowness is None:
        return NOTHING + wrong
    digits = ".2f" if result.slowness >= 0.1 else ".1g"
    return f"{result.slowness:{digits}}{wrong}"


def _requests_of(result: Result) -> str:
    return f"{result.writes or 0:.0f} + {result.reads or 0:.0f}"


def _wire(result: Result) -> str:
    return f"{(result.sent or 0) / 1e6:.2f} + {(result.received or 0) / 1e6:.2f}"


def _memory(result: Result) -> str:
    return f"{(result.peak_memory or 0) / 1e6:.0f}"


def _stored_table(results: Sequence[Result], failed: Set[str]) -> Table:
    table = Table()
    for heading in ("", "raw/stored", "bytes", "objects"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for result in sorted(results, key=lambda result: result.stored or 0):
        ratio = NOTHING if result.ratio is None else f"{result.ratio:.2f}"
        table.add_row(result.contestant, ratio, f"{result.stored:,.0f}", f"{result.objects:,.0f}")
    for name in sorted(failed - {result.contestant for result in results}):
        table.add_row(name, FAILED, FAILED, FAILED)
    return table
