"""What a tree may look like, as far as users can tell: files, directories, and what can be brought back."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple


class File(NamedTuple):
    """A conversation: its bytes, its permissions, and its deadline."""

    data: bytes
    mode: int
    expires_ns: int | None = None


class Trashed(NamedTuple):
    """A deleted conversation. `sure`: it can be brought back; otherwise it may be gone already."""

    file: File
    sure: bool


@dataclass(frozen=True)
class State:
    """One state of a tree. The constructors and the methods that change something return new ones.

    `gone`: names that are free again, with the deadline of the last conversation there, if it had one. It counts for
    what was opened before. `stored`: what a host has acknowledged and still may not know to be in the store.
    """

    files: frozenset[tuple[str, File]]
    directories: frozenset[str]
    trash: frozenset[tuple[str, Trashed]]
    gone: frozenset[tuple[str, int]] = frozenset()
    stored: frozenset[str] = frozenset()

    @staticmethod
    def of(
        files: Mapping[str, File],
        directories: Iterable[str],
        trash: Mapping[str, Trashed],
        gone: Mapping[str, int] | None = None,
    ) -> "State":
        """The state with these things by path."""
        return State(
            frozenset(files.items()), frozenset(directories), frozenset(trash.items()), frozenset((gone or {}).items())
        )

    def file(self, path: str) -> File | None:
        """The conversation of that name."""
        return dict(self.files).get(path)

    def trashed(self, path: str) -> Trashed | None:
        """What was deleted under that name."""
        return dict(self.trash).get(path)

    def deadline_of_last(self, path: str) -> int | None:
        """The deadline of the last conversation of a name that is free."""
        return dict(self.gone).get(path)

    def exists(self, path: str) -> bool:
        """Whether there is a directory of that name, or it is the root."""
        return not path or path in self.directories

    def is_empty(self, directory: str) -> bool:
        """Whether nothing live has a name below that directory."""
        below = directory + "/"
        return not any(path.startswith(below) for path in [*dict(self.files), *self.directories])

    def with_file(self, path: str, file: File) -> "State":
        """With a file in place of whatever had the name."""
        files, trash, gone = dict(self.files), dict(self.trash), dict(self.gone)
        files[path] = file
        trash.pop(path, None)
        gone.pop(path, None)
        return replace(State.of(files, self.directories, trash, gone), stored=self.stored)

    def without_file(self, path: str, *, keep: bool) -> "State":
        """Without a file. `keep`: it can be brought back."""
        files, trash, gone = dict(self.files), dict(self.trash), dict(self.gone)
        removed = files.pop(path)
        if keep:
            trash[path] = Trashed(removed, sure=True)
        if removed.expires_ns is not None:
            gone[path] = removed.expires_ns
        return replace(State.of(files, self.directories, trash, gone), stored=self.stored)

    def at(self, now_ns: int) -> "State":
        """What becomes of it by nothing but the time: what has expired is absent, and cannot be brought back."""
        state = self
        for path, file in self.files:
            if file.expires_ns is not None and file.expires_ns <= now_ns:
                state = state.without_file(path, keep=False)
        over = {t for t in self.trash if t[1].file.expires_ns is not None and t[1].file.expires_ns <= now_ns}
        return replace(state, trash=state.trash - over)

    def without_trashed(self, path: str) -> "State":
        """With nothing to be brought back under that name."""
        return replace(self, trash=frozenset(t for t in self.trash if t[0] != path))

    def with_directories(self, paths: Iterable[str]) -> "State":
        """With directories in place of whatever was deleted under their names."""
        added = frozenset(paths)
        trash = frozenset(t for t in self.trash if t[0] not in added)
        return replace(self, directories=self.directories | added, trash=trash)

    def made_again(self) -> set["State"]:
        """The same, and with any of the directories in which something is though they were removed: whoever lists their
        parents, or has created something in them and looks them up, makes them again."""
        above = {directory for path in [*dict(self.files), *self.directories] for directory in ancestors(path)}
        return {self.with_directories(made) for made in _subsets(sorted(above - self.directories))}

    def without_directory(self, path: str) -> "State":
        """Without that directory; what has names below it stays."""
        return replace(self, directories=self.directories - {path})

    def without_trash(self) -> "State":
        """With nothing to be brought back."""
        return replace(self, trash=frozenset())

    def with_trash_in_doubt(self) -> "State":
        """With nothing that is sure to be there to be brought back."""
        return replace(self, trash=frozenset((path, t._replace(sure=False)) for path, t in self.trash))

    def moved(self, old: str, new: str) -> "State":
        """With everything below directory `old` below `new`, and without `old`."""
        here = self._below(old)
        state = self.with_directories([new, *(new + path[len(old) :] for path in here if path in self.directories)])
        for path, file in self.files:
            if path in here:
                state = state.without_file(path, keep=False).with_file(new + path[len(old) :], file)
        return replace(state, directories=state.directories - {old, *here})

    def partly_moved(self, old: str, new: str) -> set["State"]:
        """Everything that an interrupted move of a directory may leave: each file under either name, or both."""
        here = self._below(old)
        files = [(path, file) for path, file in self.files if path in here]
        directories = [old, *(path for path in here if path in self.directories)]
        whole = self.moved(old, new)
        states = set()
        for where in product(("old", "both", "new"), repeat=len(files)):
            state = self
            for (path, file), place in zip(files, where, strict=True):
                if place != "old":
                    state = state.with_file(new + path[len(old) :], file)
                if place == "new":
                    state = state.without_file(path, keep=False)
            for made in _subsets([d for d in whole.directories if d not in self.directories]):
                for removed in _subsets(directories):
                    grown = state.with_directories(made)
                    states.add(replace(grown, directories=grown.directories - set(removed)))
        return states

    def _below(self, directory: str) -> set[str]:
        below = directory + "/"
        return {path for path in [*dict(self.files), *self.directories] if path.startswith(below)}


def parent(path: str) -> str:
    """The directory that a name is in; '' is the root."""
    return path.rpartition("/")[0]


def ancestors(path: str) -> list[str]:
    """The directories that a name is in, the outermost first."""
    parts = path.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]


def _subsets(items: list[str]) -> list[tuple[str, ...]]:
    return [
        tuple(item for item, taken in zip(items, chosen, strict=True) if taken)
        for chosen in product((False, True), repeat=len(items))
    ]
