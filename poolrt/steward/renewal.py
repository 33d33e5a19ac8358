"""The node's lease in its steward: renewed on a clock of its own, whatever else there is to do.

    turn() between two calls ──due──▶ broker.renew ──answered──▶ board.lease_until: the sending time + 2/3 lease
                                                   └─beats of all starts──▶ Beats ──expired──▶ to be rescued

Where the broker has no leases, there is nothing to renew: it only says, when asked to, whether the start may go on.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol, cast

from poolrt.incarnation import RENEWALS, USABLE
from poolrt.posix.boot import boottime_ns
from poolrt.steward.beats import Beats

if TYPE_CHECKING:
    from poolrt.board import Board
    from poolrt.brokers.base import Broker
    from poolrt.child.main import Place
    from poolrt.steward.beats import Expired

_CALL: Final = 0.8
"""Of the time between two renewals: how long a call of the steward may take, so that the next renewal is not late."""
_TRY_AGAIN: Final = 1 / 3
"""Of the same: after a renewal that failed."""
_SOONEST: Final = 0.3
"""Seconds between two renewals that somebody asked for."""


class _Bounded(Protocol):
    """A broker on a server: its calls are bounded by what stands here, in seconds."""

    timeout: float


class Renewal:
    """One start's lease.

    Attributes:
        due: monotonic seconds of the next renewal.
        expired: starts whose lease was over at the last one.
    """

    def __init__(self, broker: Broker, place: Place, board: Board) -> None:
        lease = place.settings.lease
        self._broker = broker
        self._incarnation = place.incarnation
        self._board = board
        self._every = lease / RENEWALS
        self._usable_ns = int(lease * USABLE * 1e9)
        self._beats = Beats(lease, place.incarnation)
        self._asked = float("-inf")
        self._stopped = False
        self.due = 0.0 if broker.leases else float("inf")
        self.expired: list[Expired] = []
        if broker.leases:
            bounded = cast("_Bounded", broker)
            bounded.timeout = min(bounded.timeout, _CALL * self._every)

    def soon(self) -> None:
        """Somebody doubts that the start may go on: ask, but not again and again."""
        if not self._stopped:
            self.due = min(self.due, self._asked + _SOONEST)

    def stop(self) -> None:
        """There is nothing to renew any more."""
        self._stopped = True
        self.due = float("inf")

    def renew(self) -> bool:
        """Renew now; whether the lease had run out before.

        Raises:
            Fenced: the start is over.
            BrokerError: it is not known whether it was renewed.
        """
        sent = boottime_ns()
        self._asked = time.monotonic()
        self.due = self._asked + self._every * _TRY_AGAIN
        beats = self._broker.renew(self._incarnation)
        if not self._broker.leases:
            self.due = float("inf")
            return False
        self.due = self._asked + self._every
        had_run_out = self._board.lease_until < sent
        self._board.publish_lease(sent + self._usable_ns)
        self.expired = self._beats.learn(beats, self._asked, time.monotonic())
        return had_run_out
