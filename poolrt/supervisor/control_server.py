"""The supervisor's side of the control protocol (see poolrt.control): never blocks, and no client can hold it up."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from poolrt.control import MAX_LINE
from poolrt.errors import PoolrtError
from poolrt.posix.unix_sockets import listen_stream, peer_uid

MAX_REQUEST: Final = 64 * 1024
_MAX_CLIENTS: Final = 64


class Client:
    """One connection: what came in and no line yet, what has to go out."""

    def __init__(self, sock: socket.socket, *, is_owner: bool = False) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.is_owner = is_owner
        """The program that started this supervisor: when it is gone, the node drains."""
        self.incoming = b""
        self.outgoing = b""
        self.wants_events = False
        self.waits_ready = False

    def answer(self, result: Any) -> None:
        """Queue a positive answer."""
        self.outgoing += msgspec.json.encode({"ok": True, "result": result}) + b"\n"

    def refuse(self, error: str, **more: Any) -> None:
        """Queue a refusal."""
        self.outgoing += msgspec.json.encode({"ok": False, "error": error, **more}) + b"\n"

    def flush(self) -> bool:
        """Send what fits; False when the client is gone or does not read."""
        try:
            while self.outgoing:
                sent = self.socket.send(self.outgoing, socket.MSG_NOSIGNAL)
                self.outgoing = self.outgoing[sent:]
        except BlockingIOError:
            return len(self.outgoing) <= MAX_LINE
        except OSError:
            return False
        return True


class ControlServer:
    """Listens, reads requests and hands them to ``handle(client, request)``."""

    def __init__(self, handle: Callable[[Client, dict[str, Any]], None]) -> None:
        self._handle = handle
        self._path: Path | None = None
        self.listener: socket.socket | None = None
        self.clients: dict[int, Client] = {}

    def listen(self, path: Path) -> None:
        """Open the socket, mode 0600; raises AddressInUse when another supervisor listens there."""
        self.listener = listen_stream(path)
        self.listener.setblocking(False)
        self._path = path

    def adopt(self, sock: socket.socket) -> None:
        """Serve a connection that was inherited from the program that started us."""
        self.clients[sock.fileno()] = Client(sock, is_owner=True)

    def accept(self) -> Client | None:
        """Take a new connection of our own user; None if there is none to take."""
        assert self.listener is not None
        try:
            sock, _ = self.listener.accept()
        except OSError:
            return None
        if peer_uid(sock) not in {os.geteuid(), 0} or len(self.clients) >= _MAX_CLIENTS:
            sock.close()
            return None
        client = Client(sock)
        self.clients[sock.fileno()] = client
        return client

    def read(self, client: Client) -> bool:
        """Read and handle what came; False when the client is gone."""
        try:
            received = client.socket.recv(65536)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not received:
            return False
        client.incoming += received
        while b"\n" in client.incoming:
            line, _, client.incoming = client.incoming.partition(b"\n")
            self._serve(client, line)
        if len(client.incoming) > MAX_REQUEST:
            return False
        return client.flush()

    def _serve(self, client: Client, line: bytes) -> None:
        try:
            request = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError as error:
            return client.refuse(f"not a request: {error}")
        try:
            self._handle(client, request)
        except (PoolrtError, TypeError, ValueError) as error:
            client.refuse(str(error))

    def broadcast(self, event: Any) -> list[Client]:
        """Send an event to everyone who asked for them; the clients that are gone."""
        line = msgspec.json.encode({"event": event}) + b"\n"
        gone = []
        for client in self.clients.values():
            if client.wants_events:
                client.outgoing += line
                if not client.flush():
                    gone.append(client)
        return gone

    def drop(self, client: Client) -> None:
        """Close one connection."""
        self.clients.pop(client.socket.fileno(), None)
        client.socket.close()

    def close(self) -> None:
        """Close everything and remove the socket's file."""
        for client in list(self.clients.values()):
            client.flush()
            self.drop(client)
        if self.listener is not None:
            self.listener.close()
            self.listener = None
            if self._path is not None:
                self._path.unlink(missing_ok=True)
