"""The stacks of all children to the log, on SIGUSR1: asked for now, written a moment later."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Final

from poolrt.posix.stacks import ask_for_stacks, forget_stacks, read_stacks
from poolrt.supervisor.lifecycle import Child

log = logging.getLogger("poolrt.supervisor")

_WRITTEN_AFTER: Final = 0.1
"""Seconds; an interpreter that can answer does so within some milliseconds."""


class StackLog:
    """Asks, waits and logs; never blocks.

    Attributes:
        due: monotonic seconds of the next call of ``write_what_is_due`` that has something to do.
    """

    def __init__(self) -> None:
        self.due = float("inf")
        self._asked: list[Child] = []

    def ask(self, children: Iterable[Child]) -> None:
        """Ask these for their stacks; while others are awaited, nothing: those were asked a moment ago."""
        if self._asked:
            return
        self._asked = list(children)
        for child in self._asked:
            ask_for_stacks(child.pidfd, child.stacks_fd)
        self.due = time.monotonic() + _WRITTEN_AFTER

    def write_what_is_due(self) -> None:
        """Log what was written, if it is time."""
        if time.monotonic() < self.due:
            return
        self.due = float("inf")
        for child in self._asked:
            if child.stacks_fd < 0:
                continue  # it has ended meanwhile
            stacks = read_stacks(child.stacks_fd)
            forget_stacks(child.stacks_fd)
            log.warning("stacks of %r:\n%s", child, stacks or "it does not answer: stopped, or in the kernel")
        self._asked.clear()
