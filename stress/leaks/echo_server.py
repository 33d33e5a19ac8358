"""The peer of all connections: one thread on loopback that greets, echoes, and closes when told ``bye``.

It runs in the process that starts the scenarios: in theirs, its own ends would be descriptors that tasks left.
"""

from __future__ import annotations

import selectors
import socket
import tempfile
import threading
from pathlib import Path
from typing import Final

GREETING: Final = b"hello\n"


class EchoServer:
    """Listens on all of 127/8, by one port, and on a Unix socket; use it as a context manager."""

    def __enter__(self) -> EchoServer:
        self._folder = tempfile.TemporaryDirectory()
        self.path = str(Path(self._folder.name) / "echo")
        self._selector = selectors.DefaultSelector()
        listener = socket.create_server(("0.0.0.0", 0), backlog=1024)
        self.port: int = listener.getsockname()[1]
        unix = socket.socket(socket.AF_UNIX)
        unix.bind(self.path)
        unix.listen(1024)
        self._stop, self._stopped = socket.socketpair()
        for each in (listener, unix):
            self._selector.register(each, selectors.EVENT_READ, "listener")
        self._selector.register(self._stopped, selectors.EVENT_READ, "stop")
        self._thread = threading.Thread(target=self._serve, name="echo server")
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.close()
        self._thread.join()
        self._folder.cleanup()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data == "stop":
                    for each in list(self._selector.get_map().values()):
                        each.fileobj.close()  # type: ignore[union-attr]
                    self._selector.close()
                    return
                self._step(key.fileobj, key.data)  # type: ignore[arg-type]

    def _step(self, sock: socket.socket, what: str) -> None:
        try:
            if what == "listener":
                client, _ = sock.accept()
                client.sendall(GREETING)
                self._selector.register(client, selectors.EVENT_READ, "client")
                return
            data = sock.recv(4096)
            if data and not data.startswith(b"bye"):
                sock.sendall(data)
                return
        except OSError:
            data = b""  # it was reset
        self._selector.unregister(sock)
        sock.close()
