"""What `doctor` looks at: this host, and a store."""

import os
import resource
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

from stowfs.cli.mounts import check_fuse
from stowfs.cli.output import size
from stowfs.cli.session import FIRST_CONTACT, first_requests, raw_store
from stowfs.config import MIB, StoreOptions, default_cache_root, default_state_root
from stowfs.errors import MountFailed, NotAStore, StowError
from stowfs.hot.directories import private_directory
from stowfs.store.open import StoreLocation
from stowfs.store.probe import probe
from stowfs.vault.descriptor import read_descriptor

ROOM = 64 * MIB
"""Free bytes that the local disk should have: a few conversations being written at once."""

FILES = 1024
"""Open files a process should be allowed: one for each conversation being written, and connections. The usual
default."""

VERSION_TIMEOUT = 10.0
"""Seconds for a program to say which version it is."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. Where it is not `ok`, `detail` says what to do."""

    name: str
    ok: bool
    detail: str


def examine_host() -> Iterator[Finding]:
    """FUSE, its library, limits, and the directories of the hot tier. Blocks."""
    try:
        check_fuse()
    except MountFailed as error:
        yield Finding("fuse", False, str(error))
    else:
        yield Finding("fuse", True, f"/dev/fuse is usable, {_version_of('fusermount3')}")
    try:
        import stowfs.mount.daemon  # noqa: F401 - whether it can be
    except ImportError as error:
        yield Finding("pyfuse3", False, f"{error}: install it with scripts/setup")
    else:
        yield Finding("pyfuse3", True, f"pyfuse3 {version('pyfuse3')}")
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = files == resource.RLIM_INFINITY or files >= FILES
    advice = "" if enough else f": raise it to at least {FILES:,} with 'ulimit -n {FILES}'"
    yield Finding("open files", enough, f"{files:,} allowed{advice}")
    for name, directory in (("state", default_state_root()), ("cache", default_cache_root())):
        yield _directory(name, directory)


async def examine_store(location: StoreLocation, options: StoreOptions) -> AsyncIterator[Finding]:
    """Whether the store answers, is one, and heeds conditions; and how fast."""
    try:
        async with raw_store(location, options) as store:
            try:
                with first_requests(options):
                    descriptor = await read_descriptor(store)
            except NotAStore as error:
                yield Finding("descriptor", False, str(error))
            else:
                yield Finding("descriptor", True, f"{store.url} is store {descriptor.store_id}")
            report = await probe(store, deadline=FIRST_CONTACT)
            yield Finding("conditional writes", True, "If-None-Match and If-Match are enforced on PUT")
            ignored = "is ignored on DELETE; stowfs does not depend on it"
            enforced = "is enforced on DELETE"
            yield Finding("conditional delete", True, f"If-Match {enforced if report.conditional_delete else ignored}")
            at_once = "shows a write at once"
            late = "shows a write late: other hosts' files may take a while to appear in directories"
            yield Finding("listing", True, at_once if report.lists_at_once else late)
            slowest = max(report.steps, key=lambda step: step.seconds)
            middle = median(step.seconds for step in report.steps)
            requests = f"median of {len(report.steps)} requests {middle * 1000:.1f} ms"
            yield Finding("latency", True, f"{requests}, slowest {slowest.seconds * 1000:.1f} ms ({slowest.name})")
    except StowError as error:
        yield Finding("store", False, str(error))


def _version_of(program: str) -> str:
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=VERSION_TIMEOUT, check=False)
    return (done.stdout or done.stderr).strip().splitlines()[0]


def _directory(name: str, directory: Path) -> Finding:
    variable = f"STOWFS_{name.upper()}_DIR"
    try:
        private_directory(directory)
        free = shutil.disk_usage(directory).free
        writable = os.access(directory, os.W_OK | os.X_OK)
    except OSError as error:
        return Finding(name, False, f"{directory}: {error.strerror}: set {variable} to a directory on a local disk")
    if not writable:
        return Finding(name, False, f"{directory} is not writable: set {variable} to another directory")
    if free < ROOM:
        return Finding(name, False, f"{directory}: only {size(free)} free: make room, or set {variable}")
    return Finding(name, True, f"{directory}, {size(free)} free")
