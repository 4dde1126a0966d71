"""scripts/bench from end to end: some contestants on a few conversations, all workloads, with what was counted."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import run_script
from tests.support.corpus import SAMPLES

pytestmark = [pytest.mark.fuse, pytest.mark.rgw, pytest.mark.timeout(600)]

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench"

LIMIT = 500
"""Seconds for all of it on a busy machine; an idle one needs twenty."""

END_LIMIT = 60
"""Seconds for a run that is interrupted to unmount and to end what it has started."""

APPENDS = 2

LOCAL = ("native", "pyfuse3")
"""Those that ask no store."""


def bench(*arguments: str | Path) -> str:
    """Runs it; what it prints."""
    done = run_script([SCRIPT, *arguments], limit=LIMIT, end_limit=END_LIMIT)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.mark.usefixtures("rgw")
def test_some_contestants(tmp_path: Path) -> None:
    corpus, work = SAMPLES / "chat", tmp_path / "work"
    work.mkdir()
    sizes = [path.stat().st_size for path in corpus.rglob("*") if path.is_file()]
    few = ["--runs", "1", "--size", "0.1", "--appends", str(APPENDS), "--reads", "20"]
    few += ["--clients", "2", "--names", "20"]
    names = (*LOCAL, "boto3", "stowfs", "zstd-object")
    peers = [part for name in names for part in ("--peer", name)]
    written = tmp_path / "result.json"
    here = ["--keep-page-cache", "--no-install", "--directory", work]
    said = bench("--corpus", corpus, *few, *peers, *here, "--json", written)
    assert "chat: time, stowfs = 1" in said

    document = json.loads(written.read_text())
    assert document["problems"] == []
    assert list(work.iterdir()) == []
    assert str(work) not in Path("/proc/self/mountinfo").read_text()
    results: dict[tuple[str, str], Any] = {
        (result["contestant"], result["workload"]): result for result in document["results"]
    }
    copying = {"copy-in", "copy-out cold", "copy-out warm", "clients"}
    files = copying | {"grep cold", "grep warm", "ls cold", "ls warm"}
    sessions = {"append 0.1 MB", "read cold", "read warm", "random-read cold", "random-read warm"}
    sessions |= {"names cold", "names warm"}
    expected = {(name, workload) for name in (*LOCAL, "stowfs") for workload in files | sessions}
    assert results.keys() == expected | {("boto3", workload) for workload in copying} | {("zstd-object", "read cold")}
    assert all(result["verified"] is True for result in results.values())
    assert all(result["slowness"] > 0 for result in results.values())
    assert all(result["slowness"] == 1 for (name, _), result in results.items() if name == "stowfs")
    assert all(result["writes"] == result["reads"] == 0 for (name, _), result in results.items() if name in LOCAL)

    copied = results["boto3", "copy-in"]
    assert (copied["writes"], copied["reads"]) == (len(sizes), 0)
    assert (copied["objects"], copied["stored"], copied["ratio"]) == (len(sizes), sum(sizes), 1)
    assert sum(sizes) < copied["sent"] < sum(sizes) + len(sizes) * 2000
    for how in ("cold", "warm"):
        fetched = results["boto3", f"copy-out {how}"]
        assert (fetched["writes"], fetched["reads"]) == (0, len(sizes) + 1)
        assert fetched["received"] > sum(sizes)

    stowed = results["stowfs", "copy-in"]
    assert len(sizes) <= stowed["writes"] <= 2 * len(sizes) + 2
    assert stowed["stored"] < sum(sizes)
    assert stowed["peak_memory"] > 1_000_000
    assert results["stowfs", "copy-out warm"]["received"] < results["stowfs", "copy-out cold"]["received"]
    assert results["stowfs", "append 0.1 MB"]["writes"] >= APPENDS
    assert results["stowfs", "grep warm"]["writes"] == 0
    assert results["zstd-object", "read cold"]["reads"] == 2
    assert results["stowfs", "names cold"]["writes"] == 0
