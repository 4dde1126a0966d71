"""The gate between changes below a directory and its rename."""

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from stowfs.errors import NoSuchPath, StoreUnavailable
from stowfs.mount import tree
from stowfs.mount.moves import Moves, is_within
from tests.support.faults import FaultyStore, Rule, Stall
from tests.support.vaults import ATTRIBUTES, GOES_ON, Hosts, read, write
from tests.support.view import View


def test_what_lies_below_what() -> None:
    assert is_within("a/b", "a")
    assert is_within("a", "a")
    assert is_within("a", "")
    assert not is_within("ab", "a")
    assert not is_within("a", "a/b")


class Gate:
    """Runs one `steady` and one `moving` block each until told to end, and keeps what happened."""

    def __init__(self) -> None:
        self.moves = Moves(patience=5)
        self.happened: list[str] = []

    async def change(self, path: str, until: trio.Event) -> None:
        async with self.moves.steady(lambda: (path,)):
            self.happened.append(f"change {path}")
            await until.wait()

    async def move(self, old: str, new: str, until: trio.Event) -> None:
        async with self.moves.moving(lambda: (old, new)):
            self.happened.append(f"move {old}")
            await until.wait()


async def test_a_move_waits_for_changes_below_and_for_no_others() -> None:
    gate, below, beside, moved = Gate(), trio.Event(), trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate.change, "a/x", below)
        nursery.start_soon(gate.change, "ab/x", beside)
        await wait_all_tasks_blocked()
        nursery.start_soon(gate.move, "a", "b", moved)
        await wait_all_tasks_blocked()
        assert "move a" not in gate.happened
        below.set()
        await wait_all_tasks_blocked()
        assert gate.happened[-1] == "move a"
        moved.set()
        beside.set()


@pytest.mark.parametrize("path", ["a/x", "a", "b/y/z"])
async def test_changes_below_either_name_wait_for_the_move(path: str) -> None:
    gate, moved, ended = Gate(), trio.Event(), trio.Event()
    ended.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate.move, "a", "b", moved)
        await wait_all_tasks_blocked()
        nursery.start_soon(gate.change, path, ended)
        nursery.start_soon(gate.change, "c", ended)
        await wait_all_tasks_blocked()
        assert gate.happened == ["move a", "change c"]
        moved.set()
    assert gate.happened[-1] == f"change {path}"


async def test_a_change_that_waited_goes_where_its_file_is_now() -> None:
    gate, moved = Gate(), trio.Event()
    where = "a/x"
    found: list[str] = []

    async def change() -> None:
        async with gate.moves.steady(lambda: (where,)) as (path,):
            found.append(path)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate.move, "a", "b", moved)
        await wait_all_tasks_blocked()
        nursery.start_soon(change)
        await wait_all_tasks_blocked()
        where = "b/x"
        moved.set()
    assert found == ["b/x"]


async def test_nobody_waits_for_ever_for_a_move_that_is_unfinished(autojump_clock: MockClock) -> None:
    gate, moved, ended = Gate(), trio.Event(), trio.Event()
    ended.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate.move, "a", "b", moved)
        await wait_all_tasks_blocked()
        refused: list[StoreUnavailable] = []
        asked = trio.current_time()

        async def try_it(attempt: Callable[[], Awaitable[None]]) -> None:
            with pytest.raises(StoreUnavailable) as caught:
                await attempt()
            refused.append(caught.value)

        # One waits already, the others come later.
        nursery.start_soon(try_it, partial(gate.change, "a/x", ended))
        await trio.sleep(1000)
        assert not refused
        await gate.moves.leave_unfinished("a", "b")
        await try_it(partial(gate.change, "b/y", ended))
        await try_it(partial(gate.move, "c", "b/z", ended))
        assert len(refused) == 3
        assert trio.current_time() - asked == 1010
        await gate.change("c", ended)
        moved.set()
        await wait_all_tasks_blocked()
        # Once it is finished, so is that.
        await gate.change("a/x", ended)
        nursery.start_soon(gate.move, "a", "b", trio.Event())
        await wait_all_tasks_blocked()
        with trio.move_on_after(1000) as patient:
            await gate.change("a/x", ended)
        assert patient.cancelled_caught
        nursery.cancel_scope.cancel()
    assert gate.happened == ["move a", "change c", "change a/x", "move a"]


async def test_moves_of_one_another_take_turns() -> None:
    gate, first, second = Gate(), trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate.move, "a", "b", first)
        await wait_all_tasks_blocked()
        nursery.start_soon(gate.move, "a/sub", "c", second)
        await wait_all_tasks_blocked()
        assert gate.happened == ["move a"]
        first.set()
        await wait_all_tasks_blocked()
        assert gate.happened == ["move a", "move a/sub"]
        second.set()


async def test_a_move_that_is_cancelled_while_it_waits_holds_nobody_up() -> None:
    gate, below, never = Gate(), trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate.change, "a/x", below)
        await wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                inner.start_soon(gate.move, "a", "b", never)
                await wait_all_tasks_blocked()
                scope.cancel()
        ended = trio.Event()
        ended.set()
        await gate.change("a/y", ended)
        below.set()
    assert gate.happened == ["change a/x", "change a/y"]


async def test_lookups_wait_for_what_alters_their_path_and_for_renames_above(autojump_clock: MockClock) -> None:
    gate, altered, moved = Gate(), trio.Event(), trio.Event()
    looked_up: list[str] = []

    async def alter() -> None:
        async with gate.moves.steady(lambda: ("c/x",), altering=True):
            await altered.wait()

    async def look_up(path: str) -> None:
        await gate.moves.settled(path)
        looked_up.append(path)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate.change, "c", altered)
        nursery.start_soon(alter)
        nursery.start_soon(gate.move, "a", "b", moved)
        await wait_all_tasks_blocked()
        for path in ("a/x", "b", "c/x", "c", "c/x/y"):
            nursery.start_soon(look_up, path)
        await wait_all_tasks_blocked()
        assert sorted(looked_up) == ["c", "c/x/y"]
        altered.set()
        await wait_all_tasks_blocked()
        assert looked_up[2:] == ["c/x"]
        # Nobody knows how long that takes.
        await gate.moves.leave_unfinished("a", "b")
        await wait_all_tasks_blocked()
        assert sorted(looked_up[3:]) == ["a/x", "b"]
        moved.set()


async def test_an_answer_tells_that_its_path_was_altered_or_moved_meanwhile() -> None:
    gate, ended = Gate(), trio.Event()
    ended.set()
    questions = {path: gate.moves.question(path) for path in ("a/x", "c", "c/x")}
    with questions["a/x"], questions["c"], questions["c/x"]:
        await gate.change("c/x", ended)
        async with gate.moves.steady(lambda: ("c",), altering=True):
            pass
        await gate.move("b", "a", ended)
    assert [path for path, question in questions.items() if question.altered] == ["c"]
    assert [path for path, question in questions.items() if question.moved] == ["a/x"]


async def test_what_is_written_to_a_file_that_is_opened_during_the_rename_of_its_directory_is_kept(
    hosts: Hosts, faulty: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was committed without its lock: what was written while that went on was in no file."""
    monkeypatch.setattr(tree, "COMMITS", 1)
    other = await hosts.start("other")
    await other.make_directory("d", ATTRIBUTES)
    view = View(await hosts.start("this"))
    for name in ("x", "y", "z"):
        await write(other, f"d/{name}", b"")
        (await view.lookup.find(f"d/{name}"))[0].lookups += 1
    (await view.lookup.find("d"))[0].lookups += 1
    # In the order in which they are committed, or the other way round.
    first, idle, last = [inode.path.split("/")[1] for inode in view.inodes.below("d")]
    unsaved_stalled, idle_stalled = Stall(), Stall()
    for name in (first, last):
        await view.contents.write(await view.open_files.open_path(f"d/{name}", writing=True), 0, b"1", appending=False)
        faulty.add(Rule(unsaved_stalled, "put", f"manifests/d/{name}.json", nth=1))
    faulty.add(Rule(idle_stalled, "put", f"manifests/d/{idle}.json", nth=1))

    async def program() -> None:
        try:
            inode = await view.open_files.open_path(f"d/{idle}", writing=True)
        except NoSuchPath:
            inode = await view.open_files.open_path(f"e/{idle}", writing=True)
        await view.contents.write(inode, 0, b"a", appending=True)
        await idle_stalled.reached.wait()
        await view.contents.write(inode, 1, b"b", appending=True)
        await view.commits.commit(inode)
        await view.open_files.close(inode, writing=True)

    root = view.inodes.conversations
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(view.tree.rename, root, b"d", root, b"e", replace=True))
        await unsaved_stalled.reached.wait()
        nursery.start_soon(program)
        await wait_all_tasks_blocked(GOES_ON)
        unsaved_stalled.go.set()
        await idle_stalled.reached.wait()
        await wait_all_tasks_blocked(GOES_ON)
        idle_stalled.go.set()
    assert [await read(other, f"e/{name}") for name in (first, idle, last)] == [b"1", b"ab", b"1"]


@pytest.mark.parametrize("change", ["removed", "replaced"])
async def test_what_was_acknowledged_stays_with_what_is_kept_of_it_while_its_name_goes(
    change: str, hosts: Hosts, faulty: FaultyStore
) -> None:
    """An edit loses while the removal waits for it: what was written since belongs to the other name by then."""
    other = await hosts.start("other")
    await write(other, "x", b"base text")
    view = View(await hosts.start("this", asynchronous=True))
    root = view.inodes.conversations
    if change == "replaced":
        new = await view.tree.create(root, b"new", ATTRIBUTES, exclusive=False, appending=False, at_once=False)
        await view.open_files.close(new, writing=True)
        work = partial(view.tree.rename, root, b"new", root, b"x", replace=True)
    else:
        work = partial(view.tree.remove, root, b"x")
    inode = await view.open_files.open_path("x", writing=True)
    await view.contents.write(inode, 0, b"EDIT", appending=False)
    await view.commits.commit(inode)
    await write(other, "x", b"theirs")
    held = faulty.held("put", "manifests/x.conflict-*", view.commits.flush, inode)
    async with trio.open_nursery() as nursery, held:
        await view.contents.write(inode, 5, b"MORE", appending=False)
        await view.open_files.close(inode, writing=True)
        nursery.start_soon(work)
        await wait_all_tasks_blocked(GOES_ON)
    await view.commits.flush(inode)
    [kept] = [name for name, _ in (await other.listing("")).entries if name.startswith("x.conflict-")]
    assert await read(other, kept) == b"EDIT MORE"
