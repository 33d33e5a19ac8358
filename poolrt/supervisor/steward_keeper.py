"""Keeps one steward alive: it is replaced when it dies or is silent, without backoff unless it cannot boot."""

from __future__ import annotations

import time

from poolrt.states import ChildState
from poolrt.supervisor.lifecycle import STEWARD
from poolrt.supervisor.pool import Pool
from poolrt.supervisor.restart import Backoff

SILENT_AFTER = 15.0
"""Three times the longest a broker call may take."""


class StewardKeeper:
    """Judges the node's steward by its last word.

    Attributes:
        failures: boots that failed in a row.
    """

    def __init__(self) -> None:
        self._heard = 0.0
        self._backoff = Backoff(0.2, 5.0)

    @property
    def failures(self) -> int:
        """Boots that failed in a row."""
        return self._backoff.failures

    def start(self, pool: Pool) -> None:
        """Ask for a steward now."""
        pool.spawn(STEWARD)
        self._heard = time.monotonic()

    def heard(self) -> None:
        """It said something: it lives."""
        self._heard = time.monotonic()

    def up(self) -> None:
        """It has joined the broker."""
        self._backoff.succeeded()
        self.heard()

    def boot_failed(self) -> None:
        """It could not join the broker; the next one waits a little."""
        self._backoff.failed(time.monotonic())

    def check(self, pool: Pool) -> None:
        """Replace a steward that is gone, condemn one that is silent; called each tick."""
        steward = pool.steward
        if steward is None:
            if pool.template.ready and not self._backoff.remaining(time.monotonic()):
                self.start(pool)
        elif steward.state is not ChildState.CONDEMNED and time.monotonic() - self._heard > SILENT_AFTER:
            pool.condemn(steward, f"silent for {SILENT_AFTER:g} s", "none")
