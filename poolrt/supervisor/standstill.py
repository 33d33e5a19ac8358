"""Processes that stand still: boots without end, deaths that the template does not tell, children that were stopped."""

from __future__ import annotations

import time
from typing import Final

from poolrt.posix.pidfd import is_exited
from poolrt.posix.processes import state
from poolrt.states import Activity
from poolrt.supervisor.pool import Pool

_STOPPED_FOR: Final = 1.5
"""Seconds; a ^Z and an fg, or a debugger's look, take less or run a task."""


_HUNG_AFTER: Final = 10.0
"""Seconds that a child may look at itself, or leave, once its tasks are settled: a task's finalizer may hang there."""


def check_boots(pool: Pool, timeout: float) -> bool:
    """Condemn what was forked and is not up after ``timeout`` seconds; whether the template still forks and reaps."""
    now = time.monotonic()
    limit = now - timeout
    late = [child for child in pool if child.alive and child.up_at is None and child.requested_at < limit]
    for child in late:
        if child.pid:
            child.hung = True
            pool.condemn(child, f"not up within {timeout:g} s", "none")
    dead = [child for child in pool if child.alive and child.pid and is_exited(child.pidfd)]
    for child in dead:
        child.died_at = child.died_at or now
    return all(child.pid for child in late) and not any(child.died_at < limit for child in dead)


def check_stops(pool: Pool) -> None:
    """Condemn a child, or the steward, that somebody has stopped (SIGSTOP) while it runs no task.

    It is a place lost; and if it was stopped within a transaction, it keeps everybody else out of a SQLite file. One
    that runs a task has that task's limits.
    """
    now = time.monotonic()
    for child in pool:
        if not child.alive or not child.pid or pool.row(child).activity is Activity.RUN or state(child.pid) != "T":
            child.stopped_at = 0.0
        elif not child.stopped_at:
            child.stopped_at = now
        elif now - child.stopped_at >= _STOPPED_FOR:
            pool.condemn(child, "it was stopped from outside while it ran no task", "none")


def check_hangs(pool: Pool) -> None:
    """Condemn a child that hangs where no task's limit holds: in what a task left to be finalized."""
    now = time.monotonic()
    for child in pool.children:
        row = pool.row(child)
        word = row.sequence << 8 | row.activity
        if not child.pid or row.activity not in (Activity.AUDIT, Activity.LEAVE) or child.still[0] != word:
            child.still = (word, now)
        elif now - child.still[1] >= _HUNG_AFTER:
            pool.condemn(child, f"it hung for {_HUNG_AFTER:g} s in what its tasks had left, last {row.task}", "none")
