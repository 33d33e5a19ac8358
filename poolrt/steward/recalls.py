"""Recalls: what children hold behind a task that runs long goes back to the queue.

    supervisor ──mark in the row of a stopped child, Poke──▶ steward ──recall──▶ broker: back at its old place
               ◀─────────────────Recalled──────────────────
    child      once its word has moved, it reads the mark and gives up what the mark covers (protocol.md, rule 9)

The marks stand on the board: a lost Poke costs a tick, a new steward does them all once more, and repeating one changes
nothing, since no reserve number is ever used again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from poolrt.errors import BrokerError
from poolrt.message import Owner
from poolrt.notice import Recalled

if TYPE_CHECKING:
    from collections.abc import Callable

    from poolrt.board import Board
    from poolrt.brokers.base import Broker

_MOST: Final = 1 << 53
"""No broker counts to here: a larger number was scribbled into the board."""


class Recalls:
    """What is marked on one node's board, done once each.

    Args:
        broker: where it goes back to.
        board: the node's.
        incarnation: the node's start.
        send: tells the supervisor.
        turn: to be called between two calls of the broker.
    """

    def __init__(
        self, broker: Broker, board: Board, incarnation: str, send: Callable[[Recalled], None],
        turn: Callable[[], None],
    ) -> None:  # fmt: skip
        self._broker = broker
        self._board = board
        self._incarnation = incarnation
        self._send = send
        self._turn = turn
        self._done: dict[int, tuple[int, int, int, int]] = {}
        """The last mark of each slot that the broker has done: generation, n, i, upto."""

    def work_off(self) -> bool:
        """Do every mark that is not done yet, and say so: only then may the supervisor mark that row again.

        Whether anything was put back."""
        any_put_back = False
        for slot, generation, n, i, upto in self._board.recall_marks():
            mark = (generation, n, i, upto)
            if self._done.get(slot) == mark or max(mark) >= _MOST:
                continue
            self._turn()
            try:
                count = self._broker.recall(Owner(self._incarnation, slot, generation), (n, i), upto)
            except BrokerError:
                self._done.clear()  # a server that was away may have lost its last floors: repeated until it has them
                raise
            self._done[slot] = mark
            self._send(Recalled(slot, generation, upto, count))
            any_put_back |= count > 0
        return any_put_back
