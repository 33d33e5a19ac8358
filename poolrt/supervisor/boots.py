"""Boots that take too long, and deaths that the template does not tell."""

from __future__ import annotations

import time

from poolrt.posix.pidfd import is_exited
from poolrt.supervisor.pool import Pool


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
