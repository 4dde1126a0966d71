"""Fixtures of the tests of the command line."""

from pathlib import Path

import pytest

from tests.support.commands import Stow, stow
from tests.support.rgw_user import rgw_user

__all__ = ["mountpoint", "rgw_user", "store", "stow"]


@pytest.fixture
def mountpoint(tmp_path: Path) -> Path:
    """An empty directory to mount on."""
    directory = tmp_path / "mnt"
    directory.mkdir()
    return directory


@pytest.fixture
def store(stow: Stow) -> str:
    """A new `file://` store."""
    url = (stow.directory / "store").as_uri()
    stow.run("mkfs", url)
    return url
