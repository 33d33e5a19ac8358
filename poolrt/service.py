"""The composition root: one node's supervisor with the app's place and its settings, in this process.

    poolrt serve ──serve()──▶ this process becomes the supervisor
    poolrt.Supervisor ──exec──▶ python -m poolrt.service OWNER_FD CONFIG_FD ──main()──▶ the same

The supervisor itself never imports the app's side; what a template needs is handed over here as bytes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import select
import socket
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from poolrt import logs
from poolrt.errors import ExitCode, PoolrtError
from poolrt.events import Event
from poolrt.posix.memory import available_cpus, cgroup_memory_limit
from poolrt.settings import Settings
from poolrt.supervisor.control_server import MAX_REQUEST
from poolrt.supervisor.supervisor import Supervisor

log = logging.getLogger("poolrt.service")

_OWNER_ASKS_WITHIN = 1.0
"""Seconds between the start of a supervisor and its owner's first request, which is sent at once."""


def complete(settings: Settings, place: str) -> Settings:
    """Fill in what is computed: the processors and the memory this node may use, and a node name from the app's place
    and the host."""
    name = settings.node_name
    if not name:
        parts = (
            re.sub(r"[^A-Za-z0-9._-]+", "-", part).strip("-._") or "node" for part in (place, socket.gethostname())
        )
        name = "@".join(parts)[:64]
    return msgspec.structs.replace(
        settings, node_name=name, concurrency=settings.concurrency or available_cpus(),
        pool_memory=settings.pool_memory or (cgroup_memory_limit() or 0) * 9 // 10,
    )  # fmt: skip


def template_config(location: Any, settings: Settings) -> bytes:
    """What a template is started with. ``location`` is an app.location.Location, which this side does not import."""
    return msgspec.msgpack.encode((location, settings))


def serve(location: Any, settings: Settings, *, on_event: Callable[[Event], object] | None = None) -> int:
    """Run the node in this process until it stops.

    Args:
        location: where the app is; see app.location.
        settings: the node's settings; name and concurrency are filled in.
        on_event: called with each event.

    Returns:
        The exit code; see errors.ExitCode.

    Raises:
        NodeNameTaken: another supervisor runs under this name on this machine.
    """
    settings = complete(settings, str(location))
    return Supervisor(settings, template_config(location, settings), on_event=on_event).run()


def main(arguments: list[str]) -> int:
    """``python -m poolrt.service OWNER_FD CONFIG_FD``: a supervisor that belongs to the program behind OWNER_FD."""
    owner = socket.socket(fileno=int(arguments[0]))
    owner.set_inheritable(False)
    with os.fdopen(int(arguments[1]), "rb") as file:
        settings, config = msgspec.msgpack.decode(file.read(), type=tuple[Settings, bytes])
    logs.configure(settings.log_level, settings.log_format)
    with owner.dup() as farewell:  # run() closes what it serves
        try:
            return Supervisor(settings, config, owner=owner).run()
        except Exception as error:
            if not isinstance(error, PoolrtError):
                log.exception("the supervisor failed")
            code = int(getattr(error, "exit_code", ExitCode.UNEXPECTED))
            _refuse(farewell, str(error) or type(error).__name__, code)
            return code


def _refuse(owner: socket.socket, why: str, code: int) -> None:
    """Answer the owner's first request, or the next one: a connection closed before it was read loses the answer."""
    with contextlib.suppress(OSError):
        if select.select([owner], [], [], _OWNER_ASKS_WITHIN)[0]:
            owner.recv(MAX_REQUEST)
        owner.sendall(msgspec.json.encode({"ok": False, "error": why, "exit_code": code}) + b"\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
