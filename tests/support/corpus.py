"""The conversations that tests run on: the samples in this repository, and a larger corpus where there is one."""

import os
from collections.abc import Iterator
from pathlib import Path

SAMPLES = Path(__file__).parent.parent / "samples"


def samples() -> list[Path]:
    """The sample conversations, in a fixed order. Where they come from is in `PROVENANCE.md` beside them."""
    return sorted(path for path in SAMPLES.rglob("*") if path.is_file() and path.name != "PROVENANCE.md")


def corpus() -> Iterator[Path]:
    """The files under the directory that `STOWFS_CORPUS` names, in a fixed order; none where it is not set."""
    if root := os.environ.get("STOWFS_CORPUS"):
        yield from sorted(path for path in Path(root).rglob("*") if path.is_file())
