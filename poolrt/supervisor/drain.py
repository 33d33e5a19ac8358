"""The end of a node: running tasks may finish, then they are interrupted, then killed; what was held is put back.

begin ──▶ children retire ──▶ all gone ─────────────────────────────▶ the steward settles, leaves ──▶ finished
               └── the grace is over ──▶ interrupt ──▶ 0.4 s ──▶ kill ──┘
"""

from __future__ import annotations

import logging
import time
from typing import Final

from poolrt.posix.pidfd import is_exited
from poolrt.states import ChildState
from poolrt.supervisor.lifecycle import STOPPING
from poolrt.supervisor.pool import Pool

log = logging.getLogger("poolrt.supervisor")

_CLEANING_UP: Final = 0.4
"""Seconds an interrupted task may clean up: the node is to be gone a second after its grace."""
_STEWARD_MAY_TAKE: Final = 5.0
"""Seconds the steward has, after the last child, to settle what is left."""
_REAPED_WITHIN: Final = 0.3
"""Seconds the template may take to say that a killed child is dead."""
_ONE_STOP: Final = 0.2
"""Signals closer together are one wish: ``timeout`` and a terminal signal the process and its group."""


class Drain:
    """One node's way to its end.

    Attributes:
        began: whether it has begun.
        ends: monotonic seconds of what comes next if nothing else happens.
        forced: whether a task was interrupted or killed.
    """

    def __init__(self) -> None:
        self.began = False
        self.ends = float("inf")
        self.forced = False
        self._since = 0.0
        self._interrupted = False
        self._killed_at = float("inf")
        self._settling = False

    def begin(self, grace: float) -> None:
        """Begin, or shorten what has begun; ``grace`` in seconds."""
        now = time.monotonic()
        if not self._interrupted and not self._settling:
            self.ends = min(self.ends, now + grace)
        if not self.began:
            self.began, self._since = True, now

    def again(self, name: str) -> None:
        """A second signal: the grace is over."""
        if time.monotonic() - self._since >= _ONE_STOP and not self._interrupted and not self._settling:
            log.warning("second %s: stopping now", name)
            self.ends = time.monotonic()

    def advance(self, pool: Pool, *, failed: bool) -> bool:
        """Do what comes next; whether nothing is left to wait for.

        Args:
            pool: the node's children.
            failed: the node gave up: what the steward has not settled will not be.
        """
        now = time.monotonic()
        if pool.children:
            if now >= self.ends:
                return self._end_children(pool, now)
            # A template that stands still reaps and tells nobody.
            untold = now >= self._killed_at + _REAPED_WITHIN
            return untold and all(child.pid and is_exited(child.pidfd) for child in pool.children)
        if not self._settling:
            self._settling = True
            self.ends = now + _STEWARD_MAY_TAKE
        steward = pool.steward
        if steward is not None and steward.state is ChildState.UP and (pool.settled or failed):
            pool.retire(steward, STOPPING)
        return now >= self.ends or (steward is None and (pool.settled or failed or not pool.template.ready))

    def _end_children(self, pool: Pool, now: float) -> bool:
        """Interrupt, then kill; whether even that was in vain: a process in the kernel (state D) outlives a SIGKILL."""
        if not self._interrupted:
            self._interrupted = True
            self.forced = pool.interrupt_all() > 0 or self.forced
            self.ends = now + _CLEANING_UP
            return False
        if self._killed_at < float("inf"):
            return True
        self._killed_at = now
        for child in pool.children:
            self.forced = True
            pool.condemn(child, "the grace was over; put back", "stopped")
        self.ends = now + _STEWARD_MAY_TAKE
        return False


def kill_the_rest(pool: Pool) -> bool:
    """Kill the children that are left; whether none was, the steward is gone as well, and all is settled."""
    nothing = pool.settled and pool.steward is None and not pool.children
    for child in pool.children:
        pool.condemn(child, "the node stopped; put back", "stopped")
    return nothing
