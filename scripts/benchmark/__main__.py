"""The command scripts/bench."""

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from scripts.benchmark.lab import Lab, proxy_cost
from scripts.benchmark.packages import Package, need
from scripts.benchmark.peers import CONTESTANTS
from scripts.benchmark.processes import Failed
from scripts.benchmark.proxy import proxy
from scripts.benchmark.report import document, show
from scripts.benchmark.runner import Runner
from scripts.benchmark.settings import ROOT, WORKLOADS, Settings
from scripts.benchmark.store import server

WIDTH = 160
"""Columns of a table with all workloads."""


def main() -> int:
    """Does a run; the exit status: 1 where stowfs itself failed or gave wrong bytes."""
    settings, given = _arguments()
    began = time.monotonic()

    def tell(text: str) -> None:
        print(f"{time.monotonic() - began:7.1f} {text}", file=sys.stderr, flush=True)

    with (
        tempfile.TemporaryDirectory(prefix="stowfs-bench-", dir=given.directory) as work,
        contextlib.ExitStack() as stack,
    ):
        for name in ("httptools", *(["matplotlib"] if given.plot else [])):
            need(Package("python", name), install=settings.install)
        store = stack.enter_context(server())
        cost = proxy_cost(store.address) if settings.proxy else None
        counting = stack.enter_context(proxy(store.address, settings.latency_ms)) if settings.proxy else None
        lab = Lab(settings, counting)
        versions = Runner(lab, store, Path(work).resolve(), tell).everything()
        found = document(lab, versions, cost)
    # Into a file or a pipe, tables are not cut to the 80 columns of no terminal.
    show(lab, cost, Console(width=None if sys.stdout.isatty() else WIDTH))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    if given.plot:
        from scripts.benchmark.plot import draw  # Where it is not wanted, matplotlib need not be there.

        for path in draw(found, given.plot):
            tell(f"wrote {path}")
    return 1 if any(problem.contestant.startswith("stowfs") for problem in lab.problems) else 0


def _arguments() -> tuple[Settings, argparse.Namespace]:
    names = [contestant.name for contestant in CONTESTANTS]
    parser = argparse.ArgumentParser(
        prog="bench",
        description="stowfs and what people use instead, on the same S3 server (scripts/rgw: the one that runs, else"
        " one of its own) and the same conversations, measured the same way. Prints medians relative to one of them.",
    )
    parser.add_argument(
        "--corpus",
        action="append",
        type=Path,
        metavar="DIR",
        help="a directory of conversations; can be repeated (default: those in STOWFS_CORPUS, else the samples)",
    )
    parser.add_argument("--workload", action="append", choices=WORKLOADS, help="can be repeated (default: all)")
    parser.add_argument("--peer", action="append", choices=names, help="who takes part; can be repeated (default: all)")
    parser.add_argument("--baseline", choices=names, default="stowfs", help="whose time is 1 (stowfs)")
    parser.add_argument("--runs", type=int, default=3, help="of which the medians are printed (3)")
    parser.add_argument("--latency", type=float, default=0, metavar="MS", help="added to each request (0)")
    parser.add_argument("--no-proxy", action="store_true", help="without counting requests, and what that costs")
    parser.add_argument(
        "--size",
        action="append",
        type=float,
        metavar="MB",
        help="of sessions that are appended to; the largest is read, too (1, 10, 100)",
    )
    parser.add_argument("--appends", type=int, default=20, help="lines appended to a session (20)")
    parser.add_argument("--reads", type=int, default=500, help="blocks of 4 KiB read at random (500)")
    parser.add_argument("--clients", type=int, default=8, help="clients at once (8)")
    parser.add_argument("--names", type=int, default=100_000, help="conversations that are listed (100000)")
    parser.add_argument("--timeout", type=float, default=900, metavar="SECONDS", help="for any one step (900)")
    parser.add_argument(
        "--keep-page-cache",
        action="store_true",
        help="do not drop the page cache of the machine: native is then never cold",
    )
    parser.add_argument("--no-install", action="store_true", help="only peers that are installed take part")
    parser.add_argument(
        "--directory", type=Path, metavar="DIR", help="where caches, mounts and the native copy go (a temporary one)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--plot", type=Path, metavar="STEM", help="draw STEM-CORPUS.png and .svg")
    given = parser.parse_args()
    if given.latency and given.no_proxy:
        parser.error("--latency needs the proxy")
    for corpus in given.corpus or ():
        if not corpus.is_dir():
            parser.error(f"{corpus} is not a directory")
    return (
        Settings(
            corpora=tuple(path.resolve() for path in given.corpus or _default_corpora()),
            workloads=tuple(given.workload or WORKLOADS),
            contestants=tuple(given.peer or names),
            baseline=given.baseline,
            runs=given.runs,
            proxy=not given.no_proxy,
            latency_ms=given.latency,
            timeout=given.timeout,
            sizes=tuple(given.size or (1, 10, 100)),
            appends=given.appends,
            reads=given.reads,
            clients=given.clients,
            names=given.names,
            drop_caches=not given.keep_page_cache,
            install=not given.no_install,
        ),
        given,
    )


def _default_corpora() -> list[Path]:
    parent = Path(os.environ.get("STOWFS_CORPUS") or ROOT / "tests" / "samples")
    return sorted(path for path in parent.iterdir() if path.is_dir())


if __name__ == "__main__":
    # Whoever ends it wants nothing left mounted or running either.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except Failed as failed:
        sys.exit(f"bench: {failed}")
    except KeyboardInterrupt:
        sys.exit("bench: interrupted")
