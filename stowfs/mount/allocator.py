"""Makes the C library give freed memory back.

glibc gives every thread a heap of its own, up to eight per processor, and takes more and more of the large buffers from
those heaps as it sees them freed. A daemon whose threads cut and compress buffers of megabytes then keeps hundreds of
megabytes that nobody uses: copying 1 GiB of text took 280 MB with these defaults, and takes half as much with the
settings below.
"""

import ctypes
import logging

log = logging.getLogger(__name__)

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8
"""Names of parameters of mallopt(3), from `malloc.h`."""

MAPPED_FROM = 640 << 10
"""Bytes from which a buffer is mapped on its own, and so goes back to the system when it is freed. glibc begins with
128 KiB, but once set it does not grow. What the kernel reads at once (512 KiB) stays below, and so do most compressed
segments: to map them costs more than to fill them. A cold read of 100 MB takes a quarter less time than with 128 KiB,
for 5 MB of memory."""

TRIMMED_FROM = 4 << 20
"""Free bytes at the end of a heap from which they are given back: some buffers of that size, so that not each of them
takes its memory from the system and gives it back."""

ARENAS = 2
"""Heaps for all threads together. They hold the interpreter's lock for most of what they do, and would not wait less
for more."""


def limit_heaps() -> None:
    """Sets the allocator of this process; another C library than glibc is left as it is."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        log.debug("this C library has no mallopt")
        return
    settings = ((M_MMAP_THRESHOLD, MAPPED_FROM), (M_TRIM_THRESHOLD, TRIMMED_FROM), (M_ARENA_MAX, ARENAS))
    for parameter, value in settings:
        if not mallopt(parameter, value):
            log.info("mallopt refused to set parameter %d to %d", parameter, value)
