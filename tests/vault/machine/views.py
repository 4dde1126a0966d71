"""What a host sees of the tree, and what is counted in the store."""

from stowfs.errors import NoSuchPath
from stowfs.store.base import ObjectStore
from stowfs.vault.check import Checked, Checker
from stowfs.vault.descriptor import Descriptor
from stowfs.vault.expiry import NANOSECONDS
from stowfs.vault.findings import CountTooHigh, OrphanBlob, Uncounted
from stowfs.vault.manifest import Snapshot
from stowfs.vault.repair import repair
from stowfs.vault.vault import Vault
from tests.support.audit import audit, snapshots
from tests.vault.machine.state import File, State
from tests.vault.machine.steps import DIRECTORIES, FILES


async def files(vault: Vault) -> dict[str, File]:
    """Every conversation, asked for by name."""
    found = {}
    for path in FILES:
        try:
            snapshot = await vault.head(path)
        except NoSuchPath:
            continue
        found[path] = await _file(vault, snapshot)
    return found


async def directories(vault: Vault) -> set[str]:
    """Every directory, asked for by name."""
    found = set()
    for path in DIRECTORIES:
        try:
            found.add((await vault.head(path)).path)
        except NoSuchPath:
            continue
    return found


async def listed(vault: Vault, directory: str = "") -> set[str]:
    """What is listed below a directory."""
    found = set()
    for entry in await vault.list_directory(directory):
        found.add(entry.path)
        if entry.is_directory:
            found |= await listed(vault, entry.path)
    return found


async def trash(vault: Vault) -> dict[str, File]:
    """What can be brought back, but for conflicts, which the model knows nothing of."""
    found = {}
    async for snapshot in vault.deleted():
        if snapshot.path in FILES:
            found[snapshot.path] = await _file(vault, snapshot)
    return found


async def _file(vault: Vault, snapshot: Snapshot) -> File:
    data = await vault.read(snapshot, 0, snapshot.size)
    return File(data, snapshot.attributes.mode, snapshot.attributes.expires_ns)


async def deadlines(store: ObjectStore) -> dict[str, tuple[float, bool]]:
    """What lies in the store with its content and a deadline: when that is, and whether it was deleted besides."""
    found = {}
    for snapshot in await snapshots(store):
        manifest = snapshot.manifest
        if manifest.holds_something and manifest.attributes.expires_ns is not None:
            found[snapshot.path] = manifest.attributes.expires_ns / NANOSECONDS, manifest.deleted is not None
    return found


def has_trash(state: State, found: dict[str, File]) -> bool:
    """Whether that is what can be brought back in `state`."""
    may = {path: trashed.file for path, trashed in state.trash}
    must = {path for path, trashed in state.trash if trashed.sure}
    return must <= found.keys() and all(may.get(path) == file for path, file in found.items())


def sizes(files: dict[str, File]) -> dict[str, tuple[int, str, int | None]]:
    """Files for a message: bytes, permissions, deadlines."""
    return {path: (len(file.data), oct(file.mode), file.expires_ns) for path, file in files.items()}


def only_waste(checked: Checked) -> bool:
    """Whether what a check found only costs space."""
    return checked.complete and all(
        isinstance(finding, CountTooHigh | OrphanBlob | Uncounted) for finding in checked.findings
    )


async def close_accounts(store: ObjectStore, descriptor: Descriptor, *, exact: bool, leaks: bool) -> None:
    """Nothing that is referenced is missing or counted too low, and after a repair nothing is counted too high.

    `exact`: nor was it before. `leaks`: it may have been, else there may be payloads at most that nobody names.
    """
    counted = await audit(store, many=descriptor.many)
    assert counted.safe, counted
    assert leaks or not counted.too_high, counted
    assert not exact or counted.exact, counted
    checked = await Checker(store, descriptor, exclusive=True, recount=True).run()
    assert only_waste(checked), checked.findings
    outcomes = await repair(store, descriptor, checked, exclusive=True, deadline=1.0)
    assert all(outcome.left is None for outcome in outcomes), outcomes
    counted = await audit(store, many=descriptor.many)
    assert counted.exact, counted
    assert not counted.uncounted, counted
    assert (await Checker(store, descriptor, exclusive=True, recount=True).run()).findings == []
