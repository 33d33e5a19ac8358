"""The supervisor's side of the control protocol (see poolrt.control): never blocks, and no client can hold it up."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from poolrt.control import MAX_LINE
from poolrt.errors import PoolrtError
from poolrt.posix.unix_sockets import listen_stream, peer_uid
from poolrt.supervisor.watcher import Watcher

MAX_REQUEST: Final = 64 * 1024
_MAX_CLIENTS: Final = 64
_FAREWELL: Final = 1.0
"""Seconds that clients may take to read what is left when the node has stopped; nothing else waits for it then."""


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


class Gate:
    """Clients that asked to be told when the node serves, or that it could not start."""

    def __init__(self) -> None:
        self._waiting: list[Client] = []

    def wait(self, client: Client) -> None:
        """Keep this client's answer back."""
        self._waiting.append(client)

    def open(self, answer: Any) -> None:
        """Answer everyone who waits."""
        for client in self._waiting:
            client.answer(answer)
            client.flush()
        self._waiting.clear()

    def refuse(self, why: str, exit_code: int) -> None:
        """Refuse everyone who waits."""
        for client in self._waiting:
            client.refuse(why, exit_code=exit_code)
            client.flush()
        self._waiting.clear()


class ControlServer:
    """Listens, reads requests and hands them to ``serve(client, request)``.

    Args:
        watcher: the supervisor's loop.
        serve: answers one request; what it raises of PoolrtError becomes a refusal.
        owner_gone: called when the connection of the program that started us ends.
    """

    def __init__(
        self, watcher: Watcher, serve: Callable[[Client, dict[str, Any]], None], owner_gone: Callable[[], None]
    ) -> None:
        self._watcher = watcher
        self._serve = serve
        self._owner_gone = owner_gone
        self._path: Path | None = None
        self._listener: socket.socket | None = None
        self.clients: list[Client] = []

    def listen(self, path: Path) -> None:
        """Open the socket, mode 0600; raises AddressInUse when another supervisor listens there."""
        self._listener = listen_stream(path)
        self._listener.setblocking(False)
        self._path = path
        self._watcher.watch(self._listener.fileno(), self._accept)

    def adopt(self, sock: socket.socket) -> None:
        """Serve a connection that was inherited from the program that started us."""
        self._add(Client(sock, is_owner=True))

    def _add(self, client: Client) -> None:
        self.clients.append(client)
        self._watcher.watch(client.socket.fileno(), lambda: self._read(client))

    def _accept(self) -> None:
        """Take a new connection, of our own user or root only."""
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return  # it went away again
        if peer_uid(sock) not in {os.geteuid(), 0} or len(self.clients) >= _MAX_CLIENTS:
            sock.close()
        else:
            self._add(Client(sock))

    def _read(self, client: Client) -> None:
        try:
            received = client.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        client.incoming += received
        while b"\n" in client.incoming:
            line, _, client.incoming = client.incoming.partition(b"\n")
            self._answer(client, line)
        if not received or len(client.incoming) > MAX_REQUEST or not client.flush():
            self.drop(client)

    def _answer(self, client: Client, line: bytes) -> None:
        try:
            request = msgspec.json.decode(line, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            client.refuse(f"not a request: {error}")
            return
        try:
            self._serve(client, request)
        except (PoolrtError, TypeError, ValueError) as error:
            client.refuse(str(error))

    def broadcast(self, event: Any) -> None:
        """Send an event to everyone who asked for them; who does not read is dropped."""
        line = b""
        for client in list(self.clients):
            if client.wants_events:
                line = line or msgspec.json.encode({"event": event}) + b"\n"
                client.outgoing += line
                if not client.flush():
                    self.drop(client)

    def flush(self) -> bool:
        """Send what did not fit before; whether something is left."""
        for client in list(self.clients):
            if client.outgoing and not client.flush():
                self.drop(client)
        return any(client.outgoing for client in self.clients)

    def drop(self, client: Client) -> None:
        """Close one connection."""
        if client not in self.clients:
            return
        self.clients.remove(client)
        self._watcher.unwatch(client.socket.fileno())
        client.socket.close()
        if client.is_owner:
            self._owner_gone()

    def close(self) -> None:
        """Close everything and remove the socket's file."""
        deadline = time.monotonic() + _FAREWELL
        for client in self.clients:
            while client.flush() and client.outgoing and (left := deadline - time.monotonic()) > 0:
                select.select([], [client.socket], [], left)
            self._watcher.unwatch(client.socket.fileno())
            client.socket.close()
        self.clients.clear()
        if self._listener is not None:
            self._watcher.unwatch(self._listener.fileno())
            self._listener.close()
            self._listener = None
            if self._path is not None:
                self._path.unlink(missing_ok=True)
