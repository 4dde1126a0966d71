"""The stores of the conformance suite, for tests of what happens between several clients of one; hosts on a store
that fails; a store to damage; a clock to set."""

from tests.store.conftest import place, store
from tests.support.clock import clock
from tests.support.damaged import subject
from tests.support.memory_hosts import faulty, hosts, options

__all__ = ["clock", "faulty", "hosts", "options", "place", "store", "subject"]
