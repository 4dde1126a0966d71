"""Fixtures of the tests of the mount."""

from tests.support.disks import disks
from tests.support.memory_hosts import faulty, hosts, options
from tests.support.mounting import mounts

__all__ = ["disks", "faulty", "hosts", "mounts", "options"]
