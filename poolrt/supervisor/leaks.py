"""What the children's tasks leave behind: summed since the node's start, told, and passed on for the broker.

child that leaves ──Ran──▶ left ──▶ what it had not told, to the rows that there are
child ──Found──▶ heard ──▶ the table that ``status`` and ``poolrt leaks`` show
                       ──▶ an event, at the first of a kind and whenever its count has doubled
                       ──▶ what the steward does not have yet ──forward, each second──Leaked──▶ steward ──▶ broker
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from poolrt.events import EventKind
from poolrt.hygiene.findings import LeakTable, row_of
from poolrt.notice import Leaked
from poolrt.states import ChildState
from poolrt.supervisor.lifelines import send

if TYPE_CHECKING:
    from poolrt.hygiene.findings import LeakKind, LeakRow, Rest
    from poolrt.notice import Found
    from poolrt.supervisor.lifecycle import Child
    from poolrt.supervisor.reporter import Reporter

_EACH_TOLD: Final = 8
"""Things of one kind that one task leaves are each told up to here; beyond, each time there are twice as many: a task
that leaves a file of another name at each run must not fill the log."""


class Leaks:
    """The leaks of one node."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._table = LeakTable()
        self._unsent = LeakTable()
        self._things: dict[tuple[LeakKind, str], int] = {}
        """How many things of a kind a task left, each counted when it was new."""

    def heard(self, child: Child, found: Found) -> None:
        """A child found something."""
        row = row_of(found.finding, found.at)
        before = self._table.add(row)
        self._unsent.add(row)
        if self._is_news(row, before):
            now = row if before is None else before.with_more(row)
            numbers = {
                "kind": str(now.kind), "count": now.count, "runs": now.runs, "per_100_runs": round(now.rate, 2),
            }  # fmt: skip
            self._reporter.emit(
                EventKind.LEAK_FOUND, child, task=now.task, task_id=found.task_id, cause=now.reason, numbers=numbers
            )

    def left(self, rest: Rest) -> None:
        """A child leaves: what it has not told counts where the same is known."""
        for row in self._table.of_task(rest.task):
            count, runs = rest.of(row.kind, row.what)
            if runs:
                more = msgspec.structs.replace(row, count=count, runs=runs)
                self._table.add(more)
                self._unsent.add(more)

    def _is_news(self, row: LeakRow, before: LeakRow | None) -> bool:
        if before is not None:
            return before.with_more(row).count.bit_length() > before.count.bit_length()
        things = self._things[row.kind, row.task] = self._things.get((row.kind, row.task), 0) + 1
        return things <= _EACH_TOLD or not things & (things - 1)

    def forward(self, steward: Child | None) -> None:
        """Give the steward what it does not have yet; what its buffer does not take waits for the next time."""
        if steward is None or steward.state is not ChildState.UP:
            return
        rows = self._unsent.take()
        while rows and send(steward, Leaked(rows[0])):
            del rows[0]
        for row in rows:
            self._unsent.add(row)

    def forget(self) -> int:
        """Begin to count anew; how many rows there were."""
        return len(self._table.take())

    def rows(self, *, stacks: bool) -> list[dict[str, Any]]:
        """The rows as objects; without stacks for who looks often."""
        objects = [row.as_object() for row in self._table.rows()]
        return objects if stacks else [{name: each[name] for name in each if name != "stack"} for each in objects]
