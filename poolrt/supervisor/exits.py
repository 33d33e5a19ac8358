"""What an exit means: pure, from the child's state, its row and its status to a cause and a verdict."""

from __future__ import annotations

import enum
import signal
from typing import NamedTuple

from poolrt.board import Row
from poolrt.posix.signals import signal_name
from poolrt.states import EX_BOOT_FAILED, EX_FENCED, EX_STORE_GONE, Activity, ChildState
from poolrt.supervisor.lifecycle import Child


class Ending(enum.Enum):
    """How a child ended."""

    PLANNED = "planned"
    CRASHED = "crashed"
    KILLED = "killed"
    BOOT_FAILED = "boot failed"
    FENCED = "fenced"


class Exit(NamedTuple):
    """What the supervisor makes of an exit."""

    ending: Ending
    cause: str
    verdict: str
    """What the steward does with the delivery that ran: see notice.Bury."""
    early: bool
    """It died before its first task, and counts for the breaker."""
    oom: bool = False
    """The kernel killed it, for want of memory."""


_SETTLING = (Activity.COMMIT, Activity.AUDIT, Activity.LEAVE)
_OWN_WAYS = (0, -signal.SIGKILL, EX_BOOT_FAILED, EX_FENCED, EX_STORE_GONE)


def describe_status(status: int) -> str:
    """``killed by SIGSEGV`` or ``exited with code 3``."""
    return f"killed by {signal_name(-status)}" if status < 0 else f"exited with code {status}"


def judge_exit(child: Child, row: Row, status: int, *, oom: bool = False) -> Exit:
    """Tell a planned exit from a crash; ``oom`` says that it was the kernel's OOM killer.

    A row of another generation is damaged, or was never written: then nothing is known to have run.
    """
    ours = row.generation == child.generation
    running = ours and row.activity is Activity.RUN
    # Its last task has ended and may not be settled: whatever it broke in its child broke that, so it must be counted.
    # Not for a SIGKILL, which comes from outside.
    broken = ours and row.activity in _SETTLING and status not in _OWN_WAYS and bool(row.n)
    killed_from_outside = child.up_at is not None and status == -signal.SIGKILL
    early = not running and not broken and (child.up_at is None or (ours and row.done == 0 and not killed_from_outside))
    if child.state is ChildState.CONDEMNED and child.hung:
        return Exit(Ending.BOOT_FAILED, child.cause, "none", early=True)
    if child.state is ChildState.CONDEMNED:
        verdict = child.verdict if running else "none"
        return Exit(Ending.KILLED, child.cause, verdict, early=False)
    if status == EX_BOOT_FAILED and child.up_at is None and not running:
        return Exit(Ending.BOOT_FAILED, child.cause or "boot failed", "none", early=True)
    if status == EX_FENCED and not running:
        return Exit(Ending.FENCED, "the broker does not know it any more", "none", early=False)
    if status == 0 and not running and child.state is ChildState.RETIRING:
        return Exit(Ending.PLANNED, child.leave_reason or "retired", "none", early=False)
    cause = describe_status(status) + (" (the kernel's OOM killer)" if oom else "")
    if running:
        cause += f" while running {row.task}"
    elif broken:
        cause += f" after running {row.task}"
    elif child.up_at is None:
        cause += " before it was up"
    return Exit(Ending.CRASHED, cause, "lost" if running or broken else "none", early, oom)
