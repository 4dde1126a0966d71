"""A proxy before the S3 server that counts what passes: python -m scripts.benchmark.proxy HOST PORT LATENCY_MS.

Bytes are passed on unchanged, as they come; requests are told apart by a parser that only looks on. With a latency,
each request waits so long before it goes on; other connections do not wait for it. It is a process of its own, so that
it takes nothing from who measures: it prints its port, then answers each command on stdin with what it has counted so
far, and ends with stdin.

One exception for who needs it: Ceph RGW 16 compares If-Match with the ETag without its quotes. A client that gives back
what it got, as is right, can then change nothing. `bare_etags` takes the quotes off on the way to the client.
"""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import httptools

from scripts.benchmark.processes import Failed, end
from scripts.benchmark.settings import ROOT

QUOTED_ETAG = re.compile(rb'(?<=\r\n)(etag: )"([0-9a-f-]+)"(?=\r\n)', re.IGNORECASE)
"""In the headers of an answer: S3 has no other that holds one."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What has passed: requests by method, bytes to and from the server, and the processor time that counting took."""

    requests: Mapping[str, int]
    sent: int
    received: int
    cpu_seconds: float

    def since(self, earlier: "Counts") -> "Counts":
        """What has passed after `earlier`."""
        return Counts(
            dict(Counter(self.requests) - Counter(earlier.requests)),
            self.sent - earlier.sent,
            self.received - earlier.received,
            self.cpu_seconds - earlier.cpu_seconds,
        )


class Tally:
    """The figures to which all connections add, and how they are to treat ETags."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.sent = 0
        self.received = 0
        self.bare_etags = False

    def line(self) -> bytes:
        """The figures as a line of JSON."""
        figures = {"requests": self.requests, "sent": self.sent, "received": self.received}
        return json.dumps({**figures, "cpu_seconds": time.process_time()}).encode() + b"\n"


class _Upstream(asyncio.Protocol):
    """The connection to the server: what comes from it goes to the client."""

    def __init__(self, client: "_Downstream", tally: Tally) -> None:
        self._client = client
        self._tally = tally

    def data_received(self, data: bytes) -> None:
        self._tally.received += len(data)
        if self._tally.bare_etags and self._client.begins_answer(data):
            data = QUOTED_ETAG.sub(rb"\1\2", data, count=1)
        self._client.transport.write(data)

    def pause_writing(self) -> None:
        self._client.transport.pause_reading()

    def resume_writing(self) -> None:
        self._client.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._client.transport.close()


class _Downstream(asyncio.Protocol):
    """The connection of a client. Nothing is pipelined: a request begins after the answer to the one before."""

    transport: asyncio.Transport

    def __init__(self, server: tuple[str, int], latency: float, tally: Tally) -> None:
        self._server = server
        self._latency = latency
        self._tally = tally
        self._parser = httptools.HttpRequestParser(self)
        self._upstream: asyncio.Transport | None = None
        self._begun = False
        self._answered = False
        self._held: list[bytes] | None = []  # What waits: for the server's connection at first, later for the latency.
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            upstream, _ = await loop.create_connection(lambda: _Upstream(self, self._tally), *self._server)
        except OSError as error:
            print(f"proxy: {error}", file=sys.stderr, flush=True)
            self.transport.close()
            return
        self._upstream = upstream
        if self._latency and self._held:
            loop.call_later(self._latency, self._release)
        else:
            self._release()

    def on_message_begin(self) -> None:
        """Called by the parser."""
        self._begun = True
        self._answered = False

    def begins_answer(self, data: bytes) -> bool:
        """Whether these are the first bytes of the answer to a request; leave to send its body is none."""
        begins = not self._answered and not data.startswith(b"HTTP/1.1 100 ")
        self._answered = self._answered or begins
        return begins

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._tally.requests[self._parser.get_method().decode()] += 1

    def data_received(self, data: bytes) -> None:
        self._tally.sent += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            print(f"proxy: {error}", file=sys.stderr, flush=True)
            self.transport.close()
            return
        begun, self._begun = self._begun, False
        if self._held is not None:
            self._held.append(data)
        elif begun and self._latency:
            self._held = [data]
            asyncio.get_running_loop().call_later(self._latency, self._release)
        else:
            self._pass_on(data)

    def _release(self) -> None:
        held, self._held = self._held or [], None
        if held:
            self._pass_on(b"".join(held))

    def _pass_on(self, data: bytes) -> None:
        assert self._upstream is not None
        if not self._upstream.is_closing():
            self._upstream.write(data)

    def pause_writing(self) -> None:
        if self._upstream is not None:
            self._upstream.pause_reading()

    def resume_writing(self) -> None:
        if self._upstream is not None:
            self._upstream.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        if self._upstream is not None:
            self._upstream.close()


async def serve(server: tuple[str, int], latency: float) -> None:
    """Until stdin ends."""
    tally = Tally()
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: _Downstream(server, latency, tally), "127.0.0.1", 0, backlog=1024)
    print(listening.sockets[0].getsockname()[1], flush=True)
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while command := await commands.readline():
        match command.split():
            case [b"bare_etags", value]:
                tally.bare_etags = value == b"True"
        sys.stdout.buffer.write(tally.line())
        sys.stdout.buffer.flush()


class Proxy:
    """A running proxy, as who measures sees it."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.endpoint = f"http://127.0.0.1:{int(self._answer())}"

    def counts(self) -> Counts:
        """What has passed so far. Raises `Failed` where the proxy has ended."""
        return self._command("counts")

    def bare_etags(self, wanted: bool) -> None:
        """From now on, whether ETags reach clients without their quotes. Raises `Failed` where the proxy has ended."""
        self._command(f"bare_etags {wanted}")

    def _command(self, command: str) -> Counts:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{command}\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise Failed("the proxy has ended") from error
        return Counts(**json.loads(self._answer()))

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failed("the proxy has ended")
        return line


@contextlib.contextmanager
def proxy(server: tuple[str, int], latency_ms: float) -> Iterator[Proxy]:
    """A proxy before `server`."""
    command = [sys.executable, "-m", "scripts.benchmark.proxy", server[0], str(server[1]), str(latency_ms)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True, cwd=ROOT)
    try:
        yield Proxy(process)
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        end(process)
        process.stdout.close()


if __name__ == "__main__":
    asyncio.run(serve((sys.argv[1], int(sys.argv[2])), float(sys.argv[3]) / 1000))
