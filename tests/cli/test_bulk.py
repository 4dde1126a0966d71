"""What whole corpora cost in requests: budgets, counted at the store.

STOWFS_CORPUS names a directory with one directory for each corpus; without it, the samples of this repository.
"""

import os
from pathlib import Path
from typing import Any

import pytest

from stowfs.cli.output import progress
from stowfs.cli.tally import Tally
from stowfs.cli.upload import find, put
from stowfs.store.memory import MemoryStore
from stowfs.vault.vault import Vault
from tests.support.corpus import SAMPLES
from tests.support.faults import FaultyStore
from tests.support.vaults import ATTRIBUTES, Hosts, flush, read

ROOT = Path(os.environ.get("STOWFS_CORPUS", SAMPLES))

WRITES = {"chat": 1.3, "agent": 2.0}
"""Write requests a conversation, at most: small ones are one object; long ones share segments with others."""

BUNDLED = {"chat": 0.1, "agent": 2.0}
"""The same where small ones are put together."""

SLACK = 3
"""Write requests besides, which do not depend on how many conversations there are: descriptor and dictionaries."""


def writes(store: FaultyStore) -> int:
    """Requests that are charged as writes, the refused ones too."""
    return store.count("put") + store.count("delete")


async def put_all(vault: Vault, source: Path) -> None:
    tally = Tally()
    directories, files = find([f"{source}/."], "copied", tally)
    with progress("put") as bar:
        await put(vault, directories, files, "copied", tally, bar)
    assert tally.errors == []
    await vault.drain()


@pytest.mark.parametrize("corpus", WRITES)
@pytest.mark.parametrize("bundles", [True, False])
async def test_what_putting_a_corpus_costs_in_writes(corpus: str, bundles: bool, tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    source = ROOT / corpus
    files = [path for path in source.rglob("*") if path.is_file()]
    directories = [path for path in source.rglob("*") if path.is_dir()]
    async with Hosts(store, tmp_path, bundles=bundles) as hosts:
        vault = await hosts.start("a")
        store.reset_log()
        await put_all(vault, source)
        # The last bundle of a directory takes two however small it is.
        each, directory = (BUNDLED, 3) if bundles else (WRITES, 1)
        assert writes(store) <= each[corpus] * len(files) + directory * len(directories) + SLACK
        for path in files[:3]:
            assert await read(vault, f"copied/{path.relative_to(source)}") == path.read_bytes()


async def test_what_grew_or_shrank_since_it_was_found_is_stored_as_it_is(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("grown", "shrunk", "emptied"):
        (source / name).write_bytes(os.urandom(50_000))
    (source / "begun").write_bytes(b"")
    directories, files = find([f"{source}/."], "copied", tally := Tally())
    contents = {"grown": os.urandom(300_000), "shrunk": os.urandom(7), "emptied": b"", "begun": os.urandom(70_000)}
    for name, content in contents.items():
        (source / name).write_bytes(content)
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        vault = await hosts.start("a")
        with progress("put") as bar:
            await put(vault, directories, files, "copied", tally, bar)
        assert tally.errors == []
        assert {name: await read(vault, f"copied/{name}") for name in contents} == contents


@pytest.mark.parametrize("step", ["draft", "commit", "make_symlink"])
async def test_a_defect_that_one_file_meets_does_not_keep_the_others(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(40):
        (source / f"{number}").write_bytes(b"%d" % number)
    (source / "link").symlink_to("0")
    original = getattr(Vault, step)
    hit = "link" if step == "make_symlink" else "7"

    def defective(self: Vault, what: Any, *arguments: Any, **options: Any) -> Any:
        if getattr(what, "path", what) == f"copied/{hit}":
            raise ValueError("a defect")
        return original(self, what, *arguments, **options)

    monkeypatch.setattr(Vault, step, defective)
    directories, files = find([f"{source}/."], "copied", tally := Tally())
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        vault = await hosts.start("a")
        with progress("put") as bar:
            await put(vault, directories, files, "copied", tally, bar)
        assert (tally.files, tally.errors) == (40, [(f"{source}/./{hit}", "ValueError('a defect')")])
        assert await read(vault, "copied/39") == b"39"
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("corpus", WRITES)
async def test_acknowledging_a_corpus_costs_hardly_more_than_one_write_a_conversation(
    corpus: str, tmp_path: Path
) -> None:
    store = FaultyStore(MemoryStore())
    files = [path for path in sorted((ROOT / corpus).rglob("*")) if path.is_file()]
    async with Hosts(store, tmp_path, asynchronous=True) as hosts:
        vault = await hosts.start("a")
        store.reset_log()
        for path in files:
            draft = vault.draft(str(path.relative_to(ROOT)), None, ATTRIBUTES)
            draft.write(0, path.read_bytes())
            await vault.acknowledge(draft)
        await flush(vault)
        await vault.drain()
        assert writes(store) <= WRITES[corpus] * len(files) + SLACK, store.counts()


@pytest.mark.parametrize("corpus", WRITES)
@pytest.mark.parametrize("bundles", [True, False])
async def test_putting_what_is_there_already_writes_nothing(corpus: str, bundles: bool, tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    async with Hosts(store, tmp_path, bundles=bundles) as hosts:
        await put_all(await hosts.start("a"), ROOT / corpus)
        other = await hosts.start("b")
        for vault in (await hosts.start("a again"), other):
            store.reset_log()
            await put_all(vault, ROOT / corpus)
            assert writes(store) == 0, store.counts()
