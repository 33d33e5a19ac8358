"""A network between a client and a server that a test can cut, delay, or let say something itself.

client ──▶ Proxy ──▶ server      one thread; a test arms what is to happen to the next request with a marker in it
"""

from __future__ import annotations

import selectors
import socket
import threading

_PATIENCE = 10.0


class Proxy:
    """Forwards each connection to ``port`` until it is told otherwise.

    Attributes:
        port: where clients connect.
        seen: how many requests with an armed marker came.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._end, self._ended = socket.socketpair()
        self._peers: dict[socket.socket, socket.socket] = {}
        self._clients: set[socket.socket] = set()
        self._says: list[bytes] = []
        self._cut: bytes | None = None
        self._keep: bytes | None = None
        self._doomed: set[socket.socket] = set()
        self._kept: list[tuple[socket.socket, bytes]] = []
        self._news = threading.Condition()
        self.seen = 0
        self._selector = selectors.DefaultSelector()
        for sock in (self._listener, self._ended):
            self._selector.register(sock, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    # ---- what a test arms

    def lose_answer(self, marker: bytes) -> None:
        """The next request with ``marker`` is carried out, and its connection ends before the answer comes."""
        self._cut = marker

    def delay(self, marker: bytes) -> None:
        """The next request with ``marker`` is kept on its way, and the client's side of the connection ends."""
        self._keep = marker

    def deliver(self) -> bytes:
        """Let the kept request arrive now; the server's answer, which nobody else reads."""
        with self._news:
            assert self._news.wait_for(lambda: self._kept, _PATIENCE)
            server, data = self._kept.pop()
        server.settimeout(_PATIENCE)
        server.sendall(data)
        answer = server.recv(65536)
        server.close()
        return answer

    def say(self, *lines: bytes) -> None:
        """Answer the next requests so, one each, instead of the server."""
        self._says += lines

    def close(self) -> None:
        """End every connection."""
        self._end.close()
        self._thread.join(_PATIENCE)
        for sock in (*self._peers, *(server for server, _ in self._kept), self._listener, self._ended):
            sock.close()
        self._selector.close()

    # ---- the thread

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._ended:
                    return
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj in self._peers:
                    self._pass_on(key.fileobj)  # type: ignore[arg-type]

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        try:
            server = socket.create_connection(("127.0.0.1", self._to), 1)
        except OSError:
            client.close()
            return
        self._peers |= {client: server, server: client}
        self._clients.add(client)
        for sock in (client, server):
            self._selector.register(sock, selectors.EVENT_READ)

    def _pass_on(self, source: socket.socket) -> None:
        try:
            data = source.recv(1 << 20)
            peer = self._peers[source]
            if not data or source in self._doomed:
                self._hang_up(source)
            elif source in self._clients:
                self._request(source, peer, data)
            else:
                peer.sendall(data)
        except OSError:
            self._hang_up(source)

    def _request(self, client: socket.socket, server: socket.socket, data: bytes) -> None:
        if self._says:
            client.sendall(self._says.pop(0))
        elif self._keep is not None and self._keep in data:
            self._keep = None
            self._forget(client, server)
            client.close()
            with self._news:
                self.seen += 1
                self._kept.append((server, data))
                self._news.notify()
        else:
            if self._cut is not None and self._cut in data:
                self._cut = None
                self.seen += 1
                self._doomed.add(server)
            server.sendall(data)

    def _hang_up(self, source: socket.socket) -> None:
        peer = self._peers[source]
        self._forget(source, peer)
        source.close()
        peer.close()

    def _forget(self, *sockets: socket.socket) -> None:
        for sock in sockets:
            self._selector.unregister(sock)
            del self._peers[sock]
            self._clients.discard(sock)
            self._doomed.discard(sock)
