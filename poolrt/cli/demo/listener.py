"""The server that ``leak-socket`` leaks connections to: on 127.0.0.1, in a thread of the demo's own process.

child: leak-socket ──connect──▶ Listener keeps it open ──▶ end-of-file, when the child is recycled ──▶ closed
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from typing import Final

from poolrt.cli.demo.offenders import Heard

MOST: Final = 500
"""Connections kept open; beyond that the oldest is closed, as servers do. Many systems allow 1024 descriptors."""
_PATIENCE: Final = 1.0
"""Seconds that the last end-of-files may take once the pool has stopped."""


class Listener:
    """Accepts whatever connects and waits for its end; never reads more than that, and never writes."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        self._open: dict[socket.socket, None] = {}
        self._accepted = 0
        self._most_open = 0
        self._ours, self._theirs = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ)
        self._selector.register(self._theirs, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="poolrt-demo-listener", daemon=True)
        self._thread.start()

    def heard(self) -> Heard:
        """What it has seen so far; waits a moment for the ends of connections that are on their way."""
        patience = time.monotonic() + _PATIENCE
        while self._open and time.monotonic() < patience:
            time.sleep(0.01)
        return Heard(self.port, self._accepted, self._most_open, len(self._open))

    def close(self) -> None:
        """Close all of it and end its thread."""
        self._ours.close()
        self._thread.join()
        for each in (*self._open, self._theirs, self._socket):
            each.close()
        self._selector.close()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._theirs:
                    return
                if key.fileobj is self._socket:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket) and _has_ended(key.fileobj):
                    self._forget(key.fileobj)

    def _accept(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except OSError:  # it is gone already, or no descriptor is free
            self._forget_oldest()
            return
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ)
        self._open[connection] = None
        self._accepted += 1
        self._most_open = max(self._most_open, len(self._open))
        if len(self._open) > MOST:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        if self._open:
            self._forget(next(iter(self._open)))

    def _forget(self, connection: socket.socket) -> None:
        if connection in self._open:  # it may have been the oldest, and ended in the same round
            del self._open[connection]
            self._selector.unregister(connection)
            connection.close()


def _has_ended(connection: socket.socket) -> bool:
    """Whether the other side has closed it; it never sends."""
    try:
        return not connection.recv(1)
    except BlockingIOError:
        return False
    except OSError:  # reset: its process was killed
        return True


@contextlib.contextmanager
def listening() -> Iterator[Listener]:
    """A Listener, closed at the end."""
    listener = Listener()
    try:
        yield listener
    finally:
        listener.close()
