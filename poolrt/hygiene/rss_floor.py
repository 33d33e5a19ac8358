"""How fast the floor of a process's resident size rises, and how many runs are left below its ceiling. Pure.

The resident size jumps with each task's peak; its minimum over a hundred runs does not, and a leak is its slope
(19 KiB a run measured for 17 of truth: research/hygiene.md, 2.5). It names nobody: see `memory_ledger`.
"""

from __future__ import annotations

import itertools
from collections import deque
from statistics import median
from typing import Final, NamedTuple

from poolrt.units import format_size

_WINDOW_RUNS: Final = 100
_WINDOW_READINGS: Final = 10
"""Fewer have no floor: each may be at a peak."""
_WINDOWS: Final = 5
_TOO_FEW_RUNS: Final = 200


class _Floor(NamedTuple):
    run: int
    """Runs so far, at the window's end."""
    rss: int


class RssFloor:
    """The floors of one process's last five windows."""

    def __init__(self) -> None:
        self._floors: deque[_Floor] = deque(maxlen=_WINDOWS)
        self._runs = self._ends_at = self._readings = self._lowest = 0
        self._begin_window()

    def note(self, rss: int, runs: int = 1) -> bool:
        """Take note of the resident size after ``runs`` more runs; whether this ended a window.

        Only then is there something new to ask `should_recycle`.
        """
        self._runs += runs
        self._readings += 1
        if rss < self._lowest or self._readings == 1:
            self._lowest = rss
        if self._runs < self._ends_at or self._readings < _WINDOW_READINGS:
            return False
        self._floors.append(_Floor(self._runs, self._lowest))
        self._begin_window()
        return True

    @property
    def slope(self) -> float:
        """Bytes a run: the median of the slopes between any two windows. 0 before there are five."""
        if len(self._floors) < _WINDOWS:
            return 0.0
        return median((b.rss - a.rss) / (b.run - a.run) for a, b in itertools.combinations(self._floors, 2))

    @property
    def rises(self) -> bool:
        """Whether each of five windows was above the one before it: a cache that is full, or a heap, stands still."""
        return len(self._floors) == _WINDOWS and all(b.rss > a.rss for a, b in itertools.pairwise(self._floors))

    def runs_left(self, ceiling: int) -> int | None:
        """Runs until the floor reaches ``ceiling`` bytes, at this pace; None if it does not rise."""
        if not self.rises:
            return None
        return max(0, int((ceiling - self._floors[-1].rss) / self.slope))

    def should_recycle(self, ceiling: int) -> str:
        """Why the process should leave now, at a quiet moment, and not at the wall; or an empty text."""
        left = self.runs_left(ceiling)
        if left is None or left >= _TOO_FEW_RUNS:
            return ""
        return (
            f"memory rises by {format_size(int(self.slope))} a run: {left} more runs to max_memory_per_child of "
            f"{format_size(ceiling)}"
        )

    def _begin_window(self) -> None:
        self._ends_at = self._runs + _WINDOW_RUNS
        self._readings = 0
