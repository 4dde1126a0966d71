"""The stores of the conformance suite, for tests of what happens between several clients of one."""

from tests.store.conftest import place, store

__all__ = ["place", "store"]
