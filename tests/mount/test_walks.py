"""What is fetched ahead of a program that opens the files of a directory one after the other."""

import random
from collections import Counter
from collections.abc import Sequence

import pytest

from stowfs.mount.walks import BYTES, DIRECTORIES, INLINE, NAMES, STEADY, WINDOW, Walks
from tests.support.mounting import Mounts, python, run

FILES = 400


class Directory:
    """A directory that was listed, with numbers in an order of their own."""

    def __init__(self, files: int = FILES, *, size: int = 1000) -> None:
        self.fetched: list[Sequence[str]] = []
        self.walks = Walks(self.fetched.append)
        self.names = [f"{number:05d}" for number in range(files)]
        self.numbers = {name: random.Random(name).getrandbits(52) for name in self.names}
        walk = self.walks.begin("d")
        for place, name in enumerate(self.names):
            # As readdir does with the last one of each answer.
            for _ in range(2):
                walk.add(place, name, self.numbers[name], size)

    def open(self, name: str) -> Sequence[str]:
        """Opens a file; what is fetched."""
        before = len(self.fetched)
        self.walks.opened(f"d/{name}", self.numbers[name])
        return [path.removeprefix("d/") for path in (self.fetched[before] if len(self.fetched) > before else ())]


@pytest.mark.parametrize("by_number", [False, True])
def test_what_is_opened_next_is_fetched_once_in_windows_that_double(by_number: bool) -> None:
    directory = Directory()
    order = sorted(directory.names, key=directory.numbers.__getitem__) if by_number else directory.names
    fetched: list[str] = []
    sizes = []
    for place, name in enumerate(order):
        # All but the first few are on their way before they are opened.
        assert place < STEADY or name in fetched
        ahead = directory.open(name)
        fetched += ahead
        sizes += [len(ahead)] if ahead else []
        assert len(fetched) + STEADY <= place + 1 + STEADY + WINDOW
    assert fetched == order[STEADY:]
    assert sizes[0] == 2
    assert max(sizes) <= WINDOW
    assert len(sizes) < FILES // 8


def test_a_directory_that_is_read_on_while_its_files_are_opened_is_one_walk() -> None:
    directory = Directory(0)
    walk = directory.walks.begin("d")
    fetched: list[str] = []
    names = [f"{number:05d}" for number in range(FILES)]
    for start in range(0, FILES, 40):
        for place in range(start, start + 40):
            directory.numbers[names[place]] = random.Random(place).getrandbits(52)
            walk.add(place, names[place], directory.numbers[names[place]], 1000)
        for name in names[start : start + 40]:
            fetched += directory.open(name)
    # But the first of each part, which was not known yet.
    assert len(fetched) >= FILES - 2 * FILES // 40
    assert len(set(fetched)) == len(fetched)


def test_files_that_are_passed_over_or_opened_by_several_threads_are_part_of_a_walk() -> None:
    directory = Directory()
    fetched: list[str] = []
    for start in range(0, FILES, 4):
        for name in (directory.names[start + 2], directory.names[start + 1]):
            fetched += directory.open(name)
    assert len(fetched) > FILES - 20
    assert len(set(fetched)) == len(fetched)


def test_what_is_opened_in_any_order_fetches_nothing() -> None:
    directory = Directory(5000)
    for name in random.Random(1).sample(directory.names, 300):
        assert directory.open(name) == []


def test_a_window_holds_only_so_many_bytes() -> None:
    directory = Directory(size=1 << 40)
    assert max(len(directory.open(name)) for name in directory.names) <= BYTES // INLINE


def test_only_the_directories_listed_last_are_remembered() -> None:
    walks = Walks(lambda paths: None)
    for number in range(2 * DIRECTORIES):
        walks.begin(f"d{number}")
    assert len(walks._walks) == DIRECTORIES
    large = walks.begin("large")
    for place in range(NAMES + 1):
        large.add(place, "x", place, 0)
    walks.begin("other")
    assert list(walks._walks) == ["other"]


@pytest.mark.fuse
@pytest.mark.parametrize("command", [["cp", "-r", ".", "../copy"], ["grep", "-rc", "x", "."]])
def test_a_walk_through_a_cold_mount_is_a_request_for_each_file_and_another_one_none(
    mounts: Mounts, command: list[str]
) -> None:
    a = mounts.start("a")
    run("mkdir", a.root / "d")
    python(f"for n in range({FILES}): open(f'{{args[0]}}/d/{{n}}', 'w').write('x' * n)", a.root)
    a.unmount()
    b = mounts.start("b", options="revalidate=600")
    (mounts.directory / "copy").mkdir()
    command = [str(mounts.directory / "copy") if part == "../copy" else part for part in command]
    for expected in (1, 0):
        b.requests()
        run(*command, cwd=b.root / "d")
        asked = Counter(request for request in b.requests() if request.startswith("get manifests/d/"))
        assert sum(asked.values()) == expected * FILES
        assert set(asked.values()) <= {1}
    if command[0] == "cp":
        assert sum(path.stat().st_size for path in (mounts.directory / "copy").iterdir()) == FILES * (FILES - 1) // 2
