"""``poolrt.shield()``: code that no interruption (soft limit, stop of the node) may cut in half.

    handler of SIGUSR2 (poolrt.child.interruption) ── depth > 0 ──▶ pending ──▶ the outermost exit delivers it

Used around broker transactions by poolrt itself. It holds off exceptions only: the hard limit still kills.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType


class Shield(AbstractContextManager["Shield", None]):
    """The process's one shield: a child runs one task at a time, in its main thread. In other threads it does nothing.

    Attributes:
        depth: how many shields the main thread has entered.
        pending: what the outermost exit calls with the frame that it leaves, if an interruption was held off; it raises
            where that frame may be cut, and waits for a better place otherwise.
    """

    __slots__ = ("depth", "pending")

    def __init__(self) -> None:
        self.depth = 0
        self.pending: Callable[[FrameType], None] | None = None

    def __enter__(self) -> Shield:
        if threading.get_ident() == _main:
            self.depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        if threading.get_ident() != _main:
            return
        # It may be 0 already: a task's generator that is finalized in a later task left a shield that was taken down.
        self.depth = max(self.depth - 1, 0)
        if not self.depth and self.pending is not None:
            deliver, self.pending = self.pending, None
            deliver(sys._getframe(1))

    def take_down(self) -> None:
        """Forget what was entered and held off: the task is over."""
        self.depth = 0
        self.pending = None


_main = threading.main_thread().ident
"""Looked up once in each process, for it costs as much as all the rest of a shield."""


def _see_main_thread() -> None:
    global _main  # noqa: PLW0603  see above
    _main = threading.main_thread().ident


SHIELD = Shield()
os.register_at_fork(after_in_child=_see_main_thread)


def shield() -> Shield:
    """Hold off ``SoftTimeLimitExceeded`` and ``TaskInterrupted`` inside ``with poolrt.shield():``.

    What comes meanwhile is raised when the block is left. Outside a task, and in a thread that a task has started, it
    does nothing. Of an async task's cancellation it holds off the sending: awaiting inside it is not cut either.
    """
    return SHIELD
