"""A store with something in it, to be damaged by tests and examined by a check."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from stowfs import codec
from stowfs.store.base import Found, ObjectStore
from stowfs.store.memory import MemoryStore
from stowfs.vault import manifest as manifests
from stowfs.vault import record as records
from stowfs.vault.check import Checked, Checker
from stowfs.vault.descriptor import Descriptor, create_descriptor
from stowfs.vault.findings import Finding
from stowfs.vault.naming import manifest_key, revision_of_blob, segment_key
from stowfs.vault.record import Payload, Record
from stowfs.vault.repair import Outcome, repair
from stowfs.vault.vault import Vault
from tests.support.vaults import DEADLINE, Hosts, write
from tests.vault.test_collect import contents
from tests.vault.test_promises import log_lines, noise
from tests.vault.test_undelete import WEEK

SHARED = log_lines(700, 1)
CONTENT = SHARED + log_lines(600, 2)
BULKY = noise(600_000, 1)
TRASHED = SHARED + log_lines(600, 3)


class Subject:
    """A store with the conversations `one`, `two` (which share segments), `bulky` (with redirected payloads) and
    `gone` (deleted, in the trash), in which a test then damages something."""

    def __init__(self, store: ObjectStore, descriptor: Descriptor, hosts: Hosts, vault: Vault) -> None:
        self.store = store
        self.descriptor = descriptor
        self.hosts = hosts
        self.vault = vault

    async def check(self, *, exclusive: bool = True, recount: bool = False, grace: float = 0.0) -> Checked:
        """As if no commit took longer than `grace`."""
        return await Checker(
            self.store, self.descriptor, exclusive=exclusive, recount=recount, grace=grace, commit_age=grace
        ).run()

    async def repair(self, *, exclusive: bool = True, recount: bool = False) -> list[Outcome]:
        checked = await self.check(exclusive=exclusive, recount=recount)
        return await repair(self.store, self.descriptor, checked, exclusive=exclusive, deadline=DEADLINE)

    async def only(self, *, exclusive: bool = True) -> Finding:
        """The one thing that is wrong."""
        found = (await self.check(exclusive=exclusive)).findings
        assert len(found) == 1, found
        return found[0]

    async def body(self, key: str) -> bytes:
        found = await self.store.get(key)
        assert isinstance(found, Found)
        return found.body

    async def record(self, digest: str) -> Record:
        return records.decode(digest, await self.body(segment_key(digest)))

    async def change(self, digest: str, **fields: object) -> None:
        """Changes what the header of a record says."""
        record = await self.record(digest)
        header = msgspec.structs.replace(record.header, **fields)
        payload = b"" if header.state == "dead" else record.payload
        await self.store.put(segment_key(digest), records.encode(Record(header, payload)))

    async def change_manifest(self, path: str, **fields: object) -> None:
        key = manifest_key(path)
        snapshot = manifests.decode(path, "", await self.body(key))
        changed = msgspec.structs.replace(snapshot.manifest, **fields)
        await self.store.put(key, manifests.encode(changed, snapshot.inline))

    async def digests(self, path: str) -> list[str]:
        snapshot = manifests.decode(path, "", await self.body(manifest_key(path)))
        return [reference.digest for reference in snapshot.top_references]

    async def shared(self) -> str:
        """A segment that `one`, `two` and `gone` share."""
        (digest, *_) = [d for d in await self.digests("one") if d in await self.digests("two")]
        assert digest in await self.digests("gone")
        return digest

    async def alone(self) -> str:
        """A segment of `one` alone."""
        (digest, *_) = [d for d in await self.digests("one") if d not in await self.digests("two")]
        return digest

    async def blob(self) -> tuple[str, str]:
        """A segment of `bulky` whose payload is redirected, and the key of the payload."""
        (key, *_) = await contents(self.store, "blobs/")
        return revision_of_blob(key)[0], key


@pytest.fixture
async def subject(tmp_path: Path) -> AsyncIterator[Subject]:
    store = MemoryStore()
    descriptor = await create_descriptor(store, trash_seconds=WEEK, training=False)
    async with Hosts(store, tmp_path, descriptor=descriptor) as hosts:
        vault = await hosts.start("a")
        for path, data in {"one": CONTENT, "two": SHARED, "bulky": BULKY, "gone": TRASHED}.items():
            await write(vault, path, data)
        await vault.remove("gone")
        await vault.drain()
        yield Subject(store, descriptor, hosts, vault)


HOLDERS = ("gone", "one", "two")
"""Who has the segments of SHARED."""


def payload(digest: str, raw: bytes = b"other") -> Payload:
    return Payload(digest, codec.compress(raw), len(raw))
