"""Measuring: time, requests and bytes of one step, whoever does it, and a list of what went wrong."""

import http.client
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from scripts.benchmark.mounts import drop_page_cache
from scripts.benchmark.processes import Failed
from scripts.benchmark.proxy import Proxy, proxy
from scripts.benchmark.settings import Settings
from scripts.benchmark.store import Stored

PROBES = 200
"""Requests that are sent to see what the proxy costs: enough for a median, done in a second."""


@dataclass(slots=True)
class Sample:
    """One step of one contestant. `requests` (by method), `sent` and `received` (bytes) are None without the proxy.

    `verified` is whether the bytes were right; None where there is nothing to compare or it came to no comparison.
    """

    contestant: str
    workload: str
    corpus: str
    run: int
    seconds: float
    requests: Mapping[str, int] | None = None
    sent: int | None = None
    received: int | None = None
    proxy_cpu_seconds: float | None = None
    raw: int | None = None
    stored: int | None = None
    objects: int | None = None
    peak_memory: int | None = None
    verified: bool | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """What a contestant could not do, or did wrongly."""

    contestant: str
    workload: str
    corpus: str
    reason: str


@dataclass(frozen=True, slots=True)
class ProxyCost:
    """What the proxy adds to one request: medians of round trips without and with it, and its processor time."""

    direct_ms: float
    proxied_ms: float
    cpu_ms: float


@dataclass(slots=True)
class Lab:
    """What a run has found so far."""

    settings: Settings
    proxy: Proxy | None
    samples: list[Sample] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def measure(
        self, contestant: str, workload: str, corpus: str, run: int, step: Callable[[], float | None]
    ) -> Sample:
        """Does a step. Its time is what it returns (seconds), or how long it took."""
        before = self.proxy.counts() if self.proxy else None
        began = time.monotonic()
        told = step()
        seconds = time.monotonic() - began if told is None else told
        sample = Sample(contestant, workload, corpus, run, seconds)
        if self.proxy and before:
            passed = self.proxy.counts().since(before)
            sample.requests, sample.sent, sample.received = passed.requests, passed.sent, passed.received
            sample.proxy_cpu_seconds = passed.cpu_seconds
        self.samples.append(sample)
        return sample

    def judge(self, sample: Sample, right: bool) -> None:
        """Records whether the bytes were right."""
        sample.verified = right
        if not right:
            self.problem(sample.contestant, sample.workload, sample.corpus, "wrong bytes")

    def keep(self, sample: Sample, stored: Stored, raw: int) -> None:
        """Records what `raw` bytes took in the store."""
        sample.stored, sample.objects, sample.raw = stored.size, stored.objects, raw

    def problem(self, contestant: str, workload: str, corpus: str, reason: str) -> None:
        """Records what went wrong, once."""
        found = Problem(contestant, workload, corpus, reason)
        if found not in self.problems:
            self.problems.append(found)

    def cool(self) -> None:
        """Drops the page cache, if that is wanted and permitted."""
        if not self.settings.drop_caches:
            return
        try:
            drop_page_cache()
        except Failed as failed:
            self.problem("native", "cold", "", str(failed))


def proxy_cost(server: tuple[str, int]) -> ProxyCost:
    """Measures a proxy without added latency, by requests that the server answers at once."""
    direct = _round_trip_ms(server)
    with proxy(server, 0) as probed:
        host, _, port = probed.endpoint.removeprefix("http://").partition(":")
        before = probed.counts().cpu_seconds
        proxied = _round_trip_ms((host, int(port)))
        cpu = probed.counts().cpu_seconds - before
    return ProxyCost(direct, proxied, cpu / PROBES * 1000)


def _round_trip_ms(server: tuple[str, int]) -> float:
    connection = http.client.HTTPConnection(*server, timeout=30)
    times = []
    try:
        for _ in range(PROBES):
            began = time.monotonic()
            connection.request("GET", "/")
            connection.getresponse().read()
            times.append(time.monotonic() - began)
    finally:
        connection.close()
    return statistics.median(times) * 1000
