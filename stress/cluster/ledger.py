"""Who ran what, where and when: the ledger that the tasks write, as whoever accounts for them reads it."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import NamedTuple


class Run(NamedTuple):
    """One execution."""

    task_id: str
    node: str
    owner: str
    """Which child, as ``incarnation/slot.generation``."""
    fence: str
    """Of its delivery."""
    pid: int
    began: float
    """CLOCK_MONOTONIC seconds, as all times here."""
    ended: float
    """0: it never did."""

    @property
    def incarnation(self) -> str:
        """The start of the node."""
        return self.owner.partition("/")[0]

    def __str__(self) -> str:
        """For reports."""
        end = f"{self.ended:.3f}" if self.ended else "never"
        return f"{self.task_id} on {self.node} ({self.fence}): began {self.began:.3f}, ended {end}"


def read(path: Path) -> list[Run]:
    """Every execution so far, in the order in which they began."""
    runs: list[Run] = []
    open_ones: dict[tuple[str, str], int] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        what, task_id, node, owner, fence, pid, moment = line.split()
        if what == "start":
            open_ones[fence, pid] = len(runs)
            runs.append(Run(task_id, node, owner, fence, int(pid), int(moment) / 1e9, 0.0))
        else:
            place = open_ones.pop((fence, pid))
            runs[place] = runs[place]._replace(ended=int(moment) / 1e9)
    return runs


def by_task(runs: list[Run]) -> dict[str, list[Run]]:
    """The executions of each task."""
    found: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        found[run.task_id].append(run)
    return found
