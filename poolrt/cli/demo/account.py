"""The demo's account: what was promised against what the broker recorded. Pure: records and events in, findings out.

accepted ids (the producer's side) ─┐
a Record an id, depth, ended()      ├─▶ Account ─▶ problems(): what does not balance; empty is exit code 0
events (the supervisor's side)      │          └─▶ as_json(), containments()
processes found after the stop     ─┘
"""

from __future__ import annotations

import dataclasses
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from poolrt.brokers.base import Depth
from poolrt.cli.demo.offenders import LIMITS, Accepted, Offence, Traces, befallen, not_contained, offences
from poolrt.events import EventKind
from poolrt.message import Record
from poolrt.states import TaskState

CONTAINED: Final = frozenset(
    {
        EventKind.CHILD_CRASHED,
        EventKind.CHILD_KILLED,
        EventKind.CHILD_RECYCLED,
        EventKind.CHILD_BOOT_FAILED,
        EventKind.TEMPLATE_LOST,
        EventKind.STEWARD_REPLACED,
        EventKind.LEFT_BEHIND,
        EventKind.BROKER_TROUBLE,
    }
)
"""Events that are a containment; what became of the task is told by its record."""

ACCOUNTED: Final = (TaskState.SUCCEEDED, TaskState.FAILED, TaskState.DEAD)


@dataclasses.dataclass(kw_only=True)
class Account:
    """All that is known when the pool has stopped."""

    accepted: Sequence[Accepted]
    records: Mapping[str, Record]
    """By task id: the final record of each that ended."""
    pending: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """By task id: the state of each that did not."""
    depth: Depth
    ended: Mapping[TaskState, frozenset[str]]
    """The ids the broker lists under each final state."""
    events: Sequence[Mapping[str, Any]]
    sums: Mapping[str, int]
    """Files, lines, nodes, functions and classes, added up from the results."""
    left_over: Sequence[str]
    """Processes found after the stop, one line each."""
    traces: Traces = dataclasses.field(default_factory=Traces)
    exit_code: int = 0
    """The supervisor's."""
    seconds: float

    def count(self, state: TaskState) -> int:
        """How many accepted tasks ended in ``state``."""
        return sum(record.state is state for record in self.records.values())

    def problems(self) -> list[str]:
        """What does not balance, one line each."""
        found = [*self._not_ended(), *self._differs(), *self._not_as_meant(), *self._crashes_not_named()]
        found += not_contained(self.accepted, self.records, self.events, self.traces)
        if self.exit_code:
            found.append(f"the pool did not stop by itself: its exit code is {self.exit_code}")
        if self.left_over:
            found.append(f"{len(self.left_over)} processes are left over: {'; '.join(self.left_over)}")
        return found

    def _not_ended(self) -> list[str]:
        found = []
        total = sum(self.count(state) for state in ACCOUNTED)
        if total != len(self.accepted):
            found.append(f"{len(self.accepted)} were accepted, but {total} succeeded, failed or are dead")
        if self.pending:
            named = [f"{task.task}#{task.task_id} ({state})" for task in self.accepted
                     if (state := self.pending.get(task.task_id))]  # fmt: skip
            more = f" and {len(named) - 5} more" if len(named) > 5 else ""
            found.append(f"not ended in time: {', '.join(named[:5])}{more}")
        held = self.depth.queued + self.depth.delayed + self.depth.reserved
        if held != len(self.pending):
            found.append(f"the broker still holds {held} messages, and {len(self.pending)} tasks have not ended")
        return found

    def _differs(self) -> list[str]:
        """Where the broker's own lists say something else than the records read one by one."""
        found = []
        for state in TaskState:
            ours = {task_id for task_id, record in self.records.items() if record.state is state}
            theirs = self.ended.get(state, frozenset())
            if ours != theirs:
                found.append(f"{len(ours)} records say {state}, the broker lists {len(theirs)}")
        return found

    def _not_as_meant(self) -> list[str]:
        return [
            f"{task.task}#{task.task_id} ({task.what}) was to end as {task.meant}, and is {record.state}"
            for task in self.accepted
            if (record := self.records.get(task.task_id)) is not None and record.state is not task.meant
        ]

    def _crashes_not_named(self) -> list[str]:
        """Each child lost to a task must have been reported with that task, whoever killed it."""
        reported = Counter(
            event.get("task_id") for event in self.events if event.get("kind") == EventKind.CHILD_CRASHED
        )
        return [
            f"{task.task}#{task.task_id} lost {record.lost} children, {reported[task.task_id]} were reported "
            f"and {task.crashes} were meant"
            for task in self.accepted
            if (record := self.records.get(task.task_id)) is not None
            and (record.lost != reported[task.task_id] or record.lost < task.crashes)
        ]

    def containments(self) -> list[dict[str, Any]]:
        """Everything that was contained, in order of time, as event dicts: raises and deads are told by the records."""
        told = [dict(event) for event in self.events if event.get("kind") in CONTAINED]
        for task in self.accepted:
            record = self.records.get(task.task_id)
            if record is not None and record.state is not TaskState.SUCCEEDED:
                told.append(told_by_record(task, record))
        return sorted(told, key=lambda event: event.get("at") or 0.0)

    def offences(self) -> tuple[list[Offence], list[Mapping[str, Any]]]:
        """The same by offender; and what was contained besides."""
        return offences(self.accepted, self.records, self.containments(), self.traces)

    def as_json(self) -> dict[str, Any]:
        """The object of ``--json``."""
        return {
            "accepted": len(self.accepted),
            **{state.value: self.count(state) for state in ACCOUNTED},
            "processes_left_over": len(self.left_over),
            "seconds": round(self.seconds, 3),
            "offenders": [
                {
                    "task": each.task,
                    "what": each.what,
                    "runs": each.runs,
                    "befell": befallen(each.told),
                    "causes": list(dict.fromkeys(str(event.get("cause") or "") for event in each.told)),
                    "note": each.note,
                }
                for each in self.offences()[0]
            ],
            "containments": [_flat(event) for event in self.containments()],
            "python": platform.python_version(),
            **self.sums,
            "problems": self.problems(),
        }


def told_by_record(task: Accepted, record: Record) -> dict[str, Any]:
    """The record of a task without a value, as an event dict."""
    error = record.error
    cause = " ".join(f"{error.type}: {error.text}".split()) if error is not None else str(record.state)
    numbers: dict[str, Any] = {"attempt": record.attempt, "lost": record.lost}
    if record.runtime:
        numbers["runtime_ms"] = round(record.runtime * 1000, 3)
    # What a limit has ended did not raise; the kill is an event of its own.
    raised = record.state is TaskState.FAILED and (error is None or error.type not in LIMITS)
    kind = "raised" if raised else str(record.state)
    return {
        "kind": kind, "at": record.finished_at, "task": task.task, "task_id": task.task_id,
        "cause": cause, "numbers": numbers,
    }  # fmt: skip


def _flat(event: Mapping[str, Any]) -> dict[str, Any]:
    """A containment with its numbers beside its other keys; a key of the event is never replaced."""
    flat = {"task": None, "task_id": None, "cause": ""} | {name: event[name] for name in event if name != "numbers"}
    return flat | {name: value for name, value in (event.get("numbers") or {}).items() if name not in flat}
