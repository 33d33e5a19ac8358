"""The account: each accepted task against the records, the server's file, the ledger, and what lost nodes held.

accepted ids ────────────┐
records on the server    ├──▶ lost, ended twice, run again: admitted or not, refused late settles
append-only file         │
ledger, what was held    ┘
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from poolrt import App
from poolrt.message import decode_record
from poolrt.states import TaskState
from stress.chaos import journal
from stress.cluster.ledger import Run, by_task


class Loss(NamedTuple):
    """One start of a node that was lost, and what it held."""

    what: str
    node: str
    incarnation: str
    at: float
    """When it was cut off, stopped or killed."""
    held: frozenset[str]
    """Tasks that the server knew as its own just after that."""
    ran: frozenset[str]
    """Tasks that it ran at that moment, by the ledger."""


@dataclass
class Account:
    """What became of everything."""

    accepted: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    again: dict[str, int] = field(default_factory=dict)
    """For each loss, executions beyond the first of what it held."""
    not_admitted: list[str] = field(default_factory=list)
    """Executions beyond the first of what no lost node held."""
    refused: dict[str, list[Run]] = field(default_factory=dict)
    """For each loss, runs that ended after it and whose outcome is not the one that counts."""
    wrong: list[str] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """Whether every task is accounted for."""
        return not (self.lost or self.doubled or self.not_admitted or self.wrong)


def account(
    accepted: list[str], app: App, runs: list[Run], lives: dict[str, list[journal.Entry]], losses: list[Loss]
) -> Account:
    """Account for every accepted task."""
    made = Account(len(accepted))
    made.again = {loss.what: 0 for loss in losses}
    made.refused = {loss.what: [] for loss in losses}
    executions = by_task(runs)
    for task_id in accepted:
        mine = executions.pop(task_id, [])
        story = "; ".join(map(str, mine))
        found = app.broker.find(task_id)
        if found is None or found.record is None:
            state = found.state if found else "unknown"
            made.lost.append(f"{task_id} is {state}: {story}")
            continue
        record = decode_record(found.record)
        if record.state is not TaskState.SUCCEEDED:
            made.wrong.append(f"{task_id} is {record.state}: {record.error}; {story}")
        elif not any(run.owner == record.owner and run.ended for run in mine):
            made.wrong.append(f"{task_id} succeeded as {record.owner} says, but no run of it did there: {story}")
        if told := journal.complaints(lives.get(task_id, [])):
            made.doubled.append(f"{task_id}: {', '.join(told)}; {story}")
        _runs_again(made, task_id, mine, losses)
        _late_ends(made, mine, record.owner, losses)
    made.wrong += [f"{task_id} ran, but nobody enqueued it" for task_id in executions]
    return made


def _runs_again(made: Account, task_id: str, runs: list[Run], losses: list[Loss]) -> None:
    """Each execution that was followed by another one must have been held by a node as it was lost."""
    for run in runs[:-1]:
        for loss in losses:
            if run.incarnation == loss.incarnation and task_id in loss.held:
                made.again[loss.what] += 1
                break
        else:
            made.not_admitted.append(f"{task_id} ran {len(runs)} times: {'; '.join(map(str, runs))}")


def _late_ends(made: Account, runs: list[Run], owner: str, losses: list[Loss]) -> None:
    for run in runs:
        for loss in losses:
            if run.incarnation == loss.incarnation and run.ended > loss.at and run.owner != owner:
                made.refused[loss.what].append(run)
