"""What `/.stowfs` shows of a mount: its figures, its options, and the commits under way."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass

from stowfs.mount.attributes import Shown
from stowfs.mount.figures import Figures, Inventory, versions
from stowfs.mount.generated import Generated
from stowfs.mount.monitor import Monitor
from stowfs.mount.options import MountOptions
from stowfs.store.counting import RequestCounts
from stowfs.vault.naming import display
from stowfs.vault.vault import Vault

EVERYBODY, OWNER = 0o444, 0o400
"""Permissions: figures and options are anybody's, names of conversations that of who mounted it."""


@dataclass(frozen=True, slots=True)
class About:
    """What a mount says of itself. `store`: its address, without credentials."""

    store: str
    store_id: str
    mountpoint: str
    options: MountOptions
    state_directory: str


def generated_files(
    about: About, vault: Vault, monitor: Monitor, requests: RequestCounts, inventory: Callable[[], Inventory]
) -> Generated:
    """The files of `/.stowfs`."""
    figures = Figures(monitor, requests, vault.usage, inventory)

    async def stats() -> bytes:
        return _json(figures.document())

    async def metrics() -> bytes:
        return figures.prometheus()

    async def config() -> bytes:
        return _json(_configuration(about))

    async def uploads() -> bytes:
        return await _uploads(vault)

    files = {
        b"stats.json": (EVERYBODY, stats),
        b"metrics": (EVERYBODY, metrics),
        b"config.json": (EVERYBODY, config),
        b"uploads": (OWNER, uploads),
    }
    shown = Shown(about.options.uid, about.options.gid)
    return Generated(files, (os.getuid(), os.getgid()), shown)


def _configuration(about: About) -> dict[str, object]:
    return {
        "store": about.store,
        "store_id": about.store_id,
        "mountpoint": display(about.mountpoint),
        "state_directory": display(about.state_directory),
        "pid": os.getpid(),
        "options": about.options.effective(),
        "versions": versions(),
    }


async def _uploads(vault: Vault) -> bytes:
    """A line of JSON for each commit in the journal, the oldest first."""
    lines = []
    for phase, row in await vault.under_way():
        commit: dict[str, object] = {"commit": row.commit, "kind": row.kind, "phase": phase, "path": display(row.path)}
        if row.source is not None:
            commit["from"] = display(row.source.path)
        commit |= {"segments": len(row.acquire), "releases": len(row.release)}
        lines.append(json.dumps(commit, ensure_ascii=False) + "\n")
    return "".join(lines).encode()


def _json(document: object) -> bytes:
    return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"
