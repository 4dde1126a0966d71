"""A short run of scripts/torture on either kind of store: faults of all kinds, and nothing is lost."""

import json
import os
from pathlib import Path

import pytest

from tests.support.commands import run_script

pytestmark = [pytest.mark.fuse, pytest.mark.timeout(900)]

SCRIPT = Path(__file__).parents[2] / "scripts" / "torture"

SECONDS = os.environ.get("STOWFS_TORTURE", "15")
"""How long faults happen. A run of minutes finds more; its time comes on top of the limits below."""

LIMIT = 400 + float(SECONDS)
"""Seconds for all of it: starting and stopping a server, and checking, on a busy machine."""

END_LIMIT = 120
"""Seconds for a run that is interrupted to unmount and to end what it has started."""


@pytest.mark.parametrize(
    ("kind", "commit"), [("file", "async"), pytest.param("rgw", "sync", marks=pytest.mark.rgw)], ids=["file", "rgw"]
)
def test_nothing_is_lost(kind: str, commit: str, tmp_path: Path) -> None:
    arguments = ["--seconds", SECONDS, "--seed", "1", "--store", kind, "--commit", commit, "--json"]
    arguments += ["--directory", str(tmp_path / "run")]
    done = run_script([SCRIPT, *arguments], limit=LIMIT, end_limit=END_LIMIT)
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    assert report["problems"] == []
    assert done.returncode == 0
    faults = {"kill", "stop"} | ({"down"} if kind == "rgw" else set())
    assert faults <= report["faults"].keys()
    assert report["collections"]["done"] > 0
    for operation in ("append", "read", "rename", "replace"):
        assert report["operations"][operation]["done"] > 0
    assert list((tmp_path / "run").iterdir()) == []
