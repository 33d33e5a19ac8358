"""The connection to one supervisor, for a loop that must not block (see poolrt.control for the protocol)."""

from __future__ import annotations

import socket
from collections import deque
from typing import Any, NamedTuple

import msgspec

from poolrt.control import MAX_LINE, socket_path
from poolrt.posix.unix_sockets import connect_stream


class Answer(NamedTuple):
    """What the supervisor said to one request."""

    do: str
    result: Any = None
    error: str = ""


class Link:
    """Asks and hears. Answers come in the order of the requests.

    Invariant: while connected, ``_asked`` names the requests whose answers have not come, oldest first.
    """

    def __init__(self, node: str) -> None:
        self._path = socket_path(node)
        self._socket: socket.socket | None = None
        self._incoming = b""
        self._outgoing = b""
        self._asked: deque[str] = deque()

    @property
    def connected(self) -> bool:
        """Whether the supervisor is there, as far as we know."""
        return self._socket is not None

    @property
    def wants_room(self) -> bool:
        """Whether a request waits to be sent."""
        return bool(self._outgoing)

    def fileno(self) -> int:
        """The descriptor to wait on; only while connected."""
        assert self._socket is not None
        return self._socket.fileno()

    def awaits(self, do: str) -> bool:
        """Whether an answer to ``do`` has still to come."""
        return do in self._asked

    def connect(self) -> bool:
        """Connect if it can be done at once; whether we are connected."""
        if self._socket is None:
            try:
                self._socket = connect_stream(self._path, 0.0)
            except OSError:
                return False
        return True

    def close(self) -> None:
        """Hang up; what was asked will not be answered. Safe to call twice."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._incoming = self._outgoing = b""
        self._asked.clear()

    def ask(self, do: str, **arguments: Any) -> None:
        """Send a request; nothing happens when not connected."""
        if self._socket is not None:
            self._outgoing += msgspec.json.encode({"do": do, **arguments}) + b"\n"
            self._asked.append(do)
            self.send()

    def send(self) -> None:
        """Send what fits of what waits; hangs up when the supervisor is gone."""
        try:
            while self._socket is not None and self._outgoing:
                sent = self._socket.send(self._outgoing)
                self._outgoing = self._outgoing[sent:]
        except BlockingIOError:
            return
        except OSError:
            self.close()

    def hear(self) -> list[Answer]:
        """The answers that are there; hangs up when the supervisor is gone, or talks nonsense."""
        if self._socket is None:
            return []
        try:
            received = self._socket.recv(1 << 20)
        except BlockingIOError:
            return []
        except OSError:
            received = b""
        self._incoming += received
        *lines, self._incoming = self._incoming.split(b"\n")
        try:
            answers = [self._answer(line) for line in lines]
        except (msgspec.DecodeError, UnicodeDecodeError, IndexError):
            answers, received = [], b""
        if not received or len(self._incoming) > MAX_LINE:
            self.close()
        return answers

    def _answer(self, line: bytes) -> Answer:
        said = msgspec.json.decode(line, type=dict[str, Any])
        do = self._asked.popleft()
        if said.get("ok"):
            return Answer(do, said.get("result"))
        return Answer(do, error=str(said.get("error") or "no reason was given"))
