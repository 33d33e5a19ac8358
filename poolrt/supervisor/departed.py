"""Why places became free, for whoever takes them: what ``status`` shows of a child as ``replaces``."""

from __future__ import annotations

from collections import deque

from poolrt.supervisor.lifecycle import CHILD, SCALED_DOWN, STOPPING, Child

_KEPT = 1024


class Departed:
    """Reasons in the order in which places became free."""

    def __init__(self) -> None:
        self._reasons: deque[str] = deque(maxlen=_KEPT)

    def note(self, child: Child) -> None:
        """A working child leaves its place, or has lost it, for its ``leave_reason``."""
        if child.role == CHILD and not child.standby and child.leave_reason not in (SCALED_DOWN, STOPPING):
            self._reasons.append(child.leave_reason)

    def take(self) -> str:
        """The reason of the place that is free for longest; empty if none was left."""
        return self._reasons.popleft() if self._reasons else ""
