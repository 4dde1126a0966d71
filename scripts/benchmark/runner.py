"""A whole run: every contestant in turn, run by run, so that a noisy minute does not hit one of them alone."""

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from scripts.benchmark.contents import shares, write_names, write_session
from scripts.benchmark.contestants import Contestant, Copier, Mounted, Place, Whole
from scripts.benchmark.lab import Lab
from scripts.benchmark.packages import need
from scripts.benchmark.peers import CONTESTANTS
from scripts.benchmark.processes import Failed
from scripts.benchmark.store import Server
from scripts.benchmark.workloads import Tour, append, clients, copies, names, random_reads, read

COPIES = frozenset({"copy-in", "copy-out", "grep", "ls"})
"""Workloads of one tour: what is copied in is what the others read."""

NAMES = "names"
"""Under this name is reported how many conversations are listed."""

SESSIONS = "sessions"
"""Under this name is reported what is done with made sessions, which belong to no corpus."""


@dataclass(slots=True)
class Runner:
    """Goes through all that is wanted. `work` is a directory of its own."""

    lab: Lab
    server: Server
    work: Path
    tell: Callable[[str], None]
    versions: dict[str, str] = field(default_factory=dict)

    def everything(self) -> dict[str, str]:
        """Measures it all. Returns the versions of the peers' packages."""
        contestants = [contestant for contestant in self._wanted() if self._prepare(contestant)]
        sessions = self._sessions()
        parts = self._parts()
        for number in range(self.lab.settings.runs):
            for contestant in contestants:
                self._one(contestant, number, sessions, parts)
        return self.versions

    def _wanted(self) -> list[Contestant]:
        return [contestant for contestant in CONTESTANTS if contestant.name in self.lab.settings.contestants]

    def _prepare(self, contestant: Contestant) -> bool:
        """Installs what it needs; whether it can take part."""
        try:
            for package in contestant.packages:
                self.versions[package.name] = need(package, install=self.lab.settings.install)
        except (Failed, OSError) as error:
            self._failed(contestant, "everything", "", error)
            return False
        return True

    def _sessions(self) -> dict[float, Path]:
        """Made sessions by their sizes, where a workload needs them."""
        settings = self.lab.settings
        wanted = set(settings.sizes) if "append" in settings.workloads else set()
        if {"read", "random-read"} & set(settings.workloads):
            wanted.add(max(settings.sizes))
        made = {}
        for size in sorted(wanted):
            made[size] = self.work / f"session-{size:g}.jsonl"
            write_session(made[size], size, settings.corpora)
        return made

    def _parts(self) -> dict[Path, list[Path]]:
        """The shares of several clients, by corpus."""
        settings = self.lab.settings
        if "clients" not in settings.workloads:
            return {}
        return {
            corpus: shares(corpus, settings.clients, self.work / "shares" / str(number))
            for number, corpus in enumerate(settings.corpora)
        }

    def _one(
        self, contestant: Contestant, number: int, sessions: dict[float, Path], parts: dict[Path, list[Path]]
    ) -> None:
        settings = self.lab.settings
        for corpus in settings.corpora:
            if COPIES & set(settings.workloads) and not isinstance(contestant, Whole):
                self._tour(contestant, "copies", corpus.name, number, partial(copies, source=corpus))
            if corpus in parts and isinstance(contestant, Mounted | Copier):
                self._tour(contestant, "clients", corpus.name, number, partial(clients, parts=parts[corpus]))
        if "read" in settings.workloads and isinstance(contestant, Mounted | Whole):
            step = partial(read, session_file=sessions[max(sessions)])
            self._tour(contestant, "read", SESSIONS, number, step)
        if isinstance(contestant, Mounted):
            self._on_mount(contestant, number, sessions)

    def _on_mount(self, contestant: Mounted, number: int, sessions: dict[float, Path]) -> None:
        settings = self.lab.settings
        if "append" in settings.workloads:
            for size in settings.sizes:
                label = f"{size:g} MB"
                step = partial(append, session_file=sessions[size], label=label)
                self._tour(contestant, f"append {label}", SESSIONS, number, step)
        if "random-read" in settings.workloads:
            step = partial(random_reads, session_file=sessions[max(sessions)])
            self._tour(contestant, "random-read", SESSIONS, number, step)
        if "names" in settings.workloads:
            self._tour(contestant, "names", NAMES, number, partial(names, source=self._names()))

    def _names(self) -> Path:
        """A directory of many small conversations."""
        made = self.work / NAMES
        if not made.exists():
            write_names(made, self.lab.settings.names)
        return made

    def _tour(self, contestant: Contestant, what: str, corpus: str, number: int, go: Callable[[Tour], None]) -> None:
        """One tour, in a place of its own. What fails in it is recorded, and the run goes on."""
        self.tell(f"run {number + 1}: {contestant.name}: {what} {corpus}")
        directory = self.work / "place"
        directory.mkdir()
        try:
            with self.server.bucket() as bucket:
                place = Place(directory, bucket, self._environment(), self.server, self.lab.settings.timeout)
                if self.lab.proxy is not None:
                    self.lab.proxy.bare_etags(contestant.bare_etags)
                contestant.make(place)
                go(Tour(self.lab, contestant, place, corpus, number))
        except (Failed, OSError, subprocess.SubprocessError) as error:
            self._failed(contestant, what, corpus, error)
        finally:
            shutil.rmtree(directory)

    def _environment(self) -> dict[str, str]:
        endpoint = self.lab.proxy.endpoint if self.lab.proxy else self.server.endpoint
        return {**os.environ, "AWS_ENDPOINT_URL": endpoint, "LC_ALL": "C"}

    def _failed(self, contestant: Contestant, what: str, corpus: str, error: Exception) -> None:
        self.tell(f"{contestant.name}: {what} {corpus}: {error}")
        self.lab.problem(contestant.name, what, corpus, str(error))
