"""Cancels what this node holds: the broker keeps the word, the supervisor ends the run.

    AsyncResult.cancel ──cancel_held──▶ broker ──bell, to_cancel──▶ steward ──CancelRun──▶ supervisor
                                         ▲ ▲                           │ ▲                     ├─ of another run: recall
        child: its run ended, settle ────┘ └──cancel what is put back──┘ │                     ├─ interrupt
                                                                         └──Bury "cancelled"───┴─ grace is over: kill

The word goes when the delivery is put back: because its child was recalled, crashed or left. So the steward remembers
whom it was asked to cancel, until they have ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from poolrt.app.cancelled import cancelled
from poolrt.notice import CancelRun
from poolrt.states import FINAL

if TYPE_CHECKING:
    from collections.abc import Callable

    from poolrt.brokers.base import Broker


class Cancelling:
    """What somebody wants cancelled while this node holds it.

    Args:
        broker: keeps the word.
        incarnation: the node's start.
        send: tells the supervisor.
        turn: to be called between two calls of the broker.
    """

    def __init__(
        self, broker: Broker, incarnation: str, send: Callable[[CancelRun], None], turn: Callable[[], None]
    ) -> None:
        self._broker = broker
        self._incarnation = incarnation
        self._send = send
        self._turn = turn
        self._wanted: set[str] = set()

    def look(self) -> None:
        """Tell the supervisor what is held and is to be cancelled; end what was, and waits again."""
        held = set()
        for owner, delivery in self._broker.to_cancel(self._incarnation):
            held.add(delivery.task_id)
            self._send(CancelRun(owner.slot, owner.generation, delivery.n, delivery.i))
        self._wanted |= held
        self._end(self._wanted - held)

    def left(self) -> None:
        """This node holds nothing any more: end what it has put back."""
        self._end(self._wanted.copy())

    def _end(self, put_back: set[str]) -> None:
        for task_id in put_back:
            self._turn()
            if self._is_over(task_id):
                self._wanted.discard(task_id)

    def _is_over(self, task_id: str) -> bool:
        if self._broker.cancel(task_id, cancelled):
            return True
        if self._broker.cancel_held(task_id):
            return False  # somebody was faster; the node that has it now is told
        found = self._broker.find(task_id)
        return found is None or found.state in FINAL
