"""Whether a store is shared is known to the next process, too."""

import logging
import os
import time
from pathlib import Path

import pytest

from stowfs.hot.others import NOTED, OtherHosts

HOUR = 3600.0


def test_the_first_process_takes_it_that_there_are_others(tmp_path: Path) -> None:
    path = tmp_path / "others"
    assert OtherHosts(path).unseen < HOUR
    os.utime(path, (time.time() - HOUR, time.time() - HOUR))
    # It does not begin anew for each that follows.
    assert OtherHosts(path).unseen >= HOUR
    assert OtherHosts(path).unseen >= HOUR


def test_the_next_process_knows_when_it_was(tmp_path: Path) -> None:
    path = tmp_path / "others"
    OtherHosts(path).see()
    assert OtherHosts(path).unseen < HOUR
    os.utime(path, (time.time() - HOUR, time.time() - HOUR))
    assert HOUR <= OtherHosts(path).unseen < 2 * HOUR


def test_the_time_is_written_again_when_it_is_old(tmp_path: Path) -> None:
    path = tmp_path / "others"
    others = OtherHosts(path)
    others.see()
    path.unlink()
    others.see()
    assert not path.exists()
    path.touch()
    os.utime(path, (time.time() - NOTED - 1, time.time() - NOTED - 1))
    others = OtherHosts(path)
    others.see()
    assert OtherHosts(path).unseen < NOTED


def test_a_clock_that_was_set_back(tmp_path: Path) -> None:
    path = tmp_path / "others"
    path.touch()
    os.utime(path, (time.time() + HOUR, time.time() + HOUR))
    others = OtherHosts(path)
    assert others.unseen == 0
    others.see()
    assert path.stat().st_mtime < time.time() + 1


def test_a_disk_that_takes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file where the directory should be: nothing can be read or written below it."""
    (tmp_path / "cache").touch()
    others = OtherHosts(tmp_path / "cache" / "others")
    assert others.unseen < HOUR
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert all("other hosts" in record.message for record in caplog.records)
