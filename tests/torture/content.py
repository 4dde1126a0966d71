"""Contents that tell who wrote them: any file can be checked without knowing what should be in it.

A file is a concatenation of parts. A part has a name that is used once ("a0.17": worker and number), lines like those
of a conversation, some of which other parts share, and a last line, its seal, with its name and the SHA-256 of the rest
of it. Whatever is cut, mixed or altered does not add up to whole parts.
"""

import hashlib
import random
from base64 import b64encode
from collections.abc import Sequence
from functools import cache

import msgspec

SHARED_BLOCKS = 6
"""Blocks of lines that parts share, so that segments are deduplicated, released, collected and written again."""

SHARED_LINES = 24
SHARED_LINE = 12_000
"""Lines of a shared block and bytes of each: together more than one segment."""

SEAL = b'{"seal":'
"""How a seal begins, and no other line."""

WORDS = tuple(random.Random("words").randbytes(3).hex() for _ in range(4096))


class Seal(msgspec.Struct, frozen=True):
    """The last line of a part. `size`: bytes of its other lines."""

    seal: str
    seed: int
    size: int
    sha256: str


class Torn(Exception):
    """What was read is not a concatenation of whole parts."""


def make(seed: int, name: str, *, blocks: Sequence[int] = (), size: int = 200) -> bytes:
    """The part of that name: shared blocks, and about `size` bytes of its own."""
    own = random.Random(f"{seed}/{name}")
    lines = [shared_block(seed, block) for block in blocks]
    left = size
    while left > 0:
        length = min(left, own.randrange(100, 9000))
        lines.append(_line(own, "assistant", length))
        left -= length
    body = b"".join(lines)
    seal = Seal(name, seed, len(body), hashlib.sha256(body + name.encode()).hexdigest())
    return body + msgspec.json.encode(seal) + b"\n"


@cache
def shared_block(seed: int, number: int) -> bytes:
    """Lines that many parts have: those of every third block hardly compress, so that they do not fit into records."""
    chance = random.Random(f"{seed}/shared/{number}")
    if number % 3 == 2:
        images = [b64encode(chance.randbytes(SHARED_LINE * 3 // 4)) for _ in range(SHARED_LINES)]
        return b"".join(b'{"role":"user","content":"' + image + b'"}\n' for image in images)
    return b"".join(_line(chance, "user", SHARED_LINE) for _ in range(SHARED_LINES))


def parts(seed: int, data: bytes) -> tuple[str, ...]:
    """The names of the parts that `data` consists of. Raises `Torn`."""
    names: list[str] = []
    start = 0
    while start < len(data):
        at = start if data.startswith(SEAL, start) else data.find(b"\n" + SEAL, start) + 1
        end = data.find(b"\n", at) + 1
        if end == 0 or (at == 0 and not data.startswith(SEAL)):
            raise Torn(f"bytes {start} to {len(data)} have no seal, after {names[-3:]}")
        try:
            seal = msgspec.json.decode(data[at:end], type=Seal)
        except msgspec.MsgspecError as error:
            raise Torn(f"the seal at {at} is none ({error}), after {names[-3:]}") from error
        digest = hashlib.sha256(data[start:at] + seal.seal.encode()).hexdigest()
        if (seal.seed, seal.size, seal.sha256) != (seed, at - start, digest):
            raise Torn(f"bytes {start} to {end} are not what was written as {seal.seal}, after {names[-3:]}")
        names.append(seal.seal)
        start = end
    return tuple(names)


def _line(chance: random.Random, role: str, length: int) -> bytes:
    text = " ".join(chance.choices(WORDS, k=max(1, length // 7)))
    return b'{"role":"%s","content":"%s"}\n' % (role.encode(), text.encode())
