"""The child's loop: reserve, run, settle; in batches that stay short, and with what is finished settled soon.

    broker ──settle(outcomes, reserve=n)──▶ held: deque of Executions ──run──▶ outcomes
      ▲                                                                          │ at most 2 ms old,
      └──────────────────────────────────────────────────────────────────────────┘ or the batch is empty

Orders come through the board row, and are looked at between two tasks. The loop never starts a task after it
was told to retire, and puts back everything it holds before it leaves.
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from typing import TYPE_CHECKING

from poolrt.brokers.base import Settled
from poolrt.errors import BrokerCorrupt, BrokerError, Fenced
from poolrt.message import Outcome
from poolrt.notice import Leaving, Trouble
from poolrt.states import Activity, Order

if TYPE_CHECKING:
    from collections.abc import Callable

    from poolrt.board import RowWriter
    from poolrt.brokers.base import Broker
    from poolrt.child.audit import Audit
    from poolrt.child.executor import Execution, Executor
    from poolrt.child.lifeline import Lifeline
    from poolrt.message import Delivery

log = logging.getLogger("poolrt.child")

SETTLE_WITHIN_NS = 2_000_000
"""A finished task is settled within 2 ms, so that a SIGKILL re-runs at most so much."""
BATCH_SECONDS = 0.02
"""How much expected work a child may hold."""
MAX_BATCH = 64
"""Measured: the cost of a transaction is spread well enough at 64, and a crash puts few back."""
_OFFER_EVERY = 0.2
"""Seconds between two tries to put back what a broker in trouble does not take."""
GROWTH = 4
"""A new child is at a batch of 16 in its third reserve: with ten tasks a child, each reserve is a fifth of its life."""


class Pace:
    """How long tasks take, learnt by name; decides how many may be held.

    An unknown name counts as a whole batch: it is held alone until it is known. A run that takes longer than
    expected is believed at once, a shorter one by a tenth.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._batch = 1
        self._last: list[str] = []
        self._was_full = False

    def learn(self, task: str, seconds: float) -> None:
        """Take note of a run of ``task``."""
        known = self._seconds.get(task)
        if known is None or seconds > known:
            self._seconds[task] = seconds
        else:
            self._seconds[task] = known + (seconds - known) * 0.1

    def expected(self, task: str) -> float:
        """Seconds a run of ``task`` is expected to take."""
        return self._seconds.get(task, BATCH_SECONDS)

    def ask_for(self) -> int:
        """How many to reserve next: what fits the budget by what is known now of the last batch, growing by steps."""
        if self._last:
            expected = sum(map(self.expected, self._last)) / len(self._last)
            fits = int(BATCH_SECONDS / max(expected, 1e-6))
            wanted = self._batch * GROWTH if self._was_full else self._batch
            self._batch = max(1, min(wanted, fits, MAX_BATCH))
            self._last = []
        return self._batch

    def keep(self, tasks: list[str]) -> int:
        """How many of a reserved batch to keep, at least one: the budget's worth."""
        total, kept = 0.0, 0
        for task in tasks:
            total += self.expected(task)
            if kept and total > BATCH_SECONDS:
                break
            kept += 1
        self._was_full = kept == len(tasks) >= self._batch
        if kept < len(tasks):
            self._batch = max(1, kept)
        self._last = tasks[:kept]
        return kept


class Loop:
    """One child's work until it leaves.

    Invariant: everything reserved is in ``_held``, in ``_outcomes``, or is being run.
    """

    def __init__(
        self, broker: Broker, executor: Executor, audit: Audit, row: RowWriter, lifeline: Lifeline, max_tasks: int
    ) -> None:
        self._broker = broker
        self._executor = executor
        self._audit = audit
        audit.settle_first = self._settle_finished
        self._row = row
        self._lifeline = lifeline
        self._max_tasks = max_tasks
        self._pace = Pace()
        self._held: deque[Execution] = deque()
        self._outcomes: list[Outcome] = []
        self._oldest = 0
        self._reserves = 0
        self._woken = False
        self._leave_for = ""
        self._culprit = ""

    def run(self) -> None:
        """Work until there is a reason to leave; returns with nothing held.

        Raises:
            Fenced: the broker does not know this child any more; what it held is someone else's.
        """
        while not (reason := self._reason_to_leave()):
            if self._row.order == Order.STANDBY:
                self._stand_by()
            elif not self._held:
                self._commit(self._room())
                if not self._held and not self._outcomes:
                    self._idle()
            else:
                self._run_next()
        self._leave(reason)

    def _run_next(self) -> None:
        """Run one of what is held, and look at what it left."""
        execution = self._held.popleft()
        if self._outcomes and self._is_late(execution):
            self._commit(0)
        if execution.memory_limit and self._row.done and self._executor.limits.has_outgrown(execution.memory_limit):
            self._held.appendleft(execution)
            self._leave_for = f"memory of earlier tasks: too much for the memory_limit of {execution.message.task}"
            return
        outcome = self._executor.run(execution)
        if outcome is None:  # interrupted, because the node stops
            self._held.appendleft(execution)
            return
        task = execution.message.task
        self._pace.learn(task, self._executor.runtime)
        self._collect(outcome)
        finding = self._audit.after(task)
        if finding is not None:
            self._leave_for, self._culprit = finding.reason, finding.task
        elif self._executor.tainted:
            self._culprit = task

    def _settle_finished(self) -> None:
        if self._outcomes:
            self._commit(0)

    def _stand_by(self) -> None:
        """Hold nothing and take nothing until there is another order: a standby's beginning, or a quiet node.

        What the broker refuses to take back is offered again, whatever is ordered meanwhile: this child lives on, so
        nobody else would put it back, and it may be back already if only the answer was lost.
        """
        left = self._put_back()
        while left and not self._unless_refused(lambda: self._broker.release(left)):
            if self._row.order == Order.RETIRE or self._lifeline.cut:
                return
            self._lifeline.wait_for_order(_OFFER_EVERY)
        while self._row.order == Order.STANDBY and not self._lifeline.cut:
            self._row.activity(Activity.STANDBY)
            self._lifeline.wait_for_order()

    def _idle(self) -> None:
        self._row.activity(Activity.IDLE)
        self._woken = self._lifeline.wait_for_work()

    def _reason_to_leave(self) -> str:
        if self._row.order == Order.RETIRE:
            return "retired"
        if self._executor.tainted:
            return f"tainted: {self._executor.tainted}"
        if self._leave_for:
            return self._leave_for
        if self._max_tasks and self._row.done >= self._max_tasks:
            return "max_tasks_per_child"
        return "supervisor gone" if self._lifeline.cut else ""

    def _room(self) -> int:
        """How many to reserve: never more than may still be run."""
        room = self._pace.ask_for()
        return min(room, self._max_tasks - self._row.done) if self._max_tasks else room

    def _is_late(self, following: Execution) -> bool:
        """Whether a finished task would wait more than 2 ms for the following one to end."""
        expected = self._pace.expected(following.message.task)
        return time.monotonic_ns() - self._oldest + int(expected * 1e9) > SETTLE_WITHIN_NS

    def _collect(self, outcome: Outcome) -> None:
        if not self._outcomes:
            self._oldest = time.monotonic_ns()
        self._outcomes.append(outcome)

    def _commit(self, room: int) -> None:
        """Settle what is finished and reserve up to ``room``; comes back only when the broker answered."""
        self._row.activity(Activity.COMMIT)
        if room:
            self._reserves += 1
            self._row.reserving(self._reserves)
        settled = self._settle(room)
        if settled.stale:
            log.warning("%d settled tasks were not ours any more: somebody else runs them", settled.stale)
        self._outcomes = []
        if settled.deliveries:
            self._take(settled.deliveries)
            if self._woken and settled.more:
                self._unless_refused(self._broker.nudge)
            self._woken = False
        self._row.held(len(self._held))

    def _settle(self, room: int) -> Settled:
        pause, said = 0.05, ""
        while True:
            try:
                settled = self._broker.settle(self._outcomes, room, self._reserves, without=self._executor.avoided())
            except Fenced:
                raise
            except BrokerCorrupt as error:
                self._lifeline.send(Trouble(f"{type(error).__name__}: {error}", final=True))
                raise
            except BrokerError as error:
                text = f"{type(error).__name__}: {error}"
                if text != said:
                    said = text
                    self._lifeline.send(Trouble(text))
                self._lifeline.wait_for_order(pause * random.uniform(0.5, 1.5))
                pause = min(pause * 2, 1.0)
                if self._row.order == Order.RETIRE or self._lifeline.cut:
                    room = 0
                if self._lifeline.cut:
                    raise
                if not room and not self._outcomes:
                    return Settled([], 0, more=False)
                continue
            if said:
                self._lifeline.send(Trouble(""))
            return settled

    def _take(self, deliveries: list[Delivery]) -> None:
        """Hold what fits the batch, put the rest back at once, and end what cannot be run."""
        executions: list[Execution] = []
        for delivery in deliveries:
            prepared = self._executor.prepare(delivery)
            if isinstance(prepared, Outcome):
                self._collect(prepared)
            else:
                executions.append(prepared)
        keep = self._pace.keep([execution.message.task for execution in executions])
        rest = [execution.delivery for execution in executions[keep:]]
        if rest and not self._unless_refused(lambda: self._broker.release(rest)):
            keep = len(executions)
        self._held.extend(executions[:keep])

    def _unless_refused(self, call: Callable[[], object]) -> bool:
        """Make a call whose failure loses nothing; whether the broker did it."""
        try:
            call()
        except Fenced:
            raise
        except BrokerError as error:
            log.info("the broker did not do a favour: %s", error)
            return False
        return True

    def _leave(self, reason: str) -> None:
        """Say so, so that a successor takes the place now; then put back what is held and settle the rest."""
        self._lifeline.send(Leaving(reason, self._row.done, self._culprit))
        self._row.activity(Activity.LEAVE)
        self._put_back()  # refused or not: the steward puts back what a child that is gone still held
        self._row.activity(Activity.LEAVE)

    def _put_back(self) -> list[Delivery]:
        """Settle what is finished, release what is held; what the broker refused to take back."""
        held = [execution.delivery for execution in self._held]
        self._held.clear()
        if self._outcomes:
            self._commit(0)
        self._row.held(0)
        return [] if not held or self._unless_refused(lambda: self._broker.release(held)) else held
