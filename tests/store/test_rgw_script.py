"""scripts/rgw: start is idempotent, stop ends what start began and nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "rgw"


def rgw(directory: Path, command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(SCRIPT), command],
        env={**os.environ, "STOWFS_RGW_DIR": str(directory), **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def daemons(directory: Path) -> dict[str, int]:
    return {path.stem: int(path.read_text()) for path in directory.glob("*.pid")}


@pytest.mark.rgw
def test_a_life(tmp_path: Path) -> None:
    directory = tmp_path / "rgw"
    assert rgw(directory, "status").returncode == 1
    try:
        started = rgw(directory, "start")
        assert (started.returncode, started.stderr) == (0, "")
        assert directory.stat().st_mode & 0o777 == 0o700
        environment, running = rgw(directory, "env").stdout, daemons(directory)
        assert sorted(running) == ["mon", "osd", "radosgw"]
        names = [line.removeprefix("export ").partition("=")[0] for line in environment.splitlines()]
        assert names == ["AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"]
        assert rgw(directory, "start").returncode == 0
        assert (rgw(directory, "env").stdout, daemons(directory)) == (environment, running)
        assert rgw(directory, "down").returncode == 0
        assert rgw(directory, "status").returncode == 1
        assert rgw(directory, "up").returncode == 0
        back = daemons(directory)
        assert rgw(directory, "env").stdout == environment
        assert {**back, "radosgw": 0} == {**running, "radosgw": 0}
        running = back
    finally:
        stopped = rgw(directory, "stop")
    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert not directory.exists()
    for pid in running.values():
        assert not Path(f"/proc/{pid}").exists() or str(directory) not in Path(f"/proc/{pid}/cmdline").read_text()
    assert rgw(directory, "stop").returncode == 0
    assert rgw(directory, "env").returncode == 1
    assert rgw(directory, "up").returncode == 1


def test_what_is_not_its_own_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "rgw").mkdir()
    (tmp_path / "rgw" / "precious").write_bytes(b"")
    stopped = rgw(tmp_path / "rgw", "stop")
    assert stopped.returncode == 1
    assert "left alone" in stopped.stderr
    assert (tmp_path / "rgw" / "precious").exists()


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    started = rgw(tmp_path / "rgw", "start", PATH=str(tmp_path))
    assert started.returncode == 1
    assert "apt-get install" in started.stderr


def test_an_unknown_command_is_wrong_usage(tmp_path: Path) -> None:
    assert rgw(tmp_path / "rgw", "dance").returncode == 2
