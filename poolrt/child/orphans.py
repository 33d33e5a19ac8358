"""Dead orphans: processes that tasks left, that came to this child as their subreaper, and that nobody waits for."""

from __future__ import annotations

import gc
import sys
import time
from typing import Final

from poolrt.posix.processes import dead_children
from poolrt.posix.reaping import reap_one

_EVERY: Final = 0.5
"""Seconds between two looks: 30 us each with 20 children."""
_ADOPTED_AFTER: Final = 5.0
"""Seconds a zombie must have been one before it is taken for an orphan that nobody waits for."""


class Orphans:
    """Reaps those of one child.

    Whose a zombie is cannot be read from /proc. So a ``Popen`` or ``multiprocessing`` process that someone still holds
    is left alone, and any other zombie is given some seconds in which a ``waitpid`` may come for it.
    """

    def __init__(self) -> None:
        self._zombies: dict[int, float] = {}
        self._looked_at = time.monotonic()

    def reap(self) -> None:
        """Reap what is due, at most each half second; a task's own children are its own to wait for."""
        now = time.monotonic()
        if now - self._looked_at < _EVERY:
            return
        self._looked_at = now
        dead = dead_children()
        self._zombies = {pid: self._zombies.get(pid, now) for pid in dead}
        old = [pid for pid, since in self._zombies.items() if now - since >= _ADOPTED_AFTER]
        if old:
            awaited = _awaited()
            for pid in old:
                if pid not in awaited:
                    reap_one(pid)
                    del self._zombies[pid]


def _awaited() -> set[int]:
    """Pids of processes that an object here will wait for. Few objects are looked at: what was imported is frozen."""
    found: set[int] = set()
    subprocess, process = sys.modules.get("subprocess"), sys.modules.get("multiprocessing.process")
    if subprocess is not None:
        found.update(thing.pid for thing in gc.get_objects() if isinstance(thing, subprocess.Popen))
    if process is not None:
        found.update(child.pid for child in process.active_children() if child.pid)
    return found
