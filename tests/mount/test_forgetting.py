"""The kernel is asked to forget files where there are too many, and nobody notices."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from stowfs.mount import forgetting, inodes
from stowfs.mount.forgetting import Forgetting, Name
from stowfs.mount.inode import Inode
from stowfs.mount.inodes import Inodes
from stowfs.mount.readers import Contention
from stowfs.vault.version import Version
from tests.support.mounting import Mount, Mounts, python, run
from tests.support.vaults import ATTRIBUTES

LIMIT = 200
"""Inodes that may be known."""

ENOUGH = LIMIT * 7 // 8

FILES = 5 * LIMIT


@pytest.fixture
async def few(monkeypatch: pytest.MonkeyPatch) -> Inodes:
    monkeypatch.setattr(inodes, "KNOWN", LIMIT)
    monkeypatch.setattr(forgetting, "ARRIVAL", 0.01)
    return Inodes(Version("", ATTRIBUTES, 0, "directory"), Contention())


def shown(known: Inodes, numbers: Sequence[int], kind: str = "conversation") -> list[Inode]:
    made = [known.add(f"{number:04d}", Version(f"c{number}", ATTRIBUTES, 5, kind)) for number in numbers]  # type: ignore[arg-type]
    for inode in made:
        inode.lookups = 1
    return made


class Kernel:
    """Forgets what it is asked to, but for those names."""

    def __init__(self, known: Inodes, keeps: Callable[[bytes], bool] = lambda _: False) -> None:
        self._known = known
        self._keeps = keeps
        self.asked: list[bytes] = []

    def forget(self, names: Sequence[Name]) -> None:
        trio.from_thread.run_sync(self._forget, names)

    def _forget(self, names: Sequence[Name]) -> None:
        for name in names:
            self.asked.append(name.name)
            if not self._keeps(name.name):
                self._known.forget(name.number, 1)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - the kernel changes it
            await trio.sleep(0.01)


async def test_what_was_shown_first_goes_first_and_only_as_much_as_needed(few: Inodes, nursery: trio.Nursery) -> None:
    kernel = Kernel(few)
    task = Forgetting(few, kernel.forget)
    nursery.start_soon(task.run)
    shown(few, range(LIMIT - 1))
    await trio.testing.wait_all_tasks_blocked()
    assert kernel.asked == []
    shown(few, range(LIMIT - 1, LIMIT + 1))
    await until(lambda: len(few) <= ENOUGH)
    assert kernel.asked == [b"%04d" % number for number in range(len(kernel.asked))]
    assert len(few) == ENOUGH
    await task.stop()
    asked = len(kernel.asked)
    shown(few, range(1000, 1000 + LIMIT))
    await trio.testing.wait_all_tasks_blocked()
    assert len(kernel.asked) == asked


async def test_what_is_used_stays(few: Inodes, nursery: trio.Nursery) -> None:
    kernel = Kernel(few)
    opened, mapped, superseded = shown(few, range(3))
    opened.handles = mapped.mappers = superseded.handles = 1
    few.supersede(superseded)
    shown(few, range(10, 20), "directory")
    shown(few, range(100, 100 + LIMIT))
    nursery.start_soon(Forgetting(few, kernel.forget).run)
    await until(lambda: len(few) <= ENOUGH)
    assert len(few) == ENOUGH
    assert min(kernel.asked) == b"0100"


async def test_a_kernel_that_keeps_what_it_knows_is_not_asked_all_the_time(
    few: Inodes, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgetting, "PAUSE", 3600.0)
    kernel = Kernel(few, lambda name: name[-1:] != b"0")
    nursery.start_soon(Forgetting(few, kernel.forget).run)
    shown(few, range(2 * LIMIT))
    await until(lambda: len(kernel.asked) == 2 * LIMIT + 1 - ENOUGH)
    # Again at once it would be asked now.
    await trio.sleep(20 * forgetting.ARRIVAL)
    assert len(kernel.asked) == 2 * LIMIT + 1 - ENOUGH
    assert len(few) > LIMIT


def wait_until_few(mount: Mount) -> None:
    python(
        "import json, time\n"
        "end = time.monotonic() + 20\n"
        "while json.load(open(args[0]))['inodes'] > int(args[1]):\n"
        "    assert time.monotonic() < end\n"
        "    time.sleep(0.05)",
        mount.mountpoint / ".stowfs" / "stats.json",
        str(LIMIT),
    )


@pytest.fixture
def mount(mounts: Mounts) -> Mount:
    control = mounts.directory / "a" / "control"
    control.mkdir(parents=True)
    (control / "known").write_text(str(LIMIT))
    mount = mounts.start("a", "commit=async,revalidate=60")
    python(
        "for n in range(int(args[1])):\n"
        "    os.makedirs(f'{args[0]}/{n % 3}', exist_ok=True)\n"
        "    open(f'{args[0]}/{n % 3}/{n}', 'w').write(str(n))",
        mount.root,
        str(FILES),
    )
    return mount


@pytest.mark.fuse
def test_a_mount_knows_no_more_than_it_may_and_shows_all(mount: Mount) -> None:
    listing = run("ls", "-liR", mount.root).stdout
    assert listing.count(b"-rw-") == FILES
    wait_until_few(mount)
    assert run("ls", "-liR", mount.root).stdout == listing
    assert run("cat", *(mount.root / str(n % 3) / str(n) for n in range(30))).stdout == b"".join(
        b"%d" % n for n in range(30)
    )
    wait_until_few(mount)
    mount.unmount()


@pytest.mark.fuse
def test_what_programs_use_meanwhile_stays_as_it_is(mount: Mount) -> None:
    seen = python(
        "import json, mmap, subprocess\n"
        "os.chdir(args[0] + '/1')\n"
        "first = os.open('1', os.O_RDWR | os.O_APPEND)\n"
        "shared = mmap.mmap(first, 0, mmap.MAP_SHARED, mmap.PROT_READ)\n"
        "number = os.fstat(first).st_ino\n"
        "for _ in range(5):\n"
        "    subprocess.run(['ls', '-lR', args[0]], stdout=subprocess.DEVNULL, check=True)\n"
        "os.write(first, b'more')\n"
        "print(os.readlink(f'/proc/self/fd/{first}') == args[0] + '/1/1', os.getcwd() == args[0] + '/1',\n"
        "      os.stat('1').st_ino == number, os.pread(first, 9, 0), shared[:])",
        mount.root,
    )
    assert seen == "True True True b'1more' b'1'"
    wait_until_few(mount)


@pytest.mark.fuse
def test_files_come_and_go_while_the_kernel_forgets(mount: Mount, tmp_path: Path) -> None:
    python(
        "import subprocess, threading\n"
        "walks = [subprocess.Popen(['find', args[0], '-type', 'f', '-size', '-1k', '-exec', 'cat', '{}', '+'],\n"
        "                          stdout=subprocess.DEVNULL) for _ in range(3)]\n"
        "for n in range(150):\n"
        "    path = f'{args[0]}/{n % 3}/new-{n}'\n"
        "    open(path, 'w').write('x')\n"
        "    os.rename(path, path + '.done')\n"
        "    assert open(path + '.done').read() == 'x'\n"
        "    os.unlink(path + '.done')\n"
        "for walk in walks: walk.wait(20)",
        mount.root,
    )
    wait_until_few(mount)
    assert len(run("find", mount.root, "-type", "f").stdout.splitlines()) == FILES
