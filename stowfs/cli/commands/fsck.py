"""`stowfs fsck`: is everything there, and counted right?"""

import dataclasses
import re
from contextlib import AsyncExitStack

import click
import trio

from stowfs.cli.arguments import json_option, seconds_option, store_argument
from stowfs.cli.exclusive import alone
from stowfs.cli.listing import readable
from stowfs.cli.output import counted, echo, emit, note, progress, size
from stowfs.cli.session import contact
from stowfs.config import StoreOptions
from stowfs.store.open import StoreLocation
from stowfs.vault.check import GRACE, Checked, Checker
from stowfs.vault.findings import Finding
from stowfs.vault.repair import Outcome, hopeless, repair, takes_exclusive

UNREPAIRED = 4
"""The exit status where errors are left, by the convention of fsck(8)."""

NAMED = 3
"""Conversations that a line names; all of them are in the JSON document."""

NOT_ASKED = "not repaired: pass --repair"
NOT_ASKED_ALONE = "not repaired: pass --repair --exclusive while no host uses the store"


@click.command()
@store_argument
@click.option("--repair", "repairing", is_flag=True, help="Repair what can be repaired without guessing.")
@click.option(
    "--exclusive",
    is_flag=True,
    help="You know that no host uses STORE, and that none has for some minutes: what this host has left to do is done,"
    " and --repair goes further.",
)
@click.option(
    "--recount",
    is_flag=True,
    help="With --exclusive: also count the segments that nobody counts any more, since too many share them or their"
    " counts were too low.",
)
@seconds_option(
    "--grace",
    default=GRACE,
    help="What was changed within this time may be in the middle of a change. Where counts look too high, the check"
    " waits so long and looks again; without --exclusive, it looks only at those that nobody changed for a day.",
)
@json_option
@click.pass_context
def fsck(
    ctx: click.Context,
    location: StoreLocation,
    options: StoreOptions,
    repairing: bool,
    exclusive: bool,
    recount: bool,
    grace: float,
    as_json: bool,
) -> None:
    """Check STORE, and repair it.

    Reads and verifies every object, counts all references, and names the conversations that a finding touches. Safe
    beside mounts, with --repair, too: a segment whose count is too low is not counted any more from then on, so that
    it stays; to set counts right, to delete payloads that nothing names and to put back records takes --exclusive.
    Segments that nobody counts any more, most of them because too many share them, are verified, but stay, however few
    need them later; --recount counts them again. It takes --exclusive: mounts refer to them without a trace in the
    store.

    The exit status is 0 where nothing is wrong (any more), 4 where errors are left, 1 where the check failed.

    \b
    Example:
      stowfs fsck s3://my-bucket/conversations
      stowfs fsck file:///srv/store --repair --exclusive --recount --json
    """

    if recount and not exclusive:
        raise click.UsageError("--recount needs --exclusive: a mount refers to what nobody counts without a trace")

    async def run() -> tuple[Checked, list[Outcome]]:
        async with contact(location, options, writing=repairing or exclusive) as reached, AsyncExitStack() as stack:
            store, descriptor = reached.store, reached.descriptor
            if exclusive:
                await stack.enter_async_context(alone(store, descriptor, options))
            with progress("fsck") as bar:
                checker = Checker(store, descriptor, grace=grace, exclusive=exclusive, recount=recount, progress=bar)
                checked = await checker.run()
            if not repairing:
                return checked, [
                    Outcome(finding, _unasked(finding, checked, exclusive)) for finding in checked.findings
                ]
            return checked, await repair(store, descriptor, checked, exclusive=exclusive, deadline=options.deadline)

    checked, outcomes = trio.run(run)
    left = sum(outcome.left is not None for outcome in outcomes)
    if as_json:
        emit(_document(checked, outcomes))
    else:
        for outcome in outcomes:
            echo(_line(outcome))
        echo(_summary(checked, len(outcomes), left))
    if not checked.complete:
        note(
            "not every reference could be read: counts that are too high were not looked for, and payloads that nothing"
            " names stay"
        )
    ctx.exit(UNREPAIRED if left else 0)


def _unasked(finding: Finding, checked: Checked, exclusive: bool) -> str:
    """Why a finding is left where no repair was asked for, and what to do."""
    reason = hopeless(finding, checked)
    if reason is not None:
        return reason
    return NOT_ASKED_ALONE if takes_exclusive(finding) and not exclusive else NOT_ASKED


def _kind(finding: Finding) -> str:
    """The name of a finding, as 'count-too-low'."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", type(finding).__name__).lower()


def _line(outcome: Outcome) -> str:
    finding = outcome.finding
    named = ", ".join(finding.conversations[:NAMED])
    others = len(finding.conversations) - NAMED
    touches = f" [{named}{f' and {others:,} more' if others > 0 else ''}]" if named else ""
    left = "repaired" if outcome.left is None else outcome.left
    return f"{_kind(finding)}: {finding.key}: {finding.describe()}{touches}: {left}"


def _summary(checked: Checked, found: int, left: int) -> str:
    read = (
        f"{counted(checked.conversations, 'conversation')}, {checked.deleted:,} deleted, {checked.expired:,} expired,"
        f" {counted(checked.segments, 'segment')} ({size(checked.segment_bytes)})"
    )
    return f"{read}: {counted(found, 'finding')}, {left:,} left" if found else f"{read}: clean"


def _document(checked: Checked, outcomes: list[Outcome]) -> dict[str, object]:
    return {
        "clean": all(outcome.left is None for outcome in outcomes),
        "complete": checked.complete,
        "conversations": checked.conversations,
        "deleted": checked.deleted,
        "expired": checked.expired,
        "segments": checked.segments,
        "segment_bytes": checked.segment_bytes,
        "findings": [
            {
                "kind": _kind(outcome.finding),
                **dataclasses.asdict(outcome.finding),
                "conversations": [readable(path) for path in outcome.finding.conversations],
                "repaired": outcome.left is None,
                "left": outcome.left,
            }
            for outcome in outcomes
        ],
    }
