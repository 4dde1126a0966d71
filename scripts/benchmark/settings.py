"""What a run is asked to do."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The directory of the project."""

CONCURRENCY = 32
"""Requests at once of every contestant that can be told: what stowfs itself uses."""

WORKLOADS = ("copy-in", "copy-out", "grep", "ls", "append", "read", "random-read", "clients", "names")


@dataclass(frozen=True, slots=True)
class Settings:
    """Times are in seconds unless named otherwise, sizes in megabytes (10⁶ bytes)."""

    corpora: tuple[Path, ...]
    workloads: tuple[str, ...]
    contestants: tuple[str, ...]
    baseline: str
    runs: int
    proxy: bool
    latency_ms: float
    timeout: float
    sizes: tuple[float, ...]
    appends: int
    reads: int
    clients: int
    names: int
    drop_caches: bool
    install: bool
