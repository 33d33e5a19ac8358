"""The account of a storm: each task that was accepted, against the ledger, the journal and the broker's records.

accepted ids ─┐
ledger        ├──▶ one verdict a task: as planned, cancelled, dead, cut by its limit; or what is wrong with it
journal       │
records ──────┤
cancels ──────┘
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from poolrt import App
from poolrt.message import Record, decode_record
from poolrt.states import TaskState
from stress.chaos import flows, journal
from stress.chaos.faults import KINDS
from stress.chaos.flows import attempts_of, value_of

if TYPE_CHECKING:
    from stress.chaos.canceller import Cancel


class Admitted(NamedTuple):
    """What a broker may do that is not wrong."""

    unsettled: int = 64
    """What a child may have finished and not settled, and so what its death may run again."""
    placed: dict[str, int] = {}  # noqa: RUF012  read only
    """How often a message of a kind may be stored, where its attempts do not say it."""
    forgotten: int = 1
    """How often a message without a record may be stored: a server does not remember the id of one that has ended, and
    an enqueue whose answer was lost is repeated."""


ONE_FILE: Final = Admitted()
BROKEN: Final = "broken"
"""How a part of a workflow ends that never comes, since another one of it died or was cut by its limit."""
UNPLANNED: Final = (BROKEN, "dead", "limited")
NO_CANCELS: Final[Mapping[str, Cancel]] = {}


class Run(NamedTuple):
    """One execution, as the ledger tells it."""

    attempt: int
    lost: int
    pid: int
    began: int
    ended: int
    """Both CLOCK_MONOTONIC ns; 0: it never ended."""


@dataclass
class Account:
    """What became of everything."""

    kinds: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """For each kind of task how many were accepted, how many ended how, and how many ran again."""
    wrong: dict[str, list[str]] = field(default_factory=dict)
    """What is wrong, by task id."""
    lost: int = 0
    doubled: int = 0
    after_cancel: int = 0
    """Tasks that were started although their cancel had been acknowledged as ended."""
    broken: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Of each workflow how its parts ended that did not as planned."""
    stored_again: int = 0
    """Tasks without a record that had ended as their enqueue was repeated."""

    def total(self, what: str) -> int:
        """The sum over all kinds."""
        return sum(counts[what] for counts in self.kinds.values())


class Ledger:
    """What the tasks wrote."""

    def __init__(self, path: Path) -> None:
        self.runs: dict[str, list[Run]] = defaultdict(list)
        self._ends: dict[int, list[int]] = defaultdict(list)
        """The moments at which runs of a process ended, in order."""
        lines = path.read_text().splitlines() if path.exists() else []
        for line in lines:
            self._take(*line.split())

    def _take(self, what: str, task_id: str, attempt: str, lost: str, pid: str, moment: str) -> None:
        runs = self.runs[task_id]
        if what == "start":
            runs.append(Run(int(attempt), int(lost), int(pid), int(moment), 0))
            return
        place = next(i for i in reversed(range(len(runs))) if runs[i].pid == int(pid) and not runs[i].ended)
        runs[place] = runs[place]._replace(ended=int(moment))
        self._ends[int(pid)].append(int(moment))

    def ended_after(self, run: Run) -> int:
        """How many more runs its process ended after it."""
        return sum(moment > run.ended for moment in self._ends[run.pid])


def account(
    accepted: Iterable[str], app: App, ledger: Ledger, lives: dict[str, list[journal.Entry]], stopped: set[int],
    admitted: Admitted = ONE_FILE, cancels: Mapping[str, Cancel] = NO_CANCELS,
) -> Account:  # fmt: skip
    """Account for every accepted task; ``stopped`` are the pids that were sent SIGSTOP."""
    made = Account()
    ids = set(accepted)
    ids |= {f"made-{task_id[5:]}" for task_id in ids if task_id.startswith("make-") and _has_ended(ledger, task_id)}
    ids |= {part for task_id in ids for part in flows.parts(task_id)} | set(lives)
    for task_id in sorted(ids):
        kind, number = flows.kind_of(task_id)
        runs, counts = ledger.runs[task_id], made.kinds[kind]
        counts["accepted"] += 1
        counts["again"] += max(0, len(runs) - len({run.attempt for run in runs}))
        cancel = cancels.get(task_id)
        verdict, wrong = _verdict(task_id, app, runs, stopped, cancel)
        counts[verdict] += 1
        if cancel is not None and (started := _after(runs, cancel)):
            made.after_cancel += 1
            wrong += started
        life = lives.get(task_id, [])
        repeated = kind == "noop" and 1 < sum(entry.what == journal.PLACED for entry in life) <= admitted.forgotten
        made.stored_again += repeated
        placed = admitted.placed.get(kind, attempts_of(kind, number))
        told = journal.complaints(life, 2 if repeated else placed)
        if kind in flows.KINDS and verdict in UNPLANNED:
            made.broken[flows.root_of(task_id)].add(verdict)
        if verdict == BROKEN:
            told = [said for said in told if said != journal.NEVER_STORED]
        twice = [said for said in told if "outcomes" in said or "times" in said or "twice" in said] + _overlaps(runs)
        made.doubled += bool(twice)
        made.lost += verdict == "lost"
        wrong += [said for said in told if said not in twice] + twice
        wrong += [] if repeated else _unexplained(runs, ledger, admitted.unsettled)
        if wrong:
            made.wrong[task_id] = wrong
    for root, ends in made.broken.items():
        if ends == {BROKEN}:
            made.lost += 1
            made.wrong.setdefault(root, []).append("it is broken off, though no part of it died or was cut")
    return made


def _has_ended(ledger: Ledger, task_id: str) -> bool:
    return any(run.ended for run in ledger.runs[task_id])


def _after(runs: list[Run], cancel: Cancel) -> list[str]:
    """Runs that began after it was known to have ended as cancelled, or not to be there."""
    if not (cancel.waited or cancel.ended or (cancel.sought and not cancel.told)):
        return []
    late = [run for run in runs if run.began > cancel.at]
    return [f"process {run.pid} began it {(run.began - cancel.at) / 1e6:.1f} ms after its cancel" for run in late]


def _verdict(
    task_id: str, app: App, runs: list[Run], stopped: set[int], cancel: Cancel | None
) -> tuple[str, list[str]]:  # fmt: skip
    """How it ended, and what is wrong with that."""
    kind = flows.kind_of(task_id)[0]
    found = app.broker.find(task_id)
    if found is None:
        if kind == "step" and not runs:
            return BROKEN, []
        if kind == "noop" and any(run.ended for run in runs):
            return "planned", []
        return "lost", ["the broker knows neither message nor record, and it never ran to its end"]
    if found.record is None:
        return "lost", [f"it has not ended: it is {found.state}"]
    record = decode_record(found.record)
    if kind in flows.ROOTS and record.envelope is None and record.state is TaskState.FAILED and not runs:
        return BROKEN, []
    return _of_record(task_id, app, record, runs, stopped, cancel)


def _of_record(
    task_id: str, app: App, record: Record, runs: list[Run], stopped: set[int], cancel: Cancel | None
) -> tuple[str, list[str]]:  # fmt: skip
    cause = f"{record.error.type}: {record.error.text}" if record.error else ""
    wrong = _history(record)
    if record.state is TaskState.CANCELLED:
        return "cancelled", wrong if cancel else [f"nobody cancelled it: {cause}"]
    if cancel and (cancel.waited or cancel.ended):
        wrong.append("it had been acknowledged as cancelled")
    if record.state is TaskState.DEAD:
        admitted = cause.startswith("WorkerLost") and record.lost >= 2
        return "dead", wrong if admitted else [*wrong, f"it is dead, lost {record.lost}: {cause}"]
    if cause.startswith("TimeLimitExceeded"):
        admitted = any(run.pid in stopped for run in runs)
        return "limited", wrong if admitted else [*wrong, f"its child was never stopped, but it ended as {cause}"]
    wrong += _as_planned(*flows.kind_of(task_id), app.result(task_id).result, record)
    ended = {run.attempt for run in runs if run.ended}
    if missing := set(range(1, record.attempt + 1)) - ended:
        wrong.append(f"it ended as {record.state}, but no run of attempt {min(missing)} came to its end")
    return ("planned" if not wrong else "wrong"), wrong


def _history(record: Record) -> list[str]:
    """Its record has each attempt before the last one."""
    kept = [attempt.number for attempt in record.history if attempt.cause != "WorkerLost"]
    planned = list(range(1, record.attempt))
    return [] if kept == planned else [f"its record has the attempts {kept}, and ended with {record.attempt}"]


def _as_planned(kind: str, number: int, result: Any, record: Record) -> list[str]:
    error = f"{record.error.type}: {record.error.text}" if record.error else ""
    wrong = []
    if kind != "make" and record.attempt != attempts_of(kind, number):
        wrong.append(f"it ended at attempt {record.attempt}, not {attempts_of(kind, number)}")
    if kind in ("fail", "spent"):
        planned = record.state is TaskState.FAILED and error.startswith("Refused")
        return wrong if planned else [*wrong, f"it should have failed as Refused, but is {record.state} {error}"]
    if record.state is not TaskState.SUCCEEDED:
        return [*wrong, f"it is {record.state}: {error}"]
    if kind != "noop" and result != value_of(kind, number):
        wrong.append(f"its value is {result!r}, not {value_of(kind, number)}")
    if kind == "suicide" and not record.lost:
        wrong.append("it killed its child, but was never counted as lost")
    return wrong


def _overlaps(runs: list[Run]) -> list[str]:
    """Two runs of one task at one time, which no death explains."""
    found = []
    ordered = sorted(runs, key=lambda run: run.began)
    for earlier, later in itertools.pairwise(ordered):
        if earlier.ended > later.began:
            found.append(f"process {later.pid} began it while process {earlier.pid} ran it")
    return found


def _unexplained(runs: list[Run], ledger: Ledger, unsettled: int) -> list[str]:
    """Runs that came to their end and were run again, although their process went on long after."""
    found = []
    for run in runs:
        again = any(other.attempt == run.attempt and other.began > run.ended for other in runs if run.ended)
        if again and ledger.ended_after(run) > unsettled:
            found.append(
                f"process {run.pid} ended it and went on for {ledger.ended_after(run)} tasks, yet it ran again"
            )
    return found


def table(made: Account) -> str:
    """The account for people."""
    columns = ("accepted", "planned", "cancelled", "dead", "limited", "broken", "wrong", "lost", "again")
    lines = ["kind     " + "".join(f"{name:>10}" for name in columns)]
    kinds = [kind for kind in (*KINDS, "made", *flows.KINDS) if made.kinds[kind]["accepted"]]
    lines += [f"{kind:9}" + "".join(f"{made.kinds[kind][name]:10}" for name in columns) for kind in kinds]
    lines.append("all      " + "".join(f"{made.total(name):10}" for name in columns))
    return "\n".join(lines)
