"""Reads everything when all is over: `python -m tests.torture.reader SETTINGS MOUNTPOINT NAME`."""

import sys
from pathlib import Path

import msgspec

from tests.torture.client import Client
from tests.torture.history import Recorder, load
from tests.torture.settings import Settings, everybody, host_of


def main(arguments: list[str]) -> None:
    settings, mountpoint, name = msgspec.json.decode(arguments[0], type=Settings), Path(arguments[1]), arguments[2]
    histories = [load(settings.histories / f"{worker}.jsonl", host=host_of(worker)) for worker in everybody()]
    operations = [operation.began for history in histories for operation in history]
    paths = {path for began in operations for path in (began.path, began.target) if path and began.kind != "list"}
    client = Client(mountpoint, Recorder(settings.histories / f"{name}.jsonl"), settings.seed)
    while not client.enter():
        pass
    for directory in [*(f"own/{worker}" for worker in everybody()), "logs", "races", "claims"]:
        paths.update(f"{directory}/{entry}" for entry in client.list(directory).names)
    for path in sorted(paths):
        client.read(path)
    client.leave()


if __name__ == "__main__":
    main(sys.argv[1:])
