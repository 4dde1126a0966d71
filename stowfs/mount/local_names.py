"""Which new files are kept out of the store, by their names: temporary files of programs, which nobody else looks for.

Such a file is a draft that is never committed, and goes with the mount. It is decided when it is created, and ends when
it is renamed to a name that is not of that kind: then it is committed under that name.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from stowfs.vault.naming import split

DEFAULT = (".*.sw[a-px]", ".*.swpx", ".sw[a-p]", "4913", ".nfs000*", ".fuse_hidden*")
"""Swap files of vim, the file by which it tries whether it may write, and what NFS servers and FUSE make of files that
are deleted while they are open."""

PROBES = frozenset({"4913"})
"""Of these, what nobody ever writes to. It could be the name of a conversation: one with content is stored."""


class LocalNames:
    """The names of files that are kept out of the store: patterns as in a shell."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = tuple(patterns)

    def match(self, path: str) -> bool:
        """Whether a new file of this path is kept out of the store."""
        name = split(path)[1]
        return any(fnmatchcase(name, pattern) for pattern in self._patterns)


def is_probe(path: str) -> bool:
    """Whether the file is kept out of the store only as long as nothing is written to it."""
    return split(path)[1] in PROBES
