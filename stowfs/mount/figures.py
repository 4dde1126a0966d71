"""The figures of a mount at one moment: as a JSON document, and as text for Prometheus."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from stowfs import __version__
from stowfs.metrics import Outcomes
from stowfs.mount.monitor import Monitor
from stowfs.store.counting import RequestCounts
from stowfs.vault.vault import Usage

LIBRARIES = ("boto3", "obstore", "pyfuse3", "trio", "zstandard")
"""Whose versions somebody who looks for a fault asks for."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a mount holds in memory: inodes, open files, files that were changed and not committed, files that are kept
    out of the store, and open directories."""

    inodes: int
    open_files: int
    uncommitted: int
    local: int
    open_directories: int


@dataclass(frozen=True, slots=True)
class Figures:
    """Where the figures come from."""

    monitor: Monitor
    requests: RequestCounts
    usage: Callable[[], Usage]
    inventory: Callable[[], Inventory]

    def document(self) -> dict[str, object]:
        """All of them. Times in seconds, sizes in bytes."""
        usage, held = self.usage(), self.inventory()
        return {
            "started": self.monitor.started,
            "uptime": round(time.time() - self.monitor.started, 3),
            "operations": _counted(self.monitor.operations),
            "bytes_read": self.monitor.bytes_read,
            "bytes_written": self.monitor.bytes_written,
            "requests": _counted(self.requests.by_operation),
            "bytes_sent": self.requests.sent,
            "bytes_received": self.requests.received,
            "segments": {
                "memory_hits": usage.segments.memory_hits,
                "disk_hits": usage.segments.disk_hits,
                "misses": usage.segments.misses,
                "memory_bytes": usage.memory_bytes,
                "disk_bytes": usage.disk_bytes,
            },
            "spool_bytes": usage.spool_bytes,
            "inodes": held.inodes,
            "open_files": held.open_files,
            "uncommitted_files": held.uncommitted,
            "local_files": held.local,
            "backlog": {
                "conversations": usage.backlog.count,
                "bytes": usage.backlog.size,
                "oldest_seconds": round(usage.backlog.age, 3),
                "failure": usage.backlog.failure,
            },
            "open_directories": held.open_directories,
        }

    def prometheus(self) -> bytes:
        """All of them, in the text format of Prometheus."""
        registry = CollectorRegistry()
        registry.register(_Collector(self))
        return generate_latest(registry)


def versions() -> dict[str, str]:
    """What this process consists of."""
    python = ".".join(map(str, sys.version_info[:3]))
    return {"stowfs": __version__, "python": python, **{name: version(name) for name in LIBRARIES}}


def _counted(counts: dict[str, Outcomes]) -> dict[str, object]:
    return {
        name: {"count": counted.count, "seconds": round(counted.seconds, 6), "errors": dict(counted.errors)}
        for name, counted in sorted(counts.items())
    }


class _Collector(Collector):
    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        monitor, requests = self._figures.monitor, self._figures.requests
        usage, held = self._figures.usage(), self._figures.inventory()
        yield InfoMetricFamily("stowfs", "What serves the mount.", versions())
        yield GaugeMetricFamily("stowfs_start_time_seconds", "When the mount began.", monitor.started)
        yield from _kinds("stowfs_operations", "operation", "Operations of the file system", monitor.operations)
        yield CounterMetricFamily("stowfs_read_bytes", "Bytes that programs read.", monitor.bytes_read)
        yield CounterMetricFamily("stowfs_written_bytes", "Bytes that programs wrote.", monitor.bytes_written)
        yield from _kinds("stowfs_store_requests", "request", "Requests to the store", requests.by_operation)
        yield CounterMetricFamily("stowfs_store_sent_bytes", "Bytes of bodies sent to the store.", requests.sent)
        yield CounterMetricFamily("stowfs_store_received_bytes", "Bytes of bodies from the store.", requests.received)
        hits = CounterMetricFamily("stowfs_segment_hits", "Segments found in a cache.", labels=["cache"])
        hits.add_metric(["memory"], usage.segments.memory_hits)
        hits.add_metric(["disk"], usage.segments.disk_hits)
        yield hits
        yield CounterMetricFamily("stowfs_segment_misses", "Segments fetched from the store.", usage.segments.misses)
        kept = GaugeMetricFamily("stowfs_segment_cache_bytes", "Bytes of segments in a cache.", labels=["cache"])
        kept.add_metric(["memory"], usage.memory_bytes)
        kept.add_metric(["disk"], usage.disk_bytes)
        yield kept
        yield GaugeMetricFamily("stowfs_spool_bytes", "Bytes written and not committed yet.", usage.spool_bytes)
        yield GaugeMetricFamily("stowfs_inodes", "Files and directories the kernel knows.", held.inodes)
        yield GaugeMetricFamily("stowfs_open_files", "Handles on files.", held.open_files)
        yield GaugeMetricFamily("stowfs_uncommitted_files", "Files with changes not committed yet.", held.uncommitted)
        yield GaugeMetricFamily("stowfs_local_files", "Files that are kept out of the store.", held.local)
        waiting = usage.backlog
        yield GaugeMetricFamily("stowfs_backlog_conversations", "Acknowledged, not in the store yet.", waiting.count)
        yield GaugeMetricFamily("stowfs_backlog_bytes", "Acknowledged bytes not in the store yet.", waiting.size)
        yield GaugeMetricFamily("stowfs_backlog_age_seconds", "How long the oldest of them has waited.", waiting.age)
        yield GaugeMetricFamily("stowfs_open_directories", "Handles on directories.", held.open_directories)


def _kinds(name: str, label: str, what: str, counts: dict[str, Outcomes]) -> Iterator[Metric]:
    total = CounterMetricFamily(name, f"{what}.", labels=[label])
    failed = CounterMetricFamily(f"{name}_failed", f"{what} that ended with an error.", labels=[label, "error"])
    seconds = CounterMetricFamily(f"{name}_seconds", f"{what}: the time they took.", labels=[label])
    for kind, counted in sorted(counts.items()):
        total.add_metric([kind], counted.count)
        seconds.add_metric([kind], counted.seconds)
        for error, count in sorted(counted.errors.items()):
            failed.add_metric([kind, error], count)
    yield from (total, failed, seconds)
