"""What is known of one task, as the keys of ``--json`` and as facts to print; pure, from what a broker found.

Arguments are told by type and size only, unless asked for; see ``describe_call``.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec

from poolrt.app.progress import decode_progress
from poolrt.brokers.base import Found
from poolrt.codec import JSON, decode
from poolrt.errors import DecodingError
from poolrt.hygiene.crash_report import Fact, describe, describe_call, last_lines, report_of
from poolrt.message import Message, Record, decode_message, decode_record
from poolrt.states import FINAL, TaskState
from poolrt.terms import NO_TERMS, Attempt
from poolrt.units import format_size

SCHEMA: Final = 1
"""Version of the ``--json`` objects of tasks; raised when a key changes its meaning or goes."""


class Task(NamedTuple):
    """One task as its broker knows it, read as far as this poolrt can."""

    found: Found
    message: Message | None
    """None where it is not kept, as of what succeeded, or cannot be read."""
    record: Record | None
    """None where the task has not ended, or the record cannot be read."""
    unreadable: str
    """Why message or record cannot be read; empty if they can."""

    @classmethod
    def of(cls, found: Found) -> Task:
        """Decode what was found; what cannot be read is told, not raised."""
        message: Message | None = None
        record: Record | None = None
        try:
            if found.record is not None:
                record = decode_record(found.record)
            envelope = found.envelope if record is None else record.envelope
            if envelope is not None:
                message = decode_message(envelope)
        except DecodingError as error:
            return cls(found, None, record, str(error))
        return cls(found, message, record, "")

    @property
    def name(self) -> str:
        """The task's name; empty where it is not known."""
        return (self.record.task if self.record else "") or (self.message.task if self.message else "")

    @property
    def state(self) -> str:
        """Where it is: as the broker knows it, or as a running task says of itself."""
        said = self.progress
        return said["state"] if said and self.found.state is TaskState.RESERVED else str(self.found.state)

    @property
    def progress(self) -> dict[str, Any] | None:
        """What the running task said last: state, meta, attempt, at. Of a meta that is no JSON only the size."""
        if self.found.progress is None:
            return None
        try:
            said = decode_progress(self.found.progress)
            pickled = f"pickled, {format_size(len(said.meta))}"
            meta = decode(JSON, said.meta, trusted=False) if said.codec == JSON else pickled
        except DecodingError:
            return None
        return {"state": said.state, "meta": meta, "attempt": said.attempt, "at": said.at}

    @property
    def history(self) -> tuple[Attempt, ...]:
        """Its attempts before the last one."""
        terms = (self.message.terms if self.message else None) or NO_TERMS
        return (self.record.history if self.record else ()) or terms.history

    @property
    def since(self) -> float:
        """When it ended or, if it has not, was enqueued; wall time, 0 where that is not known."""
        return self.record.finished_at if self.record else self.message.enqueued_at if self.message else 0.0


def summary(task: Task) -> dict[str, Any]:
    """The keys of a task in a list. None: not known, or there is none."""
    message, record = task.message, task.record
    error = record.error if record else None
    told = None if error is None else {"type": error.type, "text": error.text}
    return {
        "id": task.found.id, "task": task.name, "state": task.state,
        "queue": message.queue if message else None, "priority": message.priority if message else None,
        "root": message.root if message else None,
        "attempt": record.attempt if record else message.attempt if message else None,
        "lost": record.lost if record else task.found.lost,
        "enqueued_at": message.enqueued_at if message else None, "eta": message.eta if message else None,
        "finished_at": record.finished_at if record else None, "runtime": record.runtime if record else None,
        "error": {"type": "DecodingError", "text": task.unreadable} if task.unreadable else told,
        "progress": task.progress,
    }  # fmt: skip


def details(task: Task, *, trusted: bool, arguments: bool) -> dict[str, Any]:
    """The keys that one task has beside those of ``summary``."""
    message, record = task.message, task.record
    terms = (message.terms if message else None) or NO_TERMS
    return {
        "call": call(task, trusted=trusted, arguments=arguments),
        "parent": terms.parent or None, "group": terms.group or None,
        "expires": message.expires if message else None,
        "owner": record.owner or None if record else None,
        "attempts": [msgspec.structs.asdict(attempt) for attempt in task.history],
        **_end(record),
    }  # fmt: skip


def _end(record: Record | None) -> dict[str, Any]:
    """How it ended."""
    report = report_of(record) if record else None
    shown = None
    if report is not None:
        output = {name: last_lines(getattr(report, name)) for name in ("stdout", "stderr")}
        shown = {**msgspec.structs.asdict(report), **output}
    return {
        "traceback": record.error.traceback if record and record.error else "", "stack": record.stack if record else "",
        "status": record.status if record else None, "peak_memory": record.peak_memory if record else 0,
        "report": shown,
    }  # fmt: skip


def call(task: Task, *, trusted: bool, arguments: bool) -> str:
    """The call that the message asks for; empty where the message is not kept."""
    if task.message is None:
        return f"unreadable: {task.unreadable}" if task.unreadable else ""
    return describe_call(task.message, trusted=trusted, show=arguments)


def facts(task: Task, *, trusted: bool, arguments: bool, now: float) -> list[Fact]:
    """All that is known of a task, one fact a line, stacks and output last. ``now``: wall time."""
    told = describe(task.record) if task.record else [Fact("task", task.name or "unknown"), Fact("state", task.state)]
    lines, blocks = [each for each in told if not each.is_block], [each for each in told if each.is_block]
    lines += [*_place(task), *_times(task, now)]
    shown = call(task, trusted=trusted, arguments=arguments)
    first = [Fact("id", task.found.id), *([Fact("call", shown)] if shown else [])]
    return [*first, *lines, *(Fact("before", _attempt(each, now)) for each in task.history), *blocks]


def _place(task: Task) -> list[Fact]:
    message, told = task.message, []
    if message is not None:
        told.append(Fact("queue", f"{message.queue}, priority {message.priority}"))
        terms = message.terms or NO_TERMS
        told += [Fact(name, text) for name in ("parent", "root", "group") if (text := getattr(terms, name))]
    if message is not None and task.found.state not in FINAL:
        told.append(Fact("run", f"attempt {message.attempt}, lost {task.found.lost}"))
    if said := task.progress:
        told.append(Fact("progress", msgspec.json.encode(said["meta"]).decode()))
    return told


def _times(task: Task, now: float) -> list[Fact]:
    times = [("enqueued", task.message.enqueued_at)] if task.message else []
    if task.record:
        times.append(("ended", task.record.finished_at))
    elif task.message:
        times += [(name, at) for name, at in (("due", task.message.eta), ("expires", task.message.expires)) if at]
    return [Fact(name, moment(at, now)) for name, at in times]


def _attempt(attempt: Attempt, now: float) -> str:
    """``attempt 1, 2.100 s, ValueError: no such page; 2026-11-28 10:31:02 (3m12s ago) by web-1/3.9``."""
    cause = f"{attempt.cause}: {attempt.text}" if attempt.text else attempt.cause
    by = f" by {attempt.owner}" if attempt.owner else ""
    return f"attempt {attempt.number}, {attempt.runtime:.3f} s, {cause}; {moment(attempt.ended_at, now)}{by}"


def moment(at: float, now: float) -> str:
    """``2026-11-28 10:31:02 (3m12s ago)``: wall time as this machine writes it, as logs do."""
    return f"{datetime.fromtimestamp(at):%Y-%m-%d %H:%M:%S} ({distance(at, now)})"  # noqa: DTZ006  local, as logs are


def distance(at: float, now: float) -> str:
    """``3m12s ago`` or ``in 59m58s``."""
    from poolrt.cli.pool_view import seconds

    return f"{seconds(now - at)} ago" if at <= now else f"in {seconds(at - now)}"
