"""Local files: what is copied, what came back, and sessions of any size that look like the corpora."""

import hashlib
import itertools
import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path

MEGABYTE = 1_000_000
"""As sizes of sessions are given."""

WORDS_READ = MEGABYTE
"""Bytes of a corpus from which words are taken: enough for a vocabulary with the frequencies of real text."""

WORDS_A_MESSAGE = 150
"""About 1 kB, the median of lines that coding agents write."""


def files_in(directory: Path) -> list[Path]:
    """All files, in a fixed order."""
    return sorted(path for path in directory.rglob("*") if path.is_file())


def digests(directory: Path) -> dict[str, str]:
    """SHA-256 of all files by their paths below the directory. It also brings them into the page cache."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files_in(directory)
    }


def below(name: str, contents: Mapping[str, str]) -> dict[str, str]:
    """The same contents in a directory `name`."""
    return {f"{name}/{path}": digest for path, digest in contents.items()}


def shares(corpus: Path, count: int, directory: Path) -> list[Path]:
    """`count` directories that share out the files of a corpus."""
    made = [directory / f"client-{number}" for number in range(count)]
    for share in made:
        share.mkdir(parents=True)
    for path, share in zip(files_in(corpus), itertools.cycle(made), strict=False):
        target = share / path.relative_to(corpus)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return made


def write_session(path: Path, size: float, corpora: Iterable[Path]) -> None:
    """A session of about `size` megabytes, one message a line: the words of the corpora, in an order of their own.

    Repeating a corpus would be stored once, and tell nothing about a session of that size.
    """
    words: list[str] = []
    for corpus in corpora:
        text = b"".join(file.read_bytes()[:WORDS_READ] for file in files_in(corpus)[:100])
        words += text[:WORDS_READ].decode(errors="ignore").split()
    chosen = random.Random(0)
    written = 0
    with path.open("wb") as file:
        for role in itertools.cycle(("user", "assistant")):
            message = {"role": role, "content": " ".join(chosen.choices(words, k=WORDS_A_MESSAGE))}
            written += file.write(json.dumps(message, ensure_ascii=False).encode() + b"\n")
            if written >= size * MEGABYTE:
                return


def write_names(directory: Path, count: int) -> None:
    """`count` small conversations, a thousand in each directory."""
    for number in range(count):
        path = directory / f"{number // 1000:03}" / f"{number:06}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"messages": [{"role": "user", "content": f"question {number}"}]}))
