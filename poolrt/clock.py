"""Time, so that tests can fake it: monotonic to measure, wall time only to persist.

Deadlines that cross processes are CLOCK_MONOTONIC nanoseconds: one clock for every process of a machine.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What the pure parts ask for the time."""

    def monotonic(self) -> float:
        """Seconds that never jump; comparable between processes of this machine."""

    def wall(self) -> float:
        """Seconds since the epoch; may jump."""


class SystemClock:
    """The machine's clocks."""

    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)


class FakeClock:
    """A clock that only moves when told; wall time can be moved on its own, as an administrator would."""

    def __init__(self, monotonic: float = 1000.0, wall: float = 1_800_000_000.0) -> None:
        self._monotonic = monotonic
        self._wall = wall

    def monotonic(self) -> float:
        """The fake monotonic time, in seconds."""
        return self._monotonic

    def wall(self) -> float:
        """The fake wall time, in seconds since the epoch."""
        return self._wall

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass on both clocks."""
        self._monotonic += seconds
        self._wall += seconds

    def jump_wall(self, seconds: float) -> None:
        """Move the wall clock alone."""
        self._wall += seconds
