"""`stowfs compact`."""

import re

from tests.cli.test_maintenance import FILES, filled, objects, stored, text
from tests.support.commands import Stow

__all__ = ["filled"]


def test_compact_saves_space_and_alters_nothing(stow: Stow, filled: str) -> None:
    before = stored(stow)
    dry = stow.json("compact", filled, "--dry-run")
    assert dry["dry_run"] is True
    assert dry["bytes_after"] < dry["bytes_before"]
    assert stored(stow) == before
    done = stow.json("compact", filled)
    assert done["conversations"] + done["segments"] >= 1
    assert done["unread"] == []
    assert done["bytes_after"] < done["bytes_before"]
    cost = done["dictionary"]["bytes"] if done["dictionary"] and done["dictionary"]["used"] else 0
    assert stored(stow) <= before - (done["bytes_before"] - done["bytes_after"]) + cost + 1024
    for name, data in FILES.items():
        assert text(stow, filled, name) == data
    assert stow.json("fsck", filled)["findings"] == []
    again = stow.json("compact", filled)
    assert (again["conversations"], again["segments"]) == (0, 0)


def test_compact_says_what_it_did(stow: Stow, filled: str) -> None:
    line = r"conversations? and \d+ segments? {}stored again, of \d+: [0-9.]+ KiB before, [0-9.]+ KiB after$"
    dry = stow.run("compact", filled, "--dry-run", "--no-training")
    assert re.search(line.format("would be "), dry.stdout, re.MULTILINE)
    dictionaries = objects(stow, "dictionaries")
    done = stow.run("compact", filled, "--no-training")
    assert re.search(line.format(""), done.stdout, re.MULTILINE)
    assert done.stderr == ""  # no progress where there is no terminal
    assert objects(stow, "dictionaries") == dictionaries


def test_compact_names_what_it_cannot_read(stow: Stow, filled: str) -> None:
    broken = objects(stow, "segments")[0]
    broken.write_bytes(broken.read_bytes()[:-7] + b"damaged")
    done = stow.run("compact", filled)
    assert f"stowfs: segments/{broken.parent.name}/{broken.name} is left as it is: " in done.stderr
    assert done.returncode == 0


def test_compact_needs_a_store(stow: Stow) -> None:
    assert "mkfs" in stow.error("compact", stow.directory / "nothing")
