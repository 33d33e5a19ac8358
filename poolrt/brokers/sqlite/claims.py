"""The queue of writers in front of SQLite's write lock: bounded, and fair enough (docs/decisions/010).

SQLite's own busy handler sleeps ever longer, so whoever asks often wins and the others starve: measured, one process
of eight did all the work. The kernel's queue for a record lock (F_SETLKW) can be left at a deadline only by a signal,
so a stopped holder would hang every producer for ever. So a writer tries, and naps ever *shorter*: who has waited
longest asks most often. That is as fair as the kernel's queue, and as fast.
"""

from __future__ import annotations

import random
import time
from typing import Final

from poolrt.errors import BrokerBusy
from poolrt.posix.locks import RecordLock

FIRST_NAP: Final = 500e-6
"""About one transaction of 32 tasks."""
SHRINK: Final = 0.7
SHORTEST_NAP: Final = 20e-6
LONG_NAP: Final = 2e-3
"""Once nobody lets go: the holder was stopped, or waits for a slow disk, and asking often only burns CPU."""
IMPATIENT: Final = 0.05
"""Seconds until the long naps."""


class ClaimsLock:
    """The claims lock of one database, for one process. Not for threads: its user holds the store's own lock."""

    def __init__(self, path: str) -> None:
        """Open the file, made with mode 0600 if missing."""
        self._lock = RecordLock(path)

    def acquire(self, deadline: float) -> None:
        """Take the lock by ``deadline`` (monotonic); raises BrokerBusy when its holder does not let go."""
        if self._taken():
            return
        started = time.monotonic()
        nap = FIRST_NAP
        while True:
            now = time.monotonic()
            if now >= deadline:
                raise BrokerBusy(
                    f"{self._lock.path} was held for {now - started:.1f} s: a process that uses the database is "
                    "stopped, or its disk hangs; try again"
                )
            # Jitter: processes that nap in step would find it taken by the same one each time.
            time.sleep(min(nap * random.uniform(0.75, 1.25), deadline - now))
            if self._taken():
                return
            nap = max(nap * SHRINK, SHORTEST_NAP) if now - started < IMPATIENT else LONG_NAP

    def _taken(self) -> bool:
        try:
            self._lock.acquire(0)
        except TimeoutError:
            return False
        return True

    def release(self) -> None:
        """Let the next writer in; nothing happens if it is not held."""
        self._lock.release()

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._lock.close()
