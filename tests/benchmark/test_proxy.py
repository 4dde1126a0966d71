"""The counting proxy: what passes is unchanged and counted, and a latency holds requests up."""

import http.client
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from scripts.benchmark.proxy import Proxy, proxy

LARGE = bytes(range(256)) * 40_000
"""More than any buffer on the way holds."""


class Echo(BaseHTTPRequestHandler):
    """Answers with what it was sent, or with LARGE."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(LARGE)

    def do_PUT(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(body)

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("ETag", '"0a1b-2"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[tuple[str, int]]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield "127.0.0.1", listening.server_port
        finally:
            listening.shutdown()
            thread.join()


def connect(through: Proxy) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(through.endpoint.removeprefix("http://"), timeout=30)


def test_requests_and_bytes_are_counted_and_unchanged(server: tuple[str, int]) -> None:
    with proxy(server, 0) as through:
        connection = connect(through)
        for body in (b"", b"x" * 10, LARGE):
            connection.request("PUT", "/a", body)
            assert connection.getresponse().read() == body
        for _ in range(2):
            connection.request("GET", "/a")
            assert connection.getresponse().read() == LARGE
        connection.request("PUT", "/b", iter([b"one", b"two" * 1000]), encode_chunked=True)
        assert connection.getresponse().read() == b"one" + b"two" * 1000
        connection.close()
        counts = through.counts()
    assert counts.requests == {"PUT": 4, "GET": 2}
    payload = len(LARGE) + 10 + 3003
    headers = 6 * 400
    assert payload < counts.sent < payload + headers
    assert payload + 2 * len(LARGE) < counts.received < payload + 2 * len(LARGE) + headers
    assert counts.cpu_seconds > 0


def test_what_passed_between_two_looks(server: tuple[str, int]) -> None:
    with proxy(server, 0) as through:
        connection = connect(through)
        connection.request("PUT", "/a", b"x")
        connection.getresponse().read()
        before = through.counts()
        connection.request("GET", "/a")
        connection.getresponse().read()
        connection.close()
        passed = through.counts().since(before)
    assert passed.requests == {"GET": 1}
    assert passed.sent < before.sent + 400
    assert passed.received > len(LARGE)


def test_many_connections_at_once(server: tuple[str, int]) -> None:
    def work(through: Proxy) -> None:
        connection = connect(through)
        for number in range(10):
            body = b"%d" % number * 1000
            connection.request("PUT", "/a", body)
            assert connection.getresponse().read() == body
        connection.close()

    with proxy(server, 0) as through, ThreadPoolExecutor(32) as pool:
        for done in [pool.submit(work, through) for _ in range(32)]:
            done.result()
        assert through.counts().requests == {"PUT": 320}


def test_etags_lose_their_quotes_where_that_is_wanted(server: tuple[str, int]) -> None:
    body = b'HTTP/1.1 200\r\nETag: "0a1b-2"\r\n\r\n'
    with proxy(server, 0) as through:
        connection = connect(through)
        for wanted, expected in ((False, '"0a1b-2"'), (True, "0a1b-2"), (False, '"0a1b-2"')):
            through.bare_etags(wanted)
            connection.request("PUT", "/a", body)
            answer = connection.getresponse()
            assert (answer.headers["ETag"], answer.read()) == (expected, body)
        connection.close()


def test_every_request_waits_for_the_latency(server: tuple[str, int]) -> None:
    with proxy(server, 100) as through:
        connection = connect(through)
        began = time.monotonic()
        for _ in range(3):
            # The headers and the body may come apart: they wait once.
            connection.request("PUT", "/a", b"body")
            assert connection.getresponse().read() == b"body"
        took = time.monotonic() - began
        connection.close()
        assert through.counts().requests == {"PUT": 3}
    assert took >= 0.3  # At least: on a busy machine it takes longer, and that is no fault.


def test_a_server_that_is_not_there_ends_the_connection() -> None:
    with proxy(("127.0.0.1", 1), 0) as through:
        connection = connect(through)
        connection.connect()
        with pytest.raises((ConnectionError, http.client.HTTPException)):  # noqa: PT012 - whichever notices first
            connection.request("GET", "/")
            connection.getresponse()
        connection.close()
