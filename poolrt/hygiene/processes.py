"""Which task leaves child processes running at its runs, or as zombies.

    after runs ── no child at all (1.2 us) ──▶ nothing
                └─ the same ones (15 us) ──▶ nothing;   others ──▶ leftovers ──▶ Finding

The child is a subreaper: a daemon that a task has started, however it detached, is found too. What is no leak, beside
what `leftovers` says: forked copies of this process and what ``multiprocessing`` has started may be the workers of a
pool, which grows to as many as there are CPUs (``ProcessPoolExecutor``, and not more than 61), one at a run; so that
many runs that each left one more are a leak. Of other programs ``FEW`` runs are enough.

Zombies are reaped by `child.audit` if nobody waits for them. What is told here is processes that someone still holds
and never waits for: a list of ``Popen`` objects.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from poolrt.hygiene.findings import Finding, LeakKind
from poolrt.hygiene.leftovers import Leftovers, without_numbers
from poolrt.posix.processes import children, command, identity, is_alive

_CPUS: Final = os.cpu_count() or 1
POOL: Final = max(32, _CPUS) + 1
"""Runs."""
MOST: Final = max(100, 4 * _CPUS)
"""At once, of one task; a pool may start several for each CPU in one run."""
_ZOMBIE: Final = "zombie of "


class ProcessWatch:
    """Looks for processes that tasks left. Made when the process is ready for its first task.

    Attributes:
        cost: microseconds of a look while there is no child process; 15 while there are the same as before.
    """

    cost: Final = 1.3

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` is monotonic, in seconds."""
        self._left: Leftovers[tuple[int, int]] = Leftovers(
            LeakKind.PROCESSES, "processes", pool=POOL, most=MOST, clock=clock, details=_pids_of
        )
        self._works = hasattr(os, "waitid") and os.path.exists("/proc/self/stat")
        self._pids = sorted(children(os.getpid())) if self._works else []
        self._born: dict[int, int] = {}
        """Start times, by which a pid that was given again is known."""
        self._born = self._births()

    @property
    def wants_each(self) -> bool:
        """Whether the next runs are to be looked at singly."""
        return self._left.wants_each

    def look(self, ran: Mapping[str, int]) -> list[Finding]:
        """What these runs left, if it is a leak by now. Nothing where there is no /proc."""
        if not self._works:
            return []
        self._left.ran(ran)
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            if not self._pids:
                return []
            pids = []
        else:
            pids = sorted(children(os.getpid()))
        if pids != self._pids:
            self._pids = pids
            found = self._look_closer(ran)
        else:
            found = self._left.overdue()
        return [found] if found else []

    def _look_closer(self, ran: Mapping[str, int]) -> Finding | None:
        before, self._born = self._born, self._births()
        for pid, born in before.items():
            if self._born.get(pid) != born:
                self._left.ended((pid, born))
        for key, left in list(self._left.left.items()):
            if not left.what.startswith(_ZOMBIE) and not is_alive(key[0]):
                self._left.renamed(key, _ZOMBIE + left.what)
        new = {(pid, born): _describe(pid) for pid, born in self._born.items() if before.get(pid) != born}
        return self._left.appeared(new, ran) if new else self._left.overdue()

    def _births(self) -> dict[int, int]:
        # The kernel's list may miss one while others come and go (see `posix.procfs`): those known are asked for too.
        births = {pid: found[0] for pid in {*self._pids, *self._born} if (found := identity(pid)) is not None}
        return {pid: born for pid, born in births.items() if pid in self._pids or self._born[pid] == born}


def _describe(pid: int) -> tuple[str, bool]:
    """What it is called, and whether it may be a worker of a pool."""
    line = command(pid)
    if line.startswith("[") and not is_alive(pid):
        return _ZOMBIE + line.strip("[]"), False
    name = os.path.basename(line.partition(" ")[0]).strip("[]") or "a process"  # brackets: its exec is not over
    for process in getattr(sys.modules.get("multiprocessing.process"), "_children", ()):
        if process.pid == pid:
            return without_numbers(process.name), True
    if line == command(os.getpid()):
        return "a fork of the child", True
    return name, "multiprocessing" in line


def _pids_of(keys: Iterable[tuple[int, int]]) -> str:
    pids = [str(pid) for pid, _ in keys]
    return "pid " + ", ".join(pids[:5]) + (", …" if len(pids) > 5 else "")
