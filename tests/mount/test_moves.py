"""The gate between changes below a directory and its rename."""

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from stowfs.errors import StoreUnavailable
from stowfs.mount.moves import Moves, is_within


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
