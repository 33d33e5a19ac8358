"""The resident size of a child over its last seconds, from readings that somebody makes anyway."""

from __future__ import annotations

import time
from collections import deque
from typing import Final

_MOST: Final = 40
_APART_NS: Final = 100_000_000
"""Points are at least so far apart: the curve of a child that is read every 5 ms still tells of 4 s."""
_DUE_NS: Final = 500_000_000


class RssCurve:
    """At most forty points; the last one is always the last reading."""

    __slots__ = ("_points",)

    def __init__(self) -> None:
        self._points: deque[tuple[int, int]] = deque(maxlen=_MOST)
        """CLOCK_MONOTONIC ns, and bytes."""

    def is_due(self, now: int) -> bool:
        """Whether the last reading is half a second old, so that one more is worth its 2 us."""
        return not self._points or now - self._points[-1][0] >= _DUE_NS

    def note(self, now: int, size: int) -> None:
        """Take a reading (CLOCK_MONOTONIC ns, bytes) into the curve; 0 is that of a process that has ended."""
        if not size:
            return
        if len(self._points) > 1 and now - self._points[-2][0] < _APART_NS:
            self._points.pop()
        self._points.append((now, size))

    def points(self) -> tuple[tuple[float, int], ...]:
        """Seconds before now, and bytes; the oldest first."""
        now = time.monotonic_ns()
        return tuple((round((now - at) / 1e9, 3), size) for at, size in self._points)
