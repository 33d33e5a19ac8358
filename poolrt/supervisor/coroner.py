"""What is found out about a dead child whose end had something to do with its task: its stacks and its crash report.

while it runs ──▶ RssCurve, from readings that enforcer and memory_budget make anyway
stopped to be killed ──▶ open_files, for at most 5 ms
dead ──▶ stacks and last output from its stacks file, the board row, was it the OOM killer ──▶ Bury
"""

from __future__ import annotations

import logging
import signal
import time
from typing import Final

from poolrt.board import Row
from poolrt.hygiene.crash_report import CrashReport, encode_report
from poolrt.posix.last_output import Tails, read_tails
from poolrt.posix.oom import OomWatch
from poolrt.states import ChildState
from poolrt.supervisor.exits import Ending, Exit
from poolrt.supervisor.lifecycle import Child
from poolrt.supervisor.obituary import last_stacks
from poolrt.units import format_size

log = logging.getLogger("poolrt.supervisor")

_MOST_PEERS: Final = 50
"""Peers that a report names: a notice has its size."""


class Coroner:
    """Examines the dead of one pool."""

    def __init__(self) -> None:
        self._oom = OomWatch()

    def look(self) -> None:
        """Note how often the OOM killer has struck; to be called about once a second."""
        self._oom.look()

    def close(self) -> None:
        """There is no other death to look into."""
        self._oom.close()

    def oom_killed(self, child: Child, status: int) -> bool:
        """Whether it was the kernel that killed the child."""
        outside = status == -signal.SIGKILL and child.state is not ChildState.CONDEMNED
        return outside and self._oom.killed(child.pid)

    def examine(self, child: Child, row: Row, verdict: Exit, status: int, peak_rss: int) -> tuple[str, bytes | None]:
        """Its last stacks (an empty text for none), and its report where something becomes of its task."""
        if verdict.ending not in (Ending.KILLED, Ending.CRASHED):
            return "", None
        if stacks := last_stacks(child, row, status):
            log.info("last stacks of %r:\n%s", child, stacks)
        if verdict.verdict not in ("lost", "failed"):
            return stacks, None
        seen = child.open_files
        output = read_tails(child.stacks_fd, row.sequence) if child.stacks_fd >= 0 else Tails()
        report = CrashReport(
            time.time(), child.pid, self._killer(child, verdict, status, peak_rss), child.rss.points(),
            seen.kinds if seen else {}, dict(list(seen.peers.items())[:_MOST_PEERS]) if seen else {},
            seen.complete if seen else True, row.fds, *output,
        )  # fmt: skip
        return stacks, encode_report(report)

    def _killer(self, child: Child, verdict: Exit, status: int, peak_rss: int) -> str:
        if status != -signal.SIGKILL:
            return ""
        if verdict.ending is Ending.KILLED:
            return "poolrt, for the cause above"
        had = f"it had {format_size(peak_rss)}"
        if verdict.oom:
            return f"the kernel's OOM killer; {had}"
        if self._oom.knows:
            return f"somebody outside, or the task itself; not the kernel's OOM killer; {had}"
        return f"somebody outside, perhaps the kernel's OOM killer; {had}"
