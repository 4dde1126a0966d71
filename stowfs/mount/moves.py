"""Keeps paths still while something is done under them: a directory is renamed only when nothing below it is on its
way.

A rename of a directory changes what is stored below it one by one. A commit in the middle of that would land under the
old name and be left behind. So whoever changes something under a path does it inside `steady`, and a rename of a
directory inside `moving`, which waits for those under way below both names and holds up new ones. Everything else goes
on.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio


class Moves:
    """Changes under way, by path, and directories being renamed."""

    def __init__(self) -> None:
        self._changing: list[str] = []
        self._moving: list[str] = []
        self._condition = trio.Condition()

    @asynccontextmanager
    async def steady(self, locate: Callable[[], tuple[str, ...]]) -> AsyncIterator[tuple[str, ...]]:
        """Holds up directory renames of and above the paths that `locate` gives, which are what the block gets.

        `locate` is called again after each wait: a rename may have changed its answer.
        """
        if self._moving:
            async with self._condition:
                while any(is_within(path, directory) for path in locate() for directory in self._moving):
                    await self._condition.wait()
        paths = locate()
        self._changing.extend(paths)
        try:
            yield paths
        finally:
            for path in paths:
                self._changing.remove(path)
            await self._notify()

    @asynccontextmanager
    async def moving(self, locate: Callable[[], tuple[str, ...]]) -> AsyncIterator[tuple[str, ...]]:
        """The block has the directories that `locate` gives to itself, and all that is below them."""
        async with self._condition:
            while any(is_within(a, b) or is_within(b, a) for a in locate() for b in self._moving):
                await self._condition.wait()
            directories = locate()
            self._moving.extend(directories)
        try:
            async with self._condition:
                while any(is_within(path, directory) for path in self._changing for directory in directories):
                    await self._condition.wait()
            yield directories
        finally:
            for directory in directories:
                self._moving.remove(directory)
            await self._notify()

    async def _notify(self) -> None:
        if self._condition.statistics().tasks_waiting or self._moving:
            with trio.CancelScope(shield=True):
                async with self._condition:
                    self._condition.notify_all()


def is_within(path: str, directory: str) -> bool:
    """Whether `path` is `directory` or lies somewhere below it; everything lies below '', the root."""
    return not directory or path == directory or path.startswith(directory + "/")
