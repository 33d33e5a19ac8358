"""What is looked at before the first fork, beside connections that children would share (hygiene.inherited).

A thread vanishes at a fork, and its locks stay; it is only named, since some libraries' (OpenBLAS) survive a fork by
their own handlers.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from poolrt.app.options import soft_not_below_hard
from poolrt.hygiene.memory import too_low
from poolrt.posix.processes import rss_bytes
from poolrt.units import format_size

if TYPE_CHECKING:
    from poolrt.app.app import App
    from poolrt.settings import Settings


def other_threads() -> list[str]:
    """The names of Python threads beside the main one."""
    return [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]


def soft_limits_too_late(app: App, settings: Settings) -> list[str]:
    """Tasks whose soft limit can never come before their hard one, a line each, and the node's own limits."""
    said = []
    if warning := soft_not_below_hard(settings.soft_time_limit, settings.time_limit):
        said.append(f"the node's {warning}")
    for task in app.tasks.values():
        soft = task.options.soft_time_limit or settings.soft_time_limit
        hard = task.options.time_limit or settings.time_limit
        declared = task.options.soft_time_limit or task.options.time_limit
        if declared and (warning := soft_not_below_hard(soft, hard)):
            said.append(f"task {task.name}: {warning}")
    return said


def ceilings_too_low(app: App, settings: Settings, baseline: int) -> list[str]:
    """Memory ceilings that a child forked from this process is above already, a line each.

    Args:
        app: its tasks' ``memory_limit``.
        settings: the node's.
        baseline: this process's resident size, in bytes.
    """
    named = [(name, getattr(settings, name)) for name in ("max_memory_per_child", "memory_limit")]
    named += [(f"memory_limit of task {task.name}", task.options.memory_limit or 0) for task in app.tasks.values()]
    said = too_low(baseline, [(name, ceiling) for name, ceiling in named if ceiling])
    node = baseline + (rss_bytes(os.getppid()) or 0)
    if 0 < settings.pool_memory <= node:
        said.append(
            f"pool_memory is {format_size(settings.pool_memory)}, but supervisor and template have {format_size(node)} "
            "before the first child: raise it, or import less"
        )
    return said
