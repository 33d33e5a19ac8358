"""What each offender did and how it was contained; and what is wrong where one was not. Pure.

accepted, records, events ─┐
Traces: what their doings  ├─▶ offences(): a line each, as records and events tell it
left outside of the broker ┘─▶ not_contained(): findings; none when each was contained as it was meant
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from poolrt.events import EventKind
from poolrt.message import Record
from poolrt.states import TaskState

Event = Mapping[str, Any]
Key = tuple[str, str]
"""An offender: a task's name, and what that run of it is to do."""

LIMITS: Final = frozenset({"TimeLimitExceeded", "MemoryLimitExceeded"})
"""Errors of tasks whose child was killed for them."""
MEMORY: Final = "max_memory_per_child: "
LEAK: Final = "leak: "
"""How the causes of two kinds of recycling begin."""


class Accepted(NamedTuple):
    """One task the broker took, and how the demo means it to end."""

    task_id: str
    task: str
    what: str
    """What it is to do: its argument, the module's path, or its offence."""
    meant: TaskState
    crashes: int = 0
    """How many children it is to end; more only if somebody else kills one."""
    error: str = ""
    """The type of the error it is to end with; empty for any."""
    within: float = 0.0
    """Seconds after which it must have been ended; 0 for any."""


class Heard(NamedTuple):
    """What the server of ``leak-socket`` has seen."""

    port: int
    accepted: int
    most_open: int
    still_open: int


class Daemon(NamedTuple):
    """A process that ``daemon`` left."""

    pid: int
    lives: bool


class Traces(NamedTuple):
    """What the offenders' doings left outside of the broker, looked at when the pool has stopped."""

    heard: Heard | None = None
    daemons: Mapping[str, Daemon] = {}
    """By task id."""
    cleaned: frozenset[str] = frozenset()
    """Ids of the tasks that have cleaned up."""


class Offence(NamedTuple):
    """One offender and all that befell it."""

    task: str
    what: str
    runs: int
    told: list[Event]
    """The containments that name it, in order of time; none when nothing did."""
    note: str
    """What its traces say."""


def offences(
    accepted: Iterable[Accepted], records: Mapping[str, Record], told: Iterable[Event], traces: Traces
) -> tuple[list[Offence], list[Event]]:
    """Each offender, in the order in which they were accepted; and what was contained besides."""
    runs: dict[Key, list[Accepted]] = {}
    for task in accepted:
        if task.task != "parse":
            runs.setdefault((task.task, task.what), []).append(task)
    key_of = _keys(runs, records)
    events: dict[Key, list[Event]] = {key: [] for key in runs}
    others: list[Event] = []
    for event in told:
        key = key_of.get(event.get("task_id") or event.get("task") or child_of(event))
        (others if key is None else events[key]).append(event)
    found = [Offence(*key, len(group), events[key], _note(group, records, traces)) for key, group in runs.items()]
    return found, others


def _keys(runs: Mapping[Key, Sequence[Accepted]], records: Mapping[str, Record]) -> dict[str, Key]:
    """Whom an event is about, by what it names: a task's id, a task, or else the child that ran a ``daemon``."""
    found: dict[str, Key] = {}
    for key, group in runs.items():
        found[key[0]] = key
        for task in group:
            found[task.task_id] = key
            if task.task == "daemon" and task.task_id in records:
                found[child_that_ran(records[task.task_id])] = key
    return found


def child_of(event: Event) -> str:
    """``child 3.1`` for what outlived that child; empty for any other event, or where nobody knows which child."""
    known = event.get("kind") == EventKind.LEFT_BEHIND and event.get("slot") is not None
    return f"child {event['slot']}.{event.get('generation')}" if known else ""


def child_that_ran(record: Record) -> str:
    """``child 3.1``, from the record's owner ``incarnation/3.1``."""
    return f"child {record.owner.rpartition('/')[2]}"


def _note(group: Sequence[Accepted], records: Mapping[str, Record], traces: Traces) -> str:
    """What is known of an offender beside its events."""
    first = group[0]
    record = records.get(first.task_id)
    match first.task:
        case "leak-socket" if traces.heard is not None:
            heard = traces.heard
            return f"of {heard.accepted} connections at most {heard.most_open} were open, {heard.still_open} are left"
        case "daemon" if first.task_id in traces.daemons:
            daemon = traces.daemons[first.task_id]
            return f"pid {daemon.pid} {'still lives' if daemon.lives else 'has ended'}"
        case "overrun":
            return "its cleanup ran" if first.task_id in traces.cleaned else "its cleanup did not run"
        case "crash-once" if record is not None and record.state is TaskState.SUCCEEDED:
            return "then it succeeded"
    return f"at {place}" if record is not None and (place := where(record.stack)) else ""


def where(stack: str) -> str:
    """``hang (tasks.py:88)``: the innermost frame of the first stack in what faulthandler wrote; empty for none."""
    found = re.search(r'File "(?:.*/)?(.+)", line (\d+) in (\S+)', stack)
    return f"{found[3]} ({found[1]}:{found[2]})" if found else ""


def befallen(events: Iterable[Event]) -> str:
    """``crashed ×3, dead``: what happened, how often."""
    counts = Counter(str(event.get("kind")).removeprefix("child-") for event in events)
    return ", ".join(f"{kind} ×{count}" if count > 1 else kind for kind, count in counts.items())


# ---- what is wrong


def not_contained(
    accepted: Sequence[Accepted], records: Mapping[str, Record], events: Sequence[Event], traces: Traces
) -> list[str]:
    """Each offender that was not contained as it was meant, and each neighbour that was taken for one."""
    return [
        *_not_ended_as_meant(accepted, records),
        *_kills_not_named(accepted, records, events),
        *_leaks_not_named(accepted, events, traces),
        *_left_behind(accepted, records, events, traces),
    ]


def _not_ended_as_meant(accepted: Iterable[Accepted], records: Mapping[str, Record]) -> list[str]:
    found = []
    for task in accepted:
        record = records.get(task.task_id)
        if record is None:
            continue
        error = record.error.type if record.error is not None else "no error"
        if task.error and error != task.error:
            found.append(f"{task.task}#{task.task_id} was to end with {task.error}, and ended with {error}")
        if task.within and record.runtime > task.within:
            found.append(
                f"{task.task}#{task.task_id} was to be ended in {task.within:g} s, and ran {record.runtime:.2f} s"
            )
    return found


def _kills_not_named(accepted: Iterable[Accepted], records: Mapping[str, Record], events: Iterable[Event]) -> list[str]:
    """Each task over a limit must have had its child killed, once and by name; nobody else."""
    kills: dict[str, list[str]] = {}
    for event in events:
        if event.get("kind") == EventKind.CHILD_KILLED:
            kills.setdefault(str(event.get("task_id") or ""), []).append(str(event.get("cause")))
    found = []
    for task in accepted:
        causes = kills.get(task.task_id, [])
        if task.error in LIMITS and task.task_id in records:
            if len(causes) != 1 or not causes[0].startswith(task.error):
                found.append(
                    f"{task.task}#{task.task_id} was to be killed once for {task.error}; told: {causes or 'nothing'}"
                )
        elif causes:
            found.append(f"{task.task}#{task.task_id} was killed, and is no offender: {'; '.join(causes)}")
    return found


def _leaks_not_named(accepted: Iterable[Accepted], events: Iterable[Event], traces: Traces) -> list[str]:
    """A leaker's child must have been recycled for it; and for descriptors nobody else's."""
    recycled = [
        (str(event.get("task") or ""), str(event.get("cause")))
        for event in events
        if event.get("kind") == EventKind.CHILD_RECYCLED
    ]
    names = {task.task for task in accepted}
    found = []
    if "leak-memory" in names and not any(
        task == "leak-memory" and cause.startswith(MEMORY) for task, cause in recycled
    ):
        found.append("no child was recycled for the memory that leak-memory kept")
    leaks = [(task, cause) for task, cause in recycled if cause.startswith(LEAK)]
    if "leak-socket" in names and traces.heard is not None:
        peer = f"127.0.0.1:{traces.heard.port}"
        if not any(task == "leak-socket" and peer in cause.split() for task, cause in leaks):
            found.append(f"no child was recycled for the sockets to {peer} that leak-socket left open")
        if traces.heard.still_open:
            found.append(f"{traces.heard.still_open} connections to {peer} are still open")
    found += [f"{task} is no offender: {cause}" for task, cause in leaks if task not in {"", "leak-socket"}]
    return found


def _left_behind(
    accepted: Iterable[Accepted], records: Mapping[str, Record], events: Sequence[Event], traces: Traces
) -> list[str]:
    """What a ``daemon`` left must have ended, been told and counted; and an ``overrun`` must have cleaned up."""
    told = {child_of(event) for event in events if event.get("kind") == EventKind.LEFT_BEHIND}
    found = []
    for task in accepted:
        record = records.get(task.task_id)
        if record is None:
            continue
        name = f"{task.task}#{task.task_id}"
        if task.task == "overrun" and task.task_id not in traces.cleaned:
            found.append(f"{name} was not let to clean up")
        if task.task != "daemon":
            continue
        daemon = traces.daemons.get(task.task_id)
        if daemon is None or daemon.lives:
            found.append(f"the process that {name} left {'still lives' if daemon else 'is not known'}: {daemon}")
        if not told & {"", child_that_ran(record)}:  # children that end together have their strays told together
            found.append(f"what {name} left was not told when its {child_that_ran(record)} ended")
    return found
