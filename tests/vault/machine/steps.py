"""What one host does, and what that makes of a state."""

from dataclasses import dataclass, field, replace

import msgspec

from stowfs.errors import (
    DirectoryNotEmpty,
    IsDirectory,
    NoSuchPath,
    NotDirectory,
    PathExists,
    UsageError,
)
from stowfs.vault.vault import Vault
from tests.support.dictionaries import conversation
from tests.support.vaults import ATTRIBUTES, append, edit, write
from tests.vault.machine.state import File, State, ancestors, parent
from tests.vault.test_promises import noise

FILES = ["x", "d/x", "e/x", "d/s/x", "e/s/x"]
DIRECTORIES = ["d", "e", "d/s", "e/s"]
MODES = [0o644, 0o600, 0o640]

REFUSALS = (NoSuchPath, PathExists, IsDirectory, NotDirectory, DirectoryNotEmpty, UsageError)
"""How an operation says that the tree is not such that it could be done."""

BLOCKS = [noise(16_000 + 4_000 * number, number) + conversation(number, messages=12) for number in range(5)]
"""What no compression makes smaller, so that there are segments, and what every better one does."""


def content(seed: int) -> bytes:
    """One of some contents, many of which share segments; a few are small."""
    if seed % 6 == 0:
        return b"small %d" % seed
    first = seed % len(BLOCKS)
    return b"".join(BLOCKS[(first + n) % len(BLOCKS)] for n in range(1 + seed % 5))


def edited(seed: int, size: int) -> tuple[int, bytes]:
    """Where in a file of that size and what an edit writes."""
    return seed * 977 % (size + 1), content(seed)[: 1 + seed * 311 % 30_000]


def overwritten(old: bytes, position: int, data: bytes) -> bytes:
    """`old` with `data` written at `position`."""
    return old[:position].ljust(position, b"\0") + data + old[position + len(data) :]


@dataclass
class Results:
    """What may be after a step was `done` or `refused`, if it begins in one given state."""

    done: set[State] = field(default_factory=set)
    refused: set[State] = field(default_factory=set)


@dataclass(frozen=True)
class Step:
    """What one host does. `trouble` befalls the `nth` request from its beginning on; `beside`: what another host does
    meanwhile. `lifetime`, in seconds, and so `expires_ns`: the deadline of what is written, or is to be set."""

    kind: str
    host: str
    path: str
    other: str
    directory: str
    target: str
    seed: int
    trouble: str
    nth: int
    beside: str
    lifetime: float | None = None
    expires_ns: int | None = None

    def results(self, state: State) -> Results:
        """What may be afterwards, if the step begins in `state`."""
        refused = Results(refused={state})
        match self.kind:
            case "mkdir":
                if state.exists(self.directory) or not state.exists(parent(self.directory)):
                    return refused
                return Results({state.with_directories([self.directory])})
            case "rmdir":
                if not state.exists(self.directory) or not state.is_empty(self.directory):
                    return refused
                return Results({state.without_directory(self.directory)})
            case "move":
                return refused if self._is_immovable(state) else Results({self._moved(state)})
            case "undelete":
                return self._undelete(state)
        done = self._changed(state)
        return refused if done is None else Results({done})

    def between(self, state: State) -> set[State]:
        """Where the step may stop on its way, if it begins in `state`."""
        match self.kind:
            case "rename" | "rename to a free name":
                file = state.file(self.path)
                return set() if file is None else {state.with_file(self.other, file)}
            case "move":
                if self._is_immovable(state) or self.directory == self.target:
                    return set()
                return state.partly_moved(self.directory, self.target)
            case "undelete":
                above = [directory for directory in ancestors(self.path) if not state.exists(directory)]
                return {state.with_directories(above[:number]) for number in range(len(above) + 1)}
        return set()

    def aimed(self, states: set[State]) -> "Step":
        """The same step, most of the time on something that it can be done to."""
        match self.kind:
            case "undelete":
                there = sorted({path for state in states for path, _ in state.trash})
                return replace(self, path=self._one_of(there, self.path))
            case "move" | "rmdir":
                there = sorted({path for state in states for path in state.directories})
                directory, target = self._one_of(there, self.directory), self.target
                if target.count("/") > directory.count("/") and parent(target) != directory:
                    # What is below would come to have names that nobody looks at.
                    target = parent(target)
                return replace(self, directory=directory, target=target)
            case "replace" | "create" | "mkdir":
                return self
        there = sorted({path for state in states for path, _ in state.files})
        return replace(self, path=self._one_of(there, self.path))

    def _one_of(self, there: list[str], name: str) -> str:
        """In three of four cases one of those that are there."""
        return there[self.seed % len(there)] if there and self.nth % 4 else name

    def meets_strays(self, state: State) -> bool:
        """Whether a move would find names taken below what is no directory any more: what a host had open when that was
        moved. It keeps the others beside, which the model knows nothing of."""
        return self.kind == "move" and not state.exists(self.target) and not state.is_empty(self.target)

    @property
    def is_idle(self) -> bool:
        """Whether it succeeds without doing anything: a file is given the name it has."""
        return self.kind in ("rename", "rename to a free name") and self.path == self.other

    @property
    def is_long(self) -> bool:
        """Whether it takes several commits, so that it may be refused half-way."""
        return self.kind in ("move", "undelete")

    def _is_immovable(self, state: State) -> bool:
        old, new = self.directory, self.target
        if not state.exists(old):
            return True
        if old == new:
            return False
        if new.startswith(old + "/"):
            return True
        return not state.is_empty(new) if state.exists(new) else not state.exists(parent(new))

    def _moved(self, state: State) -> State:
        return state if self.directory == self.target else state.moved(self.directory, self.target)

    def _undelete(self, state: State) -> Results:
        trashed = state.trashed(self.path)
        if state.file(self.path) is not None or trashed is None:
            return Results(refused={state})
        back = state.with_file(self.path, trashed.file).with_directories(ancestors(self.path))
        if trashed.sure:
            return Results({back})
        return Results({back}, {state.without_trashed(self.path)})

    def _changed(self, state: State) -> State | None:
        """What becomes of `state` by a change of a file; `None` where it is refused."""
        old = state.file(self.path)
        match self.kind:
            case "replace" | "create":
                if not state.exists(parent(self.path)) or (old is not None and self.kind == "create"):
                    return None
                return state.with_file(self.path, File(content(self.seed), ATTRIBUTES.mode, self.expires_ns))
            case _ if old is None:
                return None
            case "append":
                return state.with_file(self.path, old._replace(data=old.data + content(self.seed)))
            case "edit":
                data = overwritten(old.data, *edited(self.seed, len(old.data)))
                return state.with_file(self.path, old._replace(data=data))
            case "chmod":
                return state.with_file(self.path, old._replace(mode=MODES[self.seed % len(MODES)]))
            case "expire":
                return state.with_file(self.path, old._replace(expires_ns=self.expires_ns))
            case "delete":
                return state.without_file(self.path, keep=True)
        if not state.exists(parent(self.other)):
            return None
        if self.other == self.path:
            return state
        if self.kind == "rename to a free name" and state.file(self.other) is not None:
            return None
        return state.without_file(self.path, keep=False).with_file(self.other, old)

    async def carry_out(self, vault: Vault) -> None:
        """Does it. Raises one of `REFUSALS` where it cannot be done."""
        attributes = msgspec.structs.replace(ATTRIBUTES, expires_ns=self.expires_ns)
        match self.kind:
            case "replace":
                await _need_directory(vault, parent(self.path))
                try:
                    base = await vault.head(self.path)
                except NoSuchPath:
                    base = None
                await write(vault, self.path, content(self.seed), base, attributes=attributes)
            case "create":
                await _need_directory(vault, parent(self.path))
                await write(vault, self.path, content(self.seed), exclusive=True, attributes=attributes)
            case "append":
                await append(vault, self.path, content(self.seed))
            case "edit":
                position, data = edited(self.seed, (await vault.head(self.path)).size)
                await edit(vault, self.path, position, data)
            case "chmod":
                await vault.set_attributes(self.path, mode=MODES[self.seed % len(MODES)])
            case "expire":
                await vault.set_deadline(self.path, self.expires_ns)
            case "delete":
                await vault.remove(self.path)
            case "undelete":
                await vault.undelete(self.path)
            case "rename" | "rename to a free name":
                await vault.head(self.path)
                await _need_directory(vault, parent(self.other))
                await vault.rename(self.path, self.other, replace=self.kind == "rename")
            case "mkdir":
                await vault.make_directory(self.directory, ATTRIBUTES)
            case "rmdir":
                await vault.remove_directory(self.directory)
            case "move":
                await vault.rename_directory(self.directory, self.target)
            case _:
                raise AssertionError(self.kind)


async def _need_directory(vault: Vault, path: str) -> None:
    """What a mount sees to before it makes a name in a directory."""
    await vault.head(path)
