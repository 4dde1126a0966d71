"""Arguments and options that several commands share."""

import functools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from stowfs.config import StoreOptions
from stowfs.durations import parse_duration
from stowfs.errors import UsageError

if TYPE_CHECKING:
    from stowfs.store.open import StoreLocation


class _Store(click.ParamType["StoreLocation"]):
    name = "store"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> "StoreLocation":
        from stowfs.store.open import parse_store_url

        try:
            return parse_store_url(str(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)


class _Moment(click.ParamType[float]):
    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is no time: write for example 2026-01-31 or 2026-01-31T18:30:00+01:00", param, ctx)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


class _Duration(click.ParamType[float]):
    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return value if isinstance(value, float) else parse_duration(str(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)


STORE = _Store()
"""A store: an argument of this type is a `StoreLocation`."""

MOMENT = _Moment()
"""A date, or a date and time, of ISO 8601, in UTC unless it says otherwise: as seconds since the epoch."""

DURATION = _Duration()
"""For example 15m or 7d: in seconds, more than none."""

LOCAL_PATH = click.Path(readable=False)
"""A local path. Whether it can be read is left to who reads it: who has mounted something need not be able to."""


def store_argument(function: Callable[..., None]) -> Callable[..., None]:
    """STORE and the options that say how to reach it, for a command that takes `location` and `options`."""
    return click.argument("location", metavar="STORE", type=STORE)(store_options(function))


def store_options(function: Callable[..., None]) -> Callable[..., None]:
    """The options that say how to reach a store, for a command that takes `options`."""

    @functools.wraps(function)
    def command(*, endpoint: str | None, region: str | None, profile: str | None, **others: object) -> None:
        # An empty value is what an unset variable in a script leaves.
        options = StoreOptions(endpoint=endpoint or None, region=region or None, profile=profile or None)
        function(options=options, **others)

    for name, explanation in (
        ("profile", "Profile of the AWS configuration to take credentials from."),
        ("region", "Region of the bucket."),
        ("endpoint", "URL of the S3 endpoint, where it is not AWS."),
    ):
        command = click.option(f"--{name}", metavar=name.upper(), help=explanation)(command)
    return command


def seconds_option(name: str, *, default: float, help: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """An option `name` for a time of so many seconds or none at all."""
    return click.option(
        name, type=click.FloatRange(min=0), default=default, show_default=True, metavar="SECONDS", help=help
    )


def json_option(function: Callable[..., None]) -> Callable[..., None]:
    """`--json`, as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(function)
