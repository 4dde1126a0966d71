"""Installs what a peer needs: Debian packages by apt-get as root, Python packages of the group "bench" into .venv."""

import importlib.metadata
import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from typing import Literal

from scripts.benchmark.processes import Failed, run
from scripts.benchmark.settings import ROOT

INSTALL_SECONDS = 900.0
"""Far more than a slow mirror needs for any one package."""


@dataclass(frozen=True, slots=True)
class Package:
    """A package by its name at Debian or PyPI."""

    source: Literal["debian", "python"]
    name: str


def version(package: Package) -> str | None:
    """The installed version; None where it is not installed."""
    if package.source == "python":
        try:
            return importlib.metadata.version(package.name)
        except importlib.metadata.PackageNotFoundError:
            return None
    query = ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", package.name]
    status, _, found = subprocess.run(query, capture_output=True, text=True, check=False).stdout.partition(" ")
    return found if status == "installed" else None


def need(package: Package, *, install: bool) -> str:
    """The version of a package, which is installed if need be. Raises `Failed` where it cannot be."""
    if (found := version(package)) is not None:
        return found
    if not install:
        raise Failed(f"{package.name} is not installed")
    if package.source == "python":
        _install_from_pypi(package.name)
    else:
        _install_from_debian(package.name)
    importlib.invalidate_caches()
    if (found := version(package)) is None:
        raise Failed(f"{package.name} is not there after it was installed")
    return found


def _install_from_pypi(name: str) -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (requirement,) = (line for line in groups["bench"] if line.split("==")[0] == name)
    constraints = {**os.environ, "PIP_CONSTRAINT": str(ROOT / "scripts" / "constraints.txt")}
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    run(*command, requirement, timeout=INSTALL_SECONDS, env=constraints)


def _install_from_debian(name: str) -> None:
    if os.geteuid() != 0:
        raise Failed(f"{name} is not installed. As root: apt-get install {name}")
    # Another apt-get may be at work: it is waited for.
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run(*apt, "update", timeout=INSTALL_SECONDS, env=quiet)
    run(*apt, "install", "--no-install-recommends", "--yes", name, timeout=INSTALL_SECONDS, env=quiet)
