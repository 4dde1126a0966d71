"""Keeps paths still while something is done under them: a directory is renamed only when nothing below it is on its
way.

A rename of a directory changes what is stored below it one by one. A commit in the middle of that would land under the
old name and be left behind. So whoever changes something under a path does it inside `steady`, and a rename of a
directory inside `moving`, which waits for those under way below both names and holds up new ones. Everything else goes
on.

A rename that the store interrupted is *unfinished*: it keeps its paths to itself until it has been finished in the
background, but nobody waits for it longer than for the store.

A change that is half done is in the store already, and not yet in the inodes. Whoever asks the store meanwhile must not
take it for the work of another host: so lookups wait for changes that *alter* what a path shows, and for renames of
directories above, unless these are unfinished; and an answer that came while one was under way is none (`Question`).
"""

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import trio

from stowfs.errors import StoreUnavailable
from stowfs.vault.naming import display

Locate = Callable[[], tuple[str, ...]]
"""Gives paths as they are now."""


class Moves:
    """Changes under way, by path, and directories being renamed.

    `patience`: seconds to wait for a rename that is unfinished.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._changing: list[str] = []
        self._altering: list[str] = []
        self._moving: list[str] = []
        self._unfinished: list[str] = []
        self._questions: set[Question] = set()
        self._condition = trio.Condition()

    def steady(self, locate: Locate, *, altering: bool = False) -> "Steady":
        """Holds up directory renames of and above the paths that `locate` gives, which are what the block gets; with
        `altering` also lookups of these paths.

        `locate` is called again after each wait: a rename may have changed its answer. Raises `StoreUnavailable` where
        an unfinished rename is in the way.
        """
        return Steady(self, locate, altering=altering)

    def is_altering(self, path: str) -> bool:
        """Whether what `path` shows is being altered by itself, not by a rename of a directory."""
        return path in self._altering

    async def settled(self, path: str) -> bool:
        """Waits until lookups of `path` may ask the store. Whether there was anything to wait for."""
        if not self._is_unsettled(path):
            return False
        async with self._condition:
            while self._is_unsettled(path):
                await self._condition.wait()
        return True

    def _is_unsettled(self, path: str) -> bool:
        if path in self._altering:
            return True
        return any(is_within(path, a) for a in self._moving if a not in self._unfinished)

    def question(self, path: str) -> "Question":
        """The block asks the store what is under `path`, which is settled."""
        return Question(self._questions, path)

    async def _begin(self, locate: Locate, *, altering: bool) -> tuple[str, ...]:
        if self._moving:
            async with self._condition:
                await self._wait(lambda: [a for a in self._moving if any(is_within(path, a) for path in locate())])
        paths = locate()
        self._changing.extend(paths)
        if altering:
            self._altering.extend(paths)
            for question in self._questions:
                question.altered |= question.path in paths
        return paths

    async def _end(self, paths: tuple[str, ...], *, altering: bool) -> None:
        for path in paths:
            self._changing.remove(path)
            if altering:
                self._altering.remove(path)
        if self._moving or altering:
            await self._notify()

    @asynccontextmanager
    async def moving(self, locate: Locate) -> AsyncIterator[tuple[str, ...]]:
        """The block has the directories that `locate` gives to itself, and all that is below them. Raises as `steady`
        does."""
        async with self._condition:
            await self._wait(
                lambda: [a for a in self._moving if any(is_within(a, b) or is_within(b, a) for b in locate())]
            )
            directories = locate()
            self._moving.extend(directories)
            for question in self._questions:
                question.moved |= any(is_within(question.path, directory) for directory in directories)
        try:
            async with self._condition:
                while any(is_within(path, directory) for path in self._changing for directory in directories):
                    await self._condition.wait()
            yield directories
        finally:
            await self.release(*directories)

    def claim_unfinished(self, *directories: str) -> None:
        """As `moving` and `leave_unfinished`, for what an earlier process has begun; before anything else is done."""
        self._moving.extend(directories)
        self._unfinished.extend(directories)

    async def release(self, *directories: str) -> None:
        """Nobody has the directories to itself any more."""
        for directory in directories:
            self._moving.remove(directory)
            if directory in self._unfinished:
                self._unfinished.remove(directory)
        await self._notify()

    async def leave_unfinished(self, *directories: str) -> None:
        """What has these directories to itself goes on in the background, for who knows how long."""
        self._unfinished.extend(directories)
        await self._notify()

    async def _wait(self, in_the_way: Callable[[], Sequence[str]]) -> None:
        end = math.inf
        while moving := in_the_way():
            unfinished = [directory for directory in moving if directory in self._unfinished]
            if unfinished:
                end = min(end, trio.current_time() + self._patience)
            with trio.move_on_at(end) as scope:
                await self._condition.wait()
            if scope.cancelled_caught:
                raise StoreUnavailable(f"a rename of or to {display(unfinished[0])} waits for the store")

    async def _notify(self) -> None:
        with trio.CancelScope(shield=True):
            async with self._condition:
                self._condition.notify_all()


class Steady:
    """The block of `Moves.steady`: a class, which costs less than a generator, since each close of a file enters it."""

    __slots__ = ("_altering", "_locate", "_moves", "_paths")

    def __init__(self, moves: Moves, locate: Locate, *, altering: bool) -> None:
        self._moves = moves
        self._locate = locate
        self._altering = altering
        self._paths: tuple[str, ...] = ()

    async def __aenter__(self) -> tuple[str, ...]:
        self._paths = await self._moves._begin(self._locate, altering=self._altering)
        return self._paths

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._moves._end(self._paths, altering=self._altering)


class Question:
    """The block of `Moves.question`.

    `altered`, `moved`: this host has begun meanwhile to alter what the path shows, or to rename a directory above. Then
    the answer may be the work of this host, half done.
    """

    __slots__ = ("_asked", "altered", "moved", "path")

    def __init__(self, asked: "set[Question]", path: str) -> None:
        self._asked = asked
        self.path = path
        self.altered = self.moved = False

    def __enter__(self) -> Self:
        self._asked.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._asked.remove(self)


def is_within(path: str, directory: str) -> bool:
    """Whether `path` is `directory` or lies somewhere below it; everything lies below '', the root."""
    return not directory or path == directory or path.startswith(directory + "/")
