"""Keeps one steward alive: it is replaced when it dies or is silent, without backoff unless it cannot boot.

Where the node holds a lease, its steward's loop stamps the board each round. A broker call of it may take 0.8 of the
time between two renewals, so a stamp older than 1.5 of it means that the loop stands still. A new steward needs as much
to join and to renew, which is in time: 3.3 of them pass before the node fences itself.
"""

from __future__ import annotations

import time
from typing import Final

from poolrt.board import Board
from poolrt.incarnation import RENEWALS
from poolrt.states import ChildState
from poolrt.supervisor.lifecycle import STEWARD
from poolrt.supervisor.pool import Pool
from poolrt.supervisor.restart import Backoff

SILENT_AFTER: Final = 15.0
"""Three times the longest a broker call may take."""
_MISSED: Final = 1.5
"""How old the stamp may be, in times between two renewals."""
_AT_LEAST: Final = 0.5
"""Seconds; a busy machine may keep any process waiting for less."""
_JOINS_AGAIN: Final = 1.0
"""Longest pause, in seconds, after a boot that failed while the node holds a lease."""


class StewardKeeper:
    """Judges the node's steward by its last word, or by its stamps on the board.

    Args:
        lease: seconds.

    Attributes:
        board: the node's, once it is there.
    """

    def __init__(self, lease: float) -> None:
        self._stamps_within = max(lease / RENEWALS * _MISSED, _AT_LEAST)
        self.board: Board | None = None
        self.begin_anew()

    def begin_anew(self) -> None:
        """Another start of the node: what its stewards did so far counts no more."""
        self._heard = 0.0
        self._watched_since = 0.0
        """Since when a stamp is awaited: its start, or the end of a time in which we stood still ourselves."""
        self._looked = 0.0
        self._backoff = Backoff(0.2, 5.0)
        self._not_before = 0.0

    @property
    def failures(self) -> int:
        """Boots that failed in a row."""
        return self._backoff.failures

    @property
    def _stamps(self) -> bool:
        """Whether stewards stamp the board: the first renewal says so."""
        return self.board is not None and self.board.lease_until > 0

    def start(self, pool: Pool) -> None:
        """Ask for a steward now."""
        pool.spawn(STEWARD)
        self._heard = self._watched_since = time.monotonic()

    def heard(self) -> None:
        """It said something: it lives."""
        self._heard = time.monotonic()

    def up(self) -> None:
        """It has joined the broker."""
        self._backoff.succeeded()
        self.heard()

    def boot_failed(self) -> None:
        """It could not join the broker; the next one waits a little."""
        now = time.monotonic()
        pause = self._backoff.failed(now)
        self._not_before = now + (min(pause, _JOINS_AGAIN) if self._stamps else pause)

    def check(self, pool: Pool) -> None:
        """Replace a steward that is gone, condemn one that is silent; called each tick."""
        if pool.steward is not None:
            self.judge(pool)
        elif pool.template.ready and time.monotonic() >= self._not_before:
            self.start(pool)

    def judge(self, pool: Pool) -> None:
        """Condemn a steward that is silent."""
        now = time.monotonic()
        if now - self._looked > self._stamps_within:
            self._watched_since = now  # we stood still ourselves, and so may it have
        self._looked = now
        if self._left(pool, now) <= 0 and pool.steward is not None:
            pool.condemn(pool.steward, f"silent for {self._patience(pool):g} s", "none")

    def wake(self, pool: Pool) -> float:
        """Seconds until it must have stamped the board again; where it does not, a tick is soon enough."""
        return max(self._left(pool, time.monotonic()), 0.0) if self._stamps else float("inf")

    def _patience(self, pool: Pool) -> float:
        """How long it may be silent, in seconds; while it boots, joining takes two calls."""
        if not self._stamps:
            return SILENT_AFTER
        boots = pool.steward is not None and pool.steward.state is ChildState.STARTING
        return self._stamps_within * (2 if boots else 1)

    def _left(self, pool: Pool, now: float) -> float:
        """Seconds that its silence may yet last."""
        steward = pool.steward
        if steward is None or steward.state is ChildState.CONDEMNED:
            return float("inf")
        if not self._stamps:
            return self._heard + SILENT_AFTER - now
        if not steward.pid:
            return float("inf")  # the template has not forked it yet, which is another's affair
        assert self.board is not None
        stamp = self.board.beat / 1e9
        # It may have stamped since ``now`` was taken; what lies further ahead was scribbled there.
        last = max(self._watched_since, min(stamp, now) if stamp <= now + SILENT_AFTER else 0.0)
        return last + self._patience(pool) - now
