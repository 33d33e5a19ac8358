"""Datagrams that say "look at the database": to idle children, to stewards, to those who wait for a result.

    producer, child, steward                 <db>-nodes/
    ------------------------                 ------------------------------------------------------------
    a message was queued        ──▶          <node>.wake      one of the node's idle children reads it
    one is due earlier          ──▶          <node>.steward   the steward asks ``promote`` again
    a held one is to be         ──▶          <node>.steward   the steward of that node asks ``to_cancel``
    cancelled
    a task ended                ──▶          <random>.wait    the thread in ``wait`` looks for the record

A datagram is only ever a hint, sent after the commit and without blocking. It may be lost (the sender is killed, the
queue is full): then the queue holds others, or the steward's tick repeats it (``nudge``).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Iterable, Iterator
from typing import Final

from poolrt.errors import BrokerError
from poolrt.posix.files import make_private_directory
from poolrt.posix.unix_sockets import bind_datagram, send_datagram

SETTLED_NS: Final = 100_000_000
"""A folder's time stamp moves in ticks of up to 10 ms: only an older one proves that nothing was added since."""


RINGS: Final = 1000
"""Datagrams taken at once: more than a queue holds, so that a storm of them cannot keep a steward."""


def bell_name(node: str) -> str:
    """The socket on which a node's steward listens."""
    return f"{node}.steward"


class Bell:
    """The ``Doorbell`` of one steward: it owns the socket at ``path``, whoever had it before."""

    def __init__(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # of a predecessor that was killed, or hangs
        self._path = path
        self._sock = bind_datagram(path)
        self._sock.setblocking(False)
        self._inode = os.lstat(path).st_ino

    def fileno(self) -> int:
        """See ``Doorbell``."""
        return self._sock.fileno()

    def answer(self) -> None:
        """See ``Doorbell``."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(RINGS):
                self._sock.recv(16)

    def close(self) -> None:
        """See ``Doorbell``. Safe to call twice; a successor's socket is left alone."""
        self._sock.close()
        with contextlib.suppress(FileNotFoundError):
            if os.lstat(self._path).st_ino == self._inode:
                os.unlink(self._path)


class Wakes:
    """The sockets in one folder. Keeps no descriptor open, so nothing is inherited or left."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._stamp = 0
        """Time stamp of the folder that ``_names`` was read at; 0 when it must be read again."""
        self._names: tuple[list[str], list[str]] = ([], [])

    def make(self) -> None:
        """Make the folder, for this user alone."""
        home = os.path.dirname(self.directory)
        if not os.path.isdir(home):
            raise BrokerError(f"{home} does not exist: make it first, or mount what should be there")
        make_private_directory(self.directory)

    def send(self, *, children: bool = False, stewards: bool = False, waiters: Iterable[str] = ()) -> None:
        """One datagram to a child of each node, to each steward, to each of the waiters."""
        of_children, of_stewards = self._listed() if children or stewards else ([], [])
        names = [*(of_children if children else ()), *(of_stewards if stewards else ()), *waiters]
        if not names:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            for name in names:
                try:
                    send_datagram(sender, os.path.join(self.directory, name), b"!")
                except OSError:
                    continue  # it is somebody's who may not be told

    def bell(self, node: str) -> Bell:
        """The bell of this node's steward."""
        self.make()
        return Bell(os.path.join(self.directory, bell_name(node)))

    @contextlib.contextmanager
    def listening(self) -> Iterator[tuple[str, socket.socket]]:
        """A socket of one's own in the folder, and its name, for as long as the block lasts."""
        self.make()
        name = f"{secrets.token_hex(8)}.wait"
        path = os.path.join(self.directory, name)
        sock = bind_datagram(path, 0o600)
        try:
            yield name, sock
        finally:
            sock.close()
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass

    def remove_deserted(self, wanted: set[str], age: float) -> None:
        """Delete the sockets of waiters that were killed: not ``wanted`` by any row, and older than ``age`` seconds."""
        try:
            names = [name for name in os.listdir(self.directory) if name.endswith(".wait") and name not in wanted]
        except FileNotFoundError:
            return
        for name in names:
            path = os.path.join(self.directory, name)
            try:
                if time.time() - os.lstat(path).st_mtime > age:
                    os.unlink(path)
            except FileNotFoundError:
                continue

    def _listed(self) -> tuple[list[str], list[str]]:
        try:
            stamp = os.stat(self.directory).st_mtime_ns
        except FileNotFoundError:
            return [], []
        if stamp != self._stamp:
            listed = os.listdir(self.directory)
            self._names = (
                [name for name in listed if name.endswith(".wake")],
                [name for name in listed if name.endswith(".steward")],
            )
            self._stamp = stamp if time.time_ns() - stamp > SETTLED_NS else 0
        return self._names
