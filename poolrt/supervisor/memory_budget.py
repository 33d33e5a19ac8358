"""What the whole node uses, against its budget: the child that has grown most is recycled first."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Final

from poolrt.posix.processes import rss_bytes
from poolrt.states import ChildState
from poolrt.supervisor.lifecycle import CHILD, Child
from poolrt.units import format_size

_LEAST: Final = 1 << 20
"""A child that has grown by less would be recycled for nothing."""


class MemoryBudget:
    """Judged once a tick. A running task is not ended by it: that is what ``memory_limit`` is for.

    Attributes:
        limit: bytes; 0 is none.
        used: supervisor and template as they are, of each child what it has grown since its birth: the rest is shared.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def over(self, children: Iterable[Child], template_pid: int) -> tuple[Child, str] | None:
        """Measure; the child to recycle, and why, if the node is over its budget and nobody is leaving for it yet."""
        grown = {child: growth(child) for child in children}
        self.used = (rss_bytes(os.getpid()) or 0) + (rss_bytes(template_pid) or 0) + sum(grown.values())
        if not self.limit or self.used <= self.limit:
            return None
        if any(child.state is ChildState.RETIRING for child in grown):
            return None  # what it frees is not known yet
        largest = max(
            (child for child in grown if child.role == CHILD and child.state is ChildState.UP),
            key=lambda child: grown[child], default=None,
        )  # fmt: skip
        if largest is None or grown[largest] < _LEAST:
            return None
        return largest, (
            f"pool_memory: the node uses {format_size(self.used)} of {format_size(self.limit)}, "
            f"this child has grown by {format_size(grown[largest])}"
        )


def growth(child: Child) -> int:
    """Bytes that its resident size is above that of its birth; the reading is noted for its crash report."""
    if child.resident is None:
        return 0
    size = child.resident.read()
    child.rss.note(time.monotonic_ns(), size)
    return max(0, size - child.birth_rss)
