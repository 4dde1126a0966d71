"""One run: mounts, workers and faults for some seconds, and then the judgement."""

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import trio

from tests.torture.collector import Collections, collect
from tests.torture.faults import Chaos
from tests.torture.history import Operation, load
from tests.torture.hosts import Host
from tests.torture.oracle import END, Oracle
from tests.torture.report import Report, collected, count
from tests.torture.settings import HOSTS, LOGS, Settings, everybody, host_of
from tests.torture.stores import open_store
from tests.torture.watchdog import watch

ROOT = Path(__file__).parents[2]

START = 5.0
"""Seconds that workers get to start before the first faults."""

READER_TIMEOUT = 600.0
"""Seconds for the reading of everything."""

SETTLE = 3
"""Times that a host is mounted and unmounted until it has settled everything."""

LEAKS = frozenset({"count-too-high", "orphan-blob", "stray-object", "unfinished-upload"})
"""Findings of `fsck` that a crash may leave. Every other one is a loss, or could become one."""

EVERYDAY = frozenset({"ENOENT", "EEXIST"})
"""Errors that are answers."""

Tell = Callable[[str], None]


async def torture(settings: Settings, tell: Tell) -> Report:
    """Does a run in `settings.directory`, which must be empty."""
    settings.histories.mkdir()
    async with open_store(settings.store, settings.directory) as store:
        hosts = {name: Host(name, settings.directory / name, store) for name in (*HOSTS, "gc", "end", "again")}
        options = f"timeout={settings.timeout:g},commit={settings.commit}"
        chaos = Chaos(settings, hosts, store, options)
        collections = Collections()
        try:
            await _begin(settings, chaos)
            await _work(settings, chaos, collections, tell)
            tell("over: unmounting")
            for name in HOSTS:
                await _settle(hosts[name], chaos)
            leaks = await _check(chaos, tell)
        finally:
            for host in hosts.values():
                host.clear()
        return _judge(settings, chaos, collections, leaks)


async def _begin(settings: Settings, chaos: Chaos) -> None:
    made = await chaos.hosts["a"].stowfs("mkfs", chaos.store.url)
    if made.status != 0:
        raise RuntimeError(f"mkfs failed: {made.stderr}")
    for name in HOSTS:
        await chaos.mount(chaos.hosts[name])
    if chaos.problems:
        raise RuntimeError("; ".join(chaos.problems))
    root = chaos.hosts["a"].mountpoint / "conversations"
    directories = [f"own/{worker}" for worker in everybody()] + ["logs", "races", "claims"]
    await trio.run_process(["mkdir", "-p", *(str(root / directory) for directory in directories)])
    await trio.run_process(["touch", *(str(root / f"logs/{number}") for number in range(LOGS))])


async def _work(settings: Settings, chaos: Chaos, collections: Collections, tell: Tell) -> None:
    """Lets workers work and faults happen, until all workers have ended."""
    until = time.monotonic() + START + settings.seconds
    text = msgspec.json.encode(settings).decode()
    async with trio.open_nursery() as watching:
        watching.start_soon(watch, chaos)
        async with trio.open_nursery() as working:
            for worker in everybody():
                command = [sys.executable, "-m", "tests.torture.worker", text, worker, str(until)]
                host = chaos.hosts[host_of(worker)]
                working.start_soon(_worker, command, settings.histories / f"{worker}.stderr", host)
            await trio.sleep(START)
            with trio.move_on_after(settings.seconds):
                async with trio.open_nursery() as faulting:
                    for target in (*HOSTS, "store") if chaos.store.can_fail else HOSTS:
                        faulting.start_soon(chaos.torment, target, tell)
                    faulting.start_soon(collect, chaos.hosts["gc"], chaos, settings.seed, collections)
            tell("no more faults: the workers come to their end")
        watching.cancel_scope.cancel()


async def _worker(command: list[str], errors: Path, host: Host) -> None:
    async def end(process: trio.Process) -> None:
        # What waits for a daemon cannot be ended before that is.
        host.clear()
        process.kill()

    with errors.open("wb") as stderr:
        await trio.run_process(command, cwd=ROOT, stderr=stderr, check=False, deliver_cancel=end)


async def _settle(host: Host, chaos: Chaos) -> None:
    """Unmounts for good, when nothing is left to do."""
    for _ in range(SETTLE):
        if await chaos.unmount(host) in (0, None):
            return
        await chaos.mount(host)
    chaos.problems.append(f"{host.name} could not settle its commits")


async def _check(chaos: Chaos, tell: Tell) -> Counter[str]:
    """Reads everything, checks the store, repairs leaks, and does both again; what had leaked."""
    for name in (*HOSTS, "gc"):
        # Alone with the store: so each settles what was left by commands of its own host.
        tell(f"fsck on {name}")
        findings = await _fsck(chaos, name)
    await _read_everything(chaos, "end")
    leaks: Counter[str] = Counter()
    for finding in findings:
        if finding["kind"] in LEAKS:
            leaks[finding["kind"]] += 1
        else:
            chaos.problems.append(f"fsck: {finding['kind']}: {finding['key']}: {finding}")
    if leaks:
        await _fsck(chaos, "gc", "--repair")
        chaos.problems += [f"fsck after repair: {left['kind']}: {left['key']}" for left in await _fsck(chaos, "gc")]
        await _read_everything(chaos, "again")
    return leaks


async def _fsck(chaos: Chaos, name: str, *options: str) -> list[dict[str, str]]:
    done = await chaos.hosts[name].stowfs("fsck", chaos.store.url, "--exclusive", *options, "--json")
    if done.status not in (0, 4):
        chaos.problems.append(f"fsck on {name} failed: {done.status}: {done.stderr.strip()}")
        return []
    found: list[dict[str, str]] = done.document["findings"]
    return found


async def _read_everything(chaos: Chaos, name: str) -> None:
    """Reads through a mount on a host that has nothing of it."""
    host, settings = chaos.hosts[name], chaos.settings
    await chaos.mount(host)
    text = msgspec.json.encode(settings).decode()
    command = [sys.executable, "-m", "tests.torture.reader", text, str(host.mountpoint), name]
    with trio.move_on_after(READER_TIMEOUT) as limit:
        done = await trio.run_process(command, cwd=ROOT, capture_stderr=True, check=False)
        if done.returncode != 0:
            chaos.problems.append(f"reading everything failed: {done.stderr.decode()[-500:]}")
    if limit.cancelled_caught:
        chaos.problems.append("reading everything hangs")
        host.clear()
        return
    await chaos.unmount(host)


def _judge(settings: Settings, chaos: Chaos, collections: Collections, leaks: Counter[str]) -> Report:
    operations: list[Operation] = []
    problems = list(chaos.problems)
    for path in sorted(settings.histories.glob("*.jsonl")):
        final = path.stem in ("end", "again")
        operations += load(path, host=END if final else host_of(path.stem))
    for path in sorted(settings.histories.glob("*.stderr")):
        if said := path.read_text().strip():
            problems.append(f"worker {path.stem} ended: {said[-500:]}")
    oracle = Oracle(operations, asynchronous=settings.commit == "async", unanswered=chaos.disturbs)
    problems += oracle.judge()
    unexplained = Counter(
        f"{operation.began.kind} {operation.ended.error}"
        for operation in operations
        if operation.ended.error and operation.ended.error not in EVERYDAY and not chaos.disturbs(operation)
    )
    counts, slowest = count(operations)
    return Report(
        seed=settings.seed,
        seconds=settings.seconds,
        store=settings.store,
        commit=settings.commit,
        operations=counts,
        slowest=slowest,
        faults=dict(chaos.done),
        collections=collected(collections),
        judged=oracle.judged,
        out_of_date=oracle.out_of_date,
        unexplained=dict(unexplained),
        leaks=dict(leaks),
        problems=problems,
        directory=str(settings.directory),
    )


def clean(settings: Settings) -> None:
    """Removes what a run has left. Nothing is mounted there any more."""
    for name in os.listdir(settings.directory):
        path = settings.directory / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
