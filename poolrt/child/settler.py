"""Between the loop and the broker: sends outcomes and reserves, reads answers, and gets through the broker's trouble.

    loop ──add──▶ outcomes ──send──▶ unanswered ──receive──▶ recent: 2 s of what was answered
                     ▲                    │                     │
                     └── still held ──────┴── BrokerError: wait, resume() ◀┘   (protocol.md, rules 3 and 4)

Where ``submit`` is the transaction itself (SQLite) nothing is ever unanswered between two calls of the loop.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from poolrt.errors import BrokerCorrupt, BrokerError, Fenced
from poolrt.message import Delivery
from poolrt.notice import Trouble
from poolrt.states import Activity, Order

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from poolrt.board import RowWriter
    from poolrt.brokers.base import Broker, Settled
    from poolrt.child.executor import Execution
    from poolrt.child.lifeline import Lifeline
    from poolrt.message import Outcome

log = logging.getLogger("poolrt.child")

MOST_UNSETTLED: Final = 384
"""Outcomes without an answer behind which nothing is started: a batch, and the half of the next one that is run while
its answer comes (protocol.md, rule 23)."""
MOST_UNANSWERED: Final = 4
"""Submits whose answers may wait unread: more would only fill socket buffers."""
ANSWERED_WITHIN_NS: Final = 100_000_000
"""Nothing is started behind an answer that is overdue for so long."""
_RECENT_NS: Final = 2_000_000_000
"""A server that crashes may lose what it answered in its last second, or two."""
_RECENT_OUTCOMES: Final = 2_000
_RECENT_BYTES: Final = 8 * 1024 * 1024
"""Results can be large: beyond this a rolled back task is run again instead."""
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
_CALM: Final = 5.0
"""Seconds without trouble after which the next trouble begins with the first pause again."""


class _Submit(NamedTuple):
    """What was handed to the broker in one go."""

    outcomes: list[Outcome]
    room: int
    n: int
    at: int
    """When it was sent, CLOCK_MONOTONIC ns."""
    waits: bool = False
    """The broker reserves once something is queued."""


class _Answered(NamedTuple):
    """Outcomes that the broker said it has taken."""

    outcomes: list[Outcome]
    size: int
    at: int
    """When it said so, CLOCK_MONOTONIC ns."""


class Answer(NamedTuple):
    """What came of a submit."""

    n: int
    """The number of its reserve; 0 if it reserved nothing."""
    deliveries: list[Delivery]
    more: bool
    woken: bool | None = None
    """Of a submit that waited: whether a wake-up came."""


class Settler:
    """Owns a child's outcomes, its reserve numbers and its unanswered submits.

    Invariant: an outcome is in ``outcomes`` or in a submit of ``unanswered`` until the broker has answered for it.

    Args:
        held: the loop's; what the broker does not hold any more after trouble is taken out of it.
        avoided: gives the names of tasks to leave to others.
    """

    def __init__(
        self, broker: Broker, row: RowWriter, lifeline: Lifeline, held: deque[Execution],
        avoided: Callable[[], Collection[str]],
    ) -> None:  # fmt: skip
        self._broker = broker
        self._row = row
        self._lifeline = lifeline
        self._held = held
        self._avoided = avoided
        self.pipelined = broker.pipelined
        self.outcomes: list[Outcome] = []
        """Finished, and not sent yet."""
        self.oldest = 0
        """When the oldest of them ended, CLOCK_MONOTONIC ns."""
        self.unanswered: deque[_Submit] = deque()
        self.reserving = 0
        """How many deliveries unanswered submits may still bring."""
        self._unsettled = 0
        self._read: deque[Settled] = deque()
        """Answers to the first of ``unanswered`` that were read already."""
        self._reserves = 0
        self._recent: deque[_Answered] = deque()
        self._recent_outcomes = self._recent_bytes = 0
        self._said = ""
        self._pause = _FIRST_PAUSE
        self._troubled_at = -math.inf

    def add(self, outcome: Outcome) -> None:
        """Take an outcome; it is not sent yet."""
        if not self.outcomes:
            self.oldest = time.monotonic_ns()
        self.outcomes.append(outcome)

    def is_behind(self, now: int) -> bool:
        """Whether the oldest of the unanswered is to be answered before anything is started (protocol.md, rule 23).

        Args:
            now: CLOCK_MONOTONIC ns.
        """
        waiting = self.unanswered
        return (
            now - waiting[0].at > ANSWERED_WITHIN_NS
            or self._unsettled + len(self.outcomes) > MOST_UNSETTLED
            or len(waiting) > MOST_UNANSWERED
        )

    def send(self, room: int) -> None:
        """Hand over all outcomes and ask for up to ``room`` deliveries. After trouble nothing is unanswered, and what
        is still to be settled is in ``outcomes`` again."""
        self._row.activity(Activity.COMMIT)
        if room:
            self._reserves += 1
            self._row.reserving(self._reserves)  # before it is sent: protocol.md, rule 7
        outcomes, self.outcomes = self.outcomes, []
        self.unanswered.append(_Submit(outcomes, room, self._reserves if room else 0, time.monotonic_ns()))
        self.reserving += room
        self._unsettled += len(outcomes)
        try:
            self._broker.submit(outcomes, room, self._reserves, without=self._avoided())
        except BrokerError as error:
            self.recover(error)

    def send_when_woken(self, room: int) -> int | None:
        """Ask for up to ``room`` deliveries once something is queued; there must be nothing to settle and nothing
        unanswered. What to poll for reading, or None after trouble (see ``send``)."""
        self._reserves += 1
        self._row.reserving(self._reserves)
        self.unanswered.append(_Submit([], room, self._reserves, time.monotonic_ns(), waits=True))
        self.reserving += room
        try:
            return self._broker.submit_when_woken(room, self._reserves, without=self._avoided())
        except BrokerError as error:
            self.recover(error)
            return None

    def hang_up(self) -> None:
        """Wait for nothing any more, without asking the broker: a later call begins with ``recover``."""
        self._broker.close()
        self._forget_unanswered()

    def take_back(self) -> None:
        """Give up what waits to be answered; what it brought nevertheless is put back."""
        try:
            self._reconcile(set(self._broker.resume()))
        except BrokerError as error:
            self.recover(error)

    def receive(self) -> Answer | None:
        """The oldest answer; None when there is none, and after trouble (see ``send``)."""
        if not self.unanswered:
            return None
        if self.pipelined:
            self._row.activity(Activity.IDLE)  # handed over: a death from now on is not the last task's (rule 6)
        try:
            settled = self._read.popleft() if self._read else self._broker.answer()
        except BrokerError as error:
            self.recover(error)
            return None
        submit = self.unanswered.popleft()
        self.reserving -= submit.room
        self._unsettled -= len(submit.outcomes)
        if self.pipelined and submit.outcomes:
            self._remember(submit.outcomes)
        if settled.stale:
            self._row.refused(settled.stale)
            log.warning("%d settled tasks were not ours any more: somebody else runs them", settled.stale)
        if self._said:
            self._said = ""
            self._lifeline.send(Trouble(""))
        return Answer(submit.n, settled.deliveries, settled.more, settled.woken if submit.waits else None)

    def release(self, deliveries: Sequence[Delivery]) -> BrokerError | None:
        """Put deliveries back; why the broker did not, if so.

        It is answered at once, so the answers before it are read first, and kept for ``receive``.
        """
        try:
            while len(self._read) < len(self.unanswered):
                self._read.append(self._broker.answer())
        except BrokerError as error:
            self.recover(error)  # puts back whatever is not known here
            return None
        return _unless_refused(lambda: self._broker.release(deliveries))

    def nudge(self) -> None:
        """Pass a wake-up on."""
        _unless_refused(self._broker.nudge)

    def recover(self, error: BrokerError) -> None:
        """Wait until the broker answers again, then make both sides agree on what is held (``_reconcile``).

        Told to retire it gives up if there is nothing to settle. Raises what no waiting mends, and with the supervisor
        gone whatever it is.
        """
        while True:
            self._tell(error)
            unsettled = bool(self.outcomes or self._unsettled)
            self._row.activity(Activity.COMMIT if unsettled else Activity.IDLE)
            self._lifeline.wait_for_order(self._next_pause())
            if self._lifeline.cut:
                raise error
            if self._row.order == Order.RETIRE and not unsettled:
                self._forget_unanswered()
                return
            try:
                self._reconcile(set(self._broker.resume()))
                return
            except BrokerError as another:
                error = another

    def _reconcile(self, theirs: set[tuple[int, int]]) -> None:
        """What the broker holds for this child (``theirs``) is the truth: afterwards each of it is an outcome to be
        sent again or waits in ``held``, and nothing else waits there."""
        batches: list[_Answered | _Submit] = [*self._recent, *self.unanswered]
        sent = [outcome for batch in batches for outcome in batch.outcomes]
        again = {_fence(outcome.delivery): outcome for outcome in sent if _fence(outcome.delivery) in theirs}
        done = [
            outcome for batch in self.unanswered for outcome in batch.outcomes if _fence(outcome.delivery) not in theirs
        ]
        if done:  # without an answer, but done: what the server may lose yet
            self._remember(done)
        again.update((_fence(outcome.delivery), outcome) for outcome in self.outcomes)
        self.outcomes, self.oldest = list(again.values()), 0  # they are late already
        self._forget_unanswered()
        ours = [execution for execution in self._held if _fence(execution.delivery) in theirs]
        if gone := len(self._held) - len(ours):
            log.warning("%d reserved tasks are not ours any more, and are not started", gone)
            self._held.clear()
            self._held.extend(ours)
        known = {_fence(execution.delivery) for execution in ours} | again.keys()
        if unknown := theirs - known:  # their answer was lost
            self._broker.release([Delivery(b"", n, i, "", 0, suspect=False) for n, i in sorted(unknown)])

    def _forget_unanswered(self) -> None:
        self.unanswered.clear()
        self._read.clear()
        self.reserving = self._unsettled = 0

    def _remember(self, outcomes: list[Outcome]) -> None:
        """Keep what was answered, for a server that forgets it; not for long, and not too much.

        How large a batch is, is judged by its first and last outcome: to look at each costs 0.2 us a task."""
        now, recent = time.monotonic_ns(), self._recent
        size = len(outcomes) * max(_size(outcomes[0]), _size(outcomes[-1]))
        recent.append(_Answered(outcomes, size, now))
        self._recent_outcomes += len(outcomes)
        self._recent_bytes += size
        while recent and (
            now - recent[0].at > _RECENT_NS
            or self._recent_outcomes > _RECENT_OUTCOMES
            or self._recent_bytes > _RECENT_BYTES
        ):
            oldest = recent.popleft()
            self._recent_outcomes -= len(oldest.outcomes)
            self._recent_bytes -= oldest.size

    def _tell(self, error: BrokerError) -> None:
        """Tell the supervisor, once for each reason; raise what waiting does not mend."""
        if isinstance(error, Fenced):
            self._row.refused(len(self.outcomes) + self._unsettled)
            raise error
        text = f"{type(error).__name__}: {error}"
        if isinstance(error, BrokerCorrupt):
            self._lifeline.send(Trouble(text, final=True))
            raise error
        if text != self._said:
            self._said = text
            self._lifeline.send(Trouble(text))

    def _next_pause(self) -> float:
        now = time.monotonic()
        self._pause = min(self._pause * 2, _LONGEST_PAUSE) if now - self._troubled_at < _CALM else _FIRST_PAUSE
        self._troubled_at = now
        return self._pause * random.uniform(0.5, 1.5)


def _unless_refused(call: Callable[[], object]) -> BrokerError | None:
    """Make a call whose failure loses nothing; why the broker did not do it, if so."""
    try:
        call()
    except Fenced:
        raise
    except BrokerError as error:
        log.info("the broker did not do a favour: %s", error)
        return error
    return None


def _fence(delivery: Delivery) -> tuple[int, int]:
    return delivery.n, delivery.i


def _size(outcome: Outcome) -> int:
    return len(outcome.delivery.envelope) + len(outcome.record or b"")
