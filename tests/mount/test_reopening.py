"""The second open of a thread whose first one was answered ESTALE: what it opens without asking the store again."""

from trio.testing import MockClock

from stowfs.mount.inodes import Inode, Inodes, Version
from stowfs.mount.reopening import AT_ONCE, REMEMBERED, Reopening
from stowfs.vault.manifest import Attributes, Manifest, Snapshot
from stowfs.vault.ring import Ring

ATTRIBUTES = Attributes(0o644, 0, 0, 1, 1)
THREAD = 7


def opened(reopening: Reopening, inode: Inode, thread: int = THREAD) -> Snapshot | None:
    """What the thread opens without asking the store."""
    again = reopening.take(thread, inode)
    return again.version if again is not None else None


def snapshot(commit: str, *, expires_ns: int | None = None) -> Snapshot:
    attributes = Attributes(0o644, 0, 0, 1, 1, expires_ns=expires_ns)
    return Snapshot("log", f"etag {commit}", Manifest(commit, Ring().add(commit), attributes), b"")


def looked_up(found: Snapshot) -> tuple[Reopening, Inodes, Inode]:
    """A thread came too late, and has found this version since."""
    reopening = Reopening()
    inodes = Inodes(Version("", ATTRIBUTES, 0, "directory"))
    inode = inodes.add("log", Version.of(found))
    reopening.too_late(THREAD, "log")
    reopening.looked_up(THREAD, "log", inode, found)
    return reopening, inodes, inode


async def test_it_opens_what_it_found_once() -> None:
    found = snapshot("1")
    reopening, _, inode = looked_up(found)
    assert opened(reopening, inode, THREAD + 1) is None
    assert opened(reopening, inode) is found
    assert opened(reopening, inode) is None


async def test_it_opens_what_this_host_has_made_of_it_since() -> None:
    """Another program here opened the file, appended a line, and has it open still; then another host wrote to it."""
    reopening, inodes, inode = looked_up(snapshot("1"))
    inode.handles = 1
    later = snapshot("2")
    inode.show(Version.of(later))
    inode.snapshot = later
    inodes.supersede(inode)
    assert opened(reopening, inode) is later


async def test_what_is_not_at_hand_any_more_is_asked_for() -> None:
    reopening, _, inode = looked_up(snapshot("1"))
    inode.show(Version.of(snapshot("2")))
    assert opened(reopening, inode) is None


async def test_what_has_no_name_any_more_is_asked_for() -> None:
    reopening, inodes, inode = looked_up(snapshot("1"))
    inode.snapshot = snapshot("1")
    inode.handles = 1
    inodes.unlink("log")
    assert opened(reopening, inode) is None


async def test_what_has_expired_is_asked_for() -> None:
    reopening, _, inode = looked_up(snapshot("1", expires_ns=1))
    assert opened(reopening, inode) is None


async def test_only_threads_that_came_too_late_are_remembered_and_not_all_of_them() -> None:
    found = snapshot("1")
    reopening, _, inode = looked_up(found)
    reopening.looked_up(THREAD + 1, "log", inode, found)
    assert reopening.take(THREAD + 1, inode) is None
    for thread in range(100, 100 + REMEMBERED):
        reopening.too_late(thread, "log")
        reopening.looked_up(thread, "log", inode, found)
    assert opened(reopening, inode) is None
    assert opened(reopening, inode, 100 + REMEMBERED - 1) is found


async def test_it_opens_what_it_found_being_written_to_here() -> None:
    """Its lookup asked nobody; then the file was committed, and another host wrote to it."""
    reopening, inodes, inode = looked_up(snapshot("1"))
    reopening.too_late(THREAD, "log")
    reopening.looked_up(THREAD, "log", inode, None)
    inode.handles = 1
    inode.snapshot = later = snapshot("2")
    inode.show(Version.of(later))
    inodes.supersede(inode)
    assert opened(reopening, inode) is later


async def test_it_opens_what_it_found_last() -> None:
    """The kernel looks up twice: another host may have written in between."""
    reopening, inodes, inode = looked_up(snapshot("1"))
    inodes.supersede(inode)
    later = snapshot("2")
    other = inodes.add("log", Version.of(later))
    reopening.looked_up(THREAD, "log", other, later)
    assert opened(reopening, other) is later


async def test_what_was_looked_up_long_after_is_no_second_open(mock_clock: MockClock) -> None:
    reopening, _, inode = looked_up(snapshot("1"))
    mock_clock.jump(AT_ONCE)
    assert opened(reopening, inode) is None
