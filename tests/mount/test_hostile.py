"""A mounted directory in which objects are damaged, or made to do harm: the others are listed and read."""

import os
from pathlib import Path

import msgspec
import pytest

from stowfs import codec
from stowfs.vault import manifest as manifests
from tests.support.hostile import BOMBS, DEEP, GIANT
from tests.support.mounting import Mounts, failure, run

pytestmark = pytest.mark.fuse


def hostile(good: bytes) -> dict[str, bytes]:
    """Manifests that make no sense, by name."""
    header, rest = codec.decompress_first(good, limit=manifests.HEADER_LIMIT)
    said = msgspec.json.decode(header)

    def saying(**changes: object) -> bytes:
        return codec.compress(msgspec.json.encode({**said, **changes})) + bytes(rest)

    return {
        "bomb": BOMBS[1],
        "cut": good[:-1],
        "deep": codec.compress(msgspec.json.encode({**said, "later": DEEP})),
        "empty": b"",
        "giant": GIANT,
        "huge": saying(size=1 << 70, pieces=[["ab" * 32, 1 << 70]]),
        "mode": saying(attributes=[0o020644, 0, 0, 0, 0]),
        "owner": saying(attributes=[0o644, -1, 1 << 40, 0, 0]),
        "path": saying(pieces=[["../" * 20 + "x", 1]], size=1),
        "time": saying(attributes=[0o644, 0, 0, 1 << 80, 0]),
        "version": saying(v=1000),
    }


def test_what_is_hostile_is_an_error_and_said_once(mounts: Mounts) -> None:
    mount = mounts.start()
    (mount.root / "d").mkdir()
    for name in ("a", "good", "z"):
        run("dd", f"of={mount.root / 'd' / name}", "status=none", data=name.encode())
    mount.unmount()
    mounts.forget_caches("a")
    directory: Path = mounts.store / "manifests" / "d"
    bad = hostile((directory / "good.json").read_bytes())
    for name, body in bad.items():
        (directory / f"{name}.json").write_bytes(body)
    (directory / "%zz.json").write_bytes(b"no name has this key")
    mount = mounts.start()
    for _ in range(2):
        assert sorted(os.listdir(mount.root / "d")) == ["a", "good", "z"]
    for name in ("a", "good", "z"):
        assert run("cat", mount.root / "d" / name).stdout == name.encode()
    said = [line for line in mount.log_text().splitlines() if "left out of listings" in line]
    assert len(said) == len(bad) + 1, said
    before = len(mount.log_text().splitlines())
    for number, name in enumerate(sorted(bad), 1):
        assert failure("os.stat(args[0])", mount.root / "d" / name) == "EIO"
        lines = mount.log_text().splitlines()[before:]
        assert len(lines) == number, lines
        assert f"lookup /conversations/d/{name}: EIO: " in lines[-1]
    assert "Traceback" not in mount.log_text()
    # What cannot be read is not taken for nothing.
    for name in ("a", "good", "z"):
        (mount.root / "d" / name).unlink()
    assert failure("os.rmdir(args[0])", mount.root / "d") == "EIO"
