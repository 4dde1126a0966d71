"""The stores of the conformance suite, for tests of what happens between several clients of one; a store to damage; a
clock to set."""

from tests.store.conftest import place, store
from tests.support.clock import clock
from tests.support.damaged import subject

__all__ = ["clock", "place", "store", "subject"]
