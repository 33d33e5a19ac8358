"""``poolrt.shield()``: code that no interruption (soft limit, stop of the node) may cut in half.

    handler of SIGUSR2 (poolrt.child.interruption) ── depth > 0 ──▶ keeps the exception ──▶ the outermost exit raises it

Used around broker transactions by poolrt itself. It holds off exceptions only: the hard limit still kills.
"""

from __future__ import annotations

from contextlib import AbstractContextManager


class Shield(AbstractContextManager["Shield", None]):
    """The process's one shield: a child runs one task at a time, in its main thread.

    Attributes:
        depth: how many shields are entered.
        pending: what was held off, to be raised when the outermost one is left; None for nothing.
    """

    __slots__ = ("depth", "pending")

    def __init__(self) -> None:
        self.depth = 0
        self.pending: BaseException | None = None

    def __enter__(self) -> Shield:
        self.depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.depth -= 1
        if self.pending is not None and not self.depth:
            error, self.pending = self.pending, None
            raise error


SHIELD = Shield()


def shield() -> Shield:
    """Hold off ``SoftTimeLimitExceeded`` and ``TaskInterrupted`` inside ``with poolrt.shield():``.

    What comes meanwhile is raised when the block is left. Outside a task it does nothing.
    """
    return SHIELD
