"""Events: what happened, as frozen records for logs, the control socket, metrics and tests.

Each kill, recycle, crash and refusal becomes one, with its task, its cause and its numbers.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Any

import msgspec


class EventKind(enum.StrEnum):
    """What can happen; one sentence each."""

    NODE_STARTED = "node-started"
    """The supervisor runs and its template has imported the app."""
    NODE_RELOADED = "node-reloaded"
    """The app was imported anew, and its children are replaced by plan."""
    NODE_QUIET = "node-quiet"
    """No task is started until the node resumes."""
    NODE_RESUMED = "node-resumed"
    """Tasks are started again."""
    NODE_LEASE_LOST = "node-lease-lost"
    """The broker was not reached for two thirds of the lease: no task is started until it is renewed."""
    NODE_FENCED = "node-fenced"
    """The broker knows this start of the node no more: another node took over what it held. It begins anew."""
    NODE_SCALED = "node-scaled"
    """Another number of children is wanted."""
    NODE_DRAINING = "node-draining"
    """No task is started any more; running ones may finish until the grace is over."""
    NODE_STOPPED = "node-stopped"
    """The last process of the node is gone."""
    CHILD_UP = "child-up"
    """A child pulls tasks."""
    CHILD_RECYCLED = "child-recycled"
    """A child left by plan; the cause says which limit it reached."""
    CHILD_CRASHED = "child-crashed"
    """A child died without being asked to; the task it ran is named."""
    CHILD_KILLED = "child-killed"
    """We killed a child; the cause says why."""
    CHILD_BOOT_FAILED = "child-boot-failed"
    """A child could not be made ready."""
    TASK_REQUEUED = "task-requeued"
    """A task whose child died waits for its next delivery; so does one that was interrupted, or that a limit ended and
    that is tried again."""
    TASK_DEAD = "task-dead"
    """A message was given up; its record keeps the bytes and the cause."""
    TASK_FAILED = "task-failed"
    """A task was ended by one of its limits, or was lost with ``acks_late=False``."""
    TASK_CANCELLED = "task-cancelled"
    """A task was cancelled while it ran: it has ended, or its child was killed."""
    TASKS_RECALLED = "tasks-recalled"
    """What a child held behind a task that runs long was put back for others; the long one is named."""
    NODE_RESCUED = "node-rescued"
    """What an earlier start, or a dead node, had held was put back."""
    TEMPLATE_FAILED = "template-failed"
    """The app could not be imported."""
    TEMPLATE_LOST = "template-lost"
    """The template died; its children with it, and a new one is started."""
    STEWARD_REPLACED = "steward-replaced"
    """The steward died or stood still, and a new one was started."""
    BROKER_TROUBLE = "broker-trouble"
    """The broker refuses work; fetching stops until it is back."""
    BROKER_BACK = "broker-back"
    """The broker works again."""
    LEAK_FOUND = "leak-found"
    """A task leaves something behind; told again when the count has doubled. ``poolrt leaks`` shows them all."""
    LEFT_BEHIND = "left-behind"
    """Processes that somebody left were ended."""
    WARNING = "warning"
    """Something a person should look at."""


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that happened on a node."""

    kind: EventKind
    at: float
    """Wall time, seconds since the epoch."""
    node: str = ""
    slot: int | None = None
    generation: int | None = None
    pid: int | None = None
    task: str = ""
    task_id: str = ""
    cause: str = ""
    numbers: dict[str, Any] = {}

    def line(self) -> str:
        """The event as one line for people."""
        parts: list[str] = []
        if self.slot is not None:
            pid = f" (pid {self.pid})" if self.pid else ""
            parts.append(f"child {self.slot}.{self.generation}{pid}")
        parts.append(self.kind.value)
        if self.task:
            parts.append(f"{self.task}#{self.task_id}" if self.task_id else self.task)
        text = " ".join(parts)
        if self.cause:
            text += f": {self.cause}"
        if self.numbers:
            text += " [" + ", ".join(f"{name}={_short(name, value)}" for name, value in self.numbers.items()) + "]"
        return text


def in_brief(commands: Iterable[str]) -> str:
    """Command lines in one short line: three of them, sixty characters each."""
    each = [command if len(command) <= 60 else f"{command[:59]}…" for command in dict.fromkeys(commands)]
    return ", ".join(each[:3]) + (f" and {len(each) - 3} others" if len(each) > 3 else "")


def _short(name: str, value: Any) -> str:
    if name.endswith("rss"):
        return f"{value / (1 << 20):.1f} MiB"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
