"""A status as a supervisor answers it, with names that are markup and escape sequences, and a state around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from poolrt.top.state import State

TASK = "reports [paused].[bold]render[/]"
TASK_ID = "0192f0c2-aaaa-7bbb-8ccc-0123456789ab"
MIB = 1 << 20


def child_row(slot: int, **changes: Any) -> dict[str, Any]:
    """One child that runs a task."""
    return {
        "slot": slot, "generation": 3, "pid": 41200 + slot, "state": "up", "activity": "run", "task": TASK,
        "task_id": TASK_ID, "running_for": 14.3, "held": 2, "done": 376, "failed": 1, "age": 62.0, "rss": 459 * MIB,
        "max_tasks": 500, "time_limit": 60.0, "soft_time_limit": None, "memory_limit": 512 * MIB, "fds": 37,
        "replaces": "memory: 518 MiB > 512 MiB", **changes,
    }  # fmt: skip


def idle_row(slot: int, **changes: Any) -> dict[str, Any]:
    """One child that waits, as a supervisor before 0.2 describes it."""
    return {
        "slot": slot, "generation": 1, "pid": 41200 + slot, "state": "up", "activity": "idle", "task": "",
        "task_id": "", "running_for": None, "held": 0, "done": 0, "failed": 0, "age": 2.0, "rss": 20 * MIB,
        "max_tasks": 0, **changes,
    }  # fmt: skip


def node_status(**changes: Any) -> dict[str, Any]:
    """A node with a child that runs and one that waits."""
    return {
        "node": "web-1", "app": "shop\x1b[31m", "broker": "sqlite:////srv/jobs.db", "incarnation": "i",
        "version": "9.9", "state": "serving", "started_at": 0.0, "uptime": 273.4, "concurrency": 2,
        "supervisor": {"pid": 9412, "rss": 20 * MIB}, "template": {"pid": 11, "rss": 33 * MIB},
        "steward": {"pid": 12, "state": "up", "rss": 21 * MIB}, "children": [idle_row(0), child_row(5)],
        "memory": {"used": 2150 * MIB, "budget": 8192 * MIB},
        "totals": {"done": 1204881, "failed": 311, "recycled": 41, "crashed": 1, "killed": 0, "recalled": 12},
        "queue": {"queued": 1204, "delayed": 3, "reserved": 2, "dead": 2, "oldest": 4.25},
        "last_events": [
            {"kind": "child-crashed", "at": 1e9, "slot": 5, "generation": 2, "pid": 7, "task": TASK,
             "task_id": TASK_ID, "cause": "killed by [SIGSEGV]\x1b[2J", "numbers": {"rss": 61 * MIB}},
        ],
        **changes,
    }  # fmt: skip


@pytest.fixture
def child() -> Callable[..., dict[str, Any]]:
    """``child(5, rss=…)``: the row of a child that runs a task."""
    return child_row


@pytest.fixture
def idle() -> Callable[..., dict[str, Any]]:
    """``idle(0)``: the row of a child that waits, without the keys of newer supervisors."""
    return idle_row


@pytest.fixture
def status() -> Callable[..., dict[str, Any]]:
    """``status(queue=None)``: what a supervisor answers."""
    return node_status


@pytest.fixture
def state() -> Callable[..., State]:
    """``state(selected=5)``: a State around a status; ``changes`` that are no field of it go into the status."""

    def make(**changes: Any) -> State:
        fields = {name: changes.pop(name) for name in list(changes) if name in State.__dataclass_fields__}
        return State(**{"node": "web-1", "status": node_status(**changes), **fields})

    return make
