"""What is stored is cut between messages where that can be done, and is stored in any case."""

import logging
from pathlib import Path

import pytest

from stowfs.store.memory import MemoryStore
from tests.support.vaults import Hosts, append, read, write
from tests.vault.test_promises import log_lines


async def test_what_cannot_be_cut_between_messages_for_a_defect_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with Hosts(MemoryStore(), tmp_path) as hosts:
        a, b = await hosts.start("a"), await hosts.start("b")
        data = log_lines(3000)
        await write(a, "before", data)
        with monkeypatch.context() as broken, caplog.at_level(logging.ERROR):
            # Calling it is a TypeError.
            broken.setattr("stowfs.conversation.segmenter.line_units", None)
            await write(a, "new", data)
            await append(a, "before", data)
        assert "a defect" in caplog.text
        await append(a, "new", data)
        assert await read(b, "new") == await read(b, "before") == 2 * data
