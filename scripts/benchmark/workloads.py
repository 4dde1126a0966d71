"""What is done with each contestant, and whether it was done right. One function a tour; each leaves nothing behind.

Cold means that nothing is cached on this host: the mount is new and its cache on the disk empty, for a program that
copies its cache is empty; for the native file system the page cache is dropped, where that is permitted. Programs that
copy pay for starting each time, mounts do not.
"""

import hashlib
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from scripts.benchmark.contents import below, digests, files_in
from scripts.benchmark.contestants import Contestant, Copier, Mounted, Packer, Place, Session, Whole
from scripts.benchmark.lab import Lab, Sample
from scripts.benchmark.programs import appender, reader
from scripts.benchmark.store import Stored

FILES = "files"
"""The directory into which a corpus is copied."""

SESSION = "session.jsonl"
"""The name of a made session."""

NAMES = "names"
"""The directory of many small conversations."""

PATTERN = "error"
"""What is searched for: it occurs in most corpora, in few of their lines."""

LISTED = re.compile(rb"^-\S+ +\d+ +\S+ +\S+ +(\d+) +\S+ +\S+ +\S+ (.*)$", re.MULTILINE)
"""Size and name of a file in the output of ls -l with LC_ALL=C."""


@dataclass(frozen=True, slots=True)
class Tour:
    """One contestant, one corpus (or a made session), one run."""

    lab: Lab
    contestant: Contestant
    place: Place
    corpus: str
    run: int

    def measure(self, workload: str, step: Callable[[], float | None]) -> Sample:
        """Does a step of this contestant."""
        return self.lab.measure(self.contestant.name, workload, self.corpus, self.run, step)

    def wanted(self, workload: str) -> bool:
        """Whether it is to be measured."""
        return workload in self.lab.settings.workloads


def copies(tour: Tour, source: Path) -> None:
    """Copies a corpus in and out, searches and lists it. Whatever is wanted, it is copied out once, to be compared."""
    contents = below(FILES, digests(source))
    match tour.contestant:
        case Mounted() as contestant:
            _copies_of_mount(tour, contestant, source, contents)
        case Copier() as contestant:
            copied = tour.measure("copy-in", partial(contestant.copy_in, tour.place, source, FILES))
            _keep(tour, copied, source)
            _copy_out(tour, contestant, copied, contents)
        case Packer() as contestant:
            _keep(tour, tour.measure("pack", partial(contestant.pack, tour.place, source)), source)


def _copies_of_mount(tour: Tour, contestant: Mounted, source: Path, contents: Mapping[str, str]) -> None:
    with contestant.mount(tour.place) as session:
        copied = tour.measure("copy-in", lambda: _write(contestant, tour.place, session, [source], [FILES]))
        _note_memory(copied, session)
    _keep(tour, copied, source)
    with _cold(tour, contestant) as session:
        _copy_out_of_mount(tour, session, copied, contents)
    if tour.wanted("grep"):
        with _cold(tour, contestant) as session:
            _grep(tour, session.root / FILES, source, session)
    if tour.wanted("ls"):
        with _cold(tour, contestant) as session:
            _list(tour, "ls", session.root / FILES, source, session)


def clients(tour: Tour, parts: Sequence[Path]) -> None:
    """Several clients copy a share of a corpus each, all at once."""
    contents: dict[str, str] = {}
    for part in parts:
        contents |= below(part.name, digests(part))
    target = tour.place.directory / "out"
    match tour.contestant:
        case Mounted() as contestant:
            sample = _clients_of_mount(tour, contestant, parts)
            with _cold(tour, contestant) as session:
                tour.place.run("cp", "-r", f"{session.root}/.", target)
            tour.lab.judge(sample, digests(target) == contents)
        case Copier() as contestant:
            sample = tour.measure("clients", partial(_copy_in_at_once, contestant, tour.place, parts))
            contestant.forget(tour.place)
            contestant.copy_out(tour.place, target)
            _judge(tour, contestant, [sample], target, contents)


def _clients_of_mount(tour: Tour, contestant: Mounted, parts: Sequence[Path]) -> Sample:
    names = [part.name for part in parts]
    with contestant.mount(tour.place) as session:
        sample = tour.measure("clients", lambda: _write(contestant, tour.place, session, parts, names))
        _note_memory(sample, session)
    return sample


def append(tour: Tour, session_file: Path, label: str) -> None:
    """Appends a line at a time to a session: open, write, close. What is timed ends when all is in the store."""
    contestant, place, times = tour.contestant, tour.place, tour.lab.settings.appends
    assert isinstance(contestant, Mounted)
    target = place.directory / "out"
    lines = b"".join(appender.line(number) for number in range(times))
    with contestant.mount(place) as session:
        _write(contestant, place, session, [session_file], [SESSION])

        def step() -> float:
            seconds = float(place.program("appender", session.root / SESSION, str(times)))
            began = time.monotonic()
            surplus = contestant.settle(place, Stored(1, session_file.stat().st_size + len(lines)))
            return seconds + time.monotonic() - began - surplus

        sample = tour.measure(f"append {label}", step)
        _note_memory(sample, session)
    with _cold(tour, contestant) as session:
        place.run("cp", session.root / SESSION, target)
    tour.lab.judge(sample, target.read_bytes() == session_file.read_bytes() + lines)


def read(tour: Tour, session_file: Path) -> None:
    """Reads a large session from its beginning to its end, cold and, where something can keep it, warm."""
    expected = hashlib.sha256(session_file.read_bytes()).hexdigest()
    match tour.contestant:
        case Mounted() as contestant:
            with _cold_session(tour, contestant, session_file) as session:
                for how in ("cold", "warm"):
                    _timed_read(tour, f"read {how}", expected, partial(_read_through, tour.place, session), session)
        case Whole() as contestant:
            contestant.keep(tour.place, session_file)
            _timed_read(tour, "read cold", expected, partial(contestant.read, tour.place))


def random_reads(tour: Tour, session_file: Path) -> None:
    """Reads blocks all over a large session, cold and then warm."""
    contestant, times = tour.contestant, tour.lab.settings.reads
    assert isinstance(contestant, Mounted)
    _, expected = reader.read(session_file, times)
    with _cold_session(tour, contestant, session_file) as session:
        for how in ("cold", "warm"):
            go = partial(_read_through, tour.place, session, str(times))
            _timed_read(tour, f"random-read {how}", expected, go, session)


def names(tour: Tour, source: Path) -> None:
    """Lists many conversations, cold and warm."""
    contestant = tour.contestant
    assert isinstance(contestant, Mounted)
    contestant.fill(tour.place, source, NAMES)
    with _cold(tour, contestant) as session:
        _list(tour, "names", session.root / NAMES, source, session)


@contextmanager
def _cold_session(tour: Tour, contestant: Mounted, session_file: Path) -> Iterator[Session]:
    """A mount on which nothing is cached, with a session in it."""
    with contestant.mount(tour.place) as session:
        _write(contestant, tour.place, session, [session_file], [SESSION])
    with _cold(tour, contestant) as session:
        yield session


def _read_through(place: Place, session: Session, *arguments: str) -> tuple[float, str]:
    """The seconds and the digest that the program `reader` gives of the session."""
    seconds, digest = place.program("reader", session.root / SESSION, *arguments).split()
    return float(seconds), digest


def _timed_read(
    tour: Tour, workload: str, expected: str, go: Callable[[], tuple[float, str]], session: Session | None = None
) -> None:
    """Measures something that times itself and gives the digest of what it read."""
    seen: list[str] = []

    def step() -> float:
        seconds, digest = go()
        seen.append(digest)
        return seconds

    sample = tour.measure(workload, step)
    if session is not None:
        _note_memory(sample, session)
    tour.lab.judge(sample, seen == [expected])


def _keep(tour: Tour, sample: Sample, source: Path) -> None:
    raw = sum(path.stat().st_size for path in files_in(source))
    tour.lab.keep(sample, tour.contestant.stored(tour.place), raw)


@contextmanager
def _cold(tour: Tour, contestant: Mounted) -> Iterator[Session]:
    """A mount on which nothing is cached, to read what is there."""
    contestant.forget(tour.place)
    with contestant.mount_for_reading(tour.place) as session:
        tour.lab.cool()
        yield session


def _write(contestant: Mounted, place: Place, session: Session, sources: Sequence[Path], names: Sequence[str]) -> float:
    """Copies directories or files to names on a mount that is empty, all at once. The seconds until they were in the
    store."""
    sizes = [file.stat().st_size for source in sources for file in ([source] if source.is_file() else files_in(source))]
    began = time.monotonic()
    with ThreadPoolExecutor(len(sources)) as pool:
        copying = [
            pool.submit(place.run, "cp", "-r", source, session.root / name)
            for source, name in zip(sources, names, strict=True)
        ]
    for copy in copying:
        copy.result()
    surplus = contestant.settle(place, Stored(len(sizes), sum(sizes)))
    return time.monotonic() - began - surplus


def _copy_in_at_once(contestant: Copier, place: Place, parts: Sequence[Path]) -> None:
    with ThreadPoolExecutor(len(parts)) as pool:
        copying = [pool.submit(contestant.copy_in, place, part, part.name) for part in parts]
    for copy in copying:
        copy.result()


def _copy_out_of_mount(tour: Tour, session: Session, copied: Sample, contents: Mapping[str, str]) -> None:
    target = tour.place.directory / "out"

    def copy() -> None:
        tour.place.run("cp", "-r", f"{session.root}/.", target)

    if not tour.wanted("copy-out"):
        copy()
        tour.lab.judge(copied, digests(target) == contents)
        return
    for how in ("cold", "warm"):
        shutil.rmtree(target, ignore_errors=True)
        sample = tour.measure(f"copy-out {how}", copy)
        _note_memory(sample, session)
        right = digests(target) == contents
        tour.lab.judge(sample, right)
        if how == "cold":
            tour.lab.judge(copied, right)


def _copy_out(tour: Tour, contestant: Copier, copied: Sample, contents: Mapping[str, str]) -> None:
    target = tour.place.directory / "out"
    contestant.forget(tour.place)
    if not tour.wanted("copy-out"):
        contestant.copy_out(tour.place, target)
        _judge(tour, contestant, [copied], target, contents)
        return
    for how in ("cold", "warm"):
        shutil.rmtree(target, ignore_errors=True)
        sample = tour.measure(f"copy-out {how}", lambda: contestant.copy_out(tour.place, target))
        _judge(tour, contestant, [sample, copied] if how == "cold" else [sample], target, contents)


def _judge(
    tour: Tour, contestant: Copier, samples: Sequence[Sample], target: Path, contents: Mapping[str, str]
) -> None:
    """Compares what came back: bytes, or for who does not claim to keep them, which files there are."""
    found = digests(target)
    for sample in samples:
        if contestant.exact:
            tour.lab.judge(sample, found == contents)
        elif found.keys() != contents.keys():
            tour.lab.judge(sample, False)
        else:
            tour.lab.problem(sample.contestant, "", "", "does not keep the bytes of files: there is nothing to compare")


def _grep(tour: Tour, directory: Path, source: Path, session: Session) -> None:
    def search(where: Path) -> list[bytes]:
        # Counting, because grep ends a file at its first match where nobody reads its output.
        # Status 1 means that nothing was found.
        return sorted(tour.place.run("grep", "-rcFe", PATTERN, ".", cwd=where, succeeds=(0, 1)).splitlines())

    _twice(tour, "grep", lambda: search(directory), search(source), session)


def _list(tour: Tour, workload: str, directory: Path, source: Path, session: Session) -> None:
    def sizes(where: Path) -> list[bytes]:
        listing = tour.place.run("ls", "-lR", ".", cwd=where)
        return sorted(b" ".join(found) for found in LISTED.findall(listing))

    _twice(tour, workload, lambda: sizes(directory), sizes(source), session)


def _twice(tour: Tour, workload: str, look: Callable[[], list[bytes]], expected: list[bytes], session: Session) -> None:
    """Measures something cold and then warm, which must find what is expected."""
    for how in ("cold", "warm"):
        seen: list[bytes] = []

        def step(seen: list[bytes] = seen) -> None:
            seen[:] = look()

        sample = tour.measure(f"{workload} {how}", step)
        _note_memory(sample, session)
        tour.lab.judge(sample, seen == expected)


def _note_memory(sample: Sample, session: Session) -> None:
    if session.daemon is not None:
        sample.peak_memory = session.daemon.peak_memory()
