"""The command scripts/torture."""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import trio

from tests.torture.run import clean, torture
from tests.torture.settings import Settings


def main() -> int:
    """Does a run; the exit status."""
    parser = argparse.ArgumentParser(
        prog="torture",
        description="Two mounts and a gc loop without grace under a mixed workload, while daemons are killed and"
        " stopped and the store goes away: every acknowledged byte must be there, nothing may hang, fsck must be clean."
        " Exit status 1 where anything is wrong; then everything is kept for a look.",
    )
    parser.add_argument("--seconds", type=float, default=60, help="how long faults happen (60)")
    parser.add_argument("--seed", type=int, help="repeats a schedule, as far as processes do (default: any)")
    parser.add_argument(
        "--store", choices=["rgw", "file"], default="rgw", help="an RGW of its own, or a directory (rgw)"
    )
    parser.add_argument("--commit", choices=["sync", "async"], default="sync", help="the mount option (sync)")
    parser.add_argument("--directory", type=Path, help="an empty directory to work in (default: a temporary one)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    given = parser.parse_args()
    seed = random.randrange(1_000_000) if given.seed is None else given.seed
    directory = given.directory or Path(tempfile.mkdtemp(prefix="stowfs-torture-"))
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        parser.error(f"{directory} is not empty")
    settings = Settings(str(directory.resolve()), seed, given.seconds, given.store, given.commit)
    began = time.monotonic()

    def tell(text: str) -> None:
        print(f"{time.monotonic() - began:7.1f} {text}", file=sys.stderr, flush=True)

    tell(f"seed {seed}, in {directory}")
    report = trio.run(torture, settings, tell)
    if report.passed:
        clean(settings)
        if given.directory is None:
            directory.rmdir()
    if given.json:
        print(msgspec.json.encode(report).decode())
    else:
        print("\n".join(report.lines()))
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
