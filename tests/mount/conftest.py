"""Fixtures of the tests of the mount."""

from tests.support.mounting import mounts

__all__ = ["mounts"]
