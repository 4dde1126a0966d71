"""The stores of the conformance suite, for tests of what happens between several clients of one; a store to damage."""

from tests.store.conftest import place, store
from tests.support.damaged import subject

__all__ = ["place", "store", "subject"]
