"""Content-defined chunking, for bytes that have no messages and for messages longer than a run may be.

A chunk is determined by the bytes since the last cut alone, so that a stretch which occurs twice falls into the same
chunks again soon after it begins. The library is fastcdc: gear hash, normalised chunking, about 2 GB/s.
"""

from fastcdc import fastcdc


def chunk_end(data: bytes, start: int, *, minimum: int, target: int, maximum: int) -> int | None:
    """Where the chunk that begins at `start` ends, or None where later bytes could still change that."""
    window = memoryview(data)[start : start + maximum]
    if not window:
        return None
    length: int = next(fastcdc(window, minimum, target, maximum)).length
    # A chunk that reaches the end of the data was perhaps ended by it, not by its content.
    return start + length if length < len(window) or length == maximum else None
