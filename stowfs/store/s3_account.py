"""Accounts of S3: clients and keys by the standard environment and credential chain, and what boto3 says when something
is wrong with either."""

import os
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    LoginError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)
from botocore.exceptions import (
    ConnectionError as BotoConnectionError,
)
from botocore.parsers import ResponseParserError
from botocore.utils import parse_timestamp

from stowfs.config import StoreOptions
from stowfs.errors import AccessDenied, StoreError, StoreUnavailable, UsageError

Client = Any
"""A boto3 S3 client: its methods are made at run time and have no types."""

RENEW = "Renew them where they come from: the role, the login or the credential_process of the profile."
"""What to do about keys that have expired."""


@dataclass(frozen=True, slots=True)
class Keys:
    """What requests are signed with."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Account:
    """A boto3 client, and what it was made from."""

    client: Client
    session: botocore.session.Session

    def keys(self) -> Keys:
        """The keys as of now; those that expire are renewed, which may take seconds. Raises errors of botocore."""
        credentials = self.session.get_credentials()
        if credentials is None:
            raise NoCredentialsError
        frozen = credentials.get_frozen_credentials()
        return Keys(frozen.access_key, frozen.secret_key, frozen.token)

    @property
    def ca_bundle(self) -> str | None:
        """The path of the certificates that HTTPS endpoints are checked against, where the system's are not meant."""
        path: str | None = self.session.get_config_variable("ca_bundle")
        return path


def make_client(options: StoreOptions) -> Client:
    """A boto3 S3 client that sends each request once, within the time limits of `options`."""
    return make_account(options).client


def make_account(options: StoreOptions) -> Account:
    """What a store needs: a client as `make_client`, with the source of its keys, by the standard environment and
    credential chain. Sends nothing.

    Raises `UsageError` for a profile or endpoint that makes no sense.
    """
    try:
        core = botocore.session.Session(profile=options.profile)
        core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=timestamp)
        session = boto3.session.Session(botocore_session=core)
        endpoint = (
            options.endpoint
            or os.environ.get("AWS_ENDPOINT_URL_S3")
            or os.environ.get("AWS_ENDPOINT_URL")
            or core.get_scoped_config().get("endpoint_url")
        )
        client = session.client(
            "s3",
            endpoint_url=endpoint,
            # boto3 itself reads AWS_DEFAULT_REGION only. Servers that are not AWS take any region.
            region_name=options.region or session.region_name or os.environ.get("AWS_REGION") or "us-east-1",
            config=Config(
                connect_timeout=options.connect_timeout,
                read_timeout=options.read_timeout,
                max_pool_connections=options.concurrency,
                retries={"total_max_attempts": 1},
                # Host names made from bucket names exist at AWS, hardly anywhere else.
                s3={"addressing_style": "path" if endpoint else "auto"},
                # Older servers refuse the checksum trailers that are sent by default. Our own hashes guard the data.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
        return Account(client, core)
    except (BotoCoreError, ValueError) as error:
        raise translated(error, f"s3:// at {options.endpoint or 'the configured endpoint'}") from error


def timestamp(value: Any) -> datetime:
    """As boto3 reads times by itself, but for those of listings: guessing their format, for a thousand names, took
    longer than everything else about them."""
    try:
        if (time := datetime.fromisoformat(value)).tzinfo is not None:
            return time
    except (TypeError, ValueError):
        pass  # a number, or as in a header
    parsed: datetime = parse_timestamp(value)
    return parsed


def translated(error: Exception, place: str) -> StoreError | UsageError:
    """What `place` says, as an error of ours."""
    reason = " ".join(str(error).split())
    match error:
        case NoCredentialsError() | PartialCredentialsError():
            return AccessDenied(f"{place}: {reason}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE")
        case CredentialRetrievalError() | TokenRetrievalError() | SSOError() | LoginError():
            return AccessDenied(f"{place}: {reason.rstrip('.')}. {RENEW}")
        case ProfileNotFound():
            return UsageError(f"{reason}: check AWS_PROFILE and ~/.aws/config")
        case BotoConnectionError() | HTTPClientError() | IncompleteReadError() | ResponseParserError() | OSError():
            return StoreUnavailable(f"{place}: {reason}: check the endpoint and the network")
        case ValueError():
            return UsageError(f"{place}: {reason}")
    return StoreError(f"{place}: {reason}")
