"""Appends lines to a file: … programs.appender FILE TIMES, and prints the seconds that it took."""

import random
import sys
import time

WORDS = [b"%x" % (7919 * number) for number in range(5000)]
"""Many, so that what is appended does not compress to nothing."""


def line(number: int) -> bytes:
    """What is appended for the `number`th time: a turn of a session of about 1 kB, the median of coding agents."""
    words = random.Random(number).choices(WORDS, k=170)
    return b'{"role": "user", "content": "turn %06d: %s"}\n' % (number, b" ".join(words))


def main(path: str, times: int) -> None:
    """Opens, appends and closes so many times."""
    began = time.monotonic()
    for number in range(times):
        with open(path, "ab") as file:
            file.write(line(number))
    print(time.monotonic() - began)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
