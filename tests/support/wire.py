"""The connection between a client and a server on this machine, to be cut: a port that passes everything on to the
server's, or refuses, or takes what is said and answers nothing."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Literal
from urllib.parse import urlsplit

How = Literal["up", "refusing", "silent"]

PART = 1 << 16
"""Bytes passed on at a time."""


class Wire:
    """A port of its own for the server at `endpoint`."""

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        assert parts.hostname is not None
        assert parts.port is not None
        self._server = (parts.hostname, parts.port)
        self._how: How = "up"
        self._open: list[socket.socket] = []
        self.connections = 0  # That were made by clients, ever.
        self._listening = self._listen(0)
        self._port: int = self._listening.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self._port}"

    def set(self, how: How) -> None:
        """From now on it is `how`; connections that there are end, those taken in silence included."""
        self._how = how
        self._end_connections()
        if how == "refusing":
            self._stop_listening()
        elif self._listening.fileno() == -1:
            self._listening = self._listen(self._port)

    def close(self) -> None:
        self._stop_listening()
        self._end_connections()

    def _listen(self, port: int) -> socket.socket:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen(64)
        threading.Thread(target=self._accept, args=(listening,), daemon=True).start()
        return listening

    def _stop_listening(self) -> None:
        with contextlib.suppress(OSError):  # It is closed already.
            self._listening.shutdown(socket.SHUT_RDWR)  # Ends the accept under way, which close alone would not.
        self._listening.close()

    def _end_connections(self) -> None:
        ended, self._open = self._open, []
        for connection in ended:
            with contextlib.suppress(OSError):  # Its other end was quicker.
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return  # It was closed.
            self._open.append(client)
            self.connections += 1
            if self._how == "up":
                server = socket.create_connection(self._server)
                self._open.append(server)
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=_pass_on, args=(source, target), daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):  # Either end may go at any time.
        while part := source.recv(PART):
            target.sendall(part)
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def wire(endpoint: str) -> Iterator[Wire]:
    """A wire to `endpoint`, for as long as the block lasts."""
    connection = Wire(endpoint)
    try:
        yield connection
    finally:
        connection.close()
