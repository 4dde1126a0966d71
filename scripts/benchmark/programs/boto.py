"""One object a file: … programs.boto in BUCKET DIR PREFIX THREADS | out BUCKET DIR THREADS."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
from botocore.config import Config


def main(arguments: list[str]) -> None:
    """Copies everything, or raises."""
    threads = int(arguments[-1])
    client = boto3.client("s3", config=Config(max_pool_connections=threads))
    pool = ThreadPoolExecutor(threads)

    match arguments:
        case ["in", bucket, directory, prefix, _]:
            source = Path(directory)

            def put(path: Path) -> None:
                client.put_object(Bucket=bucket, Key=f"{prefix}/{path.relative_to(source)}", Body=path.read_bytes())

            with pool:
                list(pool.map(put, (path for path in source.rglob("*") if path.is_file())))
        case ["out", bucket, directory, _]:
            target = Path(directory)

            def get(key: str) -> None:
                path = target / key
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(client.get_object(Bucket=bucket, Key=key)["Body"].read())

            pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
            with pool:
                list(pool.map(get, (entry["Key"] for page in pages for entry in page.get("Contents", ()))))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
