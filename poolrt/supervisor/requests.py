"""What clients may ask of a supervisor over the control protocol, one function a request."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import msgspec

from poolrt.errors import ConfigurationError
from poolrt.posix.processes import rss_bytes
from poolrt.states import Activity
from poolrt.supervisor import orders
from poolrt.units import parse_duration
from poolrt.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

    from poolrt.board import Row
    from poolrt.supervisor.control_server import Client
    from poolrt.supervisor.lifecycle import Child
    from poolrt.supervisor.supervisor import Supervisor


def serve(supervisor: Supervisor, client: Client, request: dict[str, Any]) -> None:
    """Answer one request; raises ConfigurationError for one that cannot be."""
    handler = _HANDLERS.get(str(request.get("do")))
    if handler is None:
        raise ConfigurationError(f"unknown request {request.get('do')!r}; known: {', '.join(sorted(_HANDLERS))}")
    handler(supervisor, client, request)


def _status(supervisor: Supervisor, client: Client, request: dict[str, Any]) -> None:
    client.answer(status(supervisor))


def _ready(supervisor: Supervisor, client: Client, request: dict[str, Any]) -> None:
    """Answered when the first child is up, or when the start has failed."""
    supervisor.gate.wait(client)
    if supervisor.failure:
        supervisor.gate.refuse(supervisor.failure, int(supervisor.exit_code))
    elif supervisor.pool is not None and any(child.up_at for child in supervisor.pool.children):
        supervisor.gate.open({"node": supervisor.node})


def _events(supervisor: Supervisor, client: Client, request: dict[str, Any]) -> None:
    client.wants_events = True
    client.answer({"node": supervisor.node})


def _drain(supervisor: Supervisor, client: Client, request: dict[str, Any]) -> None:
    grace = request.get("grace")
    seconds = None if grace is None else parse_duration(grace)
    client.answer({"state": "draining"})
    supervisor.drain("asked to", seconds)


def _scale(supervisor: Supervisor, client: Client, request: dict[str, Any]) -> None:
    wanted = request.get("n")
    orders.scale(supervisor, wanted)
    client.answer({"concurrency": wanted})


def _recycle(supervisor: Supervisor, client: Client, request: dict[str, Any]) -> None:
    slots = request.get("slots") or []
    if not (isinstance(slots, list) and all(isinstance(slot, int) for slot in slots)):
        raise ConfigurationError(f"recycle takes a list of slots, not {slots!r}")
    client.answer({"recycling": orders.recycle(supervisor, slots)})


def _reload(supervisor: Supervisor, client: Client, request: dict[str, Any]) -> None:
    orders.reload(supervisor)
    client.answer({"state": "reloading"})


def _quiet(supervisor: Supervisor, client: Client, request: dict[str, Any]) -> None:
    orders.set_quiet(supervisor, quiet=True)
    client.answer({"state": str(supervisor.state)})


def _resume(supervisor: Supervisor, client: Client, request: dict[str, Any]) -> None:
    orders.set_quiet(supervisor, quiet=False)
    client.answer({"state": str(supervisor.state)})


def _leaks(supervisor: Supervisor, client: Client, request: dict[str, Any]) -> None:
    """The whole table; with ``forget`` it begins anew, and the answer says how many rows it had."""
    leaks = supervisor.reporter.leaks
    client.answer(leaks.forget() if request.get("forget") else leaks.rows(stacks=True))


_HANDLERS: dict[str, Callable[[Supervisor, Client, dict[str, Any]], None]] = {
    "status": _status,
    "ready": _ready,
    "events": _events,
    "drain": _drain,
    "scale": _scale,
    "recycle": _recycle,
    "reload": _reload,
    "quiet": _quiet,
    "resume": _resume,
    "leaks": _leaks,
}


def status(supervisor: Supervisor) -> dict[str, Any]:
    """The node as one object: what ``poolrt status --json`` prints."""
    pool = supervisor.pool
    steward = pool.steward if pool else None
    template = supervisor.template.process
    children = sorted(pool.children, key=lambda child: child.slot) if pool else []
    rows = [_child(supervisor, child) for child in children]
    totals = dict(pool.totals if pool else supervisor.succession.kept.totals)
    for row in rows:
        totals["done"] += row["done"]
        totals["failed"] += row["failed"]
        totals["refused"] += row["refused"]
    return {
        "node": supervisor.node,
        "app": supervisor.app,
        "broker": supervisor.broker,
        "incarnation": supervisor.incarnation,
        "version": VERSION,
        "state": str(supervisor.state),
        "started_at": supervisor.started_at,
        "uptime": round(time.time() - supervisor.started_at, 3),
        "concurrency": pool.wanted if pool else supervisor.succession.kept.wanted,
        "supervisor": {"pid": os.getpid(), "rss": rss_bytes(os.getpid())},
        "template": {"pid": template.pid, "rss": rss_bytes(template.pid)} if template else None,
        "steward": {"pid": steward.pid, "state": str(steward.state), "rss": rss_bytes(steward.pid)}
        if steward
        else None,
        "lease": supervisor.lease.status(),
        "memory": {"used": supervisor.memory.used, "budget": supervisor.memory.limit or None},
        "children": rows,
        "totals": totals,
        "queue": _queue(supervisor),
        "leaks": supervisor.reporter.leaks.rows(stacks=False),
        "last_events": [msgspec.to_builtins(event) for event in supervisor.reporter.last[-20:]],
    }


def _queue(supervisor: Supervisor) -> dict[str, Any] | None:
    queue = supervisor.queue
    if queue is None:
        return None
    return {name: getattr(queue, name) for name in ("queued", "delayed", "reserved", "dead", "oldest")}


def _child(supervisor: Supervisor, child: Child) -> dict[str, Any]:
    assert supervisor.pool is not None
    row = supervisor.pool.row(child)
    runs = row.activity is Activity.RUN and row.generation == child.generation
    return {
        "slot": child.slot,
        "generation": child.generation,
        "pid": child.pid,
        "state": str(child.state),
        "activity": row.activity.name.lower(),
        "task": row.task if runs else "",
        "task_id": row.task_id if runs else "",
        "running_for": round((time.monotonic_ns() - row.started) / 1e9, 3) if runs else None,
        "time_limit": _limit(row.hard_deadline, row) if runs else None,
        "soft_time_limit": _limit(row.soft_deadline, row) if runs else None,
        "memory_limit": (row.memory_limit if runs else 0) or supervisor.settings.max_memory_per_child or None,
        "held": row.held,
        "done": row.done,
        "failed": row.failed,
        "refused": row.refused,
        "age": round(time.monotonic() - child.up_at, 3) if child.up_at is not None else None,
        "rss": child.resident.read() or None if child.resident is not None else None,
        "fds": row.fds or None,
        "max_tasks": child.max_tasks,
        "replaces": child.replaces,
    }


def _limit(deadline: int, row: Row) -> float | None:
    """A deadline of the running task as seconds from its start."""
    return round((deadline - row.started) / 1e9, 3) if deadline else None
