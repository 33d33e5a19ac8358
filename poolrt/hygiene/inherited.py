"""Connections that a process has before it forks: its children would share them, and read each other's answers.

Two children on one inherited connection got the other's answer in 250 of 300 requests (measured). Only who opened one
can close it, so it is named by its peer, and by the library where an object tells that.
"""

from __future__ import annotations

import gc
import socket
import sys
from collections.abc import Iterable, Mapping
from typing import Final

from poolrt.hygiene.findings import Action, Finding, LeakKind, Policies
from poolrt.posix.descriptors import peers

_DRIVERS: Final = ("psycopg2", "psycopg")
"""Libraries in C whose connections have a ``fileno``, and no Python socket."""
_MOST_LOOKED_AT: Final = 300
"""Objects on the way from a socket to a library's: a client, its pool, its connection."""


def inherited_connections(spare: int, policies: Policies) -> dict[str, str]:
    """The peers of connected sockets, each with its library, empty where unknown.

    Nothing is found where there is no /proc. Objects frozen by ``gc.freeze`` tell no library.

    Args:
        spare: the descriptor of a socket that is poolrt's own.
        policies: connections that these ignore, by action or pattern, are let be.
    """
    found = {fd: peer for fd, peer in peers().items() if fd != spare and not _is_ignored(peer, policies)}
    libraries = _libraries(found) if found else {}
    return {peer: libraries.get(fd, "") for fd, peer in sorted(found.items(), key=lambda item: item[1])}


def refusal(connections: Mapping[str, str]) -> str:
    """One line for the operator: which connections, and what to do."""
    named = [f"{peer} ({library})" if library else peer for peer, library in connections.items()]
    return (
        f"importing the app left connections open to {', '.join(named)}: every child would share them and read each "
        "other's answers; open them in @app.on_child_start or at first use, or close them at the end of the import "
        "(SQLAlchemy: engine.dispose(); redis: client.close())"
    )


def _is_ignored(peer: str, policies: Policies) -> bool:
    return policies.action(Finding(LeakKind.CONNECTIONS, "", peer, 1, 1, "")) is Action.IGNORE


def _libraries(fds: Iterable[int]) -> dict[int, str]:
    """The library of each of these sockets, where an object tells."""
    wanted, known = set(fds), {}
    for thing in gc.get_objects():
        library = type(thing).__module__.partition(".")[0] if isinstance(type(thing).__module__, str) else ""
        if not (isinstance(thing, socket.socket) or library in _DRIVERS) or not hasattr(type(thing), "fileno"):
            continue
        try:
            fd = thing.fileno()
        except Exception:  # noqa: BLE001, S112  closed: each driver has errors of its own
            continue
        if fd in wanted:
            known[fd] = library if library in _DRIVERS else _user_of(thing)
    return known


def _user_of(sock: object) -> str:
    """The package of the nearest object that refers to this socket, and is of no standard library."""
    seen, near = {id(sock)}, [sock]
    while near and len(seen) < _MOST_LOOKED_AT:
        referrers = [each for each in gc.get_referrers(*near) if id(each) not in seen and each is not near]
        for each in referrers:
            package = str(type(each).__module__).partition(".")[0]
            if package not in sys.stdlib_module_names and package not in ("poolrt", "__main__"):
                return package
        seen.update(map(id, referrers))
        near = referrers
    return ""
