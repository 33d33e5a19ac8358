"""Events out: to the log, to whoever listens on a control connection, and to the last few that ``status`` shows."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import msgspec

from poolrt.board import Row
from poolrt.events import Event, EventKind
from poolrt.notice import Found, Happened, Ran
from poolrt.states import Activity
from poolrt.supervisor.leaks import Leaks
from poolrt.supervisor.lifecycle import Child

log = logging.getLogger("poolrt.supervisor")

_KEPT = 50
_LEVELS = {
    EventKind.CHILD_UP: logging.DEBUG,
    EventKind.NODE_LEASE_LOST: logging.WARNING,
    EventKind.NODE_FENCED: logging.WARNING,
    EventKind.CHILD_CRASHED: logging.WARNING,
    EventKind.CHILD_KILLED: logging.WARNING,
    EventKind.CHILD_BOOT_FAILED: logging.ERROR,
    EventKind.TASK_DEAD: logging.ERROR,
    EventKind.TASK_FAILED: logging.WARNING,
    EventKind.TASK_REQUEUED: logging.WARNING,
    EventKind.TASKS_RECALLED: logging.DEBUG,
    EventKind.TEMPLATE_FAILED: logging.ERROR,
    EventKind.TEMPLATE_LOST: logging.ERROR,
    EventKind.STEWARD_REPLACED: logging.WARNING,
    EventKind.BROKER_TROUBLE: logging.ERROR,
    EventKind.LEAK_FOUND: logging.WARNING,
    EventKind.LEFT_BEHIND: logging.WARNING,
    EventKind.WARNING: logging.WARNING,
}
_ROUTINE = (EventKind.CHILD_UP, EventKind.TASKS_RECALLED)


class Reporter:
    """Reports what happens on one node.

    Attributes:
        last: the newest events, at most fifty; routine ones (a child is up, tasks were recalled) are left out.
        leaks: what tasks left behind.
    """

    def __init__(self, node: str, broadcast: Callable[[Any], None], on_event: Callable[[Event], object] | None) -> None:
        self._node = node
        self._broadcast = broadcast
        self._on_event = on_event
        self.last: list[Event] = []
        self.leaks = Leaks(self)

    def emit(self, kind: EventKind, child: Child | None = None, **fields: Any) -> None:
        """Report something that happened here, to ``child`` if one is given."""
        if child is not None:
            fields.update(slot=child.slot, generation=child.generation, pid=child.pid or None)
        self.report(Event(kind, time.time(), node=self._node, **fields))

    def heard(self, child: Child, said: Happened | Found | Ran) -> None:
        """A child has something to report."""
        if isinstance(said, Found):
            self.leaks.heard(child, said)
        elif isinstance(said, Ran):
            self.leaks.left(said.rest)
        else:
            self.report(said.event)

    def recalled(self, child: Child, row: Row, count: int) -> None:
        """Report what was taken back from a child, and what it runs long; nothing if nothing was."""
        if count:
            task, task_id = (row.task, row.task_id) if row.activity is Activity.RUN else ("", "")
            self.emit(EventKind.TASKS_RECALLED, child, task=task, task_id=task_id, numbers={"count": count})

    def report(self, event: Event) -> None:
        """Log, keep and broadcast an event, wherever it was made."""
        level = _LEVELS.get(event.kind, logging.INFO)
        if log.isEnabledFor(level):
            log.log(level, "%s", event.line(), extra={"event": event})
        if event.kind not in _ROUTINE:
            self.last.append(event)
            del self.last[:-_KEPT]
        self._broadcast(event)
        if self._on_event is not None:
            self._on_event(event)


def as_object(event: Event) -> Any:
    """The event as JSON-like builtins."""
    return msgspec.to_builtins(event)
