"""Appends lines to a file: … programs.appender FILE TIMES, and prints the seconds that it took."""

import sys
import time


def line(number: int) -> bytes:
    """What is appended for the `number`th time: a turn of a session, short as most are."""
    return b'{"role": "user", "content": "turn %06d: %s"}\n' % (number, b"and what about this one, " * 10)


def main(path: str, times: int) -> None:
    """Opens, appends and closes so many times."""
    began = time.monotonic()
    for number in range(times):
        with open(path, "ab") as file:
            file.write(line(number))
    print(time.monotonic() - began)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
