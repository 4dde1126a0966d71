"""What is known of inodes, and what of those that the kernel has forgotten."""

import pytest

from stowfs.mount import inodes as module
from stowfs.mount.inode import Inode
from stowfs.mount.inodes import CONVERSATIONS, Inodes
from stowfs.mount.readers import Contention
from stowfs.vault.manifest import Attributes
from stowfs.vault.version import Version

FILE = Version("commit", Attributes(0o644, 0, 0, 1, 1), 0)
DIRECTORY = Version("commit", Attributes(0o755, 0, 0, 1, 1), 0, "directory")


def known(inodes: Inodes, path: str, version: Version = FILE) -> Inode:
    """An inode that the kernel has looked up once."""
    inode = inodes.add(path, version)
    inode.lookups = 1
    return inode


async def test_a_forgotten_inode_has_its_number_again() -> None:
    inodes = Inodes(DIRECTORY, Contention())
    number = known(inodes, "a/b").number
    assert number > CONVERSATIONS
    assert known(inodes, "a/c").number != number
    inodes.forget(number, 1)
    assert inodes.at("a/b") is None
    assert known(inodes, "a/b").number == number
    assert known(Inodes(DIRECTORY, Contention()), "a/b").number == number


async def test_also_after_a_rename_of_it_or_of_what_it_is_in() -> None:
    inodes = Inodes(DIRECTORY, Contention())
    directory, file = known(inodes, "d", DIRECTORY), known(inodes, "a")
    inodes.move("a", "d/b")
    assert file.path == "d/b"
    inodes.forget(file.number, 1)
    inodes.move("d", "e")
    assert known(inodes, "e/b").number == file.number
    assert directory.path == "e"
    inodes.forget(directory.number, 1)
    assert known(inodes, "e", DIRECTORY).number == directory.number


async def test_no_two_inodes_have_one_number() -> None:
    inodes = Inodes(DIRECTORY, Contention())
    moved = known(inodes, "a")
    inodes.move("a", "b")
    new = known(inodes, "a")
    superseding = known(inodes, "a")
    assert len({moved.number, new.number, superseding.number}) == 3
    inodes.forget(moved.number, 1)
    inodes.forget(superseding.number, 1)
    # The number that it had is free, the one that is usual for the path is not: `new` is still known.
    inodes.unlink("b")
    assert known(inodes, "b").number not in (new.number, moved.number)


async def test_the_time_of_a_directory_is_remembered_unless_it_is_removed() -> None:
    inodes = Inodes(DIRECTORY, Contention())
    directory = known(inodes, "d", DIRECTORY)
    directory.entries_changed_ns = 7
    inodes.forget(directory.number, 1)
    directory = known(inodes, "d", DIRECTORY)
    assert directory.entries_changed_ns == 7
    inodes.forget(directory.number, 1)
    inodes.unlink("d")
    assert known(inodes, "d", DIRECTORY).entries_changed_ns == 0


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 3)
    inodes = Inodes(DIRECTORY, Contention())
    for number in range(5):
        directory = known(inodes, f"d{number}", DIRECTORY)
        directory.entries_changed_ns = 1
        inodes.forget(directory.number, 1)
    changed = [known(inodes, f"d{number}", DIRECTORY).entries_changed_ns for number in range(5)]
    assert changed == [0, 0, 1, 1, 1]
