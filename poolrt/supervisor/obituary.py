"""The end of a child: how it is killed, and what is told and counted of it."""

from __future__ import annotations

import os
import signal
import time
from typing import Any, Final

from poolrt.board import Row
from poolrt.events import EventKind, in_brief
from poolrt.posix.processes import kill_tree
from poolrt.posix.stacks import read_stacks
from poolrt.states import Activity, ChildState, Kill
from poolrt.supervisor.exits import Ending, Exit
from poolrt.supervisor.lifecycle import SCALED_DOWN, STOPPING, Child
from poolrt.supervisor.reporter import Reporter

_EXECUTOR: Final = f"{os.sep}poolrt{os.sep}child{os.sep}executor.py"
"""The file whose frame calls the task."""


def last_stacks(child: Child, row: Row, status: int) -> str:
    """The stacks that belong to this end: of a crash, or those asked for before the kill; empty for none."""
    crashed = status < 0 and status != -signal.SIGKILL
    asked = child.asked is not None and child.asked.word == row.sequence << 8 | row.activity
    return without_ours(read_stacks(child.stacks_fd)) if (crashed or asked) and child.stacks_fd >= 0 else ""


def without_ours(stacks: str) -> str:
    """faulthandler's text without what stands below the task in each stack: the runtime's frames and its caller's."""
    kept: list[str] = []
    ours = False
    for line in stacks.splitlines():
        is_frame = line.startswith("  ")
        ours = is_frame and (ours or _EXECUTOR in line)
        if not ours:
            kept.append(line)
    return "\n".join(kept).strip()


def died_of_its_limit(child: Child, row: Row, status: int) -> tuple[str, str] | None:
    """Why it ended if a limit or a cancel did that before we killed it: a task can make our own signals deadly.

    The cause and the verdict, as a kill would have them; None for any other end.
    """
    if row.activity is not Activity.RUN or child.state is ChildState.CONDEMNED:
        return None
    verdict = "cancelled" if child.cancelled.sequence == row.sequence else "failed"
    if child.asked is not None and child.asked.word == row.sequence << 8 | row.activity:
        return child.asked.cause, verdict
    if status == -signal.SIGUSR2 and child.signalled[0] == row.sequence:
        if verdict == "cancelled":
            return "TaskCancelled: the task had made the signal for it deadly", verdict
        if row.soft_deadline:
            return "SoftTimeLimitExceeded: the task had made the signal for it deadly", verdict
    return None


def kill_of(cause: str, verdict: str) -> Kill:
    """What is noted on the board of a kill with this cause and verdict."""
    if verdict == "cancelled":
        return Kill.CANCELLED
    if verdict != "failed":
        return Kill.STOPPED
    return Kill.MEMORY_LIMIT if cause.startswith("MemoryLimitExceeded") else Kill.TIME_LIMIT


def end_tree(reporter: Reporter, child: Child) -> None:
    """Kill a child, and first what its tasks had started, which is told."""
    below = [name for pid, name in kill_tree(child.pid, child.pidfd).items() if pid != child.pid]
    if below:
        cause = f"processes its tasks had started were ended with it: {in_brief(below)}"
        reporter.emit(EventKind.LEFT_BEHIND, child, cause=cause, numbers={"ended": len(below)})


def tell(
    reporter: Reporter, totals: dict[str, int], child: Child, row: Row, verdict: Exit, status: int, peak_rss: int
) -> None:
    """Count the end in ``totals`` and report it, where it is worth it."""
    totals["done"] += row.done
    totals["failed"] += row.failed
    totals["refused"] += row.refused
    numbers: dict[str, Any] = {"done": row.done}
    if child.up_at is not None:
        numbers["age"] = round(time.monotonic() - child.up_at, 3)
    if peak_rss:
        numbers["peak_rss"] = peak_rss
    # Also one that is put back; and one that had ended, if its child died of what it left.
    running = row.generation == child.generation and (row.activity is Activity.RUN or verdict.verdict != "none")
    task, task_id = (row.task, row.task_id) if running else ("", "")
    match verdict.ending:
        case Ending.PLANNED | Ending.FENCED:  # barred by itself; if the node is fenced, that is told
            if child.standby or child.leave_reason in (SCALED_DOWN, STOPPING):
                return
            totals["recycled"] += 1
            kind, task = EventKind.CHILD_RECYCLED, child.culprit
        case Ending.KILLED:
            totals["killed"] += 1
            kind = EventKind.CHILD_KILLED
        case Ending.BOOT_FAILED:
            kind, numbers = EventKind.CHILD_BOOT_FAILED, {}
        case _:
            totals["crashed"] += 1
            numbers["status"] = status
            kind = EventKind.CHILD_CRASHED
    reporter.emit(kind, child, cause=verdict.cause, task=task, task_id=task_id, numbers=numbers)
