"""A proxy before an S3 server that drops a condition from every request: how servers behave that do not know it."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

TIMEOUT = 30.0
"""Seconds for the server behind, which is on this machine."""


@contextmanager
def forgetting(endpoint: str, header: str) -> Iterator[str]:
    """The address of a proxy to `endpoint` (which must not check signatures) that drops `header`."""
    parts = urlsplit(endpoint)
    assert parts.hostname is not None

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            assert parts.hostname is not None
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            kept = {
                name: value for name, value in self.headers.items() if name.lower() not in (header.lower(), "expect")
            }
            server = http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT)
            try:
                server.request(self.command, self.path, body, kept)
                answer = server.getresponse()
                content = answer.read()
            finally:
                server.close()
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            if self.command == "HEAD":
                self.send_header("Content-Length", answer.getheader("Content-Length") or "0")
            elif answer.status not in (204, 304):
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = forward

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing: a test's output is about the test."""

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{proxy.server_address[1]}"
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join(TIMEOUT)
