"""The queue of writers in front of SQLite's write lock: bounded, and fair enough (docs/decisions/010).

SQLite's own busy handler sleeps ever longer, so whoever asks often wins and the others starve (measured: one process
of eight did all the work). And the kernel's queue for a record lock (F_SETLKW) cannot be left at a deadline without
a signal, so a stopped holder would hang every producer for ever. So writers ask often, at a steady pace.
"""

from __future__ import annotations

import random
import time
from typing import Final

from poolrt.errors import BrokerBusy
from poolrt.posix.locks import RecordLock

SHORT_NAP: Final = 60e-6
"""Between two tries while the lock should be free any moment: a transaction takes 50 to 500 µs."""
LONG_NAP: Final = 2e-3
"""Once nobody lets go: the holder was stopped, or checkpoints to a slow disk."""
IMPATIENT: Final = 0.05
"""Seconds of short naps before the long ones."""


class ClaimsLock:
    """The claims lock of one database, for one process. Not for threads: its user holds the store's own lock."""

    def __init__(self, path: str) -> None:
        """Open the file, made with mode 0600 if missing."""
        self._lock = RecordLock(path)

    def acquire(self, deadline: float) -> None:
        """Take the lock by ``deadline`` (monotonic); raises BrokerBusy when its holder does not let go."""
        try:
            self._lock.acquire(0)
            return
        except TimeoutError:
            started = time.monotonic()
        while True:
            now = time.monotonic()
            if now >= deadline:
                raise BrokerBusy(
                    f"{self._lock.path} was held for {now - started:.1f} s: a process that uses the database is "
                    "stopped or its disk hangs; try again"
                )
            # Not the same nap for all: processes in step would find it taken by the same one each time.
            nap = SHORT_NAP * (0.5 + random.random()) if now - started < IMPATIENT else LONG_NAP
            time.sleep(min(nap, deadline - now))
            try:
                self._lock.acquire(0)
                return
            except TimeoutError:
                continue

    def release(self) -> None:
        """Let the next writer in; nothing happens if it is not held."""
        self._lock.release()

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._lock.close()
