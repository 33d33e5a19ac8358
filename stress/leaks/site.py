"""What scenarios work with: connections to the echo server, pools of them, a folder."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from stress.leaks.echo_server import GREETING


class Site(NamedTuple):
    """Where one scenario runs.

    Attributes:
        port: the echo server's, on every address of 127/8.
        path: its Unix socket.
        folder: for files that are no temporary ones.
        rng: of this run.
    """

    port: int
    path: str
    folder: Path
    rng: random.Random

    def connect(self, host: str = "127.0.0.1") -> socket.socket:
        """A connection that has read the greeting."""
        sock = socket.create_connection((host, self.port))
        return greeted(sock)

    def connect_unix(self) -> socket.socket:
        """The same by the Unix socket."""
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self.path)
        return greeted(sock)


def greeted(sock: socket.socket) -> socket.socket:
    """The same connection, once the greeting has come."""
    assert sock.recv(len(GREETING), socket.MSG_WAITALL) == GREETING
    return sock


def ask(sock: socket.socket) -> None:
    """Use a connection: one question, one answer."""
    sock.sendall(b"ping\n")
    assert sock.recv(5, socket.MSG_WAITALL) == b"ping\n"


class Pool:
    """A pool of connections.

    Arguments:
        connect: makes one.
        size: how many at most are kept; more are closed when they come back.
        last_first: whether the one that came back last is taken first.
    """

    def __init__(self, connect: Callable[[], socket.socket], size: int, *, last_first: bool = False) -> None:
        self._connect = connect
        self._size = size
        self._last_first = last_first
        self._idle: list[socket.socket] = []

    def use(self, at_once: int = 1) -> None:
        """Use as many connections at the same time."""
        taken = [
            (self._idle.pop(-1 if self._last_first else 0) if self._idle else self._connect()) for _ in range(at_once)
        ]
        for sock in taken:
            ask(sock)
        for sock in taken:
            if len(self._idle) < self._size:
                self._idle.append(sock)
            else:
                sock.close()
