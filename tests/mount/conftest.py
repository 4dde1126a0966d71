"""Fixtures of the tests of the mount."""

from tests.support.disks import disks
from tests.support.mounting import mounts

__all__ = ["disks", "mounts"]
