"""Renaming directories: one conversation after another, under one journal row for the whole tree.

Phases: *recorded* (the new directory may have been made; nothing was moved, so that a refusal ends it) → *updated* (it
is there, and is filled). From then on the rename is not given up, whatever fails: it is attempted again in the
background, by the next process where this one ends, until nothing is left to move. Attempts may follow each other in
any state: what is still under the old name is moved.

Each conversation is renamed as if alone: it is whole, and under at least one of its names, at every moment. Nothing is
ever overwritten: what somebody else wrote under the new name keeps it, and what was to be moved there is kept beside it
(`conflict_path`). What somebody wrote under the old name meanwhile is moved as well; what comes in for ever, and what
cannot be read, makes the old directory stay.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from stowfs.errors import (
    CorruptObject,
    DirectoryNotEmpty,
    IsDirectory,
    NameTooLong,
    NoSuchPath,
    NotDirectory,
    PathExists,
    StowError,
    UnsupportedVersion,
    UsageError,
)
from stowfs.hot.journal import Journal
from stowfs.vault.commit import Committer
from stowfs.vault.conflict import conflict_path
from stowfs.vault.manifest import Attributes, Snapshot
from stowfs.vault.naming import display, join, split
from stowfs.vault.parallel import each
from stowfs.vault.recovery import Attempt, Recovery
from stowfs.vault.ring import new_id
from stowfs.vault.transaction import Phase, Row, Source, encode
from stowfs.vault.tree import Tree

log = logging.getLogger(__name__)

RENAMES = 16
"""Conversations renamed at once when their directory is."""

PASSES = 3
"""How often the old directory is looked at again because somebody wrote to it. A conversation that was written at the
moment of its rename needs two; whoever still writes there after these could do so for ever."""

REFUSED = (DirectoryNotEmpty, IsDirectory, NoSuchPath, NotDirectory, PathExists, NameTooLong)
"""Why there may be nothing to rename to, or from: an answer, and none that changes by asking again."""

IMMOVABLE = (CorruptObject, UnsupportedVersion, NameTooLong)
"""What is wrong with one conversation, and stays so: it must not keep the others."""


Then = Callable[[bool], Awaitable[None]]
"""Told that a rename has ended, and whether it took place. Raises nothing."""


@dataclass(slots=True, eq=False)
class _Move:
    """One rename under way in this process. `stays`: why something could not be moved."""

    row: Row
    old: str
    phase: Phase
    ended: bool = False
    stays: list[StowError] = field(default_factory=list)
    then: list[Then] = field(default_factory=list)


class Mover:
    """The renames of directories of one vault."""

    def __init__(self, tree: Tree, committer: Committer, recovery: Recovery, journal: Journal) -> None:
        self._tree = tree
        self._committer = committer
        self._recovery = recovery
        self._journal = journal
        self._unfinished: list[_Move] = []

    async def rename(self, old: str, new: str) -> None:
        """Renames a directory with everything in it.

        Raises `DirectoryNotEmpty` or `NotDirectory` unless the new name is free or an empty directory, `NoSuchPath` and
        `NotDirectory` for either and the new parent, and `UsageError` where the new name lies in the old one: then
        nothing has changed. Raises `CorruptObject`, `UnsupportedVersion` or `NameTooLong` where something cannot be
        moved and stays where it was: then the rest has moved. After any other error the rename goes on in the
        background.
        """
        moved = await self._tree.directory(old)
        if old == new:
            return
        if new.startswith(old + "/"):
            raise UsageError(f"{display(old)} cannot be moved into itself")
        move = _Move(Row(new_id(), "move", new, source=Source(old, moved.etag, ())), old, "recorded")
        await self._journal.record(encode(move.row, "recorded"))
        try:
            await self._carry_on(move)
        finally:
            if not move.ended:
                self._unfinished.append(move)
                self._recovery.start(move.row, partial(self._attempt, move))
        if move.stays:
            raise move.stays[0]

    @property
    def unfinished(self) -> list[tuple[str, str]]:
        """The renames that go on in the background: of what, to what."""
        return [(move.old, move.row.path) for move in self._unfinished]

    def when_ended(self, old: str, new: str, then: Then) -> bool:
        """Has `then` called when a rename has ended that goes on in the background. False where none does."""
        for move in self._unfinished:
            if (move.old, move.row.path) == (old, new):
                move.then.append(then)
                return True
        return False

    def resume(self, row: Row, phase: Phase) -> Attempt:
        """How a rename goes on that an earlier process began."""
        assert row.source is not None
        move = _Move(row, row.source.path, phase)
        self._unfinished.append(move)
        return partial(self._attempt, move)

    async def _attempt(self, move: _Move, _: bool) -> None:
        """Goes on in the background, after whatever."""
        await self._recovery.renames_settled(move.old)
        names = display(move.old), display(move.row.path)
        done = True
        try:
            await self._carry_on(move)
        except REFUSED as error:
            if not move.ended:
                raise
            done = False
            log.warning("%s is not renamed to %s: %s", *names, error)
        else:
            log.info("%s is renamed to %s", *names)
        self._unfinished.remove(move)
        for then in move.then:
            await then(done)

    async def _carry_on(self, move: _Move) -> None:
        move.stays.clear()
        if move.phase == "recorded":
            try:
                await self._prepare(move.old, move.row.path)
            except REFUSED:
                await self._end(move)
                raise
            await self._journal.advance(move.row.commit, "updated")
            move.phase = "updated"
        await self._move_everything(move)
        await self._end(move)

    async def _end(self, move: _Move) -> None:
        await self._journal.remove(move.row.commit)
        move.ended = True

    async def _prepare(self, old: str, new: str) -> None:
        """Makes the new directory like the old one. Raises `REFUSED`."""
        attributes = (await self._tree.directory(old)).attributes
        try:
            await self._tree.directory(new)
        except NoSuchPath:
            try:
                await self._tree.make(new, attributes)
            except PathExists:
                # By somebody else, or by an earlier attempt whose request came late.
                await self._tree.directory(new)
            else:
                return
        if not await self._tree.is_empty(new):
            raise DirectoryNotEmpty(f"{display(new)} is not empty")
        await self._committer.set_attributes(new, lambda _: attributes)

    async def _move_everything(self, move: _Move) -> None:
        for _ in range(PASSES):
            move.stays.clear()
            try:
                if await self._move_directory(move, await self._tree.directory(move.old), move.row.path):
                    return
            except (NoSuchPath, NotDirectory) as error:
                log.info("%s was removed by somebody else: %s", display(move.old), error)
                return
            except IMMOVABLE as error:
                _note(move, move.old, error)
            if move.stays:
                break
        log.warning("%s stays, with what could not be moved from it", display(move.old))

    async def _move_directory(self, move: _Move, directory: Snapshot, new: str) -> bool:
        """Moves what is in a directory, and removes it. Whether nothing was left."""
        new = await self._destination(new, directory.attributes)
        children = await self._tree.list(directory.path)
        await each(
            lambda child: self._move_child(move, child.path, join(new, split(child.path)[1])),
            [child for child in children if not child.is_directory],
            limit=RENAMES,
        )
        for child in children:
            if child.is_directory:
                try:
                    await self._move_directory(move, child, join(new, split(child.path)[1]))
                except IMMOVABLE as error:
                    _note(move, child.path, error)
                except (NoSuchPath, NotDirectory) as error:
                    log.info("%s was removed before it could be moved: %s", display(child.path), error)
        try:
            await self._tree.remove(directory.path)
        except DirectoryNotEmpty:
            return False
        return True

    async def _destination(self, path: str, attributes: Attributes) -> str:
        """The directory `path`, made if it is not there; one beside it where that is something else."""
        while True:
            try:
                if (await self._tree.head(path)).is_directory:
                    return path
            except NoSuchPath:
                try:
                    await self._committer.make_directory(path, attributes)
                except PathExists:
                    continue
                return path
            beside = conflict_path(path)
            log.warning("%s is taken: what was moved there is in %s", display(path), display(beside))
            path = beside

    async def _move_child(self, move: _Move, old: str, new: str) -> None:
        try:
            await self._rename(old, new)
        except (NoSuchPath, IsDirectory) as error:
            log.info("%s was removed before it could be moved: %s", display(old), error)
        except IMMOVABLE as error:
            _note(move, old, error)

    async def _rename(self, old: str, new: str) -> None:
        placed: Snapshot | None = None
        while True:
            try:
                renamed = await self._committer.rename(old, new, replace=False, over=placed)
            except PathExists:
                beside = conflict_path(new)
                log.warning("%s is taken: %s is kept as %s", display(new), display(old), display(beside))
                new, placed = beside, None
                continue
            except NoSuchPath:
                if placed is None:
                    raise
                return
            if renamed.retired:
                return
            # Somebody wrote to it while it was moved: what they made of it takes the place of what was moved.
            placed = renamed.snapshot


def _note(move: _Move, path: str, error: StowError) -> None:
    log.error("%s cannot be moved, and stays: %s", display(path), error)
    move.stays.append(error)
