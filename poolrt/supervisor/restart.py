"""When to start again, and when to give up: growing pauses, and a breaker. Pure; time is an argument."""

from __future__ import annotations

from poolrt.settings import Burst


class Backoff:
    """Pauses that grow with each failure in a row: 0.5, 1, 2, 4 … seconds, at most 15."""

    def __init__(self, first: float = 0.5, most: float = 15.0) -> None:
        self._first = first
        self._most = most
        self.failures = 0
        self._until = 0.0

    def failed(self, now: float) -> float:
        """Note a failure; how long to wait, in seconds."""
        pause = min(self._first * 2.0 ** min(self.failures, 20), self._most)
        self.failures += 1
        self._until = now + pause
        return pause

    def succeeded(self) -> None:
        """Note a success: the next failure is a first one."""
        self.failures = 0
        self._until = 0.0

    def remaining(self, now: float) -> float:
        """Seconds to wait yet."""
        return max(0.0, self._until - now)


class Breaker:
    """Gives up when ``burst.limit`` children in a row died before their first task, within ``burst.seconds``.

    Crashing tasks do not count (``max_deliveries`` bounds them), nor do kills from outside of a child that worked.
    """

    def __init__(self, burst: Burst) -> None:
        self._burst = burst
        self._deaths: list[float] = []
        self._hung = 0

    def booted(self) -> None:
        """Note that a child is up: boots do end."""
        self._hung = 0

    def died_early(self, now: float, *, hung: bool = False) -> bool:
        """Note a death before the first task; whether that was one too many.

        A second boot in a row that ``hung`` is: at a minute each, no burst would ever see six.
        """
        self._hung += hung
        self._deaths = [moment for moment in self._deaths if now - moment <= self._burst.seconds]
        self._deaths.append(now)
        return len(self._deaths) >= self._burst.limit or self._hung >= 2

    def worked(self) -> None:
        """Note that a child reached its work: the row of failures is over."""
        self._deaths.clear()
