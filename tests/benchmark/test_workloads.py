"""What is measured is checked: wrong bytes and failures show in the result, and never end the run."""

import shutil
from pathlib import Path

from rich.console import Console

from scripts.benchmark.contents import files_in, write_session
from scripts.benchmark.contestants import Copier, Place, directory_size
from scripts.benchmark.lab import Lab, Problem
from scripts.benchmark.report import show, summarise
from scripts.benchmark.settings import WORKLOADS, Settings
from scripts.benchmark.store import Server, Stored
from scripts.benchmark.workloads import Tour, copies


class Forgetful(Copier):
    """Keeps all but the last byte of every file."""

    name = "boto3"

    def copy_in(self, place: Place, source: Path, to: str) -> None:
        shutil.copytree(source, place.directory / "kept" / to)

    def copy_out(self, place: Place, target: Path) -> None:
        shutil.copytree(place.directory / "kept", target)
        for path in files_in(target):
            path.write_bytes(path.read_bytes()[:-1])

    def stored(self, place: Place) -> Stored:
        return directory_size(place.directory / "kept")


def settings(corpus: Path) -> Settings:
    return Settings(
        corpora=(corpus,),
        workloads=WORKLOADS,
        contestants=("boto3", "s3fs"),
        baseline="boto3",
        runs=1,
        proxy=False,
        latency_ms=0,
        timeout=60,
        sizes=(1,),
        appends=1,
        reads=1,
        clients=1,
        names=1,
        drop_caches=False,
        install=False,
    )


def test_wrong_bytes_and_failures_are_shown(tmp_path: Path) -> None:
    corpus, directory = tmp_path / "corpus", tmp_path / "place"
    corpus.mkdir()
    directory.mkdir()
    (corpus / "a").write_bytes(b"conversation")
    lab = Lab(settings(corpus), None)
    server = Server({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"})
    copies(Tour(lab, Forgetful(), Place(directory, "", server.environment, server, 60), "corpus", 0), corpus)
    lab.problem("s3fs", "everything", "", "it is not installed")

    assert [(sample.workload, sample.verified) for sample in lab.samples] == [
        ("copy-in", False),
        ("copy-out cold", False),
        ("copy-out warm", False),
    ]
    assert Problem("boto3", "copy-in", "corpus", "wrong bytes") in lab.problems
    copied = summarise(lab.samples, "boto3")[0]
    assert (copied.slowness, copied.ratio, copied.objects, copied.verified) == (1, 1, 1, False)

    console = Console(record=True, width=160)
    show(lab, None, console)
    said = console.export_text()
    assert said.count("1.00 wrong") == 3
    assert said.count("failed") >= 3
    assert "s3fs, everything: it is not installed" in said
    assert "boto3, copy-out cold, corpus: wrong bytes" in said


def test_a_session_has_the_size_and_is_the_same_each_time(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a").write_text("these are the words of a conversation")
    for name in ("one", "two"):
        write_session(tmp_path / name, 0.05, [corpus])
    written = (tmp_path / "one").read_bytes()
    assert 50_000 <= len(written) < 52_000
    assert written == (tmp_path / "two").read_bytes()
