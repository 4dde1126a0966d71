"""A hot tier below the test's own directory, and a child process that holds one."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from stowfs.config import HotTierOptions

STORE_ID = "0191b0a0-7e57-7000-8000-000000000001"


class Holder(Protocol):
    """Starts a process that takes a slot, journals a commit and a draft `commit_id`, and holds on until it is
    killed."""

    def __call__(self, slot: str, commit_id: str) -> AbstractContextManager["subprocess.Popen[str]"]: ...


@pytest.fixture
def options(tmp_path: Path) -> HotTierOptions:
    return HotTierOptions(state_root=tmp_path / "state", cache_root=tmp_path / "cache")


@pytest.fixture
def holder(options: HotTierOptions) -> Holder:
    @contextmanager
    def start(slot: str, commit_id: str) -> Iterator["subprocess.Popen[str]"]:
        arguments = [str(options.state_root), str(options.cache_root), STORE_ID, slot, commit_id]
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.hot.holder", *arguments],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "recorded\n"
            yield child
        finally:
            child.kill()
            child.communicate(timeout=30)

    return start
