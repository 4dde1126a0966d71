"""A file as one compressed object: … programs.whole in BUCKET FILE | out BUCKET, which prints the seconds and a digest.

What is timed is one GET and the decompression of what it brings, as a client that is connected already would do it.
"""

import hashlib
import sys
import time
from pathlib import Path

import boto3
import zstandard

KEY = "whole"
LEVEL = 3


def main(arguments: list[str]) -> None:
    """Stores the file, or reads it into memory."""
    client = boto3.client("s3")
    match arguments:
        case ["in", bucket, file]:
            body = zstandard.ZstdCompressor(LEVEL).compress(Path(file).read_bytes())
            client.put_object(Bucket=bucket, Key=KEY, Body=body)
        case ["out", bucket]:
            client.head_object(Bucket=bucket, Key=KEY)
            began = time.monotonic()
            raw = zstandard.ZstdDecompressor().decompress(client.get_object(Bucket=bucket, Key=KEY)["Body"].read())
            seconds = time.monotonic() - began
            print(seconds, hashlib.sha256(raw).hexdigest())
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
