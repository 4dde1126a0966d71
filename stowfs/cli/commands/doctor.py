"""`stowfs doctor`: what this host and a store can do."""

import click
import trio

from stowfs.cli.arguments import STORE, json_option, store_options
from stowfs.cli.examination import Finding, examine_host, examine_store
from stowfs.cli.output import echo, emit
from stowfs.config import StoreOptions
from stowfs.store.open import StoreLocation


@click.command()
@store_options
@click.argument("location", metavar="[STORE]", type=STORE, required=False)
@json_option
@click.pass_context
def doctor(ctx: click.Context, location: StoreLocation | None, options: StoreOptions, as_json: bool) -> None:
    """Check what this host and STORE can do.

    Looks at FUSE, limits and local directories; at STORE, whether it answers, how fast, and whether it heeds
    conditional writes. The exit status is 1 where something is broken, and the line says what to do.

    \b
    Example:
      stowfs doctor s3://my-bucket/conversations
    """
    findings = list(examine_host())

    async def run() -> list[Finding]:
        return [] if location is None else [finding async for finding in examine_store(location, options)]

    findings += trio.run(run)
    healthy = all(finding.ok for finding in findings)
    if as_json:
        checks = [{"name": finding.name, "ok": finding.ok, "detail": finding.detail} for finding in findings]
        emit({"ok": healthy, "checks": checks})
    else:
        for finding in findings:
            echo(f"{'ok    ' if finding.ok else 'BROKEN'}  {finding.name:<18}  {finding.detail}")
    ctx.exit(0 if healthy else 1)
