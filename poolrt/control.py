"""The control protocol: how the API, the command line and the views talk to a supervisor.

    client ──{"do": "status"}\\n──▶ supervisor ──{"ok": true, "result": {…}}\\n──▶ client
    client ──{"do": "events"}\\n──▶ supervisor ──{"ok": true, …}\\n, then {"event": {…}}\\n for ever

One JSON object a line, over a Unix socket that only this user can open (mode 0600, and the supervisor checks
the peer's uid). This module is the client and the names; poolrt.supervisor.control_server is the other side.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from poolrt.errors import ControlError, SupervisorNotRunning
from poolrt.posix.files import runtime_directory
from poolrt.posix.unix_sockets import connect_stream

SUFFIX: Final = ".sock"
MAX_LINE: Final = 4 * 1024 * 1024
"""A status of a thousand children is 400 KiB."""


def socket_path(node: str) -> Path:
    """Where the supervisor of ``node`` listens."""
    return runtime_directory() / f"{node}{SUFFIX}"


def nodes() -> list[str]:
    """The names of the nodes of this user that answer on this machine."""
    found = []
    for path in sorted(runtime_directory().glob(f"*{SUFFIX}")):
        try:
            connect_stream(path, 1.0).close()
        except OSError:
            continue  # a stale file: its supervisor is gone
        found.append(path.name.removesuffix(SUFFIX))
    return found


class ControlClient:
    """One connection to a supervisor; not for use by several threads at once."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._buffer = b""

    @classmethod
    def connect(cls, node: str | None = None, timeout: float = 5.0) -> ControlClient:
        """Connect to ``node``, or to the only one that runs.

        Raises:
            SupervisorNotRunning: no such node, none at all, or several to choose from.
        """
        if node is None:
            running = nodes()
            if len(running) != 1:
                which = f"several run: {', '.join(running)}; name one" if running else "none runs for this user"
                raise SupervisorNotRunning(f"no supervisor to talk to: {which}")
            node = running[0]
        try:
            sock = connect_stream(socket_path(node), timeout)
        except OSError:
            others = nodes()
            hint = f"; running: {', '.join(others)}" if others else ""
            raise SupervisorNotRunning(f"no supervisor runs under the name {node!r}{hint}") from None
        return cls(sock)

    def call(self, do: str, *, timeout: float | None = 10.0, **arguments: Any) -> Any:
        """Ask for one thing and return its result.

        Raises:
            ControlError: the supervisor refused, and says why.
            SupervisorNotRunning: it went away meanwhile.
        """
        self._socket.settimeout(timeout)
        try:
            self._socket.sendall(msgspec.json.encode({"do": do, **arguments}) + b"\n")
            line = self._line()
        except TimeoutError:
            raise ControlError(f"the supervisor did not answer {do!r} within {timeout} s") from None
        except OSError as error:
            raise SupervisorNotRunning(f"the supervisor went away: {error}") from None
        if line is None:
            raise SupervisorNotRunning("the supervisor went away")
        answer = msgspec.json.decode(line)
        if not answer.get("ok"):
            raise ControlError(str(answer.get("error", "refused")))
        return answer.get("result")

    def events(self) -> Iterator[dict[str, Any]]:
        """What happens from now on, until the supervisor stops; each as the fields of an Event."""
        self.call("events")
        return self._events()

    def _events(self) -> Iterator[dict[str, Any]]:
        self._socket.settimeout(None)
        while True:
            try:
                line = self._line()
            except OSError:
                return
            if line is None:
                return
            yield msgspec.json.decode(line)["event"]

    def _line(self) -> bytes | None:
        while b"\n" not in self._buffer:
            received = self._socket.recv(65536)
            if not received:
                return None
            self._buffer += received
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def half_close(self) -> None:
        """Send end-of-file and go on reading: an owner's way to say that it is done."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the connection; ends ``events`` in another thread too."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # not connected any more
        self._socket.close()

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
