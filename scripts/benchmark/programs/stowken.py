"""stowken's Python API: … programs.stowken in BUCKET DIR PREFIX THREADS LOCAL | out BUCKET DIR THREADS LOCAL on S3,
pack VAULT DIR THREADS on a local directory.

LOCAL is a directory for its index. What is a list of messages is given to it as such, any other file as one message.
"""

import json
import os
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import stowken

ROLES = ("system", "user", "assistant", "tool")


def messages(text: str) -> Iterator[dict[str, str]]:
    """What stowken is to store of a file."""
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    listed = document.get("messages") if isinstance(document, dict) else None
    if not isinstance(listed, list) or not all(isinstance(message, dict) for message in listed):
        yield {"role": "user", "content": text}
        return
    for message in listed:
        role, content = message.get("role"), message.get("content")
        written = content if isinstance(content, str) else json.dumps(message)
        yield {"role": role if role in ROLES else "user", "content": written}


def main(arguments: list[str]) -> None:
    """Copies everything, or raises."""
    match arguments:
        case ["in", bucket, directory, prefix, threads, local]:
            _store(_on_s3(bucket, local), Path(directory), f"{prefix}/", int(threads))
        case ["out", bucket, directory, threads, local]:
            _retrieve(_on_s3(bucket, local), names_in(bucket), Path(directory), int(threads))
        case ["pack", vault, directory, threads]:
            # It makes no directories for ids that have some in them.
            _store(stowken.Stowken.open(vault), Path(directory), "", int(threads), slash="+")
        case _:
            sys.exit(__doc__)


def _on_s3(bucket: str, local: str) -> Any:
    endpoint, region = os.environ["AWS_ENDPOINT_URL"], os.environ["AWS_DEFAULT_REGION"]
    # An index belongs to one process. Which conversations there are is known from the store alone.
    index = Path(local) / f"{uuid.uuid4().hex}.db"
    return stowken.Stowken.open_s3(bucket, str(index), endpoint=endpoint, region=region)


def _store(vault: Any, directory: Path, prefix: str, threads: int, *, slash: str = "/") -> None:
    def store(path: Path) -> None:
        content = list(messages(path.read_bytes().decode(errors="replace")))
        name = f"{prefix}{slash.join(path.relative_to(directory).parts)}"
        vault.store({"id": name, "model": "unknown", "tokenizer": "cl100k_base", "messages": content})

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(store, (path for path in directory.rglob("*") if path.is_file())))


def _retrieve(vault: Any, names: list[str], directory: Path, threads: int) -> None:
    def retrieve(name: str) -> None:
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(vault.retrieve(name)))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(retrieve, names))


def names_in(bucket: str) -> list[str]:
    """The ids of all conversations: stowken has no call that lists them."""
    import boto3

    prefix, suffix = "manifests/", ".json"
    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    keys = (entry["Key"] for page in pages for entry in page.get("Contents", ()))
    return [key.removeprefix(prefix).removesuffix(suffix) for key in keys]


if __name__ == "__main__":
    main(sys.argv[1:])
