"""A relay before a server that can be cut off and joined again: how a store looks whose network fails."""

import selectors
import socket
import threading
from types import TracebackType
from typing import Self

BUFFER = 64 * 1024
"""Bytes passed on at a time."""

TICK = 0.1
"""Seconds after which a relay that is to end notices."""


class Relay:
    """Passes connections to a port of its own on to `target`, unless it is cut: then they are refused."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listening: socket.socket | None = None
        self._cut = threading.Event()
        self._threads: list[threading.Thread] = []
        with socket.socket() as reserved:
            reserved.bind(("127.0.0.1", 0))
            self.port: int = reserved.getsockname()[1]

    def __enter__(self) -> Self:
        self.join()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()

    def join(self) -> None:
        """Takes connections (again)."""
        self._cut = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", self.port))
        self._start(self._accept, self._listening, self._cut)

    def cut(self) -> None:
        """Ends every connection, and refuses new ones. Idempotent."""
        self._cut.set()
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _start(self, function: object, *arguments: object) -> None:
        assert callable(function)
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listening: socket.socket, cut: threading.Event) -> None:
        listening.settimeout(TICK)
        with listening:
            while not cut.is_set():
                try:
                    client, _ = listening.accept()
                except TimeoutError:
                    continue
                self._start(self._pass_on, client, socket.create_connection(self._target), cut)

    def _pass_on(self, client: socket.socket, server: socket.socket, cut: threading.Event) -> None:
        others = {client: server, server: client}
        with client, server, selectors.DefaultSelector() as selector:
            for side in others:
                selector.register(side, selectors.EVENT_READ)
            while not cut.is_set():
                for key, _ in selector.select(TICK):
                    side = key.fileobj
                    assert isinstance(side, socket.socket)
                    try:
                        data = side.recv(BUFFER)
                        others[side].sendall(data)
                    except OSError:
                        return  # Either end has closed it: so is the other one.
                    if not data:
                        return
