"""Children that have lived for long enough."""

from __future__ import annotations

import time

from poolrt.supervisor.pool import Pool


def replace_aged(pool: Pool, max_lifetime: float) -> None:
    """Replace children that are up for longer than ``max_lifetime`` seconds; 0 replaces none. Safe to call again."""
    oldest = time.monotonic() - max_lifetime
    aged = [child.slot for child in pool.children if child.working and child.up_at is not None and child.up_at < oldest]
    if max_lifetime and aged:
        pool.recycle(aged, "max_lifetime")
