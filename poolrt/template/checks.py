"""What must not be there at a fork: threads (they vanish, their locks stay) and connected sockets (they are shared).

Two children on one inherited connection read each other's answers (250 of 300 requests, measured), so a
connected socket is refused by its peer's name before the first fork; a thread is only named, since some
libraries' (OpenBLAS) survive a fork by their own handlers.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from poolrt.app.app import App


def other_threads() -> list[str]:
    """The names of Python threads beside the main one."""
    return [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]


def connected_sockets(spare: int) -> list[str]:
    """The peers of connected sockets this process holds, but for the fd ``spare``; empty where /proc is missing."""
    peers = []
    for name in _fd_names():
        fd = int(name)
        if fd == spare:
            continue
        with contextlib.suppress(OSError):  # closed meanwhile, or not a socket
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(fd)) as copy:
                if fd <= 2 and copy.family == socket.AF_UNIX:
                    continue  # journald and others hand a socket as stdout
                peers.append(_peer(copy))
    return sorted(filter(None, peers))


def unenforced_limits(app: App) -> list[str]:
    """Limits that tasks declare and this release does not enforce: said at start, so that nobody relies on them."""
    said = []
    for name in ("soft_time_limit", "memory_limit"):
        tasks = sorted(task.name for task in app.tasks.values() if getattr(task.options, name) is not None)
        if tasks:
            said.append(f"{name} is not enforced by this release; declared by {', '.join(tasks[:5])}")
    return said


def _fd_names() -> list[str]:
    try:
        return os.listdir("/proc/self/fd")
    except OSError:
        return []


def _peer(sock: socket.socket) -> str:
    """The peer's address; empty for sockets without a peer, and for a pair both of whose ends are here."""
    try:
        address = sock.getpeername()
    except OSError:
        return ""
    if isinstance(address, tuple):
        return f"{address[0]}:{address[1]}"
    text = address.decode("utf-8", "replace") if isinstance(address, bytes) else str(address)
    return text.replace("\0", "@")
