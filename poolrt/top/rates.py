"""Rates from totals: how many a second now, and over the last minute as a line of bars."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

SPAN: Final = 2.0
"""Seconds that one bar of the line stands for."""
BARS: Final = 30
"""Bars of the line: the last minute."""
NOW: Final = 5.0
"""Seconds over which the number is averaged."""
COUNTED: Final = ("done", "failed")


class Rate(NamedTuple):
    """How often something happened."""

    now: float | None = None
    """A second, over the last seconds; None while unknown."""
    line: tuple[float | None, ...] = (None,) * BARS
    """A second, one for each whole `SPAN` of the last minute, oldest first; None before the first look."""


class History:
    """The totals of one node over the last minute. Moments are CLOCK_MONOTONIC seconds.

    Invariant: everything in it belongs to one incarnation; totals of one never fall.
    """

    def __init__(self) -> None:
        self._incarnation: object = None
        self._looks: deque[tuple[float, tuple[float, ...]]] = deque()
        self._bars: dict[int, list[float]] = {}
        self._first = 0.0

    def add(self, now: float, status: Mapping[str, Any]) -> None:
        """Note the totals of ``status``, seen at ``now``."""
        totals = status.get("totals") or {}
        counts = tuple(float(totals.get(name) or 0) for name in COUNTED)
        last = self._looks[-1] if self._looks else None
        falls = last is not None and any(count < before for count, before in zip(counts, last[1], strict=True))
        if last is None or falls or status.get("incarnation") != self._incarnation:
            self._incarnation, self._first = status.get("incarnation"), now
            self._looks.clear()
            self._bars.clear()
        elif now > last[0]:
            self._spread(last, (now, counts))
        self._looks.append((now, counts))
        while len(self._looks) > 2 and self._looks[1][0] <= now - NOW:
            self._looks.popleft()

    def _spread(self, last: tuple[float, tuple[float, ...]], this: tuple[float, tuple[float, ...]]) -> None:
        """Share out what happened between two looks among the bars that lie between them."""
        begin, end = last[0], this[0]
        newest = int(end // SPAN)
        for bar in range(max(int(begin // SPAN), newest - BARS), newest + 1):
            share = (min(end, (bar + 1) * SPAN) - max(begin, bar * SPAN)) / (end - begin)
            sums = self._bars.setdefault(bar, [0.0] * len(COUNTED))
            for i, (count, before) in enumerate(zip(this[1], last[1], strict=True)):
                sums[i] += (count - before) * share
        for bar in [bar for bar in self._bars if bar < newest - BARS]:
            del self._bars[bar]

    def rates(self) -> dict[str, Rate]:
        """A `Rate` for each of `COUNTED`, as of the last look."""
        if not self._looks:
            return {name: Rate() for name in COUNTED}
        (begin, before), (end, counts) = self._looks[0], self._looks[-1]
        newest = int(end // SPAN)  # not over yet, so not shown
        bars = range(newest - BARS, newest)
        return {
            name: Rate(
                (counts[i] - before[i]) / (end - begin) if end > begin else None,
                tuple(
                    self._bars[bar][i] / SPAN if bar in self._bars and bar * SPAN >= self._first else None
                    for bar in bars
                ),
            )
            for i, name in enumerate(COUNTED)
        }
