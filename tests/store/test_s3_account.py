"""What is set differently from how boto3 does it by itself, with the same results."""

from datetime import timedelta

import pytest
from botocore.utils import parse_timestamp

from stowfs.config import StoreOptions
from stowfs.store import s3_account
from stowfs.store.s3_account import make_account

TIMES = [
    "2026-11-21T23:03:03.393Z",
    "2026-11-21T23:03:03Z",
    "2026-11-21T23:03:03+01:00",
    "2026-11-21T23:03:03",
    "20261121T230303Z",
    "20261121",
    "Sat, 21 Nov 2026 23:03:03 GMT",
    "1795302183",
    1795302183,
    1795302183.25,
]


@pytest.mark.parametrize("value", TIMES)
def test_times_are_what_boto3_takes_them_for(value: str | float) -> None:
    assert s3_account.timestamp(value) - parse_timestamp(value) == timedelta(0)


def test_listings_are_read_so() -> None:
    parsers = make_account(StoreOptions()).session.get_component("response_parser_factory")
    assert parsers.create_parser("rest-xml")._timestamp_parser is s3_account.timestamp
