"""The child's loop: reserve, run, settle; in batches that stay short, and with what is finished settled soon.

    broker ──settler.receive()──▶ held: deque of Executions ──run──▶ settler.add(outcome)
      ▲                                                                │ at most 2 ms old, or the batch is empty,
      └───────────── settler.send(room): outcomes, next reserve ───────┘ or, if that hides the round trip, half empty

Orders, recalls and the lease come through the board row, and are looked at between two tasks. The loop never starts a
task after it was told to retire, after it was recalled, or past the lease, and puts back everything it holds before it
leaves.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING

from poolrt.board import RECALL_AFTER_NS
from poolrt.child.pace import BATCH_SECONDS, MAX_BATCH, MAX_PIPELINED_BATCH, SLOW_SECONDS, Pace
from poolrt.child.settler import Settler
from poolrt.errors import BrokerUnreachable
from poolrt.events import EventKind
from poolrt.message import Outcome
from poolrt.notice import Leaving, Poke
from poolrt.posix.boot import boottime_ns
from poolrt.states import Activity, Order, TaskState

if TYPE_CHECKING:
    from poolrt.board import RowWriter
    from poolrt.brokers.base import Broker
    from poolrt.child.audit import Audit
    from poolrt.child.executor import Execution, Executor, Tell
    from poolrt.child.lifeline import Lifeline
    from poolrt.child.settler import Answer
    from poolrt.message import Delivery

log = logging.getLogger("poolrt.child")

SETTLE_WITHIN_NS = 2_000_000
"""A finished task is settled within 2 ms, so that a SIGKILL re-runs at most so much."""
_BATCH_NS = int(1.25 * BATCH_SECONDS * 1e9)
"""How long after it was taken a batch is to be over, the wait of one reserved ahead included."""
_AHEAD_SECONDS = BATCH_SECONDS / 4
"""The next batch is reserved while so much expected work is left: longer than a round trip, and what is reserved waits
no longer than that."""
_OFFER_EVERY = 0.2
"""Seconds between two tries to put back what a broker in trouble does not take."""
_LEASE_EVERY = 0.2
"""Seconds between two looks at a lease that has run out."""
_SILENT_AFTER = 6.0
"""Seconds after which the connection on which an idle child waits only looks alive: the broker answers each second (the
fetch watchdog)."""
_SURELY_ANNOUNCED = 1.0
"""Seconds after which work that an idle child finds by itself should have been announced."""


class Loop:
    """One child's work until it leaves.

    Invariant: everything reserved is in ``_held``, is an outcome in ``_settler``, is being run, or may come with the
    answer to a submit.
    """

    def __init__(
        self, broker: Broker, executor: Executor, audit: Audit, row: RowWriter, lifeline: Lifeline, max_tasks: int,
        tell: Tell,
    ) -> None:  # fmt: skip
        self._executor = executor
        self._audit = audit
        audit.settle_first = self._settle_all
        self._row = row
        self._lifeline = lifeline
        self._max_tasks = max_tasks
        self._tell = tell
        self._pace = Pace(MAX_PIPELINED_BATCH if broker.pipelined else MAX_BATCH)
        self._held: deque[Execution] = deque()
        self._settler = Settler(broker, row, lifeline, self._held, executor.avoided)
        self._wakes_children = broker.wakes_children
        self._leases = broker.leases
        self._mark = row.recalled
        self._ahead_at = 0
        """The next batch is reserved once no more than so many are held: half of this one."""
        self._ahead_from = 0
        """And already from so many on, if there are outcomes to be sent anyway."""
        self._woken = False
        self._unannounced = False
        """It looks at the queue though nobody said that there is work."""
        self._leave_for = ""
        self._culprit = ""

    def run(self) -> None:
        """Work until there is a reason to leave; returns with nothing held.

        Raises:
            Fenced: the broker does not know this child any more; what it held is someone else's.
        """
        row, held, lifeline = self._row, self._held, self._lifeline
        while True:
            order = row.order
            if order or self._leave_for or lifeline.cut:
                if reason := self._reason_to_leave(order):
                    break
                self._stand_by()
            elif not held:
                self._refill()
            elif self._may_start():
                self._run_next()
        self._leave(reason)

    def _reason_to_leave(self, order: int) -> str:
        """Why there is no next task for this child; an empty text if it is to stand by."""
        if order == Order.RETIRE:
            return "retired"
        return self._leave_for or ("supervisor gone" if self._lifeline.cut else "")

    # ---- reserving

    def _refill(self) -> None:
        """Get something to run, or wait as idle once the queue was seen empty and everything is settled."""
        settler, empty = self._settler, False
        if not settler.reserving:
            settler.send(self._room())
        while settler.unanswered and not self._held:
            empty = self._receive() or empty
        if empty and not self._held and not settler.outcomes:
            self._idle()

    def _room(self) -> int:
        """How many to reserve: never more than may still be run, with what is held and what is on its way."""
        room = self._pace.ask_for()
        if not self._max_tasks:
            return room
        return max(0, min(room, self._max_tasks - self._row.done - len(self._held) - self._settler.reserving))

    def _receive(self) -> bool:
        """Read the oldest answer and hold what it brings; whether it says that the queue is empty."""
        answer = self._settler.receive()
        empty = False
        if answer is not None and answer.woken is not None:
            self._woken, self._unannounced = answer.woken, not answer.woken
        if answer is None:  # trouble: whatever is found now, no wake-up had to announce it
            self._unannounced = False
        elif answer.deliveries:
            self._take(answer)
        else:  # a reserve that was taken back has not seen the queue
            empty = answer.n > self._row.recall_mark[2]
        self._publish_held()
        return empty

    def _take(self, answer: Answer) -> None:
        """Hold what fits the batch, put the rest back at once, and end what cannot be run."""
        mark, _, upto = self._row.recall_mark
        if mark and answer.n <= upto:
            return  # the steward puts it back (protocol.md, rule 9)
        executions: list[Execution] = []
        for delivery in answer.deliveries:
            prepared = self._executor.prepare(delivery)
            if isinstance(prepared, Outcome):
                self._settler.add(prepared)
            else:
                executions.append(prepared)
        keep = self._pace.keep([execution.message.task for execution in executions])
        now = time.monotonic_ns()
        for execution in executions[:keep]:
            execution.taken_at = now
        self._held.extend(executions[:keep])
        self._give_back(executions[keep:])
        self._note_wake(answer, executions)
        if self._settler.pipelined:
            self._ahead_from = self._when_to_reserve_ahead()
            self._ahead_at = min(self._ahead_from, keep // 2)

    def _when_to_reserve_ahead(self) -> int:
        """From how many left on the next batch may be reserved: 5 ms of expected work. Behind a task that is unknown
        that is never, since it counts as a whole batch."""
        seconds, left, expected = 0.0, 0, self._pace.expected
        for execution in reversed(self._held):
            seconds += expected(execution.message.task)
            if seconds > _AHEAD_SECONDS:
                break
            left += 1
        return left

    def _publish_held(self) -> None:
        """Say how many are held; if more than one, the supervisor has to look soon whether the first runs long."""
        held = len(self._held)
        self._row.held(held)
        if held > 1 and self._row.next_wake > time.monotonic_ns() + RECALL_AFTER_NS:
            self._lifeline.send(Poke())

    # ---- running

    def _may_start(self) -> bool:
        """Whether the next task may be started. If not, what is in its way was dealt with, and orders are looked at."""
        settler, now = self._settler, time.monotonic_ns()
        if settler.unanswered and settler.is_behind(now):
            self._receive()
        elif self._ahead_at and len(self._held) <= self._ahead_at and not settler.reserving:
            self._reserve_ahead()
        elif settler.outcomes and self._is_late(now):
            if self._ahead_at and len(self._held) <= self._ahead_from and not settler.reserving:
                self._reserve_ahead()
            else:
                self._send_outcomes()
        elif self._leases and self._has_no_lease():
            self._wait_for_lease()
        else:
            return True
        return False

    def _reserve_ahead(self) -> None:
        """Send what is finished, and ask for the next batch while this one is run; once for each batch."""
        self._ahead_at = 0
        self._settler.send(self._room())

    def _is_late(self, now: int) -> bool:
        """Whether a finished task would wait more than 2 ms for the following one to end."""
        expected = self._pace.expected(self._held[0].message.task)
        return now - self._settler.oldest + expected * 1e9 > SETTLE_WITHIN_NS

    def _run_next(self) -> None:
        """Run one of what is held, and look at what it left."""
        execution = self._held[0]
        if execution.memory_limit and self._row.done and self._executor.limits.has_outgrown(execution.memory_limit):
            self._leave_for = f"memory of earlier tasks: too much for the memory_limit of {execution.message.task}"
            return
        if execution.message.task not in self._audit.at_ease and (
            verdict := self._audit.before(execution.message.task)
        ):
            self._leave_for, self._culprit = verdict.reason, verdict.task
            return
        sampled = self._audit.samples_next(execution.message.task)
        if sampled and not (self._held and self._held[0] is execution):
            return  # all was settled before the sample: the broker may have said that this one is not ours any more
        outcome = self._executor.run(execution)
        if outcome is not None:  # else it was interrupted, because the node stops: to be put back with the others
            self._held.popleft()
        if self._held and self._row.recalled != self._mark:  # the word has moved: protocol.md, rule 9
            self._give_up_recalled(*self._row.recall_mark)
        task = execution.message.task
        if self._executor.tainted:
            self._leave_for, self._culprit = f"tainted: {self._executor.tainted}", task
        if outcome is not None:
            self._finish(execution, outcome, sampled=sampled)

    def _finish(self, execution: Execution, outcome: Outcome, *, sampled: bool) -> None:
        """A run has ended: learn from it, take its outcome, look at what it left."""
        task, runtime = execution.message.task, self._executor.runtime
        self._pace.learn(task, runtime)
        verdict = self._audit.after(task, runtime) if self._audit.goes_first else None
        if verdict is not None and verdict.fails and outcome.state is TaskState.SUCCEEDED:
            outcome = self._executor.failed_by(execution, verdict.fails)
            self._row.failed_after_all()
        self._settler.add(outcome)
        if sampled:
            self._audit.sample(task, runtime, outcome)
        if runtime > SLOW_SECONDS and self._held and time.monotonic_ns() - execution.taken_at > _BATCH_NS:
            self._pace.believe(task, runtime)
            self._put_back_rest()
        if not self._audit.goes_first:
            verdict = self._audit.after(task, runtime)
        if self._leave_for:
            return
        if verdict is not None and verdict.reason:
            self._leave_for, self._culprit = verdict.reason, verdict.task
        elif self._max_tasks and self._row.done >= self._max_tasks:
            self._leave_for = "max_tasks_per_child"

    def _put_back_rest(self) -> None:
        """The batch takes longer than it may: others may be idle, and what is left of it goes back."""
        rest = list(self._held)
        self._held.clear()
        self._give_back(rest)
        self._ahead_at = 0
        self._row.held(len(self._held))

    def _give_back(self, rest: list[Execution]) -> None:
        """Put these back now, while the child goes on; what the broker does not take is held, and run here."""
        if rest and (error := self._settler.release([each.delivery for each in rest])):
            self._held.extend(rest)
            if self._settler.pipelined:  # the connection broke
                self._settler.recover(error)

    def _give_up_recalled(self, n: int, i: int, upto: int) -> None:
        """Hold no longer what the steward puts back: all of the reserves up to ``upto`` but the one that ran."""
        self._mark = n
        kept = [each for each in self._held if each.delivery.n > upto or (each.delivery.n, each.delivery.i) == (n, i)]
        self._pace.cut_short(len(self._held) - len(kept))
        self._held.clear()
        self._held.extend(kept)
        self._ahead_at = 0
        self._row.held(len(kept))

    def _wait_for_lease(self) -> None:
        """Start nothing until the lease is renewed, or there is an order."""
        log.warning("the lease of this node has run out: nothing is started until it is renewed")
        if self._settler.outcomes:
            self._send_outcomes()
        self._row.activity(Activity.IDLE)
        while self._has_no_lease() and self._row.order == Order.WORK and not self._lifeline.cut:
            self._lifeline.wait_for_order(_LEASE_EVERY)

    def _has_no_lease(self) -> bool:
        return 0 < self._row.lease_until <= boottime_ns()

    # ---- settling

    def _send_outcomes(self) -> None:
        """Settle what is finished; where that is no transaction of its own, without waiting for the answer."""
        self._settler.send(0)
        if self._settler.pipelined:
            self._row.held(len(self._held))
        else:
            self._receive()

    def _settle_all(self) -> None:
        """Come back when all that is finished is settled and every answer was read."""
        while self._settler.outcomes or self._settler.unanswered:
            if self._settler.outcomes:
                self._settler.send(0)
            while self._settler.unanswered:
                self._receive()

    # ---- waiting

    def _idle(self) -> None:
        """Wait until there may be something to run, or an order."""
        if self._wakes_children:  # an order may have come beside an answer, so its poke is taken: look at the row
            while not (self._held or self._row.order or self._lifeline.cut) and self._wait_for_broker():
                pass
        else:
            self._row.activity(Activity.IDLE)
            self._woken = self._lifeline.wait_for_work()

    def _wait_for_broker(self) -> bool:
        """Have the broker reserve once something is queued; False if an order or trouble ended the wait."""
        fd = self._settler.send_when_woken(self._room())
        if fd is None:
            return False
        self._row.activity(Activity.IDLE)
        until = time.monotonic() + _SILENT_AFTER
        while not self._lifeline.wait_for_answer(fd, until - time.monotonic()):
            if self._row.order or self._lifeline.cut:
                if self._row.order == Order.STANDBY:
                    self._settler.take_back()
                else:  # it leaves: what came at the last moment is put back by its burial, and a broker may be away
                    self._settler.hang_up()
                return False
            if time.monotonic() >= until:
                self._settler.recover(BrokerUnreachable("the connection on which this child waits for work is silent"))
                return False
        return self._receive()

    def _note_wake(self, answer: Answer, found: list[Execution]) -> None:
        """Pass the wake-up on if there is more; warn of work that should have been announced by one."""
        if self._unannounced:
            newest = max((max(each.message.enqueued_at, each.message.eta or 0) for each in found), default=time.time())
            if time.time() - newest > _SURELY_ANNOUNCED:
                log.warning("found work that no wake-up announced")
                self._tell(EventKind.WARNING, "", "", "found work that no wake-up announced")
        if answer.more and (self._woken or self._unannounced):
            self._settler.nudge()
        self._woken = self._unannounced = False

    def _stand_by(self) -> None:
        """Hold nothing and take nothing until there is another order: a standby's beginning, or a quiet node.

        What the broker refuses to take back is offered again, whatever is ordered meanwhile: this child lives on, so
        nobody else would put it back, and it may be back already if only the answer was lost.
        """
        left = self._put_back()
        while left and (error := self._settler.release(left)):
            if self._row.order == Order.RETIRE or self._lifeline.cut:
                return
            if self._settler.pipelined:
                self._settler.recover(error)
            else:
                self._lifeline.wait_for_order(_OFFER_EVERY)
        while self._row.order == Order.STANDBY and not self._lifeline.cut:
            self._row.activity(Activity.STANDBY)
            self._lifeline.wait_for_order()

    def _leave(self, reason: str) -> None:
        """Say so, so that a successor takes the place now; then put back what is held and settle the rest."""
        self._lifeline.send(Leaving(reason, self._row.done, self._culprit))
        self._audit.leaving()
        self._row.activity(Activity.LEAVE)
        self._put_back()  # refused or not: the steward puts back what a child that is gone still held
        self._row.activity(Activity.LEAVE)

    def _put_back(self) -> list[Delivery]:
        """Settle what is finished, release what is held; what the broker refused to take back."""
        self._settle_all()
        held = [execution.delivery for execution in self._held]
        self._held.clear()
        self._row.held(0)
        return held if held and self._settler.release(held) else []
